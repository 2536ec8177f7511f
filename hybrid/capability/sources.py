"""From a capability's config section to its examples, grader and seed text, with every mistake found in one pass.

`load_capability` never raises for bad data: it returns problems. Mistakes of the configuration carry the file name
`config` and a key `capabilities.NAME...`; mistakes of data carry the data file and line.
Does not: parse skill documents, decide what to do with problems, or download unless the config names a hub id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from hybrid.capability.graders import GraderError, build_grader, check_grader
from hybrid.capability.graders.abstain import accepting
from hybrid.capability.graders.judge import UnboundJudge
from hybrid.capability.graders.text import fold, quote
from hybrid.capability.hf import read_hf
from hybrid.capability.rows import EXAMPLE_ROW, ProblemList, Row, read_rows, split_rows
from hybrid.capability.suites.load import Offered, read_suite
from hybrid.capability.types import SPLITS, Capability, Example, Grader, Split
from hybrid.config.schema import CapabilityConfig, JsonlSource, SuiteSource
from hybrid.errors import Problem

REQUIRED: tuple[Split, ...] = ("train", "search", "confirm", "test")
LARGEST_SKILL_BYTES = 1_000_000
SUGGESTIONS = 5
"""Unknown parents for which a near id is looked up; the search is slow over many ids."""


@dataclass(frozen=True)
class LoadedCapability(Capability):
    """A capability that remembers where each example was read: (split, id) -> (file, line)."""

    places: Mapping[tuple[Split, str], tuple[str, int]] = field(default_factory=dict, repr=False, compare=False)


def load_capability(
    config: CapabilityConfig, resolve: Callable[[str], Path], seed: int
) -> tuple[LoadedCapability | None, list[Problem]]:
    """Read a capability. Returns (capability, []) or (None, problems sorted by file and line).

    `resolve` turns a path of the config into a path on disk. `seed` decides which examples a `limit` keeps, together
    with the names of capability and split and each example's content, never with the order of rows or files.
    """
    key = f"capabilities.{config.name}"
    problems = ProblemList()
    rows, suite = _read_source(config, key, resolve, seed, problems)
    check_hygiene(rows, problems)
    for mistake in check_grader(config.grader) if config.grader is not None else ():
        problems.add(Problem("config", 0, f"{key}.grader", mistake, "correct the grader"))
    skill = _read_skill(config.skill, f"{key}.skill", resolve, problems)
    for split in config.limit:
        if split not in rows:
            fix = "remove the limit or add the split"
            problems.add(Problem("config", 0, f"{key}.limit.{split}", "the source does not offer this split", fix))
    if problems:
        return None, problems.all()
    grader = build_grader(config.grader) if config.grader is not None else suite.grader if suite is not None else None
    assert grader is not None, "the configuration allows none only where a suite brings one"
    capability = LoadedCapability(
        name=config.name,
        splits={s: _limited([r.example for r in rows.get(s, [])], config, s, seed) for s in SPLITS},
        grader=accepting(grader, config.abstain),
        seed_skill=suite.skill if suite is not None and skill is None else skill,
        declared_kind=config.kind or (suite.kind if suite is not None else None),
        oracle=suite.oracle if suite is not None else None,
        places={(split, row.example.id): (row.file, row.line) for split, row in split_rows(rows)},
    )
    return capability, []


def check_gold(capability: Capability) -> list[Problem]:
    """Score every gold completion of every split, and the wrong answers that rows list.

    A gold answer that does not pass with 1.0 makes its example unlearnable; a wrong one that passes or scores 1.0 shows a
    grader that can be fooled. A grader that fails is reported in the same way; a judge's check stands for it here. Never
    raises for bad data.
    """
    grader = capability.grader
    if isinstance(grader, UnboundJudge):  # nothing is paid for before a run, but its check costs nothing
        if grader.check is None:
            return []
        grader = grader.check
    places = capability.places if isinstance(capability, LoadedCapability) else {}
    problems = ProblemList()
    for split in SPLITS:
        for example in capability.splits.get(split, ()):
            file, line = places.get((split, example.id), (f"{capability.name}/{split}", 0))
            where = f"{capability.name}, {split}, {quote(example.id)}:"
            key = "reference" if example.gold is None else "gold"
            try:
                score = grader.grade(example.gold_completion, example)
            except GraderError as error:
                problems.add(Problem(file, line, key, f"{where} the grader failed: {error}", "correct the grader"))
                continue
            if not score.passed or score.value != 1.0:
                found = f"{where} the gold answer scores {score.value:g} and must score 1. {score.feedback}"
                problems.add(Problem(file, line, key, found.rstrip(), "correct the row, or the grader's settings"))
            for message, fix in _wrong_faults(grader, example):
                problems.add(Problem(file, line, "wrong", f"{where} {message}", fix))
    return problems.all()


def _wrong_faults(grader: Grader, example: Example) -> Iterator[tuple[str, str]]:
    """What is wrong about the row's wrong answers, and what to do."""
    for number, answer in enumerate(example.wrong, 1):
        try:
            score = grader.grade(answer, example)
        except GraderError as error:
            yield f"the grader failed on wrong answer {number}: {error}", "correct the grader"
            continue
        if score.passed or score.value >= 1.0:
            said = "passes" if score.passed else f"scores {score.value:g}"
            yield f"the wrong answer {quote(answer)} {said}", "take it out, or make the grader stricter"


