"""Seven granular tasks against one umbrella at equal tokens, for function calling, on the reference model. Unseen tools at test.

    python scripts/bench_calls.py --seeds 0-4          # what docs/function-calling.md holds; one core

A seed is a world of tools (`tool_world.py`): 120 to train on and 40 to test on, which share neither a name nor a wish. Three arms
fine-tune all weights of the reference model, with the same optimiser and as many tokens (prompts and answers), so as many steps:

    umbrella            the rows as whole calls, pass after pass
    seven tasks         the same rows, one pass over their seven renderings (whole calls are a fifth of the tokens)
    umbrella, fresh     whole calls of new rows over the same tools, none twice: what more data would have done

All are asked for whole calls. A sequence is a library and four questions over it, as in the model's own training; in `seven
tasks` neighbouring questions are rendered as different tasks, and no sequence holds two renderings of one row. Greedy answers; a
call is graded by its syntax tree (`hybrid.capability.graders`). Intervals are 95 %: over seeds (Student), paired by seed for
differences, and for exact calls also paired by example over all seeds. The loop is the script's own: the project's trainer takes
one answer a sequence, and reading the library for every answer makes a seed more than twice as dear. A run resumes: a json per
seed and arm in --out.

Does not: use BFCL (the reference model has no English), probe, place or ship.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, count
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from bench_order import STUDENT
from bench_worlds import seeds_of
from tool_world import LIBRARY, NOTHING, TASKS, Row, make_libraries, make_tools, python_of, render, without

from hybrid.capability.graders import build_grader
from hybrid.capability.graders.call_syntax import Call, calls_of
from hybrid.capability.types import Example
from hybrid.config.schema import FunctionCallGrader, ModelConfig
from hybrid.evidence.intervals import paired_interval
from hybrid.store.atomic import write_json

ARMS = ("umbrella", "seven tasks", "umbrella, fresh")
SEEN, UNSEEN, UNSEEN_WISHES = 120, 40, 20
QUESTIONS = 4
"""Questions over one library in one sequence."""
STEP_TOKENS = 700
"""Least tokens of an optimiser step."""
RATE = 2e-3
TOKENS = 120_000
LIBRARIES = 200
TEST = {"unseen": 160, "seen": 48}
MOST_TOKENS = 40
GRADER = build_grader(FunctionCallGrader(type="function-call"))
Piece = tuple[str, bool]
"""A text and whether it is an answer."""


def sequence(group: Sequence[Row], tasks: Sequence[str]) -> list[Piece]:
    """A library and its questions, question i rendered as tasks[i]; what a task cannot ask is left out."""
    pieces = [(group[0].text, False)]
    for row, task in zip(group, tasks, strict=True):
        rendered = render(row, task)
        if rendered is not None:
            pieces += [(rendered[0], False), (rendered[1] + ";", True)]
    return pieces


def one_pass(arm: str, groups: Sequence[Sequence[Row]], rng: random.Random) -> list[list[Piece]]:
    """Every row once in every rendering of the arm, sequences and questions in random order."""
    out = []
    for group in groups:
        for shift in range(len(TASKS) if arm == "seven tasks" else 1):
            tasks = [TASKS[(i + shift) % len(TASKS)] if arm == "seven tasks" else "call" for i in range(len(group))]
            order = rng.sample(range(len(group)), len(group))
            out.append(sequence([group[i] for i in order], [tasks[i] for i in order]))
    rng.shuffle(out)
    return out


def stream(arm: str, seed: int, libraries: int) -> Iterator[list[Piece]]:
    """Sequences of an arm without end. The rows of `umbrella` and `seven tasks` are the same."""
    seen, _ = make_tools(random.Random(f"tools {seed}"), SEEN, UNSEEN, UNSEEN_WISHES)
    rows = random.Random(f"rows {seed}")
    order = random.Random(f"order {seed} {arm}")
    groups = make_libraries(rows, seen, libraries, QUESTIONS)
    for _ in count():
        yield from one_pass(arm, groups, order)
        if arm == "umbrella, fresh":
            groups = make_libraries(rows, seen, libraries, QUESTIONS)


class Student:
    """The reference model under training, and its answers."""

    def __init__(self, cache: Path) -> None:
        import torch

        from hybrid.backends.loading import load_base

        torch.set_num_threads(1)
        loaded = load_base(ModelConfig(path="reference", device="cpu", threads=1), Path, cache)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.model.requires_grad_(True)

    def encode(self, pieces: Sequence[Piece]) -> tuple[list[int], list[int]]:
        """Ids and labels; -100 outside the answers."""
        ids: list[int] = []
        labels: list[int] = []
        for part, (_, answer) in zip(self.tokenizer([text for text, _ in pieces])["input_ids"], pieces, strict=True):
            ids += part
            labels += part if answer else [-100] * len(part)
        return ids, labels

    def fit(self, sequences: Iterator[list[Piece]], tokens: int) -> dict[str, float]:
        """Train on about `tokens` tokens. AdamW, ten steps of warm-up, then linear decay by tokens."""
        import torch

        optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
        read = answered = steps = 0
        losses = []
        self.model.train()
        while read < tokens:
            batch: list[tuple[list[int], list[int]]] = []
            while sum(len(ids) for ids, _ in batch) < STEP_TOKENS:
                batch.append(self.encode(next(sequences)))
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, (steps + 1) / 10) * (1 - read / tokens)
            longest = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([i + [0] * (longest - len(i)) for i, _ in batch])
            labels = torch.tensor([y + [-100] * (longest - len(y)) for _, y in batch])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = self.model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            read += sum(len(i) for i, _ in batch)
            answered += sum(y >= 0 for _, labels_of in batch for y in labels_of)
            steps += 1
        return {"tokens": read, "answer_tokens": answered, "steps": steps, "loss": fmean(losses[-10:])}

    def answers(self, rows: Sequence[Row]) -> list[str]:
        """Greedy whole calls."""
        import torch

        self.model.eval()
        found: list[str] = []
        for start in range(0, len(rows), 80):
            prompts = [f"{row.text}call {row.question}" for row in rows[start : start + 80]]
            inputs = self.tokenizer(prompts, padding=True, return_tensors="pt")
            with torch.no_grad():
                out = self.model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
            new = out[:, inputs["input_ids"].shape[1] :]
            found += [t.strip() for t in self.tokenizer.batch_decode(new, skip_special_tokens=True)]
        return found


def test_rows(seed: int) -> dict[str, list[Row]]:
    """Rows over unseen tools, over the tools of training, and N-1 twins of the first."""
    seen, unseen = make_tools(random.Random(f"tools {seed}"), SEEN, UNSEEN, UNSEEN_WISHES)
    rng = random.Random(f"test {seed}")
    rows = {
        "unseen": [g[0] for g in make_libraries(rng, unseen, TEST["unseen"], 1)],
        "seen": [g[0] for g in make_libraries(rng, seen, TEST["seen"], 1)],
    }
    return {**rows, "twins": [twin for row in rows["unseen"] if (twin := without(row)) is not None]}


def exact(row: Row, said: str) -> bool:
    """Whether the calls are right by their syntax tree; where no tool serves, only the word for it is."""
    if not row.uses:
        return said == NOTHING
    example = Example(id="row", prompt="row", reference=python_of(row.call), metadata={"calls": {"nested": True}})
    return GRADER.grade(python_of(said), example).passed


def parts(row: Row, said: str) -> dict[str, float]:
    """Hits, and what was wanted and given, of names and of arguments; calls, and those of tools that the library lacks."""
    wanted, given = calls_of(python_of(row.call), nested=True) or [], calls_of(python_of(said), nested=True) or []
    names = [Counter(n for c in side for n in c.called) for side in (wanted, given)]
    triples = [Counter(t for c in side for t in _triples(c)) for side in (wanted, given)]
    known = {tool.name for tool in row.library}
    return {
        "name": _f1(*names),
        "argument": _f1(*triples),
        "calls": sum(names[1].values()),
        "unknown": sum(n for name, n in names[1].items() if name not in known),
    }


def _triples(call: Call) -> list[str]:
    out = []
    for name, value in call.arguments:
        out.append(f"{call.name} {name} {value.name if isinstance(value, Call) else value}")
        out += _triples(value) if isinstance(value, Call) else []
    return out


def _f1(wanted: Counter[str], given: Counter[str]) -> float:
    total = sum(wanted.values()) + sum(given.values())
    return 2 * sum((wanted & given).values()) / total if total else 1.0


def run_arm(arm: str, seed: int, out: Path, tokens: int, libraries: int) -> dict[str, Any]:
    """One training and its test, or what an earlier run wrote."""
    kept = out / f"{seed}-{arm.replace(', ', '-').replace(' ', '-')}.json"
    settings = {"tokens": tokens, "libraries": libraries}
    if kept.is_file():
        found = dict(json.loads(kept.read_text(encoding="utf-8")))
        if found["settings"] == settings:
            return found
    import torch

    torch.manual_seed(seed)
    student = Student(out / "cache")
    started = time.process_time()
    cost = student.fit(stream(arm, seed, libraries), tokens) if tokens else {}
    tests = {}
    for name, rows in test_rows(seed).items():
        said = student.answers(rows)
        tests[name] = [
            {"shape": r.shape, "exact": exact(r, s), "said": s, "wanted": r.call, **parts(r, s)}
            for r, s in zip(rows, said, strict=True)
        ]
    found = {"settings": settings, "cost": cost, "cpu_seconds": round(time.process_time() - started, 1), "test": tests}
    write_json(kept, found)
    return found


def rates(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one arm and seed."""
    rows, answerable = found["test"]["unseen"], [r for r in found["test"]["unseen"] if r["shape"] != "irrelevant"]
    out = {
        "exact call": fmean(r["exact"] for r in rows),
        "exact, where a tool serves": fmean(r["exact"] for r in answerable),
        "name F1": fmean(r["name"] for r in answerable),
        "argument F1": fmean(r["argument"] for r in answerable),
        "hallucinated names, of calls": sum(r["unknown"] for r in rows) / max(1, sum(r["calls"] for r in rows)),
        "irrelevance": fmean(r["exact"] for r in rows if r["shape"] == "irrelevant"),
        "N-1 twins refused": fmean(r["exact"] for r in found["test"]["twins"]),
        "exact call, tools of training": fmean(r["exact"] for r in found["test"]["seen"]),
    }
    shapes = ("single", "parallel", "chaining", "nested")
    return out | {f"exact, {s}": fmean(r["exact"] for r in rows if r["shape"] == s) for s in shapes}


