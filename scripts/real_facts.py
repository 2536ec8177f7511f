"""Two factual capabilities from countryinfo: capitals of small lands, and currency codes.

Every land is in every split, each time in another wording, so that a fact learnt from a training row can help with the
other rows. The two shots in front of a question show the form of the answer; their lands are never asked about.

Does not: claim that the package is right (see `hybrid.capability.suites.countries`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from real_rows import Splits, empty, example

from hybrid.capability.suites.countries import has_plain_capital, lands, own_currencies

SMALL_LANDS = (0, 1_500_000)
"""Population of the lands asked about: large ones a small model knows already."""
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
        if low < (row.get("population") or 0) < high and has_plain_capital(row)
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
    shown = {land for land, _ in CURRENCY_SHOTS}
    facts = [fact for fact in own_currencies(lands()) if fact[0] not in shown]
    facts = sorted(rng.sample([f for f in facts if f[1] not in ("USD", "EUR", "GBP")], 48))
    splits = _deal_wordings("currencies", facts, CURRENCY_WORDINGS, rng)
    ask = "Before a journey to {country} you change euros into local money. Its code:"
    for land, code in facts:
        key = f"{land.lower().replace(' ', '-')}-journey"
        prompt = shot_text(ask, CURRENCY_SHOTS) + ask.format(country=land)
        extra = {"land": land, "parent_id": _parents(splits, land), "change": "unseen wording"}
        splits["variant"].append(example("currencies", key, prompt, code, **extra))
    return splits


FACT = {"capitals": "The capital of {land} is {answer}.", "currencies": "The currency code of {land} is {answer}."}


def oracle(name: str, splits: Splits) -> str:
    """Every fact of the capability, one a line: what a document could hold at best."""
    facts = {row.metadata["land"]: row.reference for row in splits["train"]}
    return "".join(f"{FACT[name].format(land=land, answer=facts[land])}\n" for land in sorted(facts))
