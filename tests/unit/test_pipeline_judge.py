"""A whole run whose answers a model behind an endpoint judges: paid once, left out where it fails, and the same after a stop."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import test_pipeline_training as training

from hybrid.backends.base import Adapter
from hybrid.errors import BudgetExhausted
from hybrid.report.schema import Report

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from loopback_endpoint import LoopbackEndpoint


def say(payload: dict[str, Any]) -> str:
    """Right answers are `a<n>`. To an answer with a number that ends in 7 it never gives a verdict."""
    system, user = (message["content"] for message in payload["messages"])
    ticket = re.search(r'"ticket": "([0-9a-f]{12})"', system)
    answer = re.search(r"The answer:\n<<< [0-9a-f]{12}\n(.*)\n>>> ", user)
    reference = re.search(r"which is right:\n<<< [0-9a-f]{12}\n(.*)\n>>> ", user)
    assert ticket is not None
    assert answer is not None
    assert reference is not None
    text, right = json.loads(answer[1]), json.loads(reference[1])
    if right.endswith("7"):
        return text
    return json.dumps({"ticket": ticket[1], "why": "compared", "grade": 2 if text == right else 0})


class Judged(training.World):
    """The adapter answers everything, the base the even questions."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        super().__init__(folder, monkeypatch, lambda text, question, seed, adapter: adapter == training.GOOD)
        path = folder / "config.yaml"
        grader = (
            f"{{type: judge, url: '{url}', model: m, rubric: 'Equal to the reference.', scale: 2, most_unjudged: 0.5}}"
        )
        path.write_text(path.read_text(encoding="utf-8").replace("{type: exact}", grader), encoding="utf-8")

    def _answer(self, prompt: str, seed: int, adapter: Adapter | None) -> str:
        number = int(prompt.rpartition("q")[2].rstrip("?"))
        good = adapter is not None and adapter.sha256 == training.GOOD
        return f"a{number}" if good or number % 2 == 0 else f"no {number}"


FORCE = "router.force={marks: weights}"


def test_a_run_is_judged_once_and_failures_are_left_out_and_counted(tmp_path: Path, monkeypatch: Any) -> None:
    with LoopbackEndpoint(say) as server:
        world = Judged(tmp_path, monkeypatch, server.url)
        report: Report = world.report(FORCE)
        found, asked = report.capabilities[0], len(server.requests)
        assert found.placement == "weights"
        weights = found.arms.weights
        assert weights is not None
        assert weights.test is not None
        assert (weights.test.mean, weights.test.n) == (1.0, 22)  # 7 and 17 of 24 have no verdict, and are no failures
        assert found.delta is not None
        assert found.delta.n == 22
        assert any("answers were not judged" in text for text in report.warnings)
        assert found.ledger.judge is not None
        assert found.ledger.judge.calls == asked
        first = (tmp_path / "run" / "report" / "placement.json").read_bytes()
        world.report(FORCE)
        assert len(server.requests) == asked
    assert (tmp_path / "run" / "report" / "placement.json").read_bytes() == first


def test_a_budget_stops_the_run_and_a_larger_one_goes_on_without_paying_again(tmp_path: Path, monkeypatch: Any) -> None:
    with LoopbackEndpoint(say) as server:
        world = Judged(tmp_path, monkeypatch, server.url)
        path = tmp_path / "config.yaml"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("most_unjudged: 0.5", "most_unjudged: 0.5, budget: {calls: 40}"), encoding="utf-8")
        with pytest.raises(BudgetExhausted, match=r"capabilities\.marks\.grader\.budget\.calls: 40 of 40"):
            world.report(FORCE)
        assert len(server.requests) == 40
        path.write_text(text, encoding="utf-8")
        world.report(FORCE)
        seen = [json.dumps(payload, sort_keys=True) for payload in server.requests]
        assert len(seen) == len(set(seen))
