"""How well the right skills are found for a prompt, and what that saves: libraries of 4, 16 and 64 skills, no model.

    python scripts/bench_library.py          # the data of this repository, one core, under a minute

One skill per capability of data/real and data/reference: a description, and its oracle text, or the lines of the reference
language that its training rows give away. The rest are distractors: the same lands, people, years and numbers with another
question, and facts of the reference language on other names. Prompts are those of the sealed `test` and `variant` splits;
prompts of a capability that is not in the library, and those that no document can help (`random-answers`), need none.
The threshold was set on the `search` split (`--tune` prints it).

Tokens are words and single signs (`f(x=2)` has 6): the reference tokenizer spells English letter by letter. Another
count: `--tokenizer FILE` with the tokenizer.json of a model.
Does not: measure what a skill does for an answer (`hybrid run` does).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import reference_language as language

from hybrid.evidence.stats import wilson
from hybrid.skill.document import new_document
from hybrid.skill.library import Library, Skill
from hybrid.skill.references import split
from hybrid.skill.select import SelectionPolicy, Selector, compose

DATA = Path(__file__).resolve().parents[1] / "data"
SIZES = (4, 16, 64)
DRAWS, MOST_TRUE = 12, 8
"""Libraries of each size, and the most skills of capabilities in one: the prompts of the others need none there."""
PER_SPLIT = 48
CAP = 100
"""Tokens of a head in the split libraries."""
DESCRIPTIONS = {
    "capitals": "Capital cities of countries and territories. Use when a prompt asks for the capital of a land.",
    "currencies": "Currency codes of countries, as three letters of ISO 4217. Use when the currency of a land is asked.",
    "chain-sum": "Adds and takes away small numbers from left to right. Use for lines such as 2 + 6 - 1 =.",
    "leap-year": "Tells leap years from common ones. Use when a prompt asks whether a year is a leap year.",
    "layout": "Writes index cards of persons in a fixed layout. Use when a person is given and a card is to be written.",
    "function-call": "Writes the call of a function. Use when a definition, a request and an empty call are given.",
    "known-operations": "Operations on letters such as @rev and @next. Use for queries q TEXT @OPERATION.",
    "fact-table": "Values of names in the reference language. Use for queries ask LETTERS NAME.",
    "named-rules": "Rules that give names a meaning in the reference language. Use for queries q TEXT NAME.",
    "unnamed-operation": "What the mark $fir means in the reference language. Use for queries q TEXT $fir.",
    "fact-layout": "Values of names, in square brackets after the mark $ash. Use for queries ask LETTERS $ash NAME.",
}
NO_SKILL = "random-answers"
ATTRIBUTES = (
    "dialling code", "largest river", "highest mountain", "national dish", "population", "area", "official language",
    "internet domain", "head of state", "national anthem", "time zone", "largest city", "driving side", "main port",
    "currency symbol", "former name", "flag",
)  # fmt: skip
SUMS = ("Multiplies", "Divides", "Compares", "Averages", "Rounds", "Sorts")
YEARS = (
    "an election year",
    "a year of the Olympic games",
    "a prime number",
    "a jubilee year",
    "a year of war",
    "a palindrome",
)
LAYOUTS = ("address label", "name badge", "invoice", "passport line", "obituary", "telephone entry")
CALLS = ("Explains what a function does", "Writes the test of a function", "Names the parameters of a function",
         "Writes the request for a call", "Documents the definition of a function", "Finds errors in a call")  # fmt: skip


@dataclass(frozen=True)
class Query:
    """A prompt, the skill it needs, and what a line has to hold to answer it ("" where no single line does)."""

    prompt: str
    needs: str
    facts: tuple[str, ...] = ()


@dataclass
class Tally:
    """Counts over the prompts of one kind of library."""

    needed: int = 0
    found: int = 0
    first: int = 0
    chosen: int = 0
    right: int = 0
    none_needed: int = 0
    none_chosen: int = 0
    tokens: dict[str, list[int]] = field(default_factory=dict)
    facts: int = 0
    facts_read: dict[str, int] = field(default_factory=dict)


def rows_of(capability: str, part: str, limit: int | None = None) -> list[dict[str, object]]:
    """Rows of one split, spread evenly over it."""
    home = DATA / ("real" if (DATA / "real" / capability).is_dir() else "reference") / capability
    lines = (home / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    step = 1 if limit is None else max(1, len(lines) // limit)
    return [json.loads(line) for line in lines[::step][:limit]]


def reference_body(capability: str) -> str:
    """The document that the training rows of a reference capability give away."""
    facts, rules = {}, {}
    for row in rows_of(capability, "train"):
        about = row["metadata"]
        assert isinstance(about, dict)
        if "name" in about:
            facts[about["name"]] = row["reference"]
        else:
            fits = {op for op, do in language.OPERATIONS.items() if do(about["text"]) == row["reference"]}
            rules[about["slot"]] = rules.get(about["slot"], fits) & fits
    lines = [f"fact {name} {value}." for name, value in sorted(facts.items())]
    lines += [f"rule {slot} {op}." for slot, ops in sorted(rules.items()) for op in sorted(ops)]
    return "".join(line + "\n" for line in lines)


def true_skills() -> list[Skill]:
    """One skill per capability."""
    skills = []
    for name, description in DESCRIPTIONS.items():
        oracle = DATA / "real" / name / "oracle.txt"
        body = oracle.read_text(encoding="utf-8") if oracle.exists() else reference_body(name)
        skills.append(Skill(document=new_document(name, description, body)))
    return skills


def distractors(seed: int, taken: Sequence[str]) -> list[Skill]:
    """Skills beside the point, in random order: the wording of the capabilities with another question."""
    rng = random.Random(f"distractors {seed}")
    lands = sorted({str(row["metadata"]["land"]) for row in rows_of("capitals", "train")})  # type: ignore[index]
    out = []
    for what in ATTRIBUTES:
        lines = [
            f"The {what} of {land} is {rng.choice(('Aro', 'Bel', 'Cam', 'Dor'))}{rng.randint(1, 99)}." for land in lands
        ]
        out.append((f"{what} of countries", f"Use when a prompt asks for the {what} of a land.", lines))
    for what in SUMS:
        out.append((f"{what} small numbers", "Use for lines such as 8 : 2 x 3 =.", [f"{what} from left to right."]))
    for what in YEARS:
        line = f"A year is {what} when its last two digits are {rng.randint(1, 99)}."
        out.append((f"Tells whether a year is {what}", f"Use when a prompt asks whether a year is {what}.", [line]))
    for what in LAYOUTS:
        lines = [f"Person: Rita Vale, born {rng.randint(1930, 2000)}, lives in Turin {what.title()}: Vale R."]
        out.append((f"Writes the {what} of a person", f"Use when a person is given and the {what} is wanted.", lines))
    for what in CALLS:
        out.append((what, "Use when a definition of a function is given.", [f"{what} in one sentence."]))
    names = [name for name in language.NAMES if name not in taken]
    for number in range(18):
        some = rng.sample(names, 6)
        lines = [f"fact {name} {language.value(rng)}." for name in some]
        out.append(
            (f"Values of names, list {number}", "Use for queries ask LETTERS NAME in the reference language.", lines)
        )
    rng.shuffle(out)
    skills = []
    for what, when, lines in out:
        name = re.sub(r"[^a-z0-9]+", "-", what.lower()).strip("-")
        body = "".join(line + "\n" for line in lines)
        skills.append(Skill(document=new_document(name, f"{what}. {when}", body)))
    return skills


def queries(parts: Sequence[str]) -> list[Query]:
    """The prompts of every capability."""
    out = []
    for name in (*DESCRIPTIONS, NO_SKILL):
        for part in parts:
            for row in rows_of(name, part, PER_SPLIT):
                about = row.get("metadata")
                about = about if isinstance(about, dict) else {}
                subject = about.get("land") or about.get("name")
                facts = (str(subject), str(row["reference"])) if subject and name != NO_SKILL else ()
                out.append(Query(str(row["prompt"]), name, facts))
    return out


def libraries(size: int) -> list[Library]:
    """`DRAWS` libraries of one size: true skills first, at random where they are more than fit, then distractors."""
    true = true_skills()
    taken = re.findall(r"(?:fact|rule) (\w+)", "".join(s.document.body for s in true))
    out = []
    for seed in range(DRAWS):
        chosen = random.Random(f"library {size} {seed}").sample(true, min(size, MOST_TRUE))
        out.append(Library([*chosen, *distractors(seed, taken)[: size - len(chosen)]]))
    return out


def cut(library: Library, count: Callable[[str], int]) -> Library:
    """The same skills with bodies of at most `CAP` tokens and the rest in references."""
    skills = []
    for skill in library:
        parts = split(skill.document.body, count, CAP)
        skills.append(Skill(document=skill.document.with_body(parts.head), references=parts.references))
    return Library(skills)


def measure(
    whole: Sequence[Library], asked: Sequence[Query], make: Callable[[Library], Selector], count: Callable[[str], int]
) -> Tally:
    """Every prompt once, each on one of the libraries in turn, so that prompts stay independent."""
    tally = Tally(tokens={k: [] for k in ("all", "1", "2", "split 2", "split 3")}, facts_read={"2": 0, "split 3": 0})
    selectors = [(make(library), make(cut(library, count))) for library in whole]
    fixed = [
        (count("\n".join(s.document.body for s in library)), compose(library, (), 1, count).tokens) for library in whole
    ]
    for number, query in enumerate(asked):
        selector, cutter = selectors[number % len(selectors)]
        names = selector.choose(query.prompt).names
        needed = query.needs in selector.library
        tally.needed += needed
        tally.found += query.needs in names
        tally.first += names[:1] == (query.needs,)
        tally.chosen += len(names)
        tally.right += query.needs in names
        tally.none_needed += not needed
        tally.none_chosen += not needed and not names
        cut_names = cutter.choose(query.prompt).names
        opened = {name: cutter.open(query.prompt, name) for name in cut_names}
        body = compose(selector.library, names, 2, count)
        parts = compose(cutter.library, cut_names, 3, count, opened=opened.__getitem__)
        read = (
            *fixed[number % len(fixed)],
            body.tokens,
            compose(cutter.library, cut_names, 2, count).tokens,
            parts.tokens,
        )
        for key, tokens in zip(tally.tokens, read, strict=True):
            tally.tokens[key].append(tokens)
        if (
            needed
            and query.facts
            and any(holds(line, query) for line in selector.library[query.needs].document.body.split("\n"))
        ):
            tally.facts += 1
            for key, text in (("2", body.text), ("split 3", parts.text)):
                tally.facts_read[key] += any(holds(line, query) for line in text.split("\n"))
    return tally


def holds(line: str, query: Query) -> bool:
    """Whether a line has the subject of a prompt and its answer."""
    return all(fact in line for fact in query.facts)


def example_embedder(texts: Sequence[str]) -> np.ndarray:
    """An embedder that needs no model: hashed runs of four letters, each text's counts under a square root."""
    rows = np.zeros((len(texts), 1024))
    for row, text in enumerate(texts):
        flat = " ".join(text.lower().split())
        for start in range(len(flat) - 3):
            rows[row, zlib.crc32(flat[start : start + 4].encode()) % 1024] += 1
    return np.sqrt(rows)


