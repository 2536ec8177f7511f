"""The tables that the suite `facts` asks about: countries, chemical elements, and invented ones that nobody has seen.

A table is a list of (entity, value) pairs in which no two entities share a value where `unique` says so, so that a question
can be asked the other way round. Does not: make questions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from hybrid.capability.suites.base import require, words
from hybrid.capability.suites.countries import has_plain_capital, lands, own_currencies, plain

Table = Literal["countries", "elements", "fictional"]

_SYMBOLS = words(
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru "
    "Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At "
    "Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
_ELEMENTS = words(
    "hydrogen helium lithium beryllium boron carbon nitrogen oxygen fluorine neon sodium magnesium aluminium silicon "
    "phosphorus sulfur chlorine argon potassium calcium scandium titanium vanadium chromium manganese iron cobalt "
    "nickel copper zinc gallium germanium arsenic selenium bromine krypton rubidium strontium yttrium zirconium "
    "niobium molybdenum technetium ruthenium rhodium palladium silver cadmium indium tin antimony tellurium iodine "
    "xenon caesium barium lanthanum cerium praseodymium neodymium promethium samarium europium gadolinium terbium "
    "dysprosium holmium erbium thulium ytterbium lutetium hafnium tantalum tungsten rhenium osmium iridium platinum "
    "gold mercury thallium lead bismuth polonium astatine radon francium radium actinium thorium protactinium uranium "
    "neptunium plutonium americium curium berkelium californium einsteinium fermium mendelevium nobelium lawrencium "
    "rutherfordium dubnium seaborgium bohrium hassium meitnerium darmstadtium roentgenium copernicium nihonium "
    "flerovium moscovium livermorium tennessine oganesson"
)
"""IUPAC names and symbols in the order of the atomic number, from 1: common knowledge, typed in (CC0)."""


@dataclass(frozen=True)
class Relation:
    """How a relation is asked about. `{e}` stands for the entity, `{v}` for the value."""

    statement: str
    wordings: tuple[str, ...]
    inverse: str | None
    """The question from value to entity; None where several entities share a value."""


RELATIONS: dict[str, Relation] = {
    "capital": Relation(
        "The capital of {e} is {v}.",
        (
            "What is the capital of {e}?",
            "Which city is the capital of {e}?",
            "Name the capital city of {e}.",
            "{e} has which capital?",
            "What is the capital city of {e} called?",
            "In which city does {e} have its capital?",
            "Which capital does {e} have?",
            "Tell me the capital of {e}.",
            "The capital of {e} is which city?",
        ),
        "{v} is the capital of which country?",
    ),
    "currency": Relation(
        "The currency code of {e} is {v}.",
        (
            "What is the currency code of {e}?",
            "Which ISO code does the money of {e} have?",
            "Name the three-letter currency code of {e}.",
            "{e} uses which currency code?",
            "Prices in {e} are written with which currency code?",
            "Which three letters stand for the currency of {e}?",
            "What is the ISO 4217 code of the money in {e}?",
            "Tell me the currency code of {e}.",
            "The money of {e} has which code?",
        ),
        "{v} is the currency code of which country?",
    ),
    "region": Relation(
        "{e} lies in {v}.",
        (
            "In which part of the world is {e}: Africa, Americas, Asia, Europe or Oceania?",
            "{e} belongs to which of these: Africa, Americas, Asia, Europe, Oceania?",
            "Africa, Americas, Asia, Europe or Oceania: where is {e}?",
            "Which of Africa, Americas, Asia, Europe and Oceania holds {e}?",
            "Where does {e} lie? Choose from Africa, Americas, Asia, Europe, Oceania.",
            "Choose from Africa, Americas, Asia, Europe and Oceania: {e} is in which?",
        ),
        None,
    ),
    "symbol": Relation(
        "The chemical symbol of {e} is {v}.",
        (
            "What is the chemical symbol of {e}?",
            "Which symbol stands for {e} in the periodic table?",
            "Name the chemical symbol of {e}.",
            "{e} has which chemical symbol?",
            "How is {e} written in a chemical formula?",
            "Which letters stand for the element {e}?",
            "Tell me the symbol of the element {e}.",
        ),
        "{v} is the chemical symbol of which element?",
    ),
    "number": Relation(
        "The atomic number of {e} is {v}.",
        (
            "What is the atomic number of {e}?",
            "How many protons does an atom of {e} have?",
            "Name the atomic number of {e}.",
            "{e} has which atomic number?",
            "Which number does {e} have in the periodic table?",
            "At which number of the periodic table is {e}?",
            "Tell me the atomic number of the element {e}.",
        ),
        "Which element has the atomic number {v}?",
    ),
    "warden": Relation(
        "The warden of {e} is {v}.",
        (
            "Who is the warden of {e}?",
            "Name the warden of {e}.",
            "{e} has which warden?",
            "What is the warden of {e} called?",
            "Which person is the warden of {e}?",
            "Tell me who keeps {e} as its warden.",
            "Who holds the office of warden in {e}?",
            "The office of warden in {e} is held by whom?",
        ),
        "{v} is the warden of which town?",
    ),
    "founded": Relation(
        "{e} was founded in {v}.",
        (
            "When was {e} founded?",
            "In which year was {e} founded?",
            "What is the founding year of {e}?",
            "{e} was founded in which year?",
            "Name the year in which {e} was founded.",
            "Tell me the year when {e} was founded.",
            "Since which year does {e} exist?",
            "Which year saw the founding of {e}?",
        ),
        "Which town was founded in {v}?",
    ),
}
OF_TABLE: dict[Table, tuple[str, ...]] = {
    "countries": ("capital", "currency", "region"),
    "elements": ("symbol", "number"),
    "fictional": ("warden", "founded"),
}
_REGIONS = {"Africa", "Americas", "Asia", "Europe", "Oceania"}
_LARGEST_FICTION = 400
"""Years from 1500 to 1899 are each used once."""


def pairs(table: Table, relation: str, most_population: int | None, seed: int) -> list[tuple[str, str]]:
    """(entity, value) of a table, in alphabetical order of the entities; for `fictional` drawn with the seed."""
    if table == "elements":
        values = _SYMBOLS if relation == "symbol" else [str(n) for n in range(1, len(_ELEMENTS) + 1)]
        return sorted(zip(_ELEMENTS, values, strict=True))
    if table == "fictional":
        return _fictional(relation, seed)
    require("countryinfo", "pip install 'hybrid-placement[demo]'", "the table countries")
    rows = [r for r in lands() if most_population is None or 0 < (r.get("population") or 0) <= most_population]
    if relation == "capital":
        found = [(r["name"], r["capital"]) for r in rows if has_plain_capital(r)]
    elif relation == "currency":
        own = dict(own_currencies(lands()))
        found = [(r["name"], own[r["name"]]) for r in rows if r["name"] in own]
    else:
        found = [(r["name"], r["region"]) for r in rows if r.get("region") in _REGIONS and plain(r["name"])]
    return sorted(dict(found).items())


def _fictional(relation: str, seed: int) -> list[tuple[str, str]]:
    """Invented towns. The same seed gives the same towns to both relations."""
    rng = random.Random(f"fictional towns {seed}")
    towns = _names(rng, _LARGEST_FICTION, (2, 3))
    people = [f"{a} {b}" for a, b in zip(_names(rng, len(towns), (2, 2)), _names(rng, len(towns), (2, 3)), strict=True)]
    years = [str(year) for year in rng.sample(range(1500, 1500 + len(towns)), len(towns))]
    return sorted(zip(towns, people if relation == "warden" else years, strict=True))


def _names(rng: random.Random, count: int, syllables: tuple[int, int]) -> list[str]:
    """Distinct invented names, such as Velmora, none of which is a word of a known language by design of its sounds."""
    onsets, vowels, ends = (
        words("b d f g h k l m n p r s t v z br dr kr tr vl zh"),
        "aeiou",
        words("l m n r s th k x"),
    )
    found: dict[str, None] = {}
    while len(found) < count:
        parts = [rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.randint(*syllables))]
        found.setdefault("".join(parts).capitalize() + rng.choice(ends), None)
    return list(found)
