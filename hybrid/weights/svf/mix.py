"""Which expert for which request, and in what mixture: the three ways of Transformer-squared (2501.06252, section 3.2).

    chosen = choose(backend, experts, prompts)                          # the base is asked which expert fits
    chosen = choose(backend, experts, prompts, classifier=adapter)      # an expert trained to say so is asked
    found = few_shot(backend, experts, examples, grader, out)           # weights that do best on a handful of examples

Asking costs one short answer per request before the answer itself (two passes); weights are found once per task and cost
nothing afterwards. Deterministic given a deterministic backend, search and grader. Does not: decide whether a choice or a
mixture is any good (a measurement and the gates do), or train the classifier: `classifier_rows` are its training rows for any
trainer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid.backends.base import Adapter, Backend, Request, Sampling
from hybrid.backends.svf.mixing import mix
from hybrid.capability.types import Example, Grader
from hybrid.config.swarm import SwarmConfig
from hybrid.errors import UsageError
from hybrid.weights.compose.search import CoefficientSearch, build_search

QUESTION = "{options}\nRequest: {request}\nThe one of {names} that fits the request best is:"
"""What the model is asked. A template of one's own needs `{request}`; `{options}` and `{names}` may stand in it."""


_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Expert:
    """An SVF adapter under the name by which it is chosen, and a sentence on what it is for."""

    name: str
    description: str
    adapter: Adapter


@dataclass(frozen=True)
class Mixture:
    """`weights` by the experts' order, the adapter, its mean score on the examples that it was found on, and how many different
    mixtures were measured."""

    weights: tuple[float, ...]
    adapter: Adapter
    score: float
    measured: int


def choose(
    backend: Backend,
    experts: Sequence[Expert],
    prompts: Sequence[str],
    *,
    classifier: Adapter | None = None,
    template: str = QUESTION,
    max_new_tokens: int = 16,
) -> list[Expert | None]:
    """The expert for every prompt; None, which means the bare base, where the answer names none or more than one.

    Greedy, in one call. `classifier` answers instead of the base where it is given.
    """
    _check(experts, template)
    requests = [Request(question(experts, prompt, template), seed=0) for prompt in prompts]
    answers = backend.generate(requests, Sampling(max_new_tokens=max_new_tokens), classifier)
    return [named(experts, answer.text) for answer in answers]


def question(experts: Sequence[Expert], prompt: str, template: str = QUESTION) -> str:
    """What the model reads in place of the request, to choose."""
    options = "\n".join(f"{e.name}: {e.description}" for e in experts)
    filled = {"options": options, "names": ", ".join(e.name for e in experts), "request": prompt}
    for key, value in sorted(filled.items()):  # not str.format: a request may hold braces
        template = template.replace("{" + key + "}", value) if key != "request" else template
    return template.replace("{request}", prompt)


def named(experts: Sequence[Expert], answer: str) -> Expert | None:
    """The one expert whose name stands in the answer as a word of its own."""
    words = {word.lower() for word in _WORD.findall(answer)}
    found = [e for e in experts if e.name.lower() in words]
    return found[0] if len(found) == 1 else None


def classifier_rows(
    experts: Sequence[Expert], prompts: Mapping[str, Sequence[str]], template: str = QUESTION
) -> tuple[Example, ...]:
    """Training rows of a classification expert: the question, and the name of the expert that the prompt belongs to.

    `prompts` are prompts by expert name; take them from `train` splits. In turns over the experts, so that a batch holds all.
    """
    _check(experts, template)
    unknown = sorted(set(prompts) - {e.name for e in experts})
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no expert")
    longest = max((len(rows) for rows in prompts.values()), default=0)
    return tuple(
        Example(id=f"choose-{name}-{i}", prompt=question(experts, rows[i], template), reference=name)
        for i in range(longest)
        for name, rows in sorted(prompts.items())
        if i < len(rows)
    )


def few_shot(
    backend: Backend,
    experts: Sequence[Expert],
    examples: Sequence[Example],
    grader: Grader,
    out: Path,
    *,
    search: CoefficientSearch | None = None,
    seed: int = 0,
    evaluations: int = 60,
    max_new_tokens: int = 64,
    size_cost: float = 0.02,
) -> Mixture:
    """The mixture whose greedy answers do best on `examples` (a handful; never `confirm` or `test`), saved in `out`.

    Found by CMA-ES over `evaluations` mixtures (the paper has the cross-entropy method), or by a `search` of one's own.
    Worth of a mixture: mean score minus `size_cost` times the mean |weight|, which also breaks ties between the few scores that
    a handful allows (the paper breaks them by likelihood). Equal mixtures are measured once.
    """
    _check(experts, "{request}")
    if not examples:
        raise UsageError("weights of a mixture need examples to be found on")
    if search is None:
        search = build_search(SwarmConfig(evaluations=evaluations), len(experts), seed)
    known: dict[tuple[float, ...], float] = {}
    requests = [Request(example.prompt, seed=0) for example in examples]
    sampling, fingerprint = Sampling(max_new_tokens=max_new_tokens), backend.info().fingerprint

    def build(weights: tuple[float, ...], folder: Path) -> Adapter | None:
        if not any(weights):
            return None  # the bare base
        return mix([e.adapter.path for e in experts], weights, folder, fingerprint)

    def score(weights: tuple[float, ...]) -> float:
        if weights not in known:
            answers = backend.generate(requests, sampling, build(weights, out / "trial"))
            graded = [grader.grade(a.text, example).value for a, example in zip(answers, examples, strict=True)]
            known[weights] = sum(graded) / len(graded)
        return known[weights]

    while points := [tuple(float(w) for w in point) for point in search.ask().points]:
        search.tell([score(w) - size_cost * sum(map(abs, w)) / len(w) for w in points])
    best = tuple(float(w) for w in search.answer())
    worth, adapter = score(best), build(best, out / "mixture")
    if adapter is None:
        raise UsageError("the bare base does best on these examples: there is no mixture to save")
    return Mixture(best, adapter, worth, len(known))


def _check(experts: Sequence[Expert], template: str) -> None:
    names = [e.name.lower() for e in experts]
    if not experts or len(set(names)) != len(names):
        raise UsageError("give one expert at least, each under a name of its own")
    if not all(_WORD.fullmatch(name) for name in names):
        raise UsageError("an expert's name is one word of letters, digits, _ and -: an answer is searched for it")
    if "{request}" not in template:
        raise UsageError("the template of the question has no {request}")