def share(count: int, n: int) -> str:
    """A share with its 95 % Wilson interval."""
    x = wilson(count, n)
    return f"{x.mean:.3f} [{x.low:.3f}, {x.high:.3f}]"


def token_counter(tokenizer: Path | None) -> Callable[[str], int]:
    """Words and single signs, or the tokens of a tokenizer.json."""
    if tokenizer is None:
        return lambda text: len(re.findall(r"\w+|[^\w\s]", text))
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def tune(asked: Sequence[Query]) -> None:
    """What thresholds do to the prompts of the `search` split."""
    print("threshold   right skill among the chosen, or rightly none, by size: " + ", ".join(map(str, SIZES)))
    shelves = {size: libraries(size) for size in SIZES}
    for threshold in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4):
        cells = []
        for size in SIZES:
            selectors = [Selector(library, SelectionPolicy(threshold=threshold)) for library in shelves[size]]
            right = 0
            for number, query in enumerate(asked):
                selector = selectors[number % DRAWS]
                names = selector.choose(query.prompt).names
                right += query.needs in names if query.needs in selector.library else not names
            cells.append(share(right, len(asked)))
        print(f"{threshold:9.2f}   {'   '.join(cells)}")


def describe(size: int, tally: Tally) -> None:
    """The lines of one size."""
    print(f"{size} skills: {tally.needed} prompts need one of them, {tally.none_needed} need none")
    print(f"   the right skill comes first             {share(tally.first, tally.needed)} of {tally.needed}")
    print(f"   ... is among the chosen (recall)        {share(tally.found, tally.needed)} of {tally.needed}")
    print(f"   a chosen skill is the right one (prec.) {share(tally.right, tally.chosen)} of {tally.chosen}")
    print(
        f"   none is chosen where none is needed     {share(tally.none_chosen, tally.none_needed)} of {tally.none_needed}"
    )
    everything = np.mean(tally.tokens["all"])
    for key, name in KEPT.items():
        tokens = np.mean(np.array([tally.tokens[part] for part in key.split(" + ")]).sum(axis=0))
        print(f"   {name:40s}{tokens:7.0f} tokens a prompt ({tokens / everything:.3f})")
    for key, name in (("2", "whole bodies"), ("split 3", f"heads of {CAP} and opened references")):
        where = f"the needed line is read, {name}"
        print(f"   {where:60s}{share(tally.facts_read[key], tally.facts)} of {tally.facts}")


