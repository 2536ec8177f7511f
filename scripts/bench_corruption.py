"""What a training does when its files were damaged, or its job was changed, before it goes on.

    python scripts/bench_corruption.py          # two minutes on one idle core; exit code 1 when anything went on in silence

GRPO on the reference model, five steps with checkpoints at 2, 4 and 5, stopped after step 4 was saved. Each case damages a copy
of that folder in one way, gives the same command again, and compares what it ends with, byte by byte, with a training that
was not disturbed. A bit flip is 32 seeded places: each must be found, and one is trained from.

Does not: measure how well anything is learnt. The tests run the same damages on a smaller model.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hybrid.backends.loading import LoadedModel, load_base
from hybrid.capability.types import Example, Score
from hybrid.config.schema import GrpoConfig, LoraConfig, ModelConfig, WeightsConfig
from hybrid.errors import HybridError
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.build import build_trainer
from hybrid.weights.checkpoints import MANIFEST, Checkpoint, read_checkpoint, required_files
from hybrid.weights.schedule import plain

FILES = (*required_files(1), MANIFEST)
EXPORTED = ("adapter_model.safetensors", "adapter_config.json", "hybrid_manifest.json")
FLIPS = 32
Damage = Callable[[Path, Path, random.Random], None]
"""(file, the same file of another run, draws) -> nothing; the file is damaged afterwards."""


def _cut(length: Callable[[int], int]) -> Damage:
    def apply(path: Path, _other: Path, _draw: random.Random) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: length(len(data))])

    return apply


def flip(path: Path, _other: Path, draw: random.Random) -> None:
    """One bit, somewhere."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))


def _folder(path: Path, _other: Path, _draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, _other: Path, _draw: random.Random) -> None:
    """The same bytes, but outside the checkpoint."""
    outside = path.parents[1] / f"outside-{path.parent.name}-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


