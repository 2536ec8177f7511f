"""The placed model over a run and over its export: what each request gets, that it is what was measured, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_world import SIZES, World, make_world

import hybrid
from hybrid.__main__ import main
from hybrid.backends.scripted import ScriptedBackend
from hybrid.capability.types import Message
from hybrid.errors import BackendError, HybridError, RunFolderError, UsageError
from hybrid.evidence.compose import compose
from hybrid.pipeline.run import run
from hybrid.report.schema import load_report
from hybrid.serve.export import export
from hybrid.serve.facts import SERVING
from hybrid.serve.placed import PlacedModel
from hybrid.serve.placement import read_placement
from hybrid.serve.routing import Described, RequestRouter


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished scripted run beside its world: `greetings` keep, `codes` a skill, `secrets` neither."""
    world = make_world(tmp_path_factory.mktemp("placed") / "world")
    run(world.load(), world.folder / "run", on_event=lambda kind, data: None)
    export(world.folder / "run", world.folder / "out")
    return world


def rows_of(finished: World, name: str) -> list[tuple[str, str]]:
    rows = (finished.folder / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["prompt"], row["reference"]) for row in map(json.loads, rows)]


@pytest.mark.parametrize("folder", ["run", "out"])
def test_every_request_gets_what_was_placed_and_answers_as_measured(finished: World, folder: str) -> None:
    backend = ScriptedBackend(finished.folder / "script.json")
    model = hybrid.load(finished.folder / folder, backend=backend)
    report = load_report(finished.folder / "run/report/placement.json")
    for c in report.capabilities:
        rows = rows_of(finished, c.name)
        answers = model.generate([prompt for prompt, _ in rows])
        assert {a.applied.capability for a in answers} == {c.name}
        assert {a.applied.skill is not None for a in answers} == {c.placement == "skill"}
        arm = c.arms.skill if c.placement == "skill" else c.arms.base
        assert arm is not None and arm.test is not None and arm.test.n == SIZES["test"]
        right = sum(a.text == reference for a, (_, reference) in zip(answers, rows, strict=True))
        assert right / len(rows) == arm.test.mean
        assert answers == model.generate([prompt for prompt, _ in rows])


def test_a_named_capability_wins_and_what_is_far_from_all_gets_the_base(finished: World) -> None:
    model = hybrid.load(finished.folder / "run")
    (codes,) = model.generate("greet te03", capability="codes")
    assert codes.applied.capability == "codes" and codes.applied.skill and codes.applied.why == "named by the caller"
    for prompt in ("What is the capital of France?", "", "0 0 0"):
        applied = model.prepare(prompt).applied
        assert (applied.capability, applied.skill, applied.adapter) == (None, None, None) and applied.why
    assert model.prepare("ask te00 alpha", capability="base").applied.capability is None
    with pytest.raises(UsageError, match="no capability 'code'; did you mean 'codes'"):
        model.generate("x", capability="code")
    with pytest.raises(UsageError, match="temperature"):
        model.generate("x", temperature=-1.0)


def test_a_chat_is_put_together_as_it_was_measured(finished: World) -> None:
    model = hybrid.load(finished.folder / "run")
    prompt = rows_of(finished, "codes")[0][0]
    text = model.prepare(prompt)
    assert text.request.prompt == compose(prompt, model.placement.parts["codes"].skill, "\n")
    assert model.prepare((Message(role="user", content=prompt),)) == text
    answer = model.chat([{"role": "user", "content": prompt}])
    assert answer.text == rows_of(finished, "codes")[0][1]
    told = model.prepare((Message(role="system", content="Be short."), Message(role="user", content=prompt)))
    assert str(told.request.prompt).endswith(f"Be short.\n{prompt}") and told.applied.capability == "codes"
    with pytest.raises(UsageError, match="plain text"):
        model.chat([{"role": r, "content": "x"} for r in ("user", "assistant", "user")])
    with pytest.raises(UsageError, match="must be the user's"):
        model.chat([{"role": "assistant", "content": "x"}])


def test_a_base_with_a_chat_template_is_asked_as_each_capability_was_measured(finished: World) -> None:
    plain = read_placement(finished.folder / "run")
    codes = plain.parts["codes"]
    skill, backend = codes.skill, ScriptedBackend(finished.folder / "script.json")
    chatty = replace(plain, model=plain.model.model_copy(update={"chat": True}))
    question, model = Message(role="user", content="ask te00 alpha"), PlacedModel(chatty, backend)
    assert model.prepare((question,), capability="codes").request.prompt == compose(question.content, skill, "\n")
    talk = (question, Message(role="assistant", content="te00te00"), question)
    said = model.prepare(talk, capability="codes").request.prompt
    assert said == (Message(role="system", content=skill.rstrip()), *talk)
    turns = replace(codes, facts=codes.facts.model_copy(update={"turns": True}))
    model = PlacedModel(replace(chatty, parts={**plain.parts, "codes": turns}), backend)
    asked = (Message(role="system", content=skill.rstrip()), question)
    assert model.prepare(question.content, capability="codes").request.prompt == asked
    assert model.prepare((question,), capability="codes").request.prompt == asked