def over_seeds(values: Sequence[float], sign: bool = False) -> str:
    """`.12 [.03, .21]`: mean and 95 % interval over seeds."""
    mean, plus = fmean(values), "+" if sign else ""
    if len(values) < 2:
        return f"{mean:{plus}.3f}"
    half = STUDENT[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return f"{mean:{plus}.3f} [{mean - half:{plus}.3f}, {mean + half:{plus}.3f}]"


def report(found: Mapping[int, Mapping[str, Mapping[str, Any]]], arms: Sequence[str]) -> str:
    """The tables."""
    by_arm = {arm: [rates(f[arm]) for f in found.values()] for arm in arms}
    first, second = arms[0], arms[1]
    out = [f"Seeds: {', '.join(map(str, found))}. Libraries of {LIBRARY} tools.", ""]
    out += [f"| unseen tools | {' | '.join(arms)} | {second} minus {first} |", "|---" * (len(arms) + 2) + "|"]
    for name in by_arm[first][0]:
        cells = [over_seeds([r[name] for r in by_arm[arm]]) for arm in arms]
        difference = [b[name] - a[name] for a, b in zip(by_arm[first], by_arm[second], strict=True)]
        out.append(f"| {name} | {' | '.join(cells)} | {over_seeds(difference, True)} |")
    for what in ("tokens", "answer_tokens", "steps"):
        cells = [f"{fmean(f[arm]['cost'][what] for f in found.values()):,.0f}" for arm in arms]
        out.append(f"| {what.replace('_', ' ')} of training | {' | '.join(cells)} | |")
    out.append("")
    for other, one in combinations(arms, 2):
        pairs = [
            (float(b["exact"]) - float(a["exact"]))
            for f in found.values()
            for a, b in zip(f[other]["test"]["unseen"], f[one]["test"]["unseen"], strict=True)
        ]
        d = paired_interval(pairs)
        out.append(
            f"Exact call, {one} minus {other}, paired by example: {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}], n {len(pairs)}."
        )
    return "\n".join(out)


def main() -> None:
    """Every seed and arm, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("0-4"))
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=ARMS, help="two or three; a first pair can be finished before"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/calls"))
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each arm's training")
    parser.add_argument("--libraries", type=int, default=LIBRARIES, help="with four rows each, which two arms share")
    args = parser.parse_args()
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for seed in args.seeds:
        found[seed] = {}
        for arm in args.arms:
            found[seed][arm] = run_arm(arm, seed, args.out, args.tokens, args.libraries)
            line = {k: round(v, 3) for k, v in rates(found[seed][arm]).items()}
            print(seed, arm, found[seed][arm]["cost"], found[seed][arm]["cpu_seconds"], line, flush=True)
    print(report(found, args.arms))


if __name__ == "__main__":
    main()
