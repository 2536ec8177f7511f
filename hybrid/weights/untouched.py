"""Two proofs around a training: the frozen base did not change, and the adapter that was loaded is the one on disk.

    guard = FrozenBase(model)       # before the first step
    guard.check(step=25)            # raises TrainingError when a frozen tensor moved

A merge into the base and back, an optimiser that was given too much, or a stray write all leave losses finite and every exit
code 0; the adapter then belongs to a base that nobody has. Does not: hash files (the base's fingerprint does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hybrid.errors import TrainingError

_ROW = 4096


def checksum(tensor: torch.Tensor) -> int:
    """A sum of the tensor's bytes (read as whole numbers where their count allows), weighted by the place of their row.

    Exact integer arithmetic: equal tensors have equal sums on any device. One changed bit always changes it; it guards against
    accidents, not against someone who means to fool it. Computed where the tensor lies, with a small part of its memory.
    """
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a shard: each process guards its own
    raw = local.detach().contiguous().flatten().view(torch.uint8)
    wide = raw.view(torch.int32) if raw.numel() % 4 == 0 and raw.data_ptr() % 4 == 0 else raw
    count = len(wide) // _ROW
    rest = wide[count * _ROW :].sum(dtype=torch.int64)[None]
    sums = [wide[: count * _ROW].view(count, _ROW).sum(dim=1, dtype=torch.int64), rest]
    rows = torch.cat(sums)
    # Odd weights: multiplying by one loses no bit in arithmetic modulo 2^64.
    places = 2 * torch.arange(len(rows), dtype=torch.int64, device=rows.device) + 1
    return int((rows * places).sum())


class FrozenBase:
    """The checksums of every parameter of `model` that no gradient may reach."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._sums = self._now()

    def _now(self) -> dict[str, int]:
        return {name: checksum(p) for name, p in self._model.named_parameters() if not p.requires_grad}

    def moved(self) -> list[str]:
        """Names of the frozen tensors that are not as they were; of a split base, this process's parts alone."""
        now = self._now()
        return sorted(name for name in {*now, *self._sums} if now.get(name) != self._sums.get(name))

    def check(self, step: int) -> None:
        """Raise TrainingError, naming the first tensor, unless every frozen tensor is as it was."""
        moved = self.moved()
        if moved:
            raise self.error(step, moved)

    @staticmethod
    def error(step: int, moved: Sequence[str]) -> TrainingError:
        """What to raise; `moved` is empty where another process found it."""
        found = f"{len(moved)} tensors, first {moved[0]}" if moved else "parts that another process holds"
        return TrainingError(
            f"step {step}: the base changed while its adapter was trained ({found}); nothing was saved. Only the adapter may "
            "be trained"
        )


def check_adapter_loaded(folder: Path, found: Mapping[str, Any]) -> None:
    """Raise TrainingError unless the adapter's tensors `found` in the model are exactly those of `folder`, and finite."""
    wanted = load_file(folder / "adapter_model.safetensors")
    gaps = sorted({*wanted} ^ {*found})
    if gaps:
        raise TrainingError(f"{folder}: {len(gaps)} of the adapter's tensors were not matched, {gaps[0]} first")
    for name, tensor in wanted.items():
        if not torch.equal(found[name].detach().cpu(), tensor):
            raise TrainingError(f"{folder}: {name} was not loaded as it is in the file")
        if not bool(tensor.isfinite().all()):
            raise TrainingError(f"{folder}: {name} holds a value that is not finite")