KEPT = {
    "all": "everything in the prompt",
    "1": "level 1, names and descriptions",
    "2": "level 2, chosen bodies",
    "1 + 2": "levels 1 and 2",
    "split 2": f"level 2, heads of {CAP} tokens",
    "split 3": "level 3, heads and opened references",
}


def variants(size: int, asked: Sequence[Query]) -> None:
    """What the choice of texts does: the right skill first, with every prompt on one library."""
    shelf = libraries(size)
    bare = [Library([Skill(document=s.document.with_body("")) for s in library]) for library in shelf]
    dumb = [Library([Skill(document=new_document(s.name, s.name, s.document.body)) for s in lib]) for lib in shelf]
    for name, choice, embedder in (
        ("names and descriptions alone", bare, None),
        ("names and bodies alone", dumb, None),
        ("all (the default)", shelf, None),
        ("all, with the example embedder", shelf, example_embedder),
    ):
        selectors = [Selector(library, embedder=embedder) for library in choice]
        first = needed = 0
        for number, query in enumerate(asked):
            selector = selectors[number % DRAWS]
            if query.needs in selector.library:
                needed += 1
                scores = selector.scores(query.prompt)
                first += min(scores, key=lambda n: (-scores[n], n)) == query.needs
        print(f"   {name:40s}{share(first, needed)} of {needed}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="what thresholds do on the search split, and nothing else")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json to count tokens with")
    args = parser.parse_args()
    started, count = time.monotonic(), token_counter(args.tokenizer)
    if args.tune:
        tune(queries(["search"]))
        return
    asked = queries(["test", "variant"])
    for size in SIZES:
        describe(size, measure(libraries(size), asked, Selector, count))
    print(f"The highest score of {SIZES[-1]} skills is the right one's, by what is searched (no threshold)")
    variants(SIZES[-1], asked)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