DAMAGES: dict[str, Damage] = {
    "cut to 0": _cut(lambda n: 0),
    "cut to 1": _cut(lambda n: 1),
    "cut to half": _cut(lambda n: n // 2),
    "last byte cut": _cut(lambda n: n - 1),
    "bit flipped": flip,
    "deleted": lambda path, other, draw: path.unlink(),
    "of another run": lambda path, other, draw: shutil.copyfile(other, path) and None,
    "empty folder": _folder,
    "link": _link,
}


class Letters:
    """The share of a completion's characters that are among the first thirteen letters."""

    def __init__(self, letters: str = "abcdefghijklm") -> None:
        self.letters = letters

    def grade(self, completion: str, example: Example) -> Score:
        """See `Grader`."""
        value = sum(c in self.letters for c in completion) / max(len(completion), 1)
        return Score(value, value > 0.5)

    def fingerprint(self) -> str:
        """See `Grader`."""
        return f"letters {self.letters}"


def job_in(out: Path) -> TrainJob:
    """Five steps, checkpoints at 2, 4 and 5."""
    grpo = GrpoConfig(steps=5, prompts_per_step=1, generations=4, learning_rate=1e-2)
    return TrainJob(
        capability="letters",
        examples=tuple(Example(id=f"e{i}", prompt=f"ask {'abc'[i % 3]}{i} =", reference="a") for i in range(4)),
        skill="",
        stages=plain(4),
        grader=Letters(),
        model=ModelConfig(path="reference", device="cpu", threads=1),
        weights=WeightsConfig(grpo=grpo, lora=LoraConfig(rank=4, alpha=4), checkpoint_every=2),
        max_new_tokens=6,
        seed=0,
        out=out,
        method="grpo",
    )


@dataclass(frozen=True)
class Outcome:
    """How a case ended. `falls back`, `made again` and `unharmed` (nothing to name): with the same bytes. `refused`. `left out`:
    a candidate fewer, by name, the others the same. `SILENT`: other bytes, and nothing said."""

    kind: str
    said: str


class Bench:
    """Trainings under one temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.whole = self.train(job_in(root / "whole"))
        self.stopped = self._stop(job_in(root / "stopped"))
        self.other = self._stop(dataclasses.replace(job_in(root / "other"), seed=1))
        self._count = 0

    def train(self, job: TrainJob, stop_after: int = 99) -> TrainResult:
        """Train, or fail as the command would."""

        def load() -> LoadedModel:
            return load_base(job.model, lambda text: Path(text), self.root / "cache")

        def on_progress(step: int, _steps: int, _metrics: dict[str, float]) -> None:
            if step > stop_after:
                raise KeyboardInterrupt

        return build_trainer(job.method).train(job, load, on_progress)

    def _stop(self, job: TrainJob) -> TrainJob:
        try:
            self.train(job, stop_after=4)
        except KeyboardInterrupt:
            return job
        raise AssertionError("it was not stopped")

    def copy(self, of: TrainJob | None = None) -> TrainJob:
        """A fresh copy of the stopped training (or of another one)."""
        self._count += 1
        source = of or self.stopped
        job = dataclasses.replace(source, out=self.root / f"case-{self._count}" / "job")
        shutil.copytree(source.out, job.out, symlinks=True)
        return job

    def judge(self, job: TrainJob) -> Outcome:
        """Give the command again and compare."""
        heard = _Heard()
        logging.getLogger("hybrid.weights.driver").addHandler(heard)
        try:
            result = self.train(job)
        except HybridError as error:
            return Outcome("refused", str(error).replace(str(job.out), "JOB"))
        finally:
            logging.getLogger("hybrid.weights.driver").removeHandler(heard)
            shutil.rmtree(job.out.parent, ignore_errors=True)
        told = " ".join(heard.lines)
        said = "; ".join([*heard.lines, *(r for r in result.remarks if r.removeprefix("skipped ") not in told)])
        said = said.replace(str(job.out), "JOB")
        found, wanted = ([(s, a.sha256) for s, a in r.checkpoints] for r in (result, self.whole))
        if found != wanted:
            named = set(found) < set(wanted) and all(f"checkpoint-{s}: " in said for s, _ in set(wanted) - set(found))
            return Outcome("left out" if named else "SILENT", said)
        return Outcome("falls back" if "skipped" in said else "unharmed", said)


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(record.getMessage())


def of_a_file(bench: Bench, name: str, damage: str) -> Outcome:
    """One file of the newest checkpoint, damaged in one way."""
    job = bench.copy()
    path, other = (j.out / "checkpoint-4" / name for j in (job, bench.other))
    draw = random.Random(f"{name} {damage}")
    if damage == "bit flipped":
        whole = path.read_bytes()
        for _ in range(FLIPS - 1):
            flip(path, other, draw)
            if isinstance(read_checkpoint(path.parent, None, 1), Checkpoint):
                return Outcome("SILENT", "a flipped bit was not found")
            path.write_bytes(whole)
    DAMAGES[damage](path, other, draw)
    return bench.judge(job)


def _newer_link(out: Path) -> None:
    (out / "checkpoint-9").symlink_to(out / "checkpoint-4")


def _without_streams(out: Path) -> None:
    """A manifest that never listed the random state: what a stack does that saves the model alone."""
    from hybrid.weights.checkpoints import commit

    folder = out / "checkpoint-4"
    found = read_checkpoint(folder, None, 1)
    assert isinstance(found, Checkpoint)
    (folder / "rng_state.pth").unlink()
    commit(folder, step=4, identity=found.identity, base=found.base)


FOLDERS: dict[str, Callable[[Path], object]] = {
    "an older candidate damaged, the newest whole": lambda out: (out / "checkpoint-2" / "optimizer.pt").unlink(),
    "a newer empty folder": lambda out: (out / "checkpoint-9").mkdir(),
    "a newer folder without a manifest": lambda out: shutil.copytree(
        out / "checkpoint-4", out / "checkpoint-9", ignore=shutil.ignore_patterns(MANIFEST)
    ),
    "an older one under a newer name": lambda out: shutil.copytree(out / "checkpoint-4", out / "checkpoint-9"),
    "a newer link to an older one": _newer_link,
    "committed without its random state": _without_streams,
    "every checkpoint's manifest deleted": lambda out: [p.unlink() for p in out.glob(f"checkpoint-*/{MANIFEST}")],
}


def _grpo(job: TrainJob, **change: float) -> TrainJob:
    grpo = job.weights.grpo.model_copy(update=change)
    return dataclasses.replace(job, weights=job.weights.model_copy(update={"grpo": grpo}))


def _weights(job: TrainJob, **change: object) -> TrainJob:
    return dataclasses.replace(job, weights=job.weights.model_copy(update=change))


def _other_base(job: TrainJob) -> TrainJob:
    """The reference model with one weight changed a little."""
    from safetensors.torch import load_file, save_file

    from hybrid.backends.transformers_files import reference_folder

    folder = job.out.parent / "base"
    shutil.copytree(reference_folder(), folder)
    tensors = load_file(folder / "model.safetensors")
    name = min(tensors)
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return dataclasses.replace(job, model=job.model.model_copy(update={"path": str(folder)}))


CHANGES: dict[str, Callable[[TrainJob], TrainJob]] = {
    "learning rate": lambda job: _grpo(job, learning_rate=0.5),
    "steps": lambda job: _grpo(job, steps=9),
    "an edited prompt": lambda job: dataclasses.replace(
        job, examples=(job.examples[0].model_copy(update={"prompt": "ask z ="}), *job.examples[1:])
    ),
    "the skill text": lambda job: dataclasses.replace(job, skill="Answer briefly."),
    "the grader": lambda job: dataclasses.replace(job, grader=Letters("nopqrstuvwxyz")),
    "reward weights": lambda job: _weights(
        job, rewards=job.weights.rewards.model_copy(update={"accuracy_weight": 2.0})
    ),
    "LoRA rank": lambda job: _weights(job, lora=job.weights.lora.model_copy(update={"rank": 8})),
    "checkpoint interval": lambda job: _weights(job, checkpoint_every=5),
    "seed": lambda job: dataclasses.replace(job, seed=1),
    "the base": _other_base,
}


def after_the_end(bench: Bench, where: str, damage: str) -> Outcome:
    """A finished training whose record or exported adapter was damaged: made again from its checkpoints."""
    job = bench.copy(job_in(bench.root / "whole"))
    path = job.out / where
    DAMAGES[damage](path, bench.root / "whole" / where, random.Random(f"{where} {damage}"))
    found = bench.judge(job)
    return Outcome("made again", found.said) if found.kind == "unharmed" else found


def table(head: str, rows: dict[str, dict[str, Outcome]]) -> None:
    """One Markdown table: rows are files, columns damages."""
    columns = list(next(iter(rows.values())))
    print(f"\n| {head} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, cells in rows.items():
        print(f"| `{name}` | " + " | ".join(cells[c].kind for c in columns) + " |")


def listing(head: str, found: dict[str, Outcome]) -> None:
    """One Markdown table of cases with what was said."""
    print(f"\n| {head} | outcome | what it says |\n|---|---|---|")
    for name, outcome in found.items():
        print(f"| {name} | {outcome.kind} | {' '.join(outcome.said.split()) or '-'} |")


def main() -> int:
    """Run every case and print the tables. Exit code 1 when any was silent."""
    logging.getLogger("hybrid.weights.driver").propagate = False
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        files = {f: {d: of_a_file(bench, f, d) for d in DAMAGES} for f in FILES}
        table("file of the newest checkpoint", files)
        listing("for example", {f"{f}: {d}": files[f][d] for f, d in zip(FILES, DAMAGES, strict=False)})
        folders = {}
        for what, damage in FOLDERS.items():
            job = bench.copy()
            damage(job.out)
            folders[what] = bench.judge(job)
        listing("folders", folders)
        changed = {what: bench.judge(change(bench.copy())) for what, change in CHANGES.items()}
        listing("changed before the resume", changed)
        places = ["RESULT.json", *(f"adapters/step-4/{e}" for e in EXPORTED)]
        done = {p: {d: after_the_end(bench, p, d) for d in DAMAGES if d != "of another run"} for p in places}
        table("file of a finished training", done)
    every = [*folders.values(), *changed.values(), *(o for t in (files, done) for r in t.values() for o in r.values())]
    kinds = [o.kind for o in every]
    print(
        "\nOutcomes: "
        + ", ".join(f"{kind}: {kinds.count(kind)}" for kind in sorted(set(kinds)))
        + f"; cases: {len(kinds)}"
    )
    return 1 if "SILENT" in kinds else 0


if __name__ == "__main__":
    sys.exit(main())
