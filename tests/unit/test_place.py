"""Placing: only what the honest gate accepted ships, the cheaper of equals, and every refusal has its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.evidence.types import Decision, Verdict
from hybrid.router.place import ARMS, Arm, ArmName, Transfer, place
from hybrid.router.route import Route

NO_TRANSFER = Transfer(None, None, 0)


def verdict(decision: Decision = "accept", delta: float = 0.4) -> Verdict:
    return Verdict(
        decision=decision, delta=delta, low=delta - 0.1, high=delta + 0.1, p=0.01, n=100, improved=40, regressed=0,
        reason=f"{decision} {delta:+.2f}",
    )  # fmt: skip


def arm(name: ArmName, decision: Decision = "accept", delta: float = 0.4, transfer: Transfer = NO_TRANSFER) -> Arm:
    return Arm(name, verdict(decision, delta), transfer)


def never(cheaper: ArmName, dearer: ArmName) -> Verdict:
    return verdict("undecided", 0.0)


def shown(delta: float) -> Callable[[ArmName, ArmName], Verdict]:
    return lambda cheaper, dearer: verdict("accept", delta)


def placed(
    *arms: Arm, attempted: str = "skill", compare: Callable[[ArmName, ArmName], Verdict] = never
) -> tuple[str, dict[str, str]]:
    found = place(
        Route(attempted, (), 1.0),  # type: ignore[arg-type]
        {a.name: a for a in arms},
        compare,
        minimum_effect=0.1,
        transfer_floor=0.5,
    )
    assert found.reason
    return found.placement, {r.arm: r.why for r in found.refused}


def test_ties_go_to_text() -> None:
    found, refused = placed(arm("weights", delta=0.6), arm("skill", delta=0.4))
    assert found == "skill"
    assert "not shown to be better than skill" in refused["weights"]


@pytest.mark.parametrize(
    ("delta", "decision", "ships"),
    [(0.1, "accept", "weights"), (0.09, "accept", "skill"), (0.5, "undecided", "skill"), (0.5, "reject", "skill")],
)
def test_a_dearer_arm_needs_the_gate_and_the_minimum_effect(delta: float, decision: Decision, ships: str) -> None:
    asked: list[tuple[str, str]] = []

    def compare(cheaper: ArmName, dearer: ArmName) -> Verdict:
        asked.append((cheaper, dearer))
        return verdict(decision, delta)

    found, refused = placed(arm("skill"), arm("weights"), compare=compare)
    assert found == ships
    assert asked == [("skill", "weights")]
    assert set(refused) == {"skill", "weights"} - {ships}


def test_each_dearer_arm_meets_the_one_chosen_so_far() -> None:
    asked: list[tuple[str, str]] = []

    def compare(cheaper: ArmName, dearer: ArmName) -> Verdict:
        asked.append((cheaper, dearer))
        return verdict("accept" if dearer == "weights" else "undecided", 0.3)

    found, refused = placed(arm("both"), arm("weights"), arm("skill"), compare=compare)
    assert (found, asked) == ("weights", [("skill", "weights"), ("weights", "both")])
    assert "weights is better by +0.30 [+0.20, +0.40]" in refused["skill"]
    assert "not shown to be better than weights" in refused["both"]
    assert placed(arm("skill"), arm("weights"), arm("both"), compare=shown(0.2))[0] == "both"


@pytest.mark.parametrize("decision", ["reject", "undecided"])
def test_only_an_accepted_arm_ships(decision: Decision) -> None:
    found, refused = placed(arm("skill", decision), arm("weights"), compare=shown(1.0))
    assert found == "weights"
    assert f"the ship gate says {decision}" in refused["skill"]


def test_the_gate_alone_decides_against_the_base() -> None:
    """What the gate accepted ships; the minimum effect is in its verdict already, and stands between arms only."""
    assert placed(arm("skill", delta=0.02))[0] == "skill"
    assert placed(arm("skill", delta=0.02), arm("weights", delta=0.9))[0] == "skill"


@pytest.mark.parametrize(
    ("transfer", "ships"),
    [
        (Transfer(0.5, 0.2, 20), True),
        (Transfer(0.49, 0.2, 20), False),
        (Transfer(-1.0, -0.4, 20), False),
        (NO_TRANSFER, True),
    ],
)
def test_a_gain_that_does_not_carry_over_is_refused(transfer: Transfer, ships: bool) -> None:
    for name in ("weights", "both"):
        found, refused = placed(arm(name, transfer=transfer), attempted=name)  # type: ignore[arg-type]
        assert found == (name if ships else "neither")
        if not ships:
            assert f"transfer ratio {transfer.tau:.2f} is below 0.5" in refused[name]
            assert "n=20" in refused[name]


def test_a_document_is_not_asked_to_carry_over() -> None:
    """The floor guards against adapters that learned a template; a document says what it covers."""
    assert placed(arm("skill", transfer=Transfer(0.0, 0.0, 20)))[0] == "skill"


@pytest.mark.parametrize(
    ("attempted", "decisions", "result"),
    [
        ("skill", ["undecided"], "undecided"),
        ("both", ["reject", "undecided"], "undecided"),
        ("skill", ["reject"], "neither"),
        ("both", ["reject", "reject"], "neither"),
        ("keep", ["undecided"], "keep"),
        ("keep", ["reject"], "keep"),
    ],
)
def test_when_nothing_ships(attempted: str, decisions: list[Decision], result: str) -> None:
    arms = [arm(name, d) for name, d in zip(ARMS, decisions, strict=False)]
    found, refused = placed(*arms, attempted=attempted)
    assert found == result
    assert set(refused) == {a.name for a in arms}


@pytest.mark.parametrize(
    ("attempted", "result"),
    [("keep", "keep"), ("neither", "neither"), ("undecided", "undecided"), ("skill", "neither"), ("weights", "neither"),
     ("both", "neither")],
)  # fmt: skip
def test_what_was_attempted_but_not_built_is_not_placed(attempted: str, result: str) -> None:
    assert placed(attempted=attempted) == (result, {})


def test_a_forced_keep_is_still_judged_by_its_arms() -> None:
    assert placed(arm("skill"), attempted="keep")[0] == "skill"


decisions = st.sampled_from(["accept", "reject", "undecided"])
deltas = st.floats(-1, 1)
transfers = st.one_of(st.just(NO_TRANSFER), st.builds(Transfer, st.floats(-2, 2), deltas, st.integers(8, 99)))


@given(
    attempted=st.sampled_from(["keep", "skill", "weights", "both", "neither", "undecided"]),
    arms=st.fixed_dictionaries({}, optional={n: st.tuples(decisions, deltas, transfers) for n in ARMS}),
    against=st.dictionaries(st.tuples(st.sampled_from(ARMS), st.sampled_from(ARMS)), st.tuples(decisions, deltas)),
    effect=st.floats(0.01, 0.9),
    floor=st.floats(0, 1),
)
def test_no_arm_ships_that_the_gate_did_not_accept(attempted, arms, against, effect, floor) -> None:  # type: ignore[no-untyped-def]
    built = {name: arm(name, *parts) for name, parts in arms.items()}
    found = place(
        Route(attempted, (), 1.0),
        built,
        lambda a, b: verdict(*against.get((a, b), ("undecided", 0.0))),
        minimum_effect=effect,
        transfer_floor=floor,
    )
    if found.placement in ARMS:
        chosen = built[found.placement]
        assert chosen.verdict.decision == "accept"
        assert chosen.name == "skill" or chosen.transfer.tau is None or chosen.transfer.tau >= floor
    assert {r.arm for r in found.refused} == set(built) - {found.placement}, "every other arm is refused with a reason"
    assert all(r.why for r in found.refused)
