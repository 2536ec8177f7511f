"""Measuring: what is paid once is never paid again, splits keep apart, seals hold, and errors are never scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from fakes import FakeBackend, candidate, capability, examples, meter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.backends.base import Adapter, Completion
from hybrid.capability.graders import build_grader
from hybrid.capability.types import Example, Message, Score
from hybrid.config.schema import BudgetConfig, NormalizedGrader
from hybrid.errors import AdapterError, BackendError, BudgetExhausted, RunFolderError
from hybrid.evidence.compose import compose
from hybrid.evidence.rollouts import RolloutStore, judge_of, rollout_key, sample_seed
from hybrid.store.records import RecordLog


def right(prompt: str, seed: int, adapter: Adapter | None) -> str:
    """`search q7?` -> `a7`."""
    return "a" + prompt.rpartition("q")[2].rstrip("?")


def stored(folder: Path) -> list[str]:
    return [r.key for r in RolloutStore(folder / "rollouts").all()]


def test_rows_come_in_the_order_asked_and_columns_are_samples(tmp_path: Path) -> None:
    units = capability(search=5)
    asked = tuple(reversed(units.splits["search"]))
    backend = FakeBackend(lambda prompt, seed, adapter: f"{prompt} {seed}")
    found = meter(tmp_path, backend).measure(candidate(), units, "search", asked, samples=3, stage="probe")
    assert found.example_ids == tuple(e.id for e in asked)
    seeds = [[sample_seed(0, e, s) for s in range(3)] for e in asked]
    assert [[r.text for r in row] for row in found.rollouts] == [
        [f"{e.prompt} {seed}" for seed in row] for e, row in zip(asked, seeds, strict=True)
    ]
    assert len({s for row in seeds for s in row}) == 15, "every sample has a random stream of its own"


def test_values_are_means_over_samples(tmp_path: Path) -> None:
    units = capability(search=2)
    half = FakeBackend(lambda prompt, seed, adapter: "a0" if seed % 2 else "no")
    found = meter(tmp_path, half).measure(candidate(), units, "search", units.splits["search"], samples=40, stage="p")
    share = sum(sample_seed(0, units.splits["search"][0], s) % 2 for s in range(40)) / 40
    assert 0 < share < 1
    assert found.values == [share, 0.0]
    assert found.mean == share / 2


def test_nothing_is_paid_twice_within_or_over_attempts(tmp_path: Path) -> None:
    units = capability(search=10)
    backend = FakeBackend(right)
    first = meter(tmp_path, backend)
    once = first.measure(candidate(), units, "search", units.splits["search"][:6], stage="a")
    more = first.measure(candidate(), units, "search", units.splits["search"], stage="b")
    assert (len(backend.asked), first.reused) == (10, 6)
    assert more.rollouts[:6] == once.rollouts
    second = meter(tmp_path, backend)
    assert second.measure(candidate(), units, "search", units.splits["search"], stage="c") == more
    assert len(backend.asked) == 10
    assert Counter(r.stage for row in more.rollouts for r in row) == {"a": 6, "b": 4}, "who paid first is remembered"


def test_samples_are_added_to_those_already_paid(tmp_path: Path) -> None:
    units = capability(search=3)
    backend = FakeBackend(right)
    metered = meter(tmp_path, backend)
    for samples, paid in ((1, 3), (4, 12), (2, 12)):
        metered.measure(candidate(temperature=1.0), units, "search", units.splits["search"], samples=samples, stage="p")
        assert len(backend.asked) == paid


def test_a_row_that_is_asked_twice_is_paid_once(tmp_path: Path) -> None:
    units = capability(search=3)
    a, b, c = units.splits["search"]
    backend = FakeBackend(right)
    found = meter(tmp_path, backend, chunk=2).measure(candidate(), units, "search", (a, b, a, c, a), stage="p")
    assert found.example_ids == (a.id, b.id, a.id, c.id, a.id)
    assert found.values == [1.0] * 5
    assert len(backend.asked) == len(stored(tmp_path)) == 3


def test_the_same_example_in_two_splits_is_paid_twice(tmp_path: Path) -> None:
    """The split is part of the key: an answer seen while searching is never passed off as one from `variant`."""
    units = capability(search=4)
    backend = FakeBackend(right)
    metered = meter(tmp_path, backend)
    for split in ("search", "variant", "train"):
        metered.measure(candidate(), units, split, units.splits["search"], stage="p")  # type: ignore[arg-type]
    assert len(backend.asked) == 12
    assert len(set(stored(tmp_path))) == 12


def test_two_capabilities_over_the_same_rows_do_not_share_scores(tmp_path: Path) -> None:
    strict = capability("strict", search=4)
    lenient = capability("lenient", grader=build_grader(NormalizedGrader(type="normalized")), search=4)
    backend = FakeBackend(lambda prompt, seed, adapter: right(prompt, seed, adapter).upper() + "!")
    metered = meter(tmp_path, backend)
    rows = strict.splits["search"]
    assert metered.measure(candidate(), strict, "search", rows, stage="p").mean == 0.0
    assert metered.measure(candidate(), lenient, "search", rows, stage="p").mean == 1.0


def test_every_part_of_the_key_counts() -> None:
    units, other = capability(search=1), capability("other", search=1)
    looser = capability(grader=build_grader(NormalizedGrader(type="normalized")), search=1)
    (row,), changed = units.splits["search"], examples(1, gold="x")[0]
    adapter = Adapter(Path("a"), "0" * 64)
    keys = [
        rollout_key(candidate(), judge_of(units), "search", row, 0, 1),
        rollout_key(candidate("text"), judge_of(units), "search", row, 0, 1),
        rollout_key(candidate(adapter=adapter), judge_of(units), "search", row, 0, 1),
        rollout_key(candidate(temperature=1.0), judge_of(units), "search", row, 0, 1),
        rollout_key(candidate(), judge_of(other), "search", row, 0, 1),
        rollout_key(candidate(), judge_of(looser), "search", row, 0, 1),
        rollout_key(candidate(), judge_of(units), "test", row, 0, 1),
        rollout_key(candidate(), judge_of(units), "search", changed, 0, 1),
        rollout_key(candidate(), judge_of(units), "search", row, 1, 1),
        rollout_key(candidate(), judge_of(units), "search", row, 0, 2),
    ]
    assert len(set(keys)) == len(keys)
    moved = Adapter(Path("elsewhere"), "0" * 64)
    assert candidate(adapter=moved).key == candidate(adapter=adapter).key, "the folder of an adapter does not count"


def test_candidates_share_their_luck() -> None:
    """Seeds depend on the row and the sample alone, so that two candidates are compared on the same draws."""
    row, other = examples(2)
    assert sample_seed(0, row, 0) == sample_seed(0, examples(2)[0], 0)
    assert len({sample_seed(s, r, i) for s in (0, 1) for r in (row, other) for i in (0, 1)}) == 8
    assert 0 <= sample_seed(0, row, 0) < 2**63


@pytest.mark.parametrize("split", ["confirm", "test"])
def test_a_sealed_split_is_closed_until_it_is_opened(tmp_path: Path, split: str) -> None:
    units = capability(confirm=3, test=3)
    backend = FakeBackend(right)
    metered = meter(tmp_path, backend)
    rows = units.splits[split]  # type: ignore[index]
    with pytest.raises(RunFolderError, match="was not opened for this candidate"):
        metered.measure(candidate(), units, split, rows, stage="ship")  # type: ignore[arg-type]
    metered.open_sealed(units, split, [candidate(), candidate("text")])  # type: ignore[arg-type]
    metered.measure(candidate("text"), units, split, rows, stage="ship")  # type: ignore[arg-type]
    with pytest.raises(RunFolderError, match="was not opened for this candidate"):
        metered.measure(candidate("another"), units, split, rows, stage="ship")  # type: ignore[arg-type]
    other = capability("other", confirm=3, test=3)
    with pytest.raises(RunFolderError, match="was not opened"):
        metered.measure(candidate(), other, split, rows, stage="ship")  # type: ignore[arg-type]
    assert len(backend.asked) == 3


def test_a_sealed_split_is_opened_once_for_one_list_of_candidates(tmp_path: Path) -> None:
    units = capability(confirm=3, test=3)
    meter(tmp_path, FakeBackend(right)).open_sealed(units, "test", [candidate(), candidate("text")])
    again = meter(tmp_path, FakeBackend(right))
    again.open_sealed(units, "test", [candidate("text"), candidate()])
    for others in ([candidate()], [candidate(), candidate("text"), candidate("third")], []):
        with pytest.raises(RunFolderError, match="opened for other candidates before"):
            again.open_sealed(units, "test", others)
    again.open_sealed(units, "confirm", [candidate()])
    assert len(again.events.all("split.opened")) == 2, "a repeated opening is not a second event"


class Fussy:
    """A grader that fails on one row, as a user's own function may."""

    def grade(self, completion: str, example: Example) -> Score:
        if example.id == "search-3":
            raise BackendError("the grader's service is down")
        return Score(1.0, True)

    def fingerprint(self) -> str:
        return "fussy"


