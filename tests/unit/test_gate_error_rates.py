"""T16 and T17: what ships when nothing is better, and what ships when something is, against what was promised."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hybrid.config.schema import ShipGateConfig
from hybrid.evidence.gate import finalize, ship_gate
from hybrid.evidence.power import examples_needed, power

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_gates.py"
POLICY = ShipGateConfig()
RUNS = 1000


def binomial_slack(rate: float, runs: int) -> float:
    """Three standard errors."""
    return 3 * math.sqrt(rate * (1 - rate) / runs)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gates", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gates"] = module
    spec.loader.exec_module(module)
    return module


def test_a_search_over_worthless_candidates_ships_at_most_alpha(bench):
    won, shipped, strict = bench.null_searches(RUNS, 20, seed=11, ship=POLICY)
    assert shipped / RUNS <= POLICY.alpha + binomial_slack(POLICY.alpha, RUNS)
    assert shipped > 0, "a gate that never ships protects nobody"
    assert strict / RUNS > 0.9, "the strict rule alone ships something almost always"
    assert won / RUNS > 0.9, "the search gate is lenient by design: the protection must come from the ship gate"


@pytest.mark.parametrize("effect", [0.1, 0.2])
def test_a_true_gain_ships_as_often_as_the_plan_promises(bench, effect):
    n = examples_needed(effect, POLICY.alpha, POLICY.power)
    shipped, _ = bench.true_gain(RUNS, n, effect, seed=12, ship=POLICY)
    assert abs(shipped / RUNS - power(n, effect, POLICY.alpha)) <= 0.05


@pytest.mark.parametrize(("n", "runs"), [(10, 500), (40, 400), (150, 200)])
def test_the_gate_holds_its_level_on_graded_scores(n, runs):
    rng = np.random.default_rng(n)
    accepts = 0
    for _ in range(runs):
        scores = rng.beta(0.6, 0.6, (2, n)).round(2)
        accepts += ship_gate(scores[0].tolist(), scores[1].tolist(), POLICY).decision == "accept"
    assert accepts / runs <= POLICY.alpha + binomial_slack(POLICY.alpha, runs)


def test_holm_keeps_the_level_over_many_capabilities():
    rng = np.random.default_rng(4)
    corrected = uncorrected = 0
    for _ in range(RUNS // 2):
        verdicts = {}
        for name in "abcdef":
            scores = (rng.random((2, 120)) < 0.5).astype(float)
            verdicts[name] = ship_gate(scores[0].tolist(), scores[1].tolist(), POLICY)
        uncorrected += any(v.decision == "accept" for v in verdicts.values())
        corrected += any(v.decision == "accept" for v in finalize(verdicts, POLICY).values())
    runs = RUNS // 2
    assert corrected / runs <= POLICY.alpha + binomial_slack(POLICY.alpha, runs)
    assert uncorrected / runs > 2 * POLICY.alpha
