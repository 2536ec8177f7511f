"""kill -9 while a model behind an endpoint writes the edits: the same bytes in the end, and no reply is paid for twice."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scripted_world import SIZES, WORDS, World, line_for, make_world
from test_kill_scripted import DEAD, Zygote, left_by, stored

from hybrid.pipeline.plan_cost import requests
from hybrid.store.records import RecordLog

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from loopback_endpoint import LoopbackEndpoint

MOST_KILLS = 24


def answer(payload: dict[str, Any]) -> str:
    """Right lines for rows about code words, a useless one beside them, and a slow section that helps nobody."""
    _, text = (m["content"] for m in payload["messages"])
    if '"slow"' in json.dumps(payload.get("response_format", {})):
        return json.dumps({"slow": "Think twice.", "memory": "lines about codes help"})
    if '"selected"' in json.dumps(payload.get("response_format", {})):
        return json.dumps({"selected": [0, 1]})
    asked = [w for w in WORDS if f' {w}"' in text]
    edits = [{"op": "append", "content": line_for(w), "support": 1, "why": "rule"} for w in asked[:1]]
    edits.append({"op": "append", "content": f"Note {len(text) % 7}.", "support": 1, "why": "?"})
    return json.dumps({"failures": [], "edits": edits})


@dataclass
class Case:
    """A world whose proposer is the endpoint of this process."""

    world: World
    server: LoopbackEndpoint = field(repr=False)

    def replies(self) -> list[dict[str, Any]]:
        """What is durable of the conversation."""
        return list(RecordLog(self.world.folder / "run" / "proposer" / "replies.jsonl").read())


def make_case(folder: Path, server: LoopbackEndpoint, method: str) -> Case:
    world = make_world(folder)
    text = world.config.read_text(encoding="utf-8")
    skill = f"{{method: {method}, epochs: 3, batch: 6, minibatch: 6, slow_rows: 4, proposer: "
    skill += f'{{type: endpoint, url: "{server.url}", model: scripted}}}}'
    lines = [f"skill: {skill}" if line.startswith("skill:") else line for line in text.splitlines()]
    lines.append("router: {force: {codes: skill}}")
    world.config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Case(world, server)


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="hybrid-kill-endpoint-", dir=where))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackEndpoint]:
    with LoopbackEndpoint(answer) as running:
        yield running


@pytest.mark.parametrize("method", ["honest", "skillopt"])
def test_a_kill_at_any_step_of_an_epoch_changes_nothing_and_pays_nothing_twice(
    method: str, base: Path, zygote: Zygote, server: LoopbackEndpoint
) -> None:
    whole = make_case(base / f"{method}-whole", server, method)
    log = base / f"{method}-points"
    before = len(server.requests)
    assert zygote.run(whole.world, HYBRID_FAULT_LOG=str(log)) == 0
    asked = len(server.requests) - before
    points = log.read_text(encoding="utf-8").splitlines()
    wanted, replies = left_by(whole.world), whole.replies()
    assert asked == len(replies) > 3 and points.count("stage.skill-step") >= 3
    assert wanted["report"]["ledger"]["proposer"]["calls"] == asked
    # Three capabilities are drafted, one is optimised: what `plan` says is an upper bound.
    assert asked <= requests(whole.world.load().config.skill, SIZES["train"]) + 2 * 2
    documents = {k: v for k, v in wanted["skills"].items() if k.endswith("codes/SKILL.md")}
    assert documents and all(line_for(w).encode() in v for v in documents.values() for w in WORDS)
    # Every point of the skill stage as far as the time allows, evenly spread: the first points are probes, the last reports.
    last = max(k for k, name in enumerate(points, start=1) if name == "stage.skill-step")
    step = max(1, -(-last // MOST_KILLS))
    steps = [k for k, name in enumerate(points, start=1) if name == "stage.skill-step"]
    for k in sorted({*range(2, last + 1, step), *steps}):
        case = make_case(base / f"{method}-{k}", server, method)
        before = len(server.requests)
        assert zygote.run(case.world, HYBRID_FAULT=f"*:{k}") == DEAD, points[k - 1]
        lost_rollouts = case.world.paid() - stored(case.world)
        lost_replies = len(server.requests) - before - len(case.replies())
        assert min(lost_rollouts, lost_replies) == 0 and lost_replies <= 1
        assert lost_rollouts + lost_replies == 0 or points[k - 1] == "append.jsonl.before"
        assert zygote.run(case.world) == 0
        assert left_by(case.world) == wanted, f"killed at point {k}, {points[k - 1]}"
        assert [r["key"] for r in case.replies()] == [r["key"] for r in replies]
        assert len(server.requests) - before == asked + lost_replies
        shutil.rmtree(case.world.folder)
