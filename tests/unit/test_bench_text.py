"""The peer benchmark's parts: worlds of known truth, the pool, the count of rollouts, the tables. No model, no peers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import reference_language as language  # noqa: E402
from text_bench.arm_hybrid import run_hybrid  # noqa: E402
from text_bench.pool import Proposals  # noqa: E402
from text_bench.record import Folder, let_in, record  # noqa: E402
from text_bench.replies import PROMPTS, Replies  # noqa: E402
from text_bench.results import at, outcome, ratios, reached, tables  # noqa: E402
from text_bench.run import Run  # noqa: E402
from text_bench.target import Count, Spent, Target, shown  # noqa: E402
from text_bench.world import SIZES, PoolEdit, World, make_world  # noqa: E402

GEPA_PROMPT = (
    "I provided an assistant with the following instructions to perform a task for me:\n```\n{}\n```\n\n"
    "The following are examples of different task inputs"
)


def reader(document: str, prompts: Sequence[str]) -> list[str]:
    """A reader that follows a document to the letter; of what it does not say it knows nothing."""
    meaning: dict[str, list[str]] = {}
    form = "{}"
    for line in document.split("\n"):
        kind, *rest = line.rstrip(".").split(" ")
        if kind == "form":
            form = language.FORMS[rest[0]]
        elif kind in ("rule", "fact"):
            meaning[rest[0]] = rest[1:]
    answers = []
    for prompt in prompts:
        verb, text, name = prompt.split(" ")
        said = meaning.get(name)
        answer = "?" if said is None else language.apply(said, text) if verb == "q" else said[0]
        answers.append(form.format(answer))
    return answers


class Spy(Target):
    """A target that writes down what it is asked."""

    def __init__(self, memory: Path | None = None) -> None:
        super().__init__(reader, lambda text: len(text.split()), memory)
        self.asked: list[tuple[str, str]] = []

    def ask(self, document: str, examples: Sequence[Any]) -> Any:
        self.asked += [(document, e.id) for e in examples]
        return super().ask(document, examples)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(3)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_a_world_is_its_seed_and_no_prompt_stands_in_two_splits(world: World) -> None:
    assert make_world(3) == world
    assert make_world(4).pool != world.pool
    assert {split: len(rows) for split, rows in world.splits.items()} == SIZES
    prompts = [e.prompt for rows in world.splits.values() for e in rows]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("seed", range(6))
def test_every_edit_is_what_its_label_says_to_a_reader_that_follows_the_letter(seed: int) -> None:
    world, target = make_world(seed), Spy()
    rows = world.splits["test"]
    score = {d: mean(target.scores(d, rows)) for d in ("", world.start, world.right)}
    assert (score[""], score[world.start], score[world.right]) == (0.0, 0.3, 0.9)
    assert [sum(e.truth == t for e in world.pool) for t in ("helpful", "harmful", "neutral")] == [8, 12, 20]
    assert len({e.key for e in world.pool}) == 40
    for edit in world.pool:
        assert edit.fits(world.start.split("\n"))
        change = mean(target.scores(edit.apply(world.start), rows)) - score[world.start]
        assert {"helpful": change > 0.07, "harmful": change < -0.06, "neutral": change == 0}[edit.truth], edit


def test_in_a_null_world_nothing_beats_the_start_whatever_is_guessed() -> None:
    world, target = make_world(3, null=True), Spy()
    assert world.start == world.right == make_world(3).start
    assert [e.truth for e in world.pool] == ["neutral"] * 40
    rows = world.splits["test"]
    sure = [e for e in rows if e.prompt_text.split(" ")[2] in world.start]
    lots = [e for e in rows if e not in sure]
    assert target.scores(world.start, sure) == [1.0] * len(sure)
    names = sorted({e.prompt_text.split(" ")[2] for e in lots if e.prompt_text.startswith("q")})
    for guess in ("@rev", "@next", "@tail"):
        document = world.start + "".join(f"rule {name} {guess}.\n" for name in names)
        assert mean(target.scores(document, lots)) < 0.25


def test_all_helpful_edits_make_the_right_document(world: World) -> None:
    text = world.start
    for edit in world.pool:
        text = edit.apply(text) if edit.truth == "helpful" else text
    assert sorted(text.split("\n")) == sorted(world.right.split("\n"))


def test_one_pass_draws_every_edit_once_and_what_was_turned_down_comes_back(world: World) -> None:
    proposals = Proposals(world.pool, 60)
    drawn: list[PoolEdit] = []
    for _ in range(10):
        proposals.begin()
        drawn += proposals.take(4, world.start)
    assert drawn == list(world.pool)
    kept = drawn[0].apply(drawn[4].apply(world.start))
    proposals.begin()
    again = proposals.take(4, kept, rejected={drawn[1].key})
    wanted = [e for e in world.pool if e.fits(kept.split("\n")) and e != drawn[1]]
    assert again == wanted[:4]


def test_a_step_gives_every_reflection_the_same_edits_and_ends_at_the_cap(world: World) -> None:
    proposals = Proposals(world.pool, 5)
    assert proposals.take(3, world.start) == proposals.take(3, world.start) == list(world.pool[:3])
    assert proposals.take(4, world.start) == list(world.pool[:4])
    proposals.begin()
    assert proposals.take(4, world.start) == [world.pool[4]]
    assert proposals.exhausted and proposals.drawn == 5
    proposals.begin()
    assert proposals.take(4, world.start) == []


def test_edits_that_a_ranking_left_out_come_first_in_the_next_step(world: World) -> None:
    proposals = Proposals(world.pool, 60)
    proposals.take(4, world.start)
    proposals.give_back({world.pool[1].key, world.pool[3].key})
    assert proposals.drawn == 2
    proposals.begin()
    assert proposals.take(3, world.start) == [world.pool[1], world.pool[3], world.pool[4]]


def test_gepa_gets_its_document_back_with_one_more_edit(world: World) -> None:
    replies = Replies(Proposals(world.pool, 60))
    text = world.start.strip()
    for edit in world.pool[:3]:
        reply = replies({"messages": [{"role": "user", "content": GEPA_PROMPT.format(text)}]})
        assert reply == f"```\n{edit.apply(text).strip()}\n```"


def _skillopt(replies: Replies, role: str, user: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": PROMPTS[role]}, {"role": "user", "content": user}]
    return dict(json.loads(replies({"messages": messages})))


def test_skillopt_gets_its_budget_merges_by_support_and_ranks_in_the_order_of_the_pool(world: World) -> None:
    replies = Replies(Proposals(world.pool, 60))
    first = world.pool[0]
    told = f"  Rejected edits (score 0.3 → 0.2):\n    1. [{first.op}] "
    told += (f'target="{first.target}" → ' if first.target else "") + f'"{first.content}"'
    user = f"## Current Skill\n{world.start}\n\n## Edit Budget\nProduce at most L=4 edits.\n\n{told}\n\n## Failed"
    edits = _skillopt(replies, "analyst_error", user)["patch"]["edits"]
    assert [(e["op"], e["target"], e["content"]) for e in edits] == [e.key for e in world.pool[1:5]]
    patches = [{"edits": [{**e, "support_count": 8} for e in edits]}] * 2
    merged = _skillopt(replies, "merge_failure", f"## Patches to merge (2 total)\n{json.dumps(patches, indent=2)}")
    assert [e["support_count"] for e in merged["edits"]] == [16] * 4
    lines = [
        f"[{i}] op={e['op']}"
        + (f"  target={e['target']!r}" if e["target"] else "")
        + f"  content={e['content']!r}  support=16"
        for i, e in enumerate(edits)
    ]
    ranked = _skillopt(replies, "ranking", "## Edit Pool (4 edits, budget=3)\n" + "\n".join(lines) + "\n\nSelect")
    assert ranked["selected_indices"] == [0, 1, 2]
    assert replies.proposals.drawn == 3


def test_a_stranger_gets_no_reply(world: World) -> None:
    with pytest.raises(LookupError):
        Replies(Proposals(world.pool, 60))({"messages": [{"role": "user", "content": "Hello"}]})


def test_answers_are_computed_once_and_a_torn_line_is_asked_again(world: World, tmp_path: Path) -> None:
    rows = world.splits["search"][:10]
    memory = tmp_path / "answers.jsonl"
    first = Spy(memory)
    scores = first.scores(world.right, rows)
    assert first.scores("\n\n" + world.right.replace("\n", "\n\n"), rows) == scores
    assert scores.count(1.0) >= 5
    assert first.computed == 10
    first.scores(world.start, rows[:5])
    memory.write_bytes(memory.read_bytes()[:-7])
    second = Spy(memory)
    assert second.scores(world.right, rows) == scores
    assert second.computed == 0
    second.scores(world.start, rows[:5])
    assert second.computed == 5
    assert len(memory.read_text(encoding="utf-8").splitlines()) == 2


def test_markers_and_blank_lines_are_not_shown_to_the_model() -> None:
    document = "rule Kar @rev.\n\n<!-- SLOW_UPDATE_START -->\n# keep\n<!-- SLOW_UPDATE_END -->\n"
    assert shown(document) == "rule Kar @rev.\n# keep"


def test_the_count_stops_a_method_that_has_nothing_left() -> None:
    count = Count(10)
    count.pay(8, "train")
    count.pay(8, "search")
    assert count.spent == 16
    with pytest.raises(Spent):
        count.pay(1, "train")


def test_hybrid_pays_for_each_pair_of_document_and_example_once_and_never_sees_the_test(world: World) -> None:
    target = Spy()
    run = Run(world, target, Count(6000), Proposals(world.pool, 40))
    run_hybrid(run, {})
    search = [(d, i) for d, i in target.asked if not i.startswith("confirm")]
    assert run.count.spent == len(set(search))
    assert {i.partition("-")[0] for _, i in target.asked} == {"train", "search", "confirm"}
    assert run.ship_rollouts == 2 * SIZES["confirm"]
    assert [spent for spent, _ in run.handed] == sorted(spent for spent, _ in run.handed)
    assert run.handed[0] == (0, world.start)
    rows = world.splits["test"]
    assert mean(target.scores(run.final, rows)) > mean(target.scores(world.start, rows))
    assert run.ships


def test_a_spent_budget_ends_hybrid_with_what_it_had(world: World) -> None:
    run = Run(world, Spy(), Count(300), Proposals(world.pool, 40))
    run_hybrid(run, {})
    assert run.ended == "the budget is spent"
    assert 300 <= run.count.spent < 300 + SIZES["search"]


def test_null_edits_change_nothing_for_a_reader_that_follows_the_letter(tmp_path: Path) -> None:
    null = make_world(3, null=True)
    found = record("hybrid", lambda run: run_hybrid(run, {}), null, Spy(), 3000)
    assert (found["changed"], found["ships"], found["ship_rollouts"]) == (False, False, 0)
    assert found["accepted"] == {"neutral": 0}
    folder = Folder(tmp_path)
    assert not folder.has("hybrid", 3, True)
    folder.put(found)
    assert folder.load(["hybrid", "gepa"], [3, 5], True) == {"hybrid": [found]}


def test_what_was_let_in_is_read_from_the_documents(world: World) -> None:
    helpful = next(e for e in world.pool if e.truth == "helpful")
    harmful = next(e for e in world.pool if e.op == "replace")
    one = helpful.apply(world.start)
    two = harmful.apply(one)
    assert let_in(world.pool, [world.start, one, two, one]) == {helpful, harmful}
    assert let_in(world.pool, [world.start, one]) == {helpful}


def _record(name: str, seed: int, handed: list[list[float]], **more: Any) -> dict[str, Any]:
    given = {"test": handed[-1][1], "delta": [0.1, 0.05, 0.15], "tokens": 40}
    kept = {"helpful": 1, "harmful": 1, "neutral": 2}
    base = {"method": name, "seed": seed, "null": False, "rollouts": 900, "proposals": 20, "ship_rollouts": 0}
    base |= {"start": 0.3, "right": 1.0, "handed": handed, "given": given, "changed": True, "ships": True}
    return base | {"accepted": kept, "kept": kept} | more


def test_the_tables_read_scores_by_rollouts_and_count_never_as_never() -> None:
    fast = [_record("hybrid", s, [[0, 0.3], [200, 0.6], [400, 0.95]], ship_rollouts=300) for s in range(4)]
    slow = [_record("gepa", s, [[0, 0.3], [1000, 0.6]]) for s in range(4)]
    assert [at(fast[0], b) for b in (0, 199, 200, 5000)] == [0.3, 0.3, 0.6, 0.95]
    assert (reached(fast[0], 0.9), reached(slow[0], 0.5), reached(slow[0], 0.75)) == (400, 1000, math.inf)
    records = {"hybrid": fast, "gepa": slow}
    assert "| gepa | 0.20 [0.20, 0.20] | 0.50 [0.50, 0.50] |" in ratios(records, 0.5, 6000)
    assert "| gepa | <= 0.07 [0.07, 0.07] | <= 0.12 [0.12, 0.12] |" in ratios(records, 0.9, 6000)
    assert "0.25 [0.25, 0.25] of 16" in outcome(records)
    assert "never (0 of 4)" in tables(records, {}, 6000)


@pytest.mark.parametrize("settings", [{}, {"optimizer": {"learning_rate": 1, "min_learning_rate": 1}}])
def test_skillopt_runs_its_own_loop_and_every_rollout_is_counted(world: World, settings: Any) -> None:
    pytest.importorskip("skillopt")
    from text_bench.peers_skillopt import run_skillopt

    target = Spy()
    run = Run(world, target, Count(2500), Proposals(world.pool))
    run_skillopt(run, settings)
    assert run.count.spent == len(target.asked)
    assert {i.partition("-")[0] for _, i in target.asked} == {"train", "search"}
    assert run.proposals.drawn > 5
    assert len(run.handed) > 1


@pytest.mark.parametrize(
    "settings", [{}, {"reflection_minibatch_size": 40, "candidate_selection_strategy": "current_best"}]
)
def test_gepa_runs_its_own_loop_and_every_rollout_is_counted(world: World, settings: Any) -> None:
    pytest.importorskip("gepa")
    from text_bench.peers_gepa import run_gepa

    target = Spy()
    run = Run(world, target, Count(1200), Proposals(world.pool))
    run_gepa(run, settings)
    assert run.count.spent == len(target.asked)
    assert {i.partition("-")[0] for _, i in target.asked} == {"train", "search"}
    assert run.proposals.drawn > 5
    assert len(run.handed) > 1
