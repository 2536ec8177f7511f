"""Documents of a run on another model: measured once, paid once, judged by paired scores, and drawn safely."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_world import WORDS, World, line_for, make_world

from hybrid.__main__ import main
from hybrid.backends.base import Adapter, Completion, ModelInfo, Request, Sampling
from hybrid.backends.scripted import ScriptedBackend
from hybrid.errors import BackendError, BudgetExhausted, EndpointError, RunFolderError, UsageError
from hybrid.pipeline.run import run
from hybrid.pipeline.transfer import choose_model, control_text, read_source, transfer
from hybrid.report import transfer_text as t
from hybrid.report.schema import load_report
from hybrid.store import faults
from hybrid.store.records import RecordLog

TEST, VARIANT = 16, 8
DEAD = -signal.SIGKILL


def quiet(kind: str, data: dict[str, Any]) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run in which `codes` shipped a document; tests work on copies of it."""
    world = make_world(tmp_path_factory.mktemp("finished") / "world")
    run(world.load(), world.folder / "run", on_event=quiet)
    world.calls.unlink()
    return world


@pytest.fixture
def done(finished: World, tmp_path: Path) -> World:
    """A copy that nothing else reads, the paths of its configuration included."""
    world = World(tmp_path / "world")
    shutil.copytree(finished.folder, world.folder)
    resolved = world.folder / "run" / "config.resolved.json"
    text = resolved.read_text(encoding="utf-8").replace(str(finished.folder), str(world.folder))
    resolved.write_text(text, encoding="utf-8")
    return world


def folder(world: World) -> Path:
    return world.folder / "run"


def script(world: World, name: str, *first: dict[str, Any]) -> ScriptedBackend:
    """Another model: the world's own script with rules in front of it, which also makes its fingerprint another one."""
    own = json.loads((world.folder / "script.json").read_text(encoding="utf-8"))
    rules = [*first, *own["rules"], {"equals": f"only {name}", "answers": [name]}]
    path = world.folder / f"{name}.json"
    path.write_text(json.dumps({**own, "rules": rules}), encoding="utf-8")
    return ScriptedBackend(path)


class Wrapped:
    """A backend that does something before it generates, or counts tokens in its own way."""

    def __init__(
        self,
        inner: ScriptedBackend,
        before: Callable[[str], None] = lambda prompt: None,
        count: Callable[[str], int] | None = None,
    ) -> None:
        self.inner, self.before, self.count = inner, before, count or inner.count_tokens

    def info(self) -> ModelInfo:
        return self.inner.info()

    def count_tokens(self, text: str) -> int:
        return self.count(text)

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        for request in requests:
            self.before(str(request.prompt))
        return self.inner.generate(requests, sampling, adapter)


def hashes(root: Path, *, transfers: bool) -> dict[str, str]:
    """sha256 of the files under a run folder, of the transfers alone or of everything else."""
    files = {p.relative_to(root): p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "LOCK"}
    return {
        str(name): hashlib.sha256(p.read_bytes()).hexdigest()
        for name, p in files.items()
        if (name.parts[0] == "transfers") == transfers
    }


def entry(report: t.TransferReport, name: str = "codes") -> t.TransferEntry:
    return next(e for e in report.capabilities if e.name == name)


def add_unshipped(world: World, name: str = "secrets") -> None:
    """What a run leaves of a document that was optimised and did not ship."""
    versions = folder(world) / "skills" / name / "versions"
    versions.mkdir(parents=True)
    for number, body in enumerate(("", "Guess twice.\n", "Guess twice and then once more.\n")):
        head = f"---\nname: {name}\ndescription: Guesses.\n---\n"
        (versions / f"{number:03d}.md").write_text(head + (f"\n{body}" if body else ""), encoding="utf-8")


# What is measured.