def test_sampled_answers_name_their_seed(finished: World) -> None:
    model = hybrid.load(finished.folder / "run")
    first = model.prepare("greet te00", temperature=0.5)
    assert first.applied.seed == first.request.seed and first.sampling.temperature == 0.5
    assert model.prepare("greet te00", temperature=0.5).applied.seed != first.applied.seed
    assert model.prepare("greet te00", temperature=0.5, seed=7).request.seed == 7
    assert model.prepare("greet te00").applied.seed is None


@pytest.mark.parametrize(
    ("folder", "file", "error", "words"),
    [
        ("run", "skills/codes/SKILL.md", RunFolderError, "not the document that was measured"),
        ("out", "skills/codes/SKILL.md", RunFolderError, "not the file that was exported"),
        ("out", SERVING, RunFolderError, "not the file that was exported"),
        ("run", f"report/{SERVING}", RunFolderError, "damaged"),
    ],
)
def test_a_folder_that_was_changed_is_refused(
    finished: World, tmp_path: Path, folder: str, file: str, error: type[HybridError], words: str
) -> None:
    copy = Path(shutil.copytree(finished.folder / folder, tmp_path / "copy"))
    with (copy / file).open("a", encoding="utf-8") as stream:
        stream.write("Answer 7.\n")
    with pytest.raises(error, match=words):
        hybrid.load(copy)


def test_folders_that_hold_no_placement_are_refused(finished: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run folder"):
        hybrid.load(tmp_path)
    copy = Path(shutil.copytree(finished.folder / "run", tmp_path / "copy"))
    (copy / "report" / SERVING).unlink()
    with pytest.raises(RunFolderError, match=r"serving\.json is missing"):
        hybrid.load(copy)
    other = tmp_path / "script.json"
    other.write_text('{"default": "another model"}', encoding="utf-8")
    with pytest.raises(BackendError, match="another model than"):
        hybrid.load(finished.folder / "run", backend=ScriptedBackend(other))


def test_importing_hybrid_loads_nothing_but_load_is_there() -> None:
    code = "import sys, hybrid; assert 'pydantic' not in sys.modules; hybrid.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = hybrid.nothing_like_it


def test_the_router_tells_apart_or_says_that_it_cannot() -> None:
    units = Described("units", "Converts lengths.", tuple(f"Convert {n} feet to metres." for n in range(12)))
    dates = Described("dates", "Adds days to dates.", tuple(f"Which date is {n} days after 3 May?" for n in range(12)))
    router = RequestRouter([units, dates])
    assert router.choose("Convert 77 feet to metres.").name == "units"
    assert router.choose("Worked: 1 foot is 12 inches.\nWhich date is 77 days after 9 May?").name == "dates"
    assert router.choose("Convert 3 days").name is None
    assert router.choose("Write a poem about rivers.").name is None
    talks = replace(dates, document="Never convert feet to metres; convert days. " * 9)
    assert RequestRouter([units, talks]).choose("Convert 77 feet to metres.").name == "units"
    told = RequestRouter(
        [Described("units", document="Convert 5 feet to metres: a foot is 0.3048 metres."), replace(dates, prompts=())]
    )
    assert told.choose("Convert 77 feet to metres.").name == "units", "a document speaks where no prompts do"
    twins = RequestRouter([units, Described("lengths", units.description, units.prompts)])
    assert twins.choose("Convert 77 feet to metres.").name is None
    assert "too close" in twins.choose("Convert 77 feet to metres.").why
    assert RequestRouter([]).choose("x").name is None


def test_the_verbs_say_what_they_need(
    finished: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = str(finished.folder / "run")
    monkeypatch.setenv("HYBRID_API_KEY", "short")
    assert main(["serve", run_folder, "--port", "0"]) == 2
    assert "HYBRID_API_KEY holds a key of 5 characters" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--key-env", "NOT_SET"]) == 2
    assert "neither a run folder" in capsys.readouterr().err
    assert main(["export", run_folder, "--to", str(tmp_path / "out"), "--format", "vllm"]) == 0
    told = capsys.readouterr().out
    assert "vllm serve BASE" in told and "not expressed: request routing" in told
