"""Coefficients into adapters, whatever kind the experts are of: LoRA by their factors, SVF by their vectors.

    mixer = mixer_of(adapters, base_fingerprint, settings, seed)
    mixer.write((0.7, 0.4), out, facts={"method": "swarm"}).adapter

Does not: measure, or mix experts of different kinds: a product of factors and a change of singular values have no common form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hybrid.backends.adapters import check_adapter
from hybrid.backends.base import Adapter
from hybrid.backends.svf.mixing import mix
from hybrid.config.swarm import SwarmConfig
from hybrid.errors import AdapterError
from hybrid.weights.compose.combine import combine
from hybrid.weights.compose.experts import experts_of
from hybrid.weights.compose.materialise import Materialised, stack, written


class Mixer(Protocol):
    """Writes mixtures of one set of experts. The same coefficients give the same bytes."""

    def write(
        self,
        coefficients: Sequence[float],
        out: Path,
        *,
        rank: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Materialised:
        """The mixture as an adapter folder, compressed to `rank` where one is given; `facts` go into its manifest."""
        ...

    def stack(self, out: Path) -> tuple[Adapter, tuple[int, ...]] | None:
        """All experts in one adapter, for mixtures that share a batch (`materialise.stack`); None where there is no such form."""
        ...


def mixer_of(adapters: Sequence[Adapter], base_fingerprint: str, settings: SwarmConfig, seed: int) -> Mixer:
    """The mixer of these experts, of which there is at least one.

    Raises AdapterError for experts of different kinds or another base, for proxies, and for SVF experts under settings that only
    factors have (`combination`, `rank`).
    """
    kinds = {check_adapter(adapter.path, base_fingerprint).kind for adapter in adapters}
    if len(kinds) > 1:
        raise AdapterError(f"{' and '.join(sorted(kinds))} adapters cannot be mixed; name experts of one kind")
    if kinds == {"SVF"}:
        if settings.combination != "cat" or settings.rank is not None:
            raise AdapterError(
                "SVF experts add up by their vectors: weights.swarm.combination and rank are for LoRA experts"
            )
        return SvfMixer(adapters, base_fingerprint)
    return LoraMixer(adapters, base_fingerprint, settings, seed)


class LoraMixer:
    """Mixes factors."""

    def __init__(self, adapters: Sequence[Adapter], base_fingerprint: str, settings: SwarmConfig, seed: int) -> None:
        self._experts = experts_of(adapters, base_fingerprint)
        self._base, self._settings, self._seed = base_fingerprint, settings, seed

    def write(
        self,
        coefficients: Sequence[float],
        out: Path,
        *,
        rank: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Materialised:
        """See `Mixer`."""
        how = self._settings
        modules = combine(self._experts, coefficients, how.combination, density=how.density, seed=self._seed)
        return written(modules, self._experts, coefficients, out, self._base, rank=rank, facts=facts)

    def stack(self, out: Path) -> tuple[Adapter, tuple[int, ...]] | None:
        """See `Mixer`. Only the exact sum is linear in the coefficients."""
        return stack(self._experts, out, self._base) if self._settings.combination == "cat" else None


class SvfMixer:
    """Mixes vectors of singular values; the result is as small as one expert."""

    def __init__(self, adapters: Sequence[Adapter], base_fingerprint: str) -> None:
        self._adapters, self._base = tuple(adapters), base_fingerprint

    def write(
        self,
        coefficients: Sequence[float],
        out: Path,
        *,
        rank: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Materialised:
        """See `Mixer`. The manifest holds experts and weights; `facts` are not added. Raises ValueError for a rank."""
        if rank is not None:
            raise ValueError("an SVF mixture has no rank to compress to")
        folders = [adapter.path for adapter in self._adapters]
        return Materialised(mix(folders, list(coefficients), out, self._base), 0, 0.0)

    def stack(self, out: Path) -> tuple[Adapter, tuple[int, ...]] | None:
        """None: singular values are scaled where the weight is, not row by row."""
        return None