def test_a_document_that_helps_there_too_carries_over(done: World) -> None:
    report, where = transfer(folder(done), script(done, "other"))
    assert where == folder(done) / "transfers" / report.model.fingerprint[:12]
    codes = entry(report)
    assert (codes.status, codes.verdict, codes.document.shipped) == ("measured", "carries over", True)
    test, variant = codes.test, codes.variant
    assert test is not None
    assert variant is not None
    assert test.control is not None
    assert (test.base.mean, test.document.mean, test.control.mean, test.base.n) == (0.0, 1.0, 0.0, TEST)
    assert (test.delta.mean, test.delta.improved, test.delta.regressed) == (1.0, TEST, 0)
    assert variant.delta.n == VARIANT
    assert test.ratio is not None
    assert test.ratio.low < test.ratio.value == 1.0 < test.ratio.high
    assert not report.same_model
    assert report.notes == ()
    assert report.ledger.calls == done.paid() == 3 * (TEST + VARIANT), "three texts on two splits, once each"


def test_the_source_gain_is_what_the_report_of_the_run_says(done: World) -> None:
    report, _ = transfer(folder(done), script(done, "other"))
    source = entry(report).test.source  # type: ignore[union-attr]
    placed = next(c for c in load_report(folder(done) / "report" / "placement.json").capabilities if c.name == "codes")
    assert source is not None
    assert source.origin == "rollouts"
    assert source.delta == placed.delta
    assert placed.arms.base is not None
    assert placed.arms.skill is not None
    assert (source.base, source.document) == (placed.arms.base.test, placed.arms.skill.test)


def test_without_stored_answers_the_report_still_tells_the_source_gain_but_no_ratio(done: World) -> None:
    shutil.rmtree(folder(done) / "rollouts")
    test = entry(transfer(folder(done), script(done, "other"))[0]).test
    assert test is not None
    assert test.source is not None
    assert test.source.delta is not None
    assert (test.source.origin, test.source.delta.mean) == ("placement.json", 1.0)
    assert test.ratio is None
    assert "not all there" in test.ratio_note


def test_the_runs_own_model_is_an_a_a_check(done: World) -> None:
    report, _ = transfer(folder(done), ScriptedBackend(done.folder / "script.json"))
    assert report.same_model
    assert report.notes[0].startswith("A/A check")
    test = entry(report).test
    assert test is not None
    assert test.source is not None
    assert (test.base, test.document, test.delta) == (test.source.base, test.source.document, test.source.delta)


