"""Two factual capabilities from countryinfo: capitals of small lands, and currency codes.

Every land is in every split, each time in another wording, so that a fact learnt from a training row can help with the
other rows. The two shots in front of a question show the form of the answer; their lands are never asked about.

Does not: claim that the package is right: rows known to be stale, disputed or written in several ways are left out.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real_rows import Splits, empty, example

SMALL_LANDS = (0, 1_500_000)
"""Population of the lands asked about: large ones a small model knows already."""
CAPITAL_DOUBTFUL = (
    "CC",
    "CX",
    "EH",
    "FO",
    "GQ",
    "GS",
    "IO",
    "KI",
    "MS",
    "NF",
    "NR",
    "PN",
    "SJ",
    "SZ",
    "TF",
    "TK",
    "UM",
)
"""Left out of `capitals`: no capital, none in law, moved, abandoned, or hardly inhabited."""
CURRENCY_STALE = ("BY", "HR", "MR", "ST", "VE", "ZM", "ZW", "SL", "BG", "CU", "SV", "TR", "LT", "LV", "EE", "KP", "TW")
"""Left out of `currencies`: the code in the package has since changed, or is disputed."""

CAPITAL_WORDINGS = (
    "Q: What is the capital of {country}?\nA:",
    "Q: Which city is the capital of {country}?\nA:",
    "Q: Name the capital city of {country}.\nA:",
    "Q: {country} has which capital?\nA:",
    "Q: What is the capital city of {country} called?\nA:",
    "Country: {country}\nCapital:",
    "The capital of {country} is",
    "The capital city of {country} is called",
    "Atlas entry for {country}. Capital:",
)
CURRENCY_WORDINGS = (
    "Q: What is the currency code of {country}?\nA:",
    "Q: Which ISO code does the money of {country} have?\nA:",
    "Q: Name the three-letter currency code of {country}.\nA:",
    "Q: {country} uses which currency code?\nA:",
    "Q: Prices in {country} are written with which currency code?\nA:",
    "Country: {country}\nCurrency code:",
    "The currency code of {country} is",
    "The money of {country} has the code",
    "Exchange table, {country}:",
)
CAPITAL_SHOTS = (("Japan", "Tokyo"), ("Kenya", "Nairobi"))
CURRENCY_SHOTS = (("Japan", "JPY"), ("Kenya", "KES"))


def lands() -> list[dict[str, Any]]:
    """The countries and territories of countryinfo that have name, code, capital and currencies, by alpha-2 code."""
    folder = Path(str(importlib.metadata.distribution("countryinfo").locate_file("countryinfo"))) / "data"
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        row = json.loads(file.read_text(encoding="utf-8"))
        code = (row.get("ISO") or {}).get("alpha2")
        if code and isinstance(row.get("capital"), str) and row["capital"] and row.get("currencies"):
            found.setdefault(code, row)
    return [found[code] | {"code": code} for code in sorted(found)]


def _plain(text: str) -> bool:
    """Written in one way only: no accents, no alternatives, no St. that may be a Saint."""
    return text.isascii() and not any(mark in text for mark in ("(", "/", "St. "))


def shot_text(wording: str, shots: Sequence[tuple[str, str]]) -> str:
    """The wording filled and answered for each shot, one after the other."""
    return "".join(f"{wording.format(country=land)} {answer}\n" for land, answer in shots)


def _deal_wordings(name: str, facts: list[tuple[str, str]], wordings: Sequence[str], rng: random.Random) -> Splits:
    """Every land in every split, each time in another wording: 3 train, 1 search, 3 confirm, 2 test."""
    shots = CAPITAL_SHOTS if name == "capitals" else CURRENCY_SHOTS
    slots = ["train"] * 3 + ["search"] + ["confirm"] * 3 + ["test"] * 2
    splits: Splits = empty()
    for land, answer in facts:
        numbers = rng.sample(range(len(wordings)), len(slots))
        for split, number in zip(slots, numbers, strict=True):
            prompt = shot_text(wordings[number], shots) + wordings[number].format(country=land)
            key = f"{land.lower().replace(' ', '-')}-{number}"
            splits[split].append(example(name, key, prompt, answer, land=land, wording=number))
    return splits


def _parents(splits: Splits, land: str) -> str:
    return next(e.id for e in splits["test"] if e.metadata["land"] == land)


def capitals(seed: int) -> Splits:
    """Capitals of small lands. Variant: the inverse question, land from capital."""
    rng = random.Random(f"capitals {seed}")
    low, high = SMALL_LANDS
    facts = [
        (row["name"], row["capital"])
        for row in lands()
        if low < (row.get("population") or 0) < high and row["code"] not in CAPITAL_DOUBTFUL
        if _plain(row["name"] + row["capital"])
        and "Saint" not in row["capital"]
        and not _overlap(row["name"], row["capital"])
    ]
    facts = sorted(rng.sample(facts, 48))
    splits = _deal_wordings("capitals", facts, CAPITAL_WORDINGS, rng)
    ask = "Q: {city} is the capital of which country?\nA:"
    shots = "".join(f"{ask.format(city=city)} {land}\n" for land, city in CAPITAL_SHOTS)
    for land, city in facts:
        key = f"{land.lower().replace(' ', '-')}-inverse"
        prompt = shots + ask.format(city=city)
        extra = {"land": land, "parent_id": _parents(splits, land), "change": "inverse question"}
        splits["variant"].append(example("capitals", key, prompt, land, **extra))
    return splits


def currencies(seed: int) -> Splits:
    """ISO 4217 codes of lands with a currency of their own. Variant: an unseen wording inside a sentence."""
    rng = random.Random(f"currencies {seed}")
    rows = [r for r in lands() if len(r["currencies"]) == 1 and r["code"] not in CURRENCY_STALE and _plain(r["name"])]
    users: dict[str, int] = {}
    for row in rows:
        users[row["currencies"][0]] = users.get(row["currencies"][0], 0) + 1
    shown = {land for land, _ in CURRENCY_SHOTS}
    facts = [(r["name"], r["currencies"][0]) for r in rows if users[r["currencies"][0]] == 1 and r["name"] not in shown]
    facts = sorted(rng.sample([f for f in facts if f[1] not in ("USD", "EUR", "GBP")], 48))
    splits = _deal_wordings("currencies", facts, CURRENCY_WORDINGS, rng)
    ask = "Before a journey to {country} you change euros into local money. Its code:"
    for land, code in facts:
        key = f"{land.lower().replace(' ', '-')}-journey"
        prompt = shot_text(ask, CURRENCY_SHOTS) + ask.format(country=land)
        extra = {"land": land, "parent_id": _parents(splits, land), "change": "unseen wording"}
        splits["variant"].append(example("currencies", key, prompt, code, **extra))
    return splits


def _overlap(a: str, b: str) -> bool:
    """True when one name gives the other away (Guatemala, Guatemala City)."""
    words = {w for w in a.lower().replace("-", " ").split() if len(w) > 3}
    return bool(words & {w for w in b.lower().replace("-", " ").split() if len(w) > 3})


FACT = {"capitals": "The capital of {land} is {answer}.", "currencies": "The currency code of {land} is {answer}."}


def oracle(name: str, splits: Splits) -> str:
    """Every fact of the capability, one a line: what a document could hold at best."""
    facts = {row.metadata["land"]: row.reference for row in splits["train"]}
    return "".join(f"{FACT[name].format(land=land, answer=facts[land])}\n" for land in sorted(facts))
