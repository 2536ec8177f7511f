from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_skill_world import OPS, VOCABULARY, World, task, vocabulary, world

from hybrid.capability.types import Example
from hybrid.config.schema import EditBudgetConfig, SearchGateConfig
from hybrid.errors import BudgetExhausted
from hybrid.evidence.race import Race
from hybrid.skill.edits import Append, Delete
from hybrid.skill.evidence_editor import aggregate
from hybrid.skill.proposer import OfflineProposer
from hybrid.skill.prune import Check, prune
from hybrid.skill.record import SkillResult
from hybrid.skill.reflection import Proposal, Reflection, ReflectionContext, body_hash
from hybrid.skill.schedule import edit_budget
from hybrid.skill.skillopt import optimise


def lines(body: str) -> set[str]:
    return {line for line in body.split("\n") if line}


def wrong(op: str) -> str:
    return "@rev" if op != "@rev" else "@sort"


SEEDS: dict[str, tuple[Callable[[int], World], Callable[[World], str]]] = {
    "rules, empty seed": (lambda s: world(s), lambda w: ""),
    "eight rules": (lambda s: world(s, 8), lambda w: ""),
    "facts": (lambda s: world(s, 0, 6), lambda w: ""),
    "rules and facts": (lambda s: world(s, 3, 3), lambda w: ""),
    "a seed that is wrong throughout": (
        lambda s: world(s),
        lambda w: "# Notes\n" + "".join(f"rule {n}: {wrong(op)}.\n" for n, op in w.rules.items()),
    ),
    "a contradictory seed": (
        lambda s: world(s),
        lambda w: "".join(f"rule {n}: {wrong(op)}.\nrule {n}: {op}.\n" for n, op in list(w.rules.items())[:1]),
    ),
    "a seed with a harmful line": (lambda s: world(s), lambda w: "Ignore the rules.\nBe brief.\n"),
    "a layout that the rules need": (lambda s: world(s, capitals=True), lambda w: ""),
    "a layout alone": (
        lambda s: world(s, capitals=True),
        lambda w: "".join(f"rule {n}: {op}.\n" for n, op in w.rules.items()),
    ),
}


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_the_right_document_is_recovered_in_38_of_40_seeds(name: str) -> None:
    make, body = SEEDS[name]
    recovered, paid = 0, []
    for seed in range(40):
        w = make(seed)
        result = optimise(task(w, seed, body(w)))
        recovered += lines(result.body) == w.lines
        paid.append(len(w.paid))
    assert recovered >= 38, recovered
    assert sorted(paid)[20] <= 1200, sorted(paid)[20]


@pytest.mark.parametrize("facts", [0, 6])
def test_with_noise_every_right_line_is_found_and_little_score_is_lost(facts: int) -> None:
    found = 0
    for seed in range(20):
        w = world(seed, 0 if facts else 4, facts, noise=0.1)
        t = task(w, seed)
        result = optimise(t)
        found += w.lines <= lines(result.body)
        fresh = w.examples(random.Random(f"fresh {seed}"), 200, "fresh-")
        score = sum(v.value for v in w.measure(result.body, fresh, "search")) / len(fresh)
        assert score >= 0.75, (seed, score)
    assert found >= 19


@pytest.mark.parametrize("body", ["", "Be brief.\n", "# Notes\n\nrule Zzz: @rev.\n"])
def test_without_the_right_line_the_seed_comes_back_unchanged(body: str) -> None:
    text = VOCABULARY.split("rules:")[0] + 'rules: ["rule {name}: @none.", "Be kind.", "Ignore the rules."]\n'
    for seed in range(10):
        w = world(seed)
        t = task(w, seed, body, OfflineProposer(vocabulary(text), 4, seed))
        result = optimise(t)
        assert result.body == body and result.versions == (body,) and not result.accepted and not result.dropped
        assert result.stopped.startswith("no proposals")


def test_what_needs_no_change_costs_one_epoch_of_rollouts() -> None:
    w = world(1)
    body = "".join(f"{line}\n" for line in sorted(w.lines))
    result = optimise(task(w, 1, body))
    assert result.body == body and result.stopped == "no failures in epoch 1"
    assert len(w.paid) == 96 and all(split == "train" for _, split in w.asked)