def check_hygiene(rows: Mapping[Split, list[Row]], problems: ProblemList) -> None:
    """No prompt in two splits, no id in two of train, search, confirm and test, no variant of an unknown example.

    Prompts are the same when equal after NFKC, case folding and collapsing white space. Parents are checked only when
    every row could be read, because an unreadable row hides its id.
    """
    complete = not problems
    prompts: dict[bytes, tuple[Split, Row]] = {}
    ids: dict[str, tuple[Split, Row]] = {}
    for split, row in split_rows(rows):
        text = " ".join(fold(row.example.prompt_text).split())
        first, other = prompts.setdefault(hashlib.sha256(text.encode()).digest(), (split, row))
        if first != split:
            found = f"the same prompt as {other.place} ({first}), which is another split"
            problems.add(Problem(row.file, row.line, "prompt", found, "keep it in one split"))
        if split == "variant":
            continue
        first, other = ids.setdefault(row.example.id, (split, row))
        if first != split:
            found = f"{quote(row.example.id)} is also the id of {other.place} ({first}), which is another split"
            problems.add(Problem(row.file, row.line, "id", found, "give every example its own id"))
    if not complete:
        return
    orphans = [r for r in rows.get("variant", ()) if r.example.parent_id is not None and r.example.parent_id not in ids]
    for number, row in enumerate(orphans):
        parent = str(row.example.parent_id)
        nearest = get_close_matches(parent, ids, n=1) if number < SUGGESTIONS else []
        fix = f"did you mean {nearest[0]!r}?" if nearest else f"use an id of {', '.join(REQUIRED)}"
        problems.add(Problem(row.file, row.line, "parent_id", f"{quote(parent)} names no example", fix))


def _read_source(
    config: CapabilityConfig, key: str, resolve: Callable[[str], Path], seed: int, problems: ProblemList
) -> tuple[dict[Split, list[Row]], Offered | None]:
    """The rows, and what a suite brings besides them."""
    source = config.source
    if isinstance(source, JsonlSource):
        return _read_folder(resolve(source.path), f"{key}.source.path", problems), None
    if isinstance(source, SuiteSource):
        return read_suite(source, f"{key}.source", resolve, seed, problems)
    for split in REQUIRED:
        if split not in source.splits:
            fix = f"add `{split}: <a split or slice of the data set>`"
            problems.add(Problem("config", 0, f"{key}.source.splits", f"the split {split!r} is missing", fix))
    return read_hf(source, f"{key}.source", resolve, problems), None


def _read_folder(folder: Path, key: str, problems: ProblemList) -> dict[Split, list[Row]]:
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.exists() else "does not exist"
        fix = "make it a folder with " + ", ".join(f"{s}.jsonl" for s in REQUIRED)
        problems.add(Problem("config", 0, key, f"{folder} {found}", fix))
        return {}
    rows: dict[Split, list[Row]] = {}
    strays = sorted(p.name for p in folder.glob("*.jsonl") if p.stem not in SPLITS)
    for split in SPLITS:
        file = folder / f"{split}.jsonl"
        if file.is_file():
            rows[split] = read_rows(file, problems)
            continue
        alike = get_close_matches(file.name, strays, n=1, cutoff=0.85)
        if alike:
            found = f"{alike[0]} is not the name of a split, so nothing reads it"
            problems.add(Problem(str(folder / alike[0]), 0, "", found, f"rename it to {file.name}"))
        elif split in REQUIRED:
            fix = f"create it with one example a line, such as {EXAMPLE_ROW}"
            problems.add(Problem(str(file), 0, "", "the file is missing", fix))
    return rows


def _read_skill(path: str | None, key: str, resolve: Callable[[str], Path], problems: ProblemList) -> str | None:
    if path is None:
        return None
    file = resolve(path)
    try:
        if not file.is_file():
            problems.add(Problem("config", 0, key, f"there is no file {file}", "correct the path or remove the key"))
        elif file.stat().st_size > LARGEST_SKILL_BYTES:
            problems.add(Problem(str(file), 0, "", f"more than {LARGEST_SKILL_BYTES} bytes", "shorten the document"))
        else:
            return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        problems.add(Problem(str(file), 0, "", f"byte {error.start + 1} is not UTF-8", "save the file as UTF-8"))
    except OSError as error:
        problems.add(Problem(str(file), 0, "", f"cannot be read: {error.strerror or error}", "check its permissions"))
    return None


def _limited(examples: list[Example], config: CapabilityConfig, split: Split, seed: int) -> tuple[Example, ...]:
    """All examples in file order or, with a limit, the first by seeded shuffle."""
    if split not in config.limit:
        return tuple(examples)

    def rank(example: Example) -> str:
        text = f"{seed}\n{config.name}\n{split}\n{example.fingerprint()}"
        return hashlib.sha256(text.encode()).hexdigest()

    return tuple(sorted(examples, key=rank)[: config.limit[split]])
