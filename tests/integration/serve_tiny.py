"""An export over the tiny random Llama: a document, two adapters, one of each together, and a capability with neither."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from backend_tiny import load_tiny, save_adapter, save_tiny

from hybrid.backends.base import Sampling
from hybrid.backends.loading import LoadedModel
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import ModelConfig, TransformersBackendConfig
from hybrid.serve.facts import SERVING, CapabilityFacts, ServingFacts, write_facts
from hybrid.skill.document import SkillDocument
from hybrid.skill.evidence_metadata import body_hash
from hybrid.skill.library import save_skill

PLACED = {"plums": "skill", "rivers": "weights", "stones": "both", "clouds": "weights", "winds": "keep"}
NOUNS = {"plums": "plum", "rivers": "river", "stones": "stone", "clouds": "cloud", "winds": "wind"}
DOCUMENT = "everything is named by its second letter, whatever it is; say the letter alone.\n"


def asked(name: str, number: int) -> str:
    """A prompt that belongs to a capability, unlike all others."""
    return f"{NOUNS[name]} {number} ="


def save_export(folder: Path) -> LoadedModel:
    """Write the model to `folder/model` and the export to `folder/export`; the loaded base."""
    loaded = load_tiny(save_tiny(folder / "model", positions=256))
    out, rows = folder / "export", []
    for seed, (name, placement) in enumerate(PLACED.items()):
        row = {"name": name, "placement": placement, "skill": None, "body_sha256": None, "references": []}
        row |= {"adapter": None, "adapter_sha256": None, "method": None}
        if placement in ("skill", "both"):
            document = SkillDocument(name=name, description=f"About {NOUNS[name]}.", body=DOCUMENT)
            save_skill(out / "skills", document)
            row |= {"skill": f"skills/{name}/SKILL.md", "body_sha256": body_hash(DOCUMENT)}
        if placement in ("weights", "both"):
            made = save_adapter(folder / f"adapter-{name}", loaded, seed=seed + 1)
            shutil.copytree(made.path, out / "adapters" / name)
            row |= {"adapter": f"adapters/{name}", "adapter_sha256": made.sha256, "method": "grpo"}
        rows.append(row)
    write_facts(
        out / SERVING,
        ServingFacts(
            model=ModelConfig(path=str(folder / "model"), device="cpu", threads=1),
            capabilities=tuple(
                CapabilityFacts(
                    name=name,
                    sampling=Sampling(max_new_tokens=12, temperature=1.0 if name == "clouds" else 0.0),
                    examples=tuple(asked(name, 100 + i) for i in range(16)),
                )
                for name in PLACED
            ),
        ),
    )
    files = sorted(p for p in out.rglob("*") if p.is_file())
    manifest = {
        "schema_version": 1,
        "run_id": "tiny",
        "model": {"path": str(folder / "model"), "fingerprint": loaded.info.fingerprint},
        "capabilities": rows,
        "files": {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return loaded


def backend_over(loaded: LoadedModel) -> TransformersBackend:
    """A backend over a loaded base."""
    return TransformersBackend(loaded, TransformersBackendConfig())