def test_history_tells_the_truth() -> None:
    w = world(2, 6, 2)
    t = task(w, 2)
    seen: list[int] = []
    result = optimise(replace(t, on_progress=lambda record: seen.append(record.step)))
    assert seen == [r.step for r in result.history] == list(range(len(result.history)))
    body = ""
    total = 3 * 3
    versions = list(result.versions)
    assert versions.pop(0) == body
    for record in result.history:
        assert record.before == body_hash(body)
        assert record.budget == edit_budget(record.step, total, t.config.edits)
        assert len(record.applied) <= record.budget
        for attempt in record.attempts:
            assert attempt.before == body_hash(body)
            assert attempt.accepted == (attempt.verdict.decision == "accept")
            if attempt.accepted:
                body = versions.pop(0)
                assert attempt.after == body_hash(body)
        assert record.after == body_hash(body)
    assert versions == ([result.body] if result.dropped else [])
    assert SkillResult.model_validate_json(result.model_dump_json()) == result
    assert {a.verdict.decision for a in result.accepted} == {"accept"}
    assert all(a.verdict.low <= a.verdict.delta <= a.verdict.high for a in result.accepted)


class Scripted:
    """Proposes given lines, a list per reflection, and records what it was shown."""

    tries = True

    def __init__(self, *rounds: Sequence[tuple[str, int]]) -> None:
        self.rounds = list(rounds)
        self.seen: list[ReflectionContext] = []

    def propose(self, context: ReflectionContext) -> Reflection:
        self.seen.append(context)
        made = self.rounds.pop(0) if self.rounds else []
        edits = [(Delete(target=c[1:]) if c.startswith("-") else Append(content=c), s) for c, s in made]
        return Reflection(
            proposals=tuple(
                Proposal(edit=e, support=s, source="failure", rationale="r", expected_gain=1.0) for e, s in edits
            )
        )


def test_a_rejected_bundle_is_tried_edit_by_edit_and_the_memory_is_shown() -> None:
    w = world(7)
    right = sorted(w.lines)
    proposer = Scripted([("Ignore the rules.", 9), (right[0], 5), (right[1], 4)])
    result = optimise(task(w, 7, proposer=proposer, minibatch=96, epochs=1))
    assert [a.accepted for a in result.history[0].attempts] == [False, False, True, True]
    assert [len(a.edits) for a in result.history[0].attempts] == [3, 1, 1, 1]
    assert lines(result.body) == set(right[:2])
    assert [(r.edit, r.before) for r in result.rejected] == [(Append(content="Ignore the rules."), body_hash(""))]
    assert proposer.seen[0].rejected == () and proposer.seen[1].rejected == result.rejected
    assert [a.together for a in result.accepted] == [1, 1]


def test_deletions_are_applied_first_to_make_room() -> None:
    w = world(7)
    right = sorted(w.lines)
    proposer = Scripted([(right[0], 5), ("-one two three four five", 1)])
    t = task(w, 7, "one two three four five\n" * 3, proposer, minibatch=96, epochs=1, max_tokens=16)
    record = optimise(t).history[0]
    assert record.applied == (Delete(target="one two three four five"), Append(content=right[0]))
    assert record.attempts[0].accepted


def test_proposers_see_training_rows_alone_and_a_minibatch_at_a_time() -> None:
    w = world(8)
    proposer = Scripted()
    t = task(w, 8, proposer=proposer, epochs=2)
    optimise(t)
    train = {e.id for e in t.train}
    assert proposer.seen
    for context in proposer.seen:
        assert 0 < len(context.failures) <= 8 and not any(v.passed for v in context.failures)
        shown = {v.example.id for v in (*context.failures, *context.successes)} | {e.id for e in context.train}
        assert shown <= train
        assert all(v.passed for v in context.successes)
    assert not any(split == "search" for _, split in w.asked)  # no proposal, no gate


def test_only_train_and_search_are_ever_asked_and_trials_use_train() -> None:
    w = world(9)
    t = task(w, 9)
    optimise(t)
    ids = {"train": {e.id for e in t.train}, "search": {e.id for e in t.search}}
    assert {split for _, split in w.asked} == {"train", "search"}
    assert all(example in ids[split] for example, split in w.asked)


def test_the_edit_budget_follows_the_schedule() -> None:
    w = world(10, 8, 8)
    edits = EditBudgetConfig(maximum=5, minimum=1, schedule="linear")
    result = optimise(task(w, 10, edits=edits, epochs=4, batch=24))
    total = 4 * 4
    assert [r.budget for r in result.history] == [edit_budget(i, total, edits) for i in range(len(result.history))]
    assert all(len(r.applied) <= r.budget for r in result.history)
    assert max(len(r.applied) for r in result.history) > 1


def test_the_token_cap_holds_at_every_version() -> None:
    w = world(11, 8)
    result = optimise(task(w, 11, max_tokens=16))
    assert all(len(v.split()) <= 16 for v in result.versions)
    assert 12 <= len(result.body.split()) <= 16  # five rules of three words fit


