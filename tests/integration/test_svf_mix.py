"""Choosing and mixing SVF experts at inference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from backend_tiny import load_tiny, save_tiny
from fakes import FakeBackend, text_of
from svf_tiny import save_svf
from weights_tiny import Letters

from hybrid.backends.adapters import check_adapter, read_tensors
from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.capability.types import Example
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import UsageError
from hybrid.weights.compose.search import Generation
from hybrid.weights.svf.mix import Expert, choose, classifier_rows, few_shot, named, question

HERE = Adapter(Path("nowhere"), "0" * 64)
EXPERTS = (Expert("code", "programs", HERE), Expert("maths", "numbers {and} more", HERE))


class Grid:
    """Asks for a list of mixtures once, and answers with the best."""

    def __init__(self, *points: tuple[float, ...]) -> None:
        self.left, self.told = [points, ()], {}
        self.asked: tuple[tuple[float, ...], ...] = ()

    def ask(self) -> Generation:
        self.asked = tuple(self.left.pop(0))
        return Generation(self.asked, (None,) * len(self.asked), 1)

    def tell(self, values: Sequence[float]) -> None:
        self.told |= dict(zip(self.asked, values, strict=True))

    def answer(self) -> tuple[float, ...]:
        return max(self.told, key=lambda p: self.told[p])


def test_the_model_is_asked_and_an_unclear_answer_means_the_base() -> None:
    answers = {"add": "I would take Maths.", "loop": "code", "hello": "code or maths", "bye": "decode"}
    backend = FakeBackend(
        lambda prompt, *_: next(a for key, a in answers.items() if f"Request: {key}" in text_of(prompt))
    )
    found = choose(backend, EXPERTS, list(answers))
    assert [e.name if e else None for e in found] == ["maths", "code", None, None]


def test_a_request_cannot_rewrite_the_question() -> None:
    asked = question(EXPERTS, "print {names} {request}")
    assert "Request: print {names} {request}\nThe one of code, maths" in asked and "numbers {and} more" in asked
    assert named(EXPERTS, "\\boxed{code}") == EXPERTS[0] and named(EXPERTS, "encode") is None


def test_rows_for_a_classifier_come_in_turns_and_name_the_expert() -> None:
    rows = classifier_rows(EXPERTS, {"maths": ["1+1", "2+2"], "code": ["loop"]}, "{request} ->")
    assert [(r.prompt, r.reference) for r in rows] == [("loop ->", "code"), ("1+1 ->", "maths"), ("2+2 ->", "maths")]
    for wrong in ({"art": ["x"]},):
        with pytest.raises(UsageError, match="no expert"):
            classifier_rows(EXPERTS, wrong)
    with pytest.raises(UsageError, match="one word"):
        choose(FakeBackend(lambda *_: ""), [Expert("two words", "", HERE)], ["x"])
    with pytest.raises(UsageError, match=r"has no \{request\}"):
        choose(FakeBackend(lambda *_: ""), EXPERTS, ["x"], template="{names}?")


def test_weights_are_found_on_a_handful_and_the_mixture_is_saved(tmp_path: Path) -> None:
    base = load_tiny(save_tiny(tmp_path / "model"))
    backend = TransformersBackend(base, TransformersBackendConfig())
    experts = [Expert(f"e{i}", "", save_svf(tmp_path / f"e{i}", base, seed=i)) for i in range(2)]
    rows = [Example(id=str(i), prompt=f"a{i} =", reference="a") for i in range(4)]
    points = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (0.0, 0.0)]
    grid = Grid(*points)
    found = few_shot(backend, experts, rows, Letters(), tmp_path / "out", search=grid, max_new_tokens=6)
    assert found.measured == 4, "equal mixtures are measured once, the bare base like others"
    assert found.weights == grid.answer()
    facts = check_adapter(found.adapter.path, base.info.fingerprint)
    assert facts.kind == "SVF"
    answers = backend.generate([Request(r.prompt, seed=0) for r in rows], Sampling(max_new_tokens=6), found.adapter)
    assert found.score == sum(Letters().grade(a.text, r).value for a, r in zip(answers, rows, strict=True)) / len(rows)
    by_cma = few_shot(backend, experts, rows, Letters(), tmp_path / "cma", evaluations=23, max_new_tokens=6)
    again = few_shot(backend, experts, rows, Letters(), tmp_path / "again", evaluations=23, max_new_tokens=6)
    assert (by_cma.weights, by_cma.adapter.sha256) == (again.weights, again.adapter.sha256)
    assert 3 < by_cma.measured <= 24
    parts = [read_tensors(e.adapter.path) for e in experts]
    name = sorted(parts[0])[0]
    wanted = sum(w * part[name] for w, part in zip(found.weights, parts, strict=True))
    assert float((read_tensors(found.adapter.path)[name] - wanted).abs().max()) < 1e-6
