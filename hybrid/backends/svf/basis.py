"""The singular directions of a base's weights: computed once per base, kept on disk, checked on reading.

    bases = Bases(cache_dir / "svf", loaded.info.fingerprint)
    bases.get("model.layers.0.self_attn.q_proj", layer)     # (n, n) float32, n = min(out, in)

For W (out x in) with in <= out these are the right singular vectors V, else the left ones U, as columns, by descending
singular value. One side is enough: W' = U diag(S z) V' = W V diag(z) V' = U diag(z) U' W. They are the eigenvectors of the
Gram matrix of W on that side in float64. What is computed with them is exact whatever their error, since W itself is
never replaced by a product of factors; an error only means that a direction is not exactly a singular one.
`docs/svf.md` has the error and the times.

A file belongs to a base (by its fingerprint), a module, a shape and a version of this format; it holds a digest of its
numbers. One that does not verify is computed again, with a warning. Does not: hold on to what it gave.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from hybrid.backends.quantization import plain_weight
from hybrid.store.atomic import canonical_json, write_bytes

VERSION = "1"
_ATTRIBUTE = "_svf_bases"
_NAME = "basis"


class Bases:
    """The directions of one base's matrices. `folder` None keeps nothing. `warnings` collects what a report should mention;
    `computed` and `read` count modules."""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self.warnings: list[str] = []
        self.computed = self.read = 0

    def get(self, name: str, layer: Any) -> torch.Tensor:
        """Directions (n, n) of the linear `layer` called `name`, float32 on the CPU. Raises OSError when the disk is full."""
        weight = plain_weight(layer)
        identity = {
            "version": VERSION,
            "base": self._fingerprint,
            "module": name,
            "shape": "x".join(map(str, weight.shape)),
        }
        path = self._path(name)
        found = _read(path, identity) if path is not None and path.exists() else None
        if isinstance(found, torch.Tensor):
            self.read += 1
            return found
        if found is not None:
            self.warnings.append(f"{path}: {found}; the singular directions of {name} were computed again")
        basis = decompose(weight)
        self.computed += 1
        if path is not None:
            _write(path, basis, identity)
        return basis

    def _path(self, name: str) -> Path | None:
        if self._folder is None:
            return None
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        return self._folder / self._fingerprint[:24] / f"{safe}.safetensors"


def attach(model: Any, bases: Bases) -> None:
    """Let every SVF adapter on `model` find its directions in `bases`."""
    setattr(model, _ATTRIBUTE, bases)


def bases_of(model: Any) -> Bases:
    """What `attach` gave the model; else one that computes anew and keeps nothing."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, Bases) else Bases(None, "")


def decompose(weight: torch.Tensor) -> torch.Tensor:
    """Singular directions (n, n) of `weight` (out, in) on its shorter side, columns by descending singular value, float32.

    On the device of `weight`, and back on the CPU. The largest entry of every column is positive.
    """
    wide = weight.detach().double()
    gram = wide.T @ wide if wide.shape[1] <= wide.shape[0] else wide @ wide.T
    _, vectors = torch.linalg.eigh(gram)
    vectors = vectors.flip(dims=(1,))
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    return (vectors * vectors.gather(0, largest).sign()).float().cpu().contiguous()


def _write(path: Path, basis: torch.Tensor, identity: dict[str, str]) -> None:
    from safetensors.torch import save

    write_bytes(path, save({_NAME: basis}, metadata={_NAME: canonical_json({**identity, "sha256": _digest(basis)})}))


def _read(path: Path, identity: dict[str, str]) -> torch.Tensor | str:
    """The directions in the file, or what is wrong with it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get(_NAME, "{}"))
            basis: torch.Tensor = file.get_tensor(_NAME)
    except (SafetensorError, OSError, ValueError) as error:
        return f"cannot be read ({error})"
    other = sorted(key for key, value in identity.items() if not isinstance(told, dict) or told.get(key) != value)
    if other:
        return f"belongs to something else ({', '.join(other)} differ)"
    return basis if told.get("sha256") == _digest(basis) else "is damaged"


def _digest(basis: torch.Tensor) -> str:
    return hashlib.sha256(basis.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