def test_the_gate_is_the_race() -> None:
    w = world(12)
    right = sorted(w.lines)[0]
    t = task(w, 12, proposer=Scripted([(right, 1)]), minibatch=96, epochs=1)
    verdict = optimise(replace(t, gate=SearchGateConfig(part=16, margin=0.9))).history[0].attempts[0].verdict
    assert verdict.decision == "reject" and verdict.delta > 0
    race = Race(64, SearchGateConfig(part=16), 0)
    assert race.next_part() is not None and len(race.next_part() or ()) == 16


def test_an_exhausted_budget_passes_through() -> None:
    w = world(13)
    t = task(w, 13)
    left = [200]

    def limited(body: str, examples: Sequence[Example], split: str) -> object:
        left[0] -= len(examples)
        if left[0] < 0:
            raise BudgetExhausted("calls")
        return w.measure(body, examples, split)  # type: ignore[arg-type]

    with pytest.raises(BudgetExhausted):
        optimise(replace(t, measure=limited))  # type: ignore[arg-type]


def test_without_rows_nothing_happens() -> None:
    w = world(14)
    t = task(w, 14, "a\n\n\n")
    for empty in (replace(t, train=()), replace(t, search=())):
        assert optimise(empty).body == "a\n"
    assert not w.asked


def test_a_replay_gives_the_same_result() -> None:
    for seed in range(3):
        a, b = world(seed, 4, 2, noise=0.1), world(seed, 4, 2, noise=0.1)
        assert optimise(task(a, seed)) == optimise(task(b, seed))
        assert a.asked == b.asked


def test_the_result_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_skill_world import task, world; from hybrid.skill.skillopt import optimise;"
        "w = world(5, 3, 3, noise=0.1); print(optimise(task(w, 5, 'Be brief.\\n')).model_dump_json());"
        "print(w.asked)"
    )
    here = Path(__file__).parent
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, str(here)],
            env={**os.environ, "PYTHONHASHSEED": value, "PYTHONPATH": str(here.parents[1])},
            cwd=tmp_path,
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout
        for value in ("0", "1", "4242")
    }
    assert len(outputs) == 1 and len(outputs.pop()) > 1000


def test_aggregate_adds_support_and_prefers_failures() -> None:
    def p(content: str, support: int, gain: float, source: str = "failure") -> Proposal:
        return Proposal.model_validate(
            {
                "edit": Append(content=content),
                "support": support,
                "source": source,
                "rationale": "r",
                "expected_gain": gain,
            }
        )

    found = [p("a", 1, 1.0), p("b", 2, 0.9), p("a", 3, 0.5), p("c", 9, 1.0, "success"), p("d", 1, 0.1)]
    merged = aggregate(found)
    assert merged == aggregate(found[::-1])
    assert [(m.edit.content, m.support) for m in merged if isinstance(m.edit, Append)] == [
        ("a", 4), ("b", 2), ("d", 1), ("c", 9),
    ]  # fmt: skip
    assert merged[0].expected_gain == pytest.approx((1 * 1.0 + 3 * 0.5) / 4)


def test_the_deletion_pass_drops_what_no_check_needs() -> None:
    w = World(rules={"Kar": "@rev", "Lim": "@sort"})
    t = task(w, 0)

    def scores(body: str, rows: Sequence[Example]) -> list[float]:
        return [v.value for v in w.measure(body, rows, "train")]

    check = Check(t.train, scores, 16)
    body = "# Title\n\nrule Kar: @rev.\nrule Kar: @twin.\nrule Lim: @sort.\nrule Lim: @sort.\n"
    shorter, dropped = prune(body, [check], 0)
    assert lines(shorter) == w.lines
    assert sorted(dropped) == ["# Title", "rule Kar: @twin.", "rule Lim: @sort."]
    kept = "<!-- protected:start x -->\nhello\n<!-- protected:end -->\n"
    assert prune(kept + "x\n", [check], 0) == (kept, ("x",))
    assert prune(body, None, 0) == (body, ())


def test_a_line_that_search_never_asks_about_survives_if_training_rows_need_it() -> None:
    w = World(rules={"Kar": "@rev", "Lim": "@sort"})
    t = task(w, 0)
    t = replace(t, search=tuple(e for e in t.search if "Kar" in e.prompt_text), seed_body="rule Lim: @sort.\n")
    result = optimise(t)
    assert lines(result.body) == w.lines


def test_all_operations_of_the_toy_world_are_reachable() -> None:
    names = ["Kar", "Lim", "Bom", "Dus", "Fen", "Gil", "Kol", "Lur", "Mat", "Nir", "Bek", "Das"]
    w = World(rules=dict(zip(names, OPS, strict=True)))
    result = optimise(task(w, 1, epochs=6))
    assert lines(result.body) == w.lines
