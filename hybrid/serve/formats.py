"""What another engine needs to serve a placement: `hub`, `vllm` or `ollama` files in an export, and what they cannot say.

    written = write_format("vllm", staging, packs, facts)
    written.launch                     # the line that serves it
    written.not_expressed              # for the manifest and the card: nothing is dropped in silence

Pure but for writing into the folder that it is given. Does not: convert a model to GGUF, start an engine, or load a model;
an SVF adapter is converted by the function that the caller gives, since that needs the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hybrid.backends.adapters import kind_of, read_config
from hybrid.backends.base import Sampling
from hybrid.config.paths import REFERENCE
from hybrid.errors import UsageError
from hybrid.serve.facts import ServingFacts

Format = Literal["hub", "vllm", "ollama"]
FORMATS: tuple[Format, ...] = ("hub", "vllm", "ollama")
Convert = Callable[[Path, Path], dict[str, Any]]
"""(folder of an SVF adapter, new folder of a LoRA) -> rank and error of the LoRA."""


@dataclass(frozen=True)
class Pack:
    """One capability of the export: its document, and the folder of its adapter below the export, "" and None for neither."""

    name: str
    placement: str
    skill: str
    adapter: str | None
    sampling: Sampling
    turns: bool


@dataclass(frozen=True)
class Lora:
    """A LoRA that an engine loads: folder below the export, rank, and the factor on its product."""

    folder: str
    rank: int
    scaling: float


@dataclass
class Written:
    """What was written: how it is served, what that cannot express, and what was converted (name -> rank and error)."""

    launch: str
    not_expressed: list[str] = field(default_factory=list)
    converted: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_json(self, name: str) -> dict[str, Any]:
        """For the manifest."""
        return {
            "name": name,
            "launch": self.launch,
            "not_expressed": self.not_expressed,
            "converted": self.converted,
        }


def write_format(name: Format, staging: Path, packs: Sequence[Pack], facts: ServingFacts, convert: Convert) -> Written:
    """Write the files of a format into the export in `staging`. Raises AdapterError for a folder that cannot be read."""
    from hybrid.serve.formats_ollama import write_ollama
    from hybrid.serve.formats_vllm import write_vllm

    if name == "hub":
        return _hub(staging, packs, facts)
    converted: dict[str, dict[str, Any]] = {}
    not_expressed: list[str] = []
    loras = _loras(staging, packs, convert, converted, not_expressed)
    write = write_vllm if name == "vllm" else write_ollama
    written = write(staging, packs, loras, facts)
    return Written(written.launch, [*not_expressed, *_common(facts), *written.not_expressed], converted)


def base_of(facts: ServingFacts) -> str | None:
    """The base as another engine finds it: a hub id. None for a local folder and for the model that ships with hybrid."""
    path = facts.model.path
    local = path == REFERENCE or path.startswith((".", "/", "~")) or path.count("/") != 1
    return None if local else path


def lora_of(folder: Path, shown: str) -> Lora:
    """Rank and factor of a LoRA folder: alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised (2312.03732)."""
    config = read_config(folder)
    rank = int(config.get("r", 0))
    alpha = float(config.get("lora_alpha", rank))
    if rank < 1:
        raise UsageError(f"{folder} names no rank; it cannot be given to another engine")
    return Lora(shown, rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _loras(
    staging: Path,
    packs: Sequence[Pack],
    convert: Convert,
    converted: dict[str, dict[str, Any]],
    not_expressed: list[str],
) -> dict[str, Lora]:
    """The LoRA of every capability that has one; another kind is converted, or listed."""
    found = {}
    for pack in packs:
        if pack.adapter is None:
            continue
        kind = kind_of(staging / pack.adapter)
        if kind == "SVF":
            shown = f"converted/{pack.name}"
            converted[pack.name] = told = convert(staging / pack.adapter, staging / shown)
            if not told.get("exact"):
                not_expressed.append(
                    f"{pack.name}: its singular-value adapter is served as a LoRA of rank {told['rank']}, whose weight change is "
                    f"off by a relative {told['error']:.3g}; what was measured is the original"
                )
            found[pack.name] = lora_of(staging / shown, shown)
        elif kind == "LORA":
            found[pack.name] = lora_of(staging / pack.adapter, pack.adapter)
        else:
            not_expressed.append(
                f"{pack.name}: its {kind} adapter changes scores while decoding, which this engine cannot; it is left out, and "
                "the capability answers as the base does"
            )
    return found


def _common(facts: ServingFacts) -> list[str]:
    """What no other engine does of itself."""
    found = [
        "request routing: whoever asks names the capability; `hybrid serve` finds it from the prompt",
        "the trace of what was applied to a request, and why",
        "hashes are not checked when files are loaded",
    ]
    if facts.model.quantization is not None:
        found.append(
            f"the base was measured as bitsandbytes packs it ({facts.model.quantization.type}); another packing is "
            "another base, on which nothing was measured"
        )
    return found


def _hub(staging: Path, packs: Sequence[Pack], facts: ServingFacts) -> Written:
    """The layout is that of every export; the card says in its front matter what the hub asks for."""
    first = next((p.adapter for p in packs if p.adapter is not None), None)
    launch = "no adapter was placed; the skills are text"
    not_expressed = ["request routing, and which document goes with which adapter: PEFT loads one adapter at a time"]
    if base_of(facts) is None:
        not_expressed.append("base_model in the card: the base is a local folder, and the hub wants the id of a model")
    others = [p for p in packs if p.adapter is not None and kind_of(staging / p.adapter) != "LORA"]
    not_expressed += [f"{p.name}: PEFT alone knows no adapters of its kind; they need hybrid" for p in others]
    if first is not None:
        launch = f'PeftModel.from_pretrained(base, "REPO_OR_FOLDER", subfolder="{first}")'
    return Written(launch, not_expressed)


def front_matter(facts: ServingFacts, packs: Sequence[Pack]) -> str:
    """The head of a model card on the hub. A licence is left to whoever publishes."""
    lines = ["---"]
    base = base_of(facts)
    if base is not None:
        lines += [f"base_model: {base}"]
    if any(p.adapter for p in packs):
        lines += ["library_name: peft", "pipeline_tag: text-generation"]
    tags = [
        "hybrid",
        *(["lora"] if any(p.adapter for p in packs) else []),
        *(["agent-skills"] if any(p.skill for p in packs) else []),
    ]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""])
