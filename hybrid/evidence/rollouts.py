"""Every graded completion on disk, content-addressed: what was paid for once is never paid for again.

One checksummed JSONL file per candidate under `rollouts/`, named by the candidate's key. Within it a rollout is found
by split, example fingerprint, sample number and seed. Does not: generate or grade.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from hybrid.capability.types import Capability, Example
from hybrid.errors import RunFolderError
from hybrid.evidence.types import Candidate, Rollout
from hybrid.store.records import RecordLog


def rollout_key(candidate: Candidate, judge: str, split: str, example: Example, sample: int, seed: int) -> str:
    """Identity (32 hex digits) of one rollout within its run. `judge` names who graded it, see `judge_of`.

    The split is part of it, so splits never share answers; so is the judge, so that two capabilities over the same rows
    never share scores.
    """
    content = f"{candidate.key}\n{judge}\n{split}\n{example.fingerprint()}\n{sample}\n{seed}"
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def judge_of(capability: Capability) -> str:
    """Who grades a capability's completions: its name and the grading rule."""
    return f"{capability.name}\n{capability.grader.fingerprint()}"


def sample_seed(run_seed: int, example: Example, sample: int) -> int:
    """The random stream (63-bit seed) of one example's sample: the same for every candidate, so that pairs share luck."""
    digest = hashlib.sha256(f"{run_seed}\n{example.fingerprint()}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class RolloutStore:
    """The rollouts of one run. Reads a candidate's file when first asked about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_candidate: dict[str, dict[str, Rollout]] = {}

    def _load(self, candidate_key: str) -> dict[str, Rollout]:
        known = self._by_candidate.get(candidate_key)
        if known is None:
            known = {r.key: r for r in _read(self._path(candidate_key))}
            self._by_candidate[candidate_key] = known
        return known

    def _path(self, candidate_key: str) -> Path:
        return self.folder / f"{candidate_key[:32]}.jsonl"

    def get(self, candidate: Candidate, key: str) -> Rollout | None:
        """The stored rollout, or None when it was never paid for."""
        return self._load(candidate.key).get(key)

    def put(self, candidate: Candidate, rollouts: Iterable[Rollout]) -> None:
        """Store rollouts durably; they count as paid from the moment this returns."""
        fresh = list(rollouts)
        known = self._load(candidate.key)
        RecordLog(self._path(candidate.key)).append(r.model_dump(mode="json") for r in fresh)
        known.update((r.key, r) for r in fresh)

    def all(self) -> Iterator[Rollout]:
        """Every stored rollout, by file name and then in the order paid."""
        for path in sorted(self.folder.glob("*.jsonl")):
            yield from _read(path)


def _read(path: Path) -> Iterator[Rollout]:
    log = RecordLog(path)
    log.repair()
    for number, record in enumerate(log.read(), start=1):
        try:
            yield Rollout(**record)
        except ValidationError as error:
            raise RunFolderError(
                f"{path}:{number}: this record is no rollout ({error.errors(include_url=False)[0]['msg']}); "
                "restore the file from a copy, or start over with --fresh"
            ) from None