def test_a_document_that_ruins_right_answers_harms(done: World) -> None:
    rules = []
    for row in (done.folder / "codes" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        example = json.loads(row)
        rules.append({"equals": example["prompt"], "answers": [example["reference"]]})
    rules += [{"contains": line_for(word), "answers": ["confused"]} for word in WORDS]
    report, _ = transfer(folder(done), script(done, "fragile", *rules))
    codes = entry(report)
    assert codes.verdict == "harms"
    assert codes.claim is not None
    assert codes.claim.p_harm_adjusted < 0.001
    assert codes.test is not None
    assert codes.test.ratio is not None
    assert codes.test.ratio.high < 0, "it takes away what it gave there"


def test_a_document_that_does_nothing_is_not_called_useless_on_few_examples(done: World) -> None:
    rules = [{"contains": line_for(word), "answers": ["no idea"]} for word in WORDS]
    codes = entry(transfer(folder(done), script(done, "deaf", *rules))[0])
    assert codes.verdict == "not measurable"
    assert "at this size" in codes.reason
    assert codes.test is not None
    assert codes.test.delta.high >= 0.1, "a gain as large as the minimum effect is still possible"


def test_a_gain_that_any_text_gives_does_not_carry_over(done: World) -> None:
    rows = (done.folder / "codes" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rules = [
        {"contains": f"\n{e['prompt']}", "answers": [e["reference"]]} for e in (json.loads(r) for r in rows)
    ]  # right under any text, wrong without one
    codes = entry(transfer(folder(done), script(done, "any-text", *rules))[0])
    assert codes.test is not None
    assert codes.test.over_control is not None
    assert (codes.test.delta.mean, codes.test.over_control.mean) == (1.0, 0.0)
    assert codes.verdict != "carries over"
    assert codes.claim is not None
    assert codes.claim.p_gain == 1.0


# What it costs and what it leaves.


def test_the_run_itself_is_never_changed(done: World) -> None:
    before = hashes(folder(done), transfers=False)
    transfer(folder(done), script(done, "other"))
    transfer(folder(done), script(done, "another"))
    assert hashes(folder(done), transfers=False) == before
    assert len(list((folder(done) / "transfers").iterdir())) == 2


def test_the_second_time_it_is_only_read(done: World) -> None:
    first, where = transfer(folder(done), script(done, "other"))
    before, paid = hashes(folder(done), transfers=True), done.paid()

    def never(prompt: str) -> None:
        raise AssertionError("nothing may be generated")

    again, _ = transfer(folder(done), Wrapped(script(done, "other"), never))
    assert again == first
    assert (hashes(folder(done), transfers=True), done.paid()) == (before, paid)
    (where / "transfer.json").unlink()
    (where / "transfer.md").unlink()
    rebuilt, _ = transfer(folder(done), Wrapped(script(done, "other"), never))
    assert rebuilt == first, "what is deleted is drawn again from the answers"
    assert (where / "transfer.json").read_text(encoding="utf-8") == first.to_json()


def test_test_is_opened_once_for_this_model_and_never_again_in_the_run(done: World) -> None:
    _, where = transfer(folder(done), script(done, "other"))
    opened = [e["data"] for e in RecordLog(where / "events.jsonl").read() if e["kind"] == "split.opened"]
    assert [(d["capability"], d["split"], len(d["candidates"])) for d in opened] == [("codes", "test", 3)]


def _child(world: World, point: str) -> int:
    """The exit status of a forked process that transfers with a fault point armed; 0 when it got through."""
    process = os.fork()
    if process == 0:
        os.environ["HYBRID_FAULT"] = point
        faults._passes.clear()
        code = 1
        try:
            transfer(folder(world), script(world, "other"))
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _left(where: Path) -> tuple[dict[str, Any], list[str]]:
    """Everything but times: the report, and the stored answers."""
    report = json.loads((where / "transfer.json").read_text(encoding="utf-8"))
    del report["created"], report["ledger"]["wall_seconds"]
    rows = [r["key"] for p in sorted((where / "rollouts").iterdir()) for r in RecordLog(p).read()]
    return report, rows


def test_a_kill_at_every_point_pays_nothing_twice(done: World, tmp_path: Path) -> None:
    _, where = transfer(folder(done), script(done, "other"))
    whole, paid = _left(where), done.paid()
    shutil.rmtree(where.parent)
    killed = 0
    for k in range(1, 200):
        done.calls.unlink(missing_ok=True)
        code = _child(done, f"*:{k}")
        if code != DEAD:
            assert code == 0, "past its last point it gets through"
            break
        killed += 1
        stored = sum(1 for p in where.glob("rollouts/*.jsonl") for _ in RecordLog(p).read())
        lost = done.paid() - stored
        transfer(folder(done), script(done, "other"))
        assert _left(where) == whole, f"killed at point {k}"
        assert done.paid() == paid + lost, "answers that were stored are not paid for again"
        assert len(set(whole[1])) == len(whole[1])
        shutil.rmtree(where.parent)
    assert killed > 15


def test_the_budget_is_its_own_and_can_be_raised(done: World) -> None:
    backend = script(done, "other")
    with pytest.raises(BudgetExhausted, match=r"budget\.calls"):
        transfer(folder(done), backend, overrides=["budget.calls=20"])
    assert done.paid() == 20
    assert not list((folder(done) / "transfers").rglob("transfer.json"))
    report, _ = transfer(folder(done), backend, overrides=["budget.calls=500"])
    assert done.paid() == report.ledger.calls == 3 * (TEST + VARIANT)


# Documents that did not ship, and models that cannot be asked.


def test_all_takes_the_newest_version_that_did_not_ship_and_keeps_it_in_the_report(done: World) -> None:
    add_unshipped(done)
    backend = script(done, "other")
    first, where = transfer(folder(done), backend)
    assert [e.name for e in first.capabilities] == ["codes"]
    both, _ = transfer(folder(done), backend, everything=True)
    secrets = entry(both, "secrets")
    assert (secrets.document.shipped, secrets.document.path) == (False, "skills/secrets/versions/002.md")
    assert secrets.claim is not None
    assert secrets.claim.family == 2, "Holm covers what was asked, whatever it answered"
    assert entry(both).test == entry(first).test, "the control of a document does not depend on --all"
    assert "did not ship" in (where / "transfer.md").read_text(encoding="utf-8")
    assert "(not shipped)" in t.to_text(both)
    assert transfer(folder(done), backend)[0] == both, "what was measured once stays in the report"
    assert done.paid() == 6 * (TEST + VARIANT)


def test_the_other_document_is_the_control_at_the_same_length(done: World) -> None:
    add_unshipped(done)
    codes = entry(transfer(folder(done), script(done, "other"))[0])
    assert "document of secrets" in codes.document.control
    assert codes.document.tokens is not None
    assert codes.document.control_tokens is not None
    assert 0 <= codes.document.tokens - codes.document.control_tokens <= 2


def test_a_model_that_stops_at_one_document_does_not_stop_the_others_and_is_asked_again(done: World) -> None:
    add_unshipped(done)

    def stops(prompt: str) -> None:
        if "guess" in prompt:
            raise BackendError("40 prompt tokens exceed the model's limit of 32 positions")

    backend = Wrapped(script(done, "other"), stops)
    report, _ = transfer(folder(done), backend, everything=True)
    assert entry(report).verdict == "carries over"
    secrets = entry(report, "secrets")
    assert (secrets.status, secrets.verdict, secrets.test, secrets.claim) == ("failed", "not measurable", None, None)
    assert "32 positions" in secrets.reason
    assert entry(report).claim.family == 1  # type: ignore[union-attr]
    backend.before = lambda prompt: None
    again, _ = transfer(folder(done), backend)
    assert entry(again, "secrets").status == "measured"
    assert done.paid() == 6 * (TEST + VARIANT)


def test_an_endpoint_out_of_reach_stops_the_command(done: World) -> None:
    def away(prompt: str) -> None:
        raise EndpointError("refused")

    with pytest.raises(EndpointError):
        transfer(folder(done), Wrapped(script(done, "other"), away))
    assert not list((folder(done) / "transfers").rglob("transfer.json"))


def test_a_tokenizer_that_reads_none_of_the_documents_is_an_error_before_anything_is_paid(done: World) -> None:
    with pytest.raises(BackendError, match="can read none of the documents"):
        transfer(folder(done), Wrapped(script(done, "other"), count=lambda text: 0))

    def broken(text: str) -> int:
        raise Exception("WordLevel error: Missing [UNK] token")  # noqa: TRY002  # tokenizers raise nothing more precise

    with pytest.raises(BackendError, match=r"Missing \[UNK\]"):
        transfer(folder(done), Wrapped(script(done, "other"), count=broken))
    assert done.paid() == 0


def test_one_unreadable_document_is_reported_with_the_reason(done: World) -> None:
    add_unshipped(done)
    backend = Wrapped(script(done, "other"), count=lambda text: 0 if "Guess" in text else len(text.split()))
    report, _ = transfer(folder(done), backend, everything=True)
    secrets = entry(report, "secrets")
    assert (secrets.status, secrets.document.tokens, secrets.ledger.calls) == ("unfit", 0, 0)
    assert "does not know" in secrets.reason
    assert entry(report).verdict == "carries over"


def test_a_document_with_a_held_out_answer_is_not_scored(done: World) -> None:
    skill = folder(done) / "skills" / "codes" / "SKILL.md"
    skill.write_text(skill.read_text(encoding="utf-8") + "ask te00 alpha\nte00te00\n", encoding="utf-8")
    report, _ = transfer(folder(done), script(done, "other"))
    assert entry(report).status == "unfit"
    assert "held-out" in entry(report).reason
    assert done.paid() == 0


# What is refused.


def test_a_folder_without_run_or_report_or_document(done: World, tmp_path: Path) -> None:
    backend = script(done, "other")
    with pytest.raises(UsageError, match=r"no run\.json"):
        transfer(tmp_path, backend)
    (folder(done) / "skills" / "codes" / "SKILL.md").unlink()
    shutil.rmtree(folder(done) / "skills" / "codes")
    with pytest.raises(UsageError, match=r"no capability of this run has an accepted document$"):
        transfer(folder(done), backend)
    add_unshipped(done)
    with pytest.raises(UsageError, match="--all also measures the 1 "):
        transfer(folder(done), backend)
    (folder(done) / "report" / "placement.json").unlink()
    with pytest.raises(RunFolderError, match="has not reached its report"):
        transfer(folder(done), backend)
    assert not (folder(done) / "transfers").exists()


def test_changed_data_is_refused(done: World) -> None:
    rows = done.folder / "codes" / "test.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("te03te03", "te03te04"), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"codes: the data at .*changed since the run"):
        transfer(folder(done), script(done, "other"))
    assert not (folder(done) / "transfers").exists()


def test_a_document_edited_after_the_run_is_measured_without_a_source_gain(done: World) -> None:
    skill = folder(done) / "skills" / "codes" / "SKILL.md"
    skill.write_text(skill.read_text(encoding="utf-8") + "Be brief.\n", encoding="utf-8")
    report, where = transfer(folder(done), script(done, "other"))
    test = entry(report).test
    assert test is not None
    assert (test.source, test.ratio) == (None, None)
    assert "not the document that the run measured" in test.ratio_note
    skill.write_text(skill.read_text(encoding="utf-8") + "Be kind.\n", encoding="utf-8")
    for _ in range(2):  # with its report, and from the seal alone
        with pytest.raises(RunFolderError, match="changed since it was measured"):
            transfer(folder(done), script(done, "other"))
        (where / "transfer.json").unlink(missing_ok=True)


def test_another_way_of_reading_needs_a_folder_of_its_own(done: World) -> None:
    backend = script(done, "other")
    transfer(folder(done), backend)
    model = read_source(folder(done)).loaded.config.model
    with pytest.raises(RunFolderError, match="another state of: chat or separator"):
        transfer(folder(done), backend, model.model_copy(update={"skill_separator": "\n\n"}))


def test_only_what_measures_nothing_may_be_set(done: World) -> None:
    with pytest.raises(UsageError, match=r"--set seed: .*budget"):
        transfer(folder(done), script(done, "other"), overrides=["seed=3"])


def test_links_out_of_the_folder_are_refused(done: World, tmp_path: Path) -> None:
    backend = script(done, "other")
    (folder(done) / "transfers").symlink_to(tmp_path)
    with pytest.raises(RunFolderError, match="symbolic link"):
        transfer(folder(done), backend)
    (folder(done) / "transfers").unlink()
    skill = folder(done) / "skills" / "codes" / "SKILL.md"
    skill.rename(tmp_path / "elsewhere.md")
    skill.symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(RunFolderError, match="symbolic link"):
        transfer(folder(done), backend)


def test_a_damaged_report_says_how_to_rebuild_it(done: World) -> None:
    _, where = transfer(folder(done), script(done, "other"))
    for text in ("{", '{"schema_version": 1}', '{"schema_version": 2}'):
        (where / "transfer.json").write_text(text, encoding="utf-8")
        with pytest.raises(RunFolderError, match=r"transfer\.json"):
            transfer(folder(done), script(done, "other"))


def test_settings_default_to_the_runs_where_they_can_apply(done: World, tmp_path: Path) -> None:
    source = read_source(folder(done))
    (tmp_path / "model").mkdir()
    own = source.loaded.config.model.model_copy(
        update={"gguf_file": "a.gguf", "revision": "main", "end_of_answer": "\n", "dtype": "bfloat16", "chat": True}
    )
    config = source.loaded.config.model_copy(update={"model": own})
    source = type(source)(
        source.path,
        type(source.loaded)(config, Path("x"), Path("/"), {}),
        source.report,
        source.identity,
        source.fields,
    )
    chosen = choose_model(source, str(tmp_path / "model"), {"dtype": None, "chat": False, "end_of_answer": ""})
    assert (chosen.path, chosen.dtype, chosen.chat) == (str(tmp_path / "model"), "bfloat16", False)
    assert (chosen.gguf_file, chosen.revision, chosen.end_of_answer) == (None, None, None)
    (tmp_path / "model" / "a.gguf").touch()
    chosen = choose_model(source, str(tmp_path / "model"), {})
    assert (chosen.gguf_file, chosen.end_of_answer, chosen.chat) == ("a.gguf", "\n", True)


# Numbers.


@pytest.mark.parametrize("tokens", [1, 3, 7, 40])
def test_a_control_is_as_long_as_the_document_and_never_the_document(tokens: int) -> None:
    own = " ".join(f"w{i}" for i in range(tokens))
    others = [("same", own), ("longer", own + " and on"), ("b", "x y\nz\n")]
    text, made_of = control_text(own, others, lambda s: len(s.split()), 0)
    assert len(text.split()) == tokens
    assert text.split() != own.split()
    assert "document of b" in made_of
    alone, made_of = control_text(own, [], lambda s: len(s.split()), 0)
    assert sorted(alone.split()) == (sorted(own.split()) if tokens > 1 else [])
    assert bool(made_of) == (tokens > 1)


def pairs(rng: np.random.Generator, n: int, here: float, there: float) -> tuple[list[float], list[float]]:
    """Gains by example of two models, correlated because the examples are the same."""
    luck = rng.random(n)
    noise = rng.random(n)
    return (luck * 0.7 + noise * 0.3 < here).astype(float).tolist(), (luck < there).astype(float).tolist()


def test_the_interval_of_the_ratio_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    here, there = pairs(rng, 400_000, 0.4, 0.8)
    truth, covered, tried = sum(here) / sum(there), 0, 300
    for _ in range(tried):
        ratio = t.transfer_ratio(*pairs(rng, 80, 0.4, 0.8), 0)
        assert ratio is not None
        assert ratio.method == "bootstrap"
        covered += ratio.low <= truth <= ratio.high
    assert 0.92 <= covered / tried <= 0.985


def test_a_ratio_of_constant_gains_keeps_an_honest_width() -> None:
    ratio = t.transfer_ratio([1.0] * 16, [1.0] * 16, 0)
    assert ratio is not None
    assert (ratio.value, ratio.method) == (1.0, "ends")
    assert ratio.low < 0.7
    assert ratio.high > 1.4
    assert t.transfer_ratio([0.0] * 16, [1.0] * 16, 0).low < 0  # type: ignore[union-attr]


def test_a_ratio_does_not_depend_on_the_order_and_needs_a_gain_to_divide_by() -> None:
    here, there = pairs(np.random.default_rng(1), 60, 0.4, 0.7)
    assert t.transfer_ratio(here, there, 0) == t.transfer_ratio(here[::-1], there[::-1], 0)
    assert t.transfer_ratio(here, [0.0] * 60, 0) is None
    assert t.transfer_ratio(here, [1.0] + [0.0] * 59, 0) is None
    assert t.transfer_ratio([], [], 0) is None


def scores(base: float, document: float, control: float | None, n: int) -> t.Scores:
    """Yes-or-no scores with these means, right from the first example on, so that they overlap as much as they can."""

    def row(mean: float) -> list[float]:
        return [1.0] * round(mean * n) + [0.0] * (n - round(mean * n))

    return row(base), row(document), None if control is None else row(control)


@pytest.mark.parametrize(
    ("measured", "n", "verdict", "told"),
    [
        ((0.1, 0.9, 0.1), 100, "carries over", "and an irrelevant text"),
        ((0.1, 0.9, None), 100, "carries over", "than the baseline"),
        ((0.9, 0.1, 0.9), 100, "harms", "worse than without"),
        ((0.1, 0.9, 0.9), 100, "does not carry over", "an irrelevant text of the same length does as much"),
        ((0.3, 0.3, 0.3), 100, "does not carry over", "below the least that counts"),
        ((0.98, 1.0, 0.98), 100, "not measurable", "no room"),
        ((0.3, 0.35, 0.3), 40, "not measurable", "at this size"),
        ((0.0, 1.0, 0.0), 4, "not measurable", "4 pairs cannot reach"),
    ],
)
def test_verdicts(measured: tuple[float, float, float | None], n: int, verdict: str, told: str) -> None:
    row = scores(*measured, n)
    claim = t.claims({"a": row}, "holm")["a"]
    assert t.decide(t.split_of(row, None, 0), claim, 0.05, 0.05)[0] == verdict
    assert told in t.decide(t.split_of(row, None, 0), claim, 0.05, 0.05)[1]


def test_claims_are_corrected_over_capabilities_and_need_both_comparisons() -> None:
    weak = scores(0.5, 0.55, 0.5, 100)  # 5 of 5 discordant pairs: p = 1/32
    null = scores(0.5, 0.5, 0.5, 100)
    assert t.claims({"a": weak}, "holm")["a"].p_gain_adjusted == pytest.approx(1 / 32)
    family = t.claims({"a": weak, "b": null, "c": null}, "holm")["a"]
    assert (family.p_gain, family.p_gain_adjusted, family.family) == (pytest.approx(1 / 32), pytest.approx(3 / 32), 3)
    assert t.decide(t.split_of(weak, None, 0), family, 0.05, 0.05)[0] == "not measurable"
    assert t.claims({"a": weak, "b": null}, "none")["a"].p_gain_adjusted == pytest.approx(1 / 32)
    like_control = scores(0.1, 0.9, 0.88, 100)
    assert t.claims({"a": like_control}, "holm")["a"].p_gain == pytest.approx(1 / 4)


def test_a_model_that_gains_nothing_is_seldom_said_to_gain() -> None:
    rng, said, tried = np.random.default_rng(2), 0, 400
    for _ in range(tried):
        rows = {
            name: tuple((rng.random(60) < 0.5).astype(float).tolist() for _ in range(3)) for name in ("a", "b", "c")
        }
        tests = t.claims(rows, "holm")  # type: ignore[arg-type]
        said += any(tests[name].p_gain_adjusted <= 0.05 for name in rows)
    assert said / tried <= 0.05


# Forms.


def numbers(value: Any, inside: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Every object of a document that holds an interval or a p value."""
    if isinstance(value, dict):
        if {"low", "p", "p_gain"} & set(value):
            yield value, "n" in value
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)


def test_every_number_stands_beside_its_n(done: World) -> None:
    _, where = transfer(folder(done), script(done, "other"))
    text = (where / "transfer.json").read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the file"))
    found = list(numbers(document))
    assert len(found) > 15
    assert all(has for _, has in found)
    assert text == json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert t.load_transfer(where / "transfer.json").to_json() == text


def test_hostile_text_stays_text(done: World) -> None:
    report, _ = transfer(folder(done), script(done, "other"))
    nasty = "</td><script>x</script> | [a](http://b) \u202eabc\nline\x1b[31m"
    bad = entry(report).model_copy(update={"reason": nasty, "status": "failed", "test": None, "claim": None})
    hostile = report.model_copy(
        update={"capabilities": (bad,), "notes": (nasty,), "warnings": (nasty,), "run_id": nasty}
    )
    for drawn in (t.to_markdown(hostile), t.to_text(hostile)):
        assert not {"\u202e", "\x1b"} & set(drawn)
    assert "<script" not in t.to_markdown(hostile)
    assert "[a](" not in t.to_markdown(hostile)


def test_the_verb_prints_a_table_or_one_document(done: World, capsys: pytest.CaptureFixture[str]) -> None:
    script(done, "other")
    command = ["transfer", str(folder(done)), "--model", str(done.folder / "other.json")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "carries over" in shown
    assert shown.rstrip().endswith("transfer.md")
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["capabilities"][0]["verdict"] == "carries over"
    assert document["model"]["path"] == "scripted:other.json"
    script(done, "second")
    second = ["transfer", str(folder(done)), "--model", str(done.folder / "second.json")]
    assert main([*second, "--set", "budget.calls=5"]) == 3
    assert main([*second, "--set", "seed=5"]) == 2
    assert main([*second, "--dtype", "int3"]) == 2
    assert main(["transfer", str(done.folder), "--model", "x"]) == 2
