"""One adapter for two tasks: prompts, graders, stages and starts of a shared job, resumed to the same bytes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from backend_tiny import load_tiny
from weights_tiny import Constant, Letters, hashes, interrupted, make_job, save_tiny, train, without_seconds

from hybrid.capability.types import Capability, Example, Grader
from hybrid.errors import ConfigError, RunFolderError
from hybrid.weights.base import TrainJob
from hybrid.weights.encoding import prompt_rows
from hybrid.weights.jobs import job_identity
from hybrid.weights.schedule import Order
from hybrid.weights.task_order import in_order, mixed
from hybrid.weights.tasks import put_together

STEPS = 2


class Others(Letters):
    """The same judgement under another name."""

    def fingerprint(self) -> str:
        return "others"


def task(name: str, first: str, grader: Grader) -> Capability:
    rows = tuple(Example(id=f"e{i}", prompt=f"{first}{i} =", reference="ab") for i in range(4))
    return Capability(name, {"train": rows}, grader)


def shared(folder: Path, out: Path, method: str = "grpo", *, graders: tuple[Grader, Grader] | None = None) -> TrainJob:
    one, other = graders or (Letters(), Letters())
    members = [(task("one", "x", one), ""), (task("other", "y", other), "cd: ")]
    examples, tasks, grader = put_together(members)
    return make_job(
        folder,
        out,
        method,
        weights={"checkpoint_every": 2},
        examples=examples,
        tasks=tasks,
        grader=grader,
        stages=in_order(tasks, 0.5),
        stage_steps=(STEPS, STEPS),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("shared") / "tiny")


def test_every_prompt_begins_with_the_text_of_its_own_task(folder, tmp_path):
    job = shared(folder, tmp_path / "job")
    texts = [row.text for row in prompt_rows(job, load_tiny(folder).tokenizer)]
    assert [("cd:" in text, "y" in text) for text in texts] == [(False, False)] * 4 + [(True, True)] * 4


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_a_resumed_shared_job_ends_with_the_same_bytes(folder, tmp_path, method):
    whole_job, job = (shared(folder, tmp_path / name, method) for name in ("whole", "job"))
    whole = train(whole_job)
    assert [step for step, _ in whole.checkpoints] == [2, 4], "a stage ends on a checkpoint"
    facts = json.loads((whole.checkpoints[-1][1].path / "hybrid_manifest.json").read_text())
    assert "one" in str(facts)
    assert "other" in str(facts)
    if method == "sft":
        state = json.loads((whole_job.out / "checkpoint-4" / "trainer_state.json").read_text())
        rates = [line["learning_rate"] for line in state["log_history"] if "learning_rate" in line]
        assert rates[2:] == rates[:2], "every task learns at the rate of a training of its own"
        assert rates[0] > rates[1]
    for after in (1, 3):  # within the first stage, and within the second
        interrupted(job, after)
    found = train(job)
    assert hashes(found) == hashes(whole)
    assert without_seconds(found) == without_seconds(whole)
    assert train(job) == found, "a finished job is read, not trained"


def test_a_task_is_judged_by_its_own_grader_in_its_own_stage(folder, tmp_path):
    graders = (Letters(), Letters())
    job = shared(folder, tmp_path / "job", graders=graders)
    job = dataclasses.replace(job, stages=in_order(job.tasks, 0.0))
    seen = []
    train(job, lambda step, *_: seen.append(tuple(len(g.seen) > 0 for g in graders)))
    assert seen[STEPS - 1] == (True, False)
    assert seen[-1] == (True, True)
    order = Order(job.stages, job.steps, 2, job.seed, job.stage_steps)
    assert [max(order.rows(step)) >= 4 for step in range(job.steps)] == [False, False, True, True]


def test_a_task_without_signal_leaves_the_others_their_steps(folder, tmp_path):
    silent = train(shared(folder, tmp_path / "half", graders=(Constant(0.0), Letters())))
    assert silent.steps == 2 * STEPS
    assert [step for step, _ in silent.checkpoints] == [2, 4]
    mute = train(shared(folder, tmp_path / "none", graders=(Constant(0.0), Constant(1.0))))
    assert mute.checkpoints == ()
    assert "no signal" in mute.note


def test_training_goes_on_from_an_adapter(folder, tmp_path):
    first = train(shared(folder, tmp_path / "first", "sft"))
    second = shared(folder, tmp_path / "second", "sft")
    gone_on = dataclasses.replace(second, start=first.checkpoints[-1][1])
    found = train(gone_on)
    fresh = train(dataclasses.replace(second, out=tmp_path / "fresh"))
    assert hashes(fresh) == hashes(first)
    assert not set(hashes(found)) & set(hashes(fresh))
    assert found.history[0]["loss"] < fresh.history[0]["loss"], "what was learnt is there at the first step"
    again = dataclasses.replace(gone_on, out=tmp_path / "again")
    interrupted(again, 3)
    assert hashes(train(again)) == hashes(found)
    with pytest.raises(RunFolderError, match="start"):
        train(dataclasses.replace(gone_on, start=first.checkpoints[0][1]))


def test_everything_that_shares_is_part_of_the_identity(folder, tmp_path):
    job = shared(folder, tmp_path / "job")
    adapter = train(shared(folder, tmp_path / "sft", "sft")).checkpoints[0][1]
    own, other = job.tasks
    changed = [
        dataclasses.replace(job, tasks=(own, dataclasses.replace(other, skill="dc: "))),
        dataclasses.replace(job, stage_steps=(1, 3)),
        dataclasses.replace(job, stages=mixed(job.tasks), stage_steps=(4,)),
        dataclasses.replace(job, start=adapter),
        shared(folder, tmp_path / "job", graders=(Letters(), Others())),
    ]
    identities = [job_identity(job), *map(job_identity, changed)]
    assert len({str(sorted(i.items())) for i in identities}) == len(identities)
    alone = job_identity(make_job(folder, tmp_path / "alone"))
    assert not {"tasks", "stage_steps", "start"} & set(alone), "a training of one capability keeps its identity"


def test_stages_without_steps_are_refused(folder, tmp_path):
    job = dataclasses.replace(shared(folder, tmp_path / "job"), stage_steps=(4,))
    with pytest.raises(ConfigError, match="every stage needs steps"):
        train(job)
