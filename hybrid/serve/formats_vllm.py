"""A placement under vLLM: one server with many LoRAs, a launch script, and what each capability's caller has to send.

Facts of vLLM that this rests on: `PEFTHelper` computes alpha / sqrt(r) where `use_rslora` is set and refuses DoRA and
`modules_to_save`; `--max-lora-rank` takes one of `RANKS`; without `--generation-config vllm` the model's own sampling defaults
hold. Does not: start vLLM.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.errors import UsageError
from hybrid.evidence.compose import compose
from hybrid.serve.facts import ServingFacts
from hybrid.serve.formats import Lora, Pack, Written, base_of
from hybrid.store.atomic import write_json, write_text

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
SCRIPT, REQUESTS = "serve-vllm.sh", "requests.json"
_MARK = "\x00"


def launch_line(base: str, loras: Mapping[str, Lora], facts: ServingFacts) -> str:
    """The command, for a shell. `base` is written as it is, so that it may be a variable of the script."""
    parts = [
        f"vllm serve {base}",
        f"--dtype {facts.model.dtype}",
        "--generation-config vllm",
        "--served-model-name base",
    ]
    if facts.model.revision is not None:
        parts.append(f"--revision {shlex.quote(facts.model.revision)}")
    if loras:
        ranks = [rank for rank in RANKS if rank >= max(lora.rank for lora in loras.values())]
        if not ranks:
            raise UsageError(f"vLLM takes LoRAs up to rank {RANKS[-1]}; one of this run's is larger")
        modules = " ".join(f"{name}={lora.folder}" for name, lora in loras.items())
        parts += [
            "--enable-lora",
            f"--lora-modules {modules}",
            f"--max-loras {len(loras)}",
            f"--max-lora-rank {ranks[0]}",
        ]
    return " ".join(parts)


def write_vllm(staging: Path, packs: Sequence[Pack], loras: Mapping[str, Lora], facts: ServingFacts) -> Written:
    """The script, the requests, and the texts that go before prompts."""
    base = base_of(facts)
    line = launch_line('"$BASE"', loras, facts)
    head = [
        "#!/bin/sh",
        "# Serves this placement under vLLM. Say where the base is: the folder or hub id of the very model that was measured.",
        "set -eu",
        'cd "$(dirname "$0")"',
        f"BASE=${{1:-{base}}}" if base else "BASE=${1:?give the folder of the base model}",
        f"exec {line}",
    ]
    write_text(staging / SCRIPT, "\n".join(head) + "\n")
    rows = {pack.name: _request(staging, pack, loras, facts) for pack in packs}
    write_json(staging / REQUESTS, rows)
    not_expressed = [
        "documents: vLLM adds none; `requests.json` names the text that each capability's caller puts before the prompt",
        "decoding settings of a capability: the caller sends those in `requests.json`",
    ]
    if facts.model.gguf_file is not None:
        not_expressed.append(
            f"the base is the GGUF {facts.model.gguf_file}, dequantised; vLLM has to be given that model"
        )
    return Written(launch_line(base or "BASE", loras, facts), not_expressed)


def _request(staging: Path, pack: Pack, loras: Mapping[str, Lora], facts: ServingFacts) -> dict[str, Any]:
    """What to send for one capability; `before` is a file whose text goes directly before the prompt, or as `role` says."""
    chat = facts.model.chat
    row: dict[str, Any] = {
        "endpoint": "/v1/chat/completions" if chat else "/v1/completions",
        "model": pack.name if pack.name in loras else "base",
        "max_tokens": pack.sampling.max_new_tokens,
        "temperature": pack.sampling.temperature,
        "top_p": pack.sampling.top_p,
    }
    if facts.model.end_of_answer is not None:
        row["stop"] = [facts.model.end_of_answer]
    if pack.skill.strip():
        path = f"before/{pack.name}.txt"
        text = pack.skill.rstrip()
        if not pack.turns:
            whole = compose(_MARK, pack.skill, facts.model.skill_separator)
            assert isinstance(whole, str)
            text = whole.removesuffix(_MARK)
        write_text(staging / path, text)
        row |= {"before": path, "role": "system" if pack.turns else "user" if chat else "prompt"}
    return row


def describe() -> str:
    """How to read the files, for the card; as JSON keys are explained once."""
    keys = json.dumps(["endpoint", "model", "before", "role", "max_tokens", "temperature", "top_p", "stop"])
    return (
        f"`sh {SCRIPT} BASE` starts vLLM. `{REQUESTS}` says for each capability what to send ({keys}): the text in the file "
        "`before` goes directly before the prompt, without anything between them, or is the system message where `role` is "
        "`system`. Rank-stabilised adapters are scaled rightly by vLLM."
    )
