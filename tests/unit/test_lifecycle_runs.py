"""Replacing a base and carrying out reviews over scripted and fake models: what moves, what the gates refuse, kill and resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_world import SIZES, WORDS, World, line_for, make_world
from test_pipeline_training import BAD, EQUAL, GOOD, RULE
from test_pipeline_training import World as Trained

from hybrid.__main__ import main
from hybrid.backends.base import Adapter
from hybrid.config.loader import load_config
from hybrid.errors import RunFolderError, UsageError
from hybrid.pipeline import lineage as lineage_module
from hybrid.pipeline import replace as replace_module
from hybrid.pipeline import review as review_module
from hybrid.pipeline.lineage import read_lineage
from hybrid.pipeline.replace import replace_base
from hybrid.pipeline.review import apply, review
from hybrid.pipeline.run import run
from hybrid.probe.base import Terms
from hybrid.report.explain import find, to_text
from hybrid.report.lifecycle_text import moves_text
from hybrid.report.schema import CapabilityReport, Report, load_report
from hybrid.store import faults
from hybrid.store.records import RecordLog

DEAD = -signal.SIGKILL


def quiet(kind: str, data: dict[str, Any]) -> None:
    """Nobody watches."""


def halves(word: str) -> str:
    return line_for(word).replace("doubles", "halves")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run whose model also follows lines that halve; `codes` shipped a document of lines that double."""
    world = make_world(tmp_path_factory.mktemp("life") / "world")
    script = json.loads((world.folder / "script.json").read_text(encoding="utf-8"))
    for split, size in SIZES.items():
        for number in range(size):
            tag, word = f"{split[:2]}{number:02d}", WORDS[number % 2]
            for first in ("", *(halves(w) + "\n" for w in WORDS if w != word)):
                text = f"{halves(word)}\n{first}ask {tag} {word}"
                script["rules"].append({"contains": text, "answers": [tag]})
    (world.folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
    run(world.load(), world.folder / "run", on_event=quiet)
    world.calls.unlink()
    return world


@pytest.fixture
def done(finished: World, tmp_path: Path) -> World:
    """A copy that nothing else reads, the paths of its configuration included."""
    return copied(finished, tmp_path / "world")


def copied(finished: World, folder: Path) -> World:
    shutil.copytree(finished.folder, folder)
    resolved = folder / "run" / "config.resolved.json"
    resolved.write_text(
        resolved.read_text(encoding="utf-8").replace(str(finished.folder), str(folder)), encoding="utf-8"
    )
    return World(folder)


def other_base(world: World) -> Path:
    """Another model: it also knows the secrets."""
    own = json.loads((world.folder / "script.json").read_text(encoding="utf-8"))
    known = []
    for split, size in SIZES.items():
        for number in range(size):
            tag = f"{split[:2]}{number:02d}"
            known.append({"contains": f"guess {tag}", "answers": [f"unknown-{tag}"]})
    path = world.folder / "other.json"
    path.write_text(json.dumps({**own, "rules": [*known, *own["rules"]]}), encoding="utf-8")
    return path


def replaced(world: World) -> Report:
    path = replace_base(
        world.folder / "run", str(other_base(world)), {}, world.folder / "new", overrides=(), on_event=quiet
    )
    return load_report(path)


def change_facts(world: World) -> None:
    """From now on a code is its tag once, not twice."""
    for split in SIZES:
        path = world.folder / "codes" / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        text = "".join(json.dumps({**row, "reference": row["reference"][:4]}) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")


def named(report: Report, name: str) -> CapabilityReport:
    return next(c for c in report.capabilities if c.name == name)


# Another base.


def test_a_new_base_moves_what_it_can_do_itself_and_keeps_the_documents(done: World) -> None:
    report = replaced(done)
    assert {c.name: c.placement for c in report.capabilities} == {
        "greetings": "keep",
        "codes": "skill",
        "secrets": "keep",
    }
    assert report.moves is not None
    moves = {m.name: m for m in report.moves.capabilities}
    assert {name: (m.was, m.now) for name, m in moves.items()} == {
        "greetings": ("keep", "keep"),
        "codes": ("skill", "skill"),
        "secrets": ("neither", "keep"),
    }
    secrets, codes = moves["secrets"], moves["codes"]
    assert secrets.base_change is not None
    assert (secrets.base_change.delta, secrets.base_change.n) == (1.0, SIZES["test"])
    assert codes.document is not None
    assert codes.document.verdict == "carries over"
    assert codes.document.over_control is not None
    assert codes.shipped_change is not None
    assert (codes.shipped_change.delta, codes.shipped_change.n) == (0.0, SIZES["test"])
    assert report.moves.replaced_from == load_report(done.folder / "run" / "report" / "placement.json").run_id
    (entry,) = named(report, "secrets").history
    assert (entry.action, entry.was, entry.now, entry.delta) == ("replace", "neither", "keep", 1.0)
    assert any("replaces the base of run" in w for w in report.warnings)


def test_the_document_is_carried_over_as_a_seed_and_its_answers_are_not_paid_for_twice(done: World) -> None:
    report = replaced(done)
    seed = (done.folder / "new" / "seeds" / "codes" / "SKILL.md").read_bytes()
    assert seed == (done.folder / "run" / "skills" / "codes" / "SKILL.md").read_bytes()
    assert named(report, "codes").seed_skill_text == named(report, "codes").skill_text
    stored = [r["key"] for p in (done.folder / "new" / "rollouts").iterdir() for r in RecordLog(p).read()]
    assert len(stored) == len(set(stored)) == done.paid(), "the transfer's answers are the run's"


def test_a_document_that_the_probes_overlook_still_meets_the_gate(done: World) -> None:
    """On `search` alone this base cannot follow the lines: no text is shown to help there, and the gate says otherwise."""
    own = json.loads((done.folder / "script.json").read_text(encoding="utf-8"))
    blind = [r for r in own["rules"] if "ask se" not in r.get("contains", "")]
    path = done.folder / "blind.json"
    path.write_text(json.dumps({**own, "rules": blind}), encoding="utf-8")
    report = load_report(
        replace_base(done.folder / "run", str(path), {}, done.folder / "new", overrides=(), on_event=quiet)
    )
    codes = named(report, "codes")
    assert codes.profile["context_gain"].value == 0.0
    assert any("unchanged, offered to the gate" in step for step in codes.decision_trail)
    assert [(g.arm, g.decision) for g in codes.gate] == [("skill", "accept")]
    assert (codes.placement, codes.artifacts.skill) == ("skill", "skills/codes/SKILL.md")
    assert "doubles" in (done.folder / "new" / "skills" / "codes" / "SKILL.md").read_text(encoding="utf-8")


def test_the_moves_are_drawn_in_every_form(done: World) -> None:
    report = replaced(done)
    told = moves_text(report)
    assert "1 of 3 capabilities moved" in told
    assert "secrets moves from neither to keep" in told
    for form in ("md", "html"):
        text = (done.folder / "new" / "report" / f"placement.{form}").read_text(encoding="utf-8")
        assert "What the new base moved" in text
        assert "secrets moves from neither to keep" in text
        assert "carries over" in text


def test_the_new_run_is_one_like_any_other(done: World) -> None:
    replaced(done)
    path = done.folder / "new" / "report" / "placement.json"
    before, paid = path.read_bytes(), done.paid()
    replaced(done)
    shutil.rmtree(done.folder / "run")
    run(load_config(done.folder / "new" / "config.resolved.json"), done.folder / "new", on_event=quiet)
    assert path.read_bytes() == before
    assert done.paid() == paid


def test_a_folder_that_goes_back_to_another_state_is_refused(done: World) -> None:
    replaced(done)
    document = done.folder / "run" / "skills" / "codes" / "SKILL.md"
    document.write_text(document.read_text(encoding="utf-8") + "Think.\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="belongs to another run"):
        replaced(done)
    shutil.copy(other_base(done), done.folder / "third.json")
    with pytest.raises(RunFolderError, match="goes back to another run"):
        replace_base(
            done.folder / "run", str(done.folder / "third.json"), {}, done.folder / "new", overrides=(), on_event=quiet
        )
    with pytest.raises(UsageError, match="--out names the folder of the old run"):
        replace_base(done.folder / "run", "x.json", {}, done.folder / "run", overrides=(), on_event=quiet)


# Reviews.


def test_nothing_is_proposed_where_nothing_changed(done: World) -> None:
    made, folder = review(done.folder / "run", on_event=quiet)
    assert [e.action for e in made.capabilities] == ["keep"] * 3
    assert made.calls == 2 * SIZES["search"], "the base and what ships, for the one capability that ships something"
    paid = done.paid()
    again, path = apply(done.folder / "run", None, on_event=quiet)
    assert (again, path, done.paid()) == (made, None, paid)
    opened = [e for e in RecordLog(folder / "events.jsonl").read() if e["kind"] == "split.opened"]
    assert opened == [], "a review opens no sealed split"


def test_a_stale_document_is_renewed_by_the_same_gates(done: World) -> None:
    change_facts(done)
    made, path = apply(done.folder / "run", done.folder / "new", on_event=quiet)
    entry = next(e for e in made.capabilities if e.name == "codes")
    assert (entry.action, entry.changed) == ("renew", True)
    assert entry.drift is not None
    assert entry.drift.high < 0
    assert path is not None
    report = load_report(path)
    codes = named(report, "codes")
    assert codes.placement == "skill"
    assert all(halves(w) in (codes.skill_text or "") for w in WORDS)
    assert [g.decision for g in codes.gate] == ["accept"]
    (told,) = codes.history
    assert (told.when, told.action, told.delta, told.n) == (report.run_id, "renew", 1.0, SIZES["test"])
    assert told.outcome.startswith("carried out")
    assert report.provenance.parent is not None
    assert [c.partition(":")[0] for c in report.provenance.parent.changed] == ["data.codes"], "and no path"
    for form in ("md", "html"):
        assert "renew" in (path.parent / f"placement.{form}").read_text(encoding="utf-8")
    assert "renew" in to_text(report, find(report, "codes"))


def test_the_history_grows_from_run_to_run(done: World) -> None:
    change_facts(done)
    apply(done.folder / "run", done.folder / "second", on_event=quiet)
    path = replace_base(
        done.folder / "second", str(other_base(done)), {}, done.folder / "third", overrides=(), on_event=quiet
    )
    assert [h.action for h in named(load_report(path), "codes").history] == ["renew", "replace"]
    assert [h.action for h in named(load_report(path), "secrets").history] == ["replace"]


def test_a_gain_that_is_gone_is_retired(done: World) -> None:
    """The facts change to what no line says: neither the old document nor a new one passes."""
    for split in SIZES:
        path = done.folder / "codes" / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        text = "".join(json.dumps({**row, "reference": "zz" + row["id"]}) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    _, path = apply(done.folder / "run", done.folder / "new", on_event=quiet)
    assert path is not None
    codes = named(load_report(path), "codes")
    assert codes.placement in ("neither", "undecided")
    assert codes.artifacts.skill is None
    assert codes.history[0].outcome.startswith("not carried out"), "no new document was found"
    assert not (path.parents[1] / "skills" / "codes" / "SKILL.md").exists()


def _child(work: Callable[[], Any], point: str) -> int:
    """The exit status of a forked process that works with a fault point armed; 0 when it got through."""
    process = os.fork()
    if process == 0:
        os.environ["HYBRID_FAULT"] = point
        faults._passes.clear()
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _left(folder: Path) -> tuple[Any, list[str]]:
    report = json.loads((folder / "report" / "placement.json").read_text(encoding="utf-8"))
    del report["created"], report["ledger"]["wall_seconds"]
    rows = [r["key"] for p in sorted((folder / "rollouts").iterdir()) for r in RecordLog(p).read()]
    return report, rows


@pytest.mark.parametrize("verb", ["replace", "apply"])
def test_a_kill_anywhere_leaves_the_same_report(done: World, tmp_path: Path, verb: str) -> None:
    if verb == "apply":
        change_facts(done)

    def work() -> None:
        if verb == "replace":
            replaced(done)
        else:
            apply(done.folder / "run", done.folder / "new", on_event=quiet)

    kept = tmp_path / "kept"
    shutil.copytree(done.folder, kept)
    work()
    whole = _left(done.folder / "new")
    killed = 0
    for k in (*range(1, 6), *range(11, 400, 37)):
        shutil.rmtree(done.folder)
        shutil.copytree(kept, done.folder)
        code = _child(work, f"*:{k}")
        if code != DEAD:
            assert code == 0
            break
        killed += 1
        work()
        report, rows = _left(done.folder / "new")
        assert report == whole[0], f"killed at point {k}"
        assert sorted(rows) == sorted(whole[1])
        assert len(rows) == len(set(rows))
    assert killed > 6


# Adapters.

NEW = "double."


class Life(Trained):
    """A fake world with an adapter: `facts` is what the questions ask for now; `follows` what each candidate answers."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        says: Callable[[str, str, int, str], str],
        terms: Terms = Terms(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(folder, monkeypatch, lambda *args: False)
        self.says = says
        self.backend.seconds = 0.01
        (folder / "vocabulary.yaml").write_text(f"rules: ['{RULE}', '{NEW}', 'noise.']\n", encoding="utf-8")
        monkeypatch.setattr(review_module, "build_backend", lambda *args: self.backend)
        monkeypatch.setattr(review_module, "terms_of", lambda *args: terms)
        for module in (lineage_module, replace_module):
            monkeypatch.setattr(module, "inspect_adapter", _inspect)

    def _answer(self, prompt: str, seed: int, adapter: Adapter | None) -> str:
        text, _, question = prompt.rpartition("\n")
        said = self.says(text, question, seed, adapter.sha256 if adapter else "")
        return said + question.rpartition("q")[2].rstrip("?")

    def change(self, letter: str) -> None:
        """The facts change: every reference begins with another letter."""
        for path in sorted((self.folder / "marks").glob("*.jsonl")):
            path.write_text(path.read_text(encoding="utf-8").replace('"a', f'"{letter}'), encoding="utf-8")

    def apply(self, out: str = "new") -> Report:
        _, path = apply(self.folder / "run", self.folder / out, on_event=quiet)
        assert path is not None
        return load_report(path)


def _inspect(path: Path) -> Adapter:
    return Adapter(path, (path / "adapter_model.safetensors").read_text(encoding="utf-8"))


def memorised(text: str, question: str, seed: int, adapter: str) -> str:
    """The old facts are in the adapter and, now and then, in the base's samples; a line has the new ones."""
    if NEW in text:
        return "b"
    return "a" if adapter in (GOOD, EQUAL) or (not adapter and seed % 3 == 0) else "no"


def test_facts_that_change_are_demoted_to_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Life(tmp_path, monkeypatch, memorised)
    assert world.go().placement == "weights"
    world.change("b")
    made, _ = review(tmp_path / "run", on_event=quiet)
    (entry,) = made.changes
    assert (entry.action, entry.was, entry.target) == ("demote", "weights", "skill")
    report = world.apply()
    (found,) = report.capabilities
    assert (found.placement, found.artifacts.adapter, found.artifacts.skill) == (
        "skill",
        None,
        "skills/marks/SKILL.md",
    )
    assert {g.arm: g.decision for g in found.gate}["skill"] == "accept"
    assert {g.arm: g.decision for g in found.gate}["weights"] != "accept", "the stale adapter met the same gate"
    (told,) = found.history
    assert (told.action, told.was, told.now, told.delta) == ("demote", "weights", "skill", 1.0)
    assert len(world.trained) == 1, "nothing is trained to go back to text"


def sure(text: str, question: str, seed: int, adapter: str) -> str:
    """The document and the adapter are equally good."""
    return "a" if adapter in (GOOD, EQUAL) or RULE in text else "no"


HOT = Terms(calls_per_day=1e6)
TWO_TENTHS = "gate.ship.minimum_effect=0.2"
"""What 16 or 24 pairs without a difference can rule out."""


def test_a_stable_hot_document_is_promoted_by_distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Life(tmp_path, monkeypatch, sure, HOT)
    assert world.go(TWO_TENTHS).placement == "skill"
    made, _ = review(tmp_path / "run", on_event=quiet)
    (entry,) = made.changes
    assert (entry.action, entry.target, entry.costs.training) == ("promote", "weights", "estimated")
    assert entry.costs.break_even_days is not None
    report = world.apply()
    (found,) = report.capabilities
    assert (found.placement, found.artifacts.method) == ("weights", "distill")
    assert "against its document +0.000" in found.reason
    (job,) = world.trained
    assert (job.method, job.weights.method) == ("distill", "distill")
    (told,) = found.history
    assert (told.action, told.was, told.now) == ("promote", "skill", "weights")
    assert told.delta == 0.0
    assert found.ledger.train_seconds == 12.5
    again, asked = world.apply(), len(world.backend.asked)
    assert again == report
    assert (len(world.trained), len(world.backend.asked)) == (1, asked)
    after, _ = review(tmp_path / "new", on_event=quiet)
    assert after.capabilities[0].action == "keep", "it stays where it was put"
    assert after.capabilities[0].costs.training == "measured"


def worse(text: str, question: str, seed: int, adapter: str) -> str:
    """The adapter loses a third of what its document does."""
    number = int(question.rpartition("q")[2].rstrip("?"))
    return "a" if RULE in text or (adapter in (GOOD, EQUAL) and number % 3) else "no"


def test_an_adapter_that_loses_what_its_document_does_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Life(tmp_path, monkeypatch, worse, HOT)
    world.go(TWO_TENTHS)
    report = world.apply()
    (found,) = report.capabilities
    assert (found.placement, found.artifacts.adapter) == ("skill", None)
    assert any("not shown to keep what its document does" in r.why for r in found.rejected)
    assert found.history[0].outcome.startswith("not carried out (skill)")


def test_a_training_does_not_go_on_from_a_distillation_that_a_review_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distilled adapter was refused. Whoever trains one by the configured method later begins at the base."""

    world = Life(tmp_path, monkeypatch, worse, HOT)
    world.go(TWO_TENTHS)
    world.apply()
    for parent in ("run", "new"):
        loaded = load_config(tmp_path / "config.yaml", [TWO_TENTHS, "router.counterfactual=true"])
        run(loaded, tmp_path / f"from-{parent}", fork=tmp_path / parent, on_event=quiet)
    begun = {
        (job.out.parent.parent.name, job.method): job.fork for job in world.trained if job.out.name == "marks-weights"
    }
    assert ("new", "distill") in begun
    assert begun["from-run", "grpo"] == tmp_path / "run" / "checkpoints" / "marks-weights"
    assert begun["from-new", "grpo"] is None


def test_an_adapter_that_harms_is_demoted_and_stays_where_no_text_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_weights(text: str, question: str, seed: int, adapter: str) -> str:
        return "a" if adapter in (GOOD, EQUAL) or (adapter != BAD and seed % 3 == 0) else "no"

    world = Life(tmp_path, monkeypatch, only_weights)
    assert world.go().placement == "weights"
    path = tmp_path / "run" / "report" / "placement.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["capabilities"][0]["collateral"] = {"other": {"delta": -0.3, "low": -0.4, "high": -0.2, "n": 48}}
    path.write_text(json.dumps(data), encoding="utf-8")
    made, _ = review(tmp_path / "run", on_event=quiet)
    assert "harms other: -0.300 [-0.400, -0.200], n=48" in made.changes[0].why
    (found,) = world.apply().capabilities
    assert (found.placement, found.artifacts.adapter) == ("weights", "adapters/marks")
    assert found.history[0].delta is None, "the same adapter ships"
    assert found.history[0].outcome.startswith("not carried out (weights)")
    placed = tmp_path / "new" / "adapters" / "marks" / "adapter_model.safetensors"
    assert placed.read_text(encoding="utf-8") == GOOD


def test_what_no_longer_pays_is_retired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From some day on the base answers by itself: the adapter meets the gate again and does not pass."""
    learnt = [False]

    def says(text: str, question: str, seed: int, adapter: str) -> str:
        return "a" if adapter in (GOOD, EQUAL) or (adapter != BAD and (learnt[0] or seed % 3 == 0)) else "no"

    world = Life(tmp_path, monkeypatch, says)
    world.go(TWO_TENTHS)
    learnt[0] = True
    for path in sorted((tmp_path / "marks").glob("*.jsonl")):  # the same questions under other names: other rows
        path.write_text(path.read_text(encoding="utf-8").replace(" q", "  q"), encoding="utf-8")
    made, _ = review(tmp_path / "run", on_event=quiet)
    assert made.changes[0].action == "retire"
    (found,) = world.apply().capabilities
    assert (found.placement, found.artifacts.adapter) == ("keep", None)
    assert [(g.arm, g.decision) for g in found.gate] == [("weights", "reject")]
    assert not (tmp_path / "new" / "adapters" / "marks").exists()
    assert read_lineage(tmp_path / "new") is not None


# On the command line.


def test_both_verbs_on_the_command_line(done: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(done.folder / "run")
    assert main(["review", folder, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [e["action"] for e in result["review"]["capabilities"]] == ["keep"] * 3
    assert result["report"] is None
    assert main(["review", folder, "--out", str(done.folder / "new")]) == 2, "--out without --apply says nothing"
    assert "needs --apply" in capsys.readouterr().err
    assert main(["review", folder, "--apply"]) == 0
    assert "0 of 3 should change" in capsys.readouterr().out
    change_facts(done)
    assert main(["review", folder, "--apply", "--out", str(done.folder / "new")]) == 0
    said = capsys.readouterr().out
    assert "codes (skill): renew to skill" in said
    assert "renew, skill to skill; carried out" in said
    other = str(other_base(done))
    assert main(["replace", folder, "--model", other, "--out", str(done.folder / "third")]) == 1
    assert "codes: the data, or what grades them, changed since the run" in capsys.readouterr().err
    second = str(done.folder / "new")
    assert main(["replace", second, "--model", other, "--out", str(done.folder / "third"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {m["name"]: m["now"] for m in result["moves"]["capabilities"]}["secrets"] == "keep"
    assert main(["explain", str(done.folder / "third"), "secrets"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Where was it before?" in said
    assert "secrets moves from neither to keep" in said