@pytest.mark.parametrize("error", [BackendError("no route to host"), AdapterError("wrong base"), KeyboardInterrupt()])
@pytest.mark.parametrize("fail_at", range(1, 11))
def test_errors_of_the_infrastructure_are_never_scores(tmp_path: Path, error: Exception, fail_at: int) -> None:
    units = capability(search=10)
    backend = FakeBackend(right)
    backend.fail_at, backend.error = fail_at, error
    with pytest.raises(type(error)):
        meter(tmp_path, backend, chunk=3).measure(candidate(), units, "search", units.splits["search"], stage="p")
    kept = list(RolloutStore(tmp_path / "rollouts").all())
    assert len(kept) == (fail_at - 1) // 3 * 3, "whole chunks before the error are kept"
    assert all(r.value == 1.0 for r in kept)
    found = meter(tmp_path, backend, chunk=3).measure(candidate(), units, "search", units.splits["search"], stage="p")
    assert found.values == [1.0] * 10
    assert len(backend.asked) == 10, "what was kept is not paid again"


def test_a_failing_grader_stops_the_run_and_scores_nothing(tmp_path: Path) -> None:
    units = capability(grader=Fussy(), search=6)
    with pytest.raises(BackendError, match="service is down"):
        meter(tmp_path, FakeBackend(right), chunk=2).measure(
            candidate(), units, "search", units.splits["search"], stage="p"
        )
    assert [r.example_id for r in RolloutStore(tmp_path / "rollouts").all()] == ["search-0", "search-1"]


def test_a_backend_that_returns_too_few_is_an_error_not_a_shift(tmp_path: Path) -> None:
    class Short(FakeBackend):
        def generate(self, requests, sampling, adapter):  # type: ignore[no-untyped-def]
            completions: list[Completion] = super().generate(requests, sampling, adapter)
            return completions[:-1]

    units = capability(search=4)
    with pytest.raises(ValueError, match="shorter"):
        meter(tmp_path, Short(right)).measure(candidate(), units, "search", units.splits["search"], stage="p")
    assert stored(tmp_path) == []


def test_chunks_are_durable_before_the_next_is_asked(tmp_path: Path) -> None:
    units = capability(search=10)
    seen: list[int] = []

    def watching(prompt: str, seed: int, adapter: Adapter | None) -> str:
        seen.append(len(stored(tmp_path)))
        return right(prompt, seed, adapter)

    backend = FakeBackend(watching)
    metered = meter(tmp_path, backend, chunk=4)
    progress: list[tuple[str, int, int]] = []
    metered.progress = lambda *told: progress.append(told)
    metered.measure(candidate(), units, "search", units.splits["search"], stage="p")
    assert backend.batches == [4, 4, 2]
    assert seen == [0] * 4 + [4] * 4 + [8] * 2
    assert progress == [("units", 4, 10), ("units", 8, 10), ("units", 10, 10)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_stop_and_go_ends_the_same(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is measured in whatever portions over whatever attempts: the same rollouts, each paid once."""
    folder = tmp_path_factory.mktemp("m")
    units = capability(search=7, train=5)
    backend = FakeBackend(lambda prompt, seed, adapter: f"a{seed % 7}")
    for _ in range(data.draw(st.integers(1, 4))):
        metered = meter(folder, backend, chunk=data.draw(st.integers(1, 5)))
        for _ in range(data.draw(st.integers(1, 3))):
            split = data.draw(st.sampled_from(["search", "train"]))
            rows = data.draw(st.lists(st.sampled_from(units.splits[split]), max_size=8))
            text = data.draw(st.sampled_from(["", "text"]))
            metered.measure(candidate(text), units, split, rows, samples=data.draw(st.integers(1, 3)), stage="p")
    paid = len(backend.asked)
    assert paid == len(stored(folder)) == len(set(stored(folder)))
    fresh = folder / "at-once"
    for split in ("search", "train"):
        for text in ("", "text"):
            whole = [
                meter(place, backend).measure(
                    candidate(text), units, split, units.splits[split], samples=3, stage="p"
                ).rollouts
                for place in (folder, fresh)
            ]  # fmt: skip
            assert [[r.text for r in row] for row in whole[0]] == [[r.text for r in row] for row in whole[1]]


@pytest.mark.parametrize("damage", ["other-records", "folder", "torn", "middle", "gone"])
def test_a_damaged_store_is_refused_or_owed_again(tmp_path: Path, damage: str) -> None:
    units = capability(search=6)
    backend = FakeBackend(right)
    rows = units.splits["search"]
    meter(tmp_path, backend).measure(candidate(), units, "search", rows, stage="p")
    (path,) = (tmp_path / "rollouts").glob("*.jsonl")
    data = path.read_bytes()
    if damage in ("torn", "gone"):
        path.write_bytes(data[:-9] if damage == "torn" else b"")
        assert meter(tmp_path, backend).measure(candidate(), units, "search", rows, stage="p").mean == 1.0
        assert len(backend.asked) == 6 + (1 if damage == "torn" else 6)
        return
    if damage == "middle":
        path.write_bytes(data.replace(b'"value":1.0', b'"value":0.0', 1))
    else:
        path.unlink()
        path.mkdir() if damage == "folder" else RecordLog(path).append([{"kind": "attempt.started", "seq": 1}])
    with pytest.raises((RunFolderError, IsADirectoryError), match=path.stem):
        meter(tmp_path, backend).measure(candidate(), units, "search", rows, stage="p")
    assert len(backend.asked) == 6


USER, SYSTEM = Message(role="user", content="hi"), Message(role="system", content="be kind")


@pytest.mark.parametrize(
    ("prompt", "skill", "read"),
    [
        ("q?", "", "q?"),
        ("q?", " \n", "q?"),
        ("q?", "rule.\n", "rule.||q?"),
        ("q?", "  rule.\nmore\n\n", "  rule.\nmore||q?"),
        ((USER,), "", (USER,)),
        ((USER,), "rule.\n", (Message(role="system", content="rule."), USER)),
        ((SYSTEM, USER), "rule.\n", (Message(role="system", content="rule.\n\nbe kind"), USER)),
        ((), "rule.", (Message(role="system", content="rule."),)),
    ],
)
def test_composing(prompt: str | tuple[Message, ...], skill: str, read: str | tuple[Message, ...]) -> None:
    assert compose(prompt, skill, "||") == read


def test_many_candidates_share_batches_and_get_what_each_would_get_alone(tmp_path: Path) -> None:
    units = capability(search=4)
    echo = FakeBackend(lambda prompt, seed, adapter: f"{prompt}|{adapter.sha256[:1] if adapter else ''}")
    rows = units.splits["search"]
    tuned = Adapter(Path("a"), "1" * 64)
    several = [candidate("x"), candidate("y"), candidate("y", tuned), candidate("x"), candidate("x", temperature=1.0)]
    alone = meter(tmp_path / "alone", echo)
    expected = [alone.measure(c, units, "search", rows, stage="p") for c in several]
    together = meter(tmp_path / "together", echo, chunk=100)
    echo.batches.clear()
    together.measure(candidate("y"), units, "search", rows[:1], stage="p")
    assert together.measure_many(several, units, "search", rows, stage="p") == expected
    assert echo.batches == [1, 7, 4, 4], "one batch per decoding and adapter, without what was paid"
    assert together.reused == 1 + 4


@pytest.mark.parametrize("limit", range(1, 8))
def test_a_budget_stops_many_candidates_exactly_too(tmp_path: Path, limit: int) -> None:
    units = capability(search=4)
    backend = FakeBackend(right)
    metered = meter(tmp_path, backend, budget=BudgetConfig(calls=limit), chunk=3)
    with pytest.raises(BudgetExhausted, match="same command"):
        metered.measure_many([candidate("x"), candidate("y")], units, "search", units.splits["search"], stage="p")
    assert len(backend.asked) == len(stored(tmp_path)) == limit
