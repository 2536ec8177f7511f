"""Which training rows of a factual capability the model does not know, and what training does with them.

    rows, facts = known_rows(session, capability, "factual", reads="", text=document)
    rows.dropped        # weights.unknown_facts: drop
    rows.abstained      # weights.unknown_facts: relabel

A row is unknown where neither the greedy answer nor any of `probe.samples` samples passes, under the text that the adapter will
read: what that text supplies need not be learnt. Answers are measured like all others, on `train` alone, under the
stage `known`. Does not: judge capabilities that are not factual; a procedure is there to be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid.capability.types import Capability
from hybrid.errors import TrainingError
from hybrid.evidence.known import Known, KnownFacts, known
from hybrid.pipeline.session import Session
from hybrid.router.kinds import MeasuredKind


@dataclass(frozen=True)
class Rows:
    """What a training does other than train on every row of `train` as it is.

    `dropped` and `abstained` are positions in `train`; `variants` are positions in `variant`, added after them.
    """

    dropped: tuple[int, ...] = ()
    abstained: tuple[int, ...] = ()
    variants: tuple[int, ...] = ()

    def with_variants(self, variants: tuple[int, ...]) -> Rows:
        """The same with variants added."""
        return replace(self, variants=variants)


def is_factual(kind: MeasuredKind, capability: Capability) -> bool:
    """Measured factual; the declared kind decides only where the measurement does not. A verdict that is not likely enough to
    act on arrives here as `unclear` (`Route.sure_kind`)."""
    return kind == "factual" or (kind in ("unclear", "mixed") and capability.declared_kind == "factual")


def known_rows(
    session: Session, capability: Capability, kind: MeasuredKind, reads: str, text: str
) -> tuple[Rows, KnownFacts | None]:
    """The rows of a training that reads `reads`, and the counts; None where nothing was measured.

    `text` is the best text at hand: the counts tell how many unknown rows it supplies. Raises TrainingError when nothing
    known is left to train on, or when rows are to be relabelled and the capability has no `abstain` answer.
    """
    policy = session.loaded.config.weights.unknown_facts
    if policy == "keep" or not is_factual(kind, capability):
        return Rows(), None
    if policy == "relabel" and session.settings(capability).abstain is None:
        raise TrainingError(
            f"weights.unknown_facts is relabel, and {capability.name} has no answer that stands for not knowing: give it "
            "`abstain: {answer: ...}`, or use drop or keep"
        )
    classes = _classes(session, capability, reads)
    unknown = tuple(i for i, c in enumerate(classes) if c == "unknown")
    supplied: int | None = None
    if text and text != reads:
        told = _classes(session, capability, text)
        supplied = sum(told[i] != "unknown" for i in unknown)
    if len(unknown) == len(classes):
        raise TrainingError(
            f"none of the {len(classes)} training rows is known to the model, and weights.unknown_facts is {policy}: "
            "nothing is left to train on. Facts belong in a document; `keep` trains on them all the same"
        )
    facts = KnownFacts(
        policy=policy,
        n=len(classes),
        samples=session.loaded.config.probe.samples,
        **{name: classes.count(name) for name in ("highly", "maybe", "weakly", "unknown")},
        supplied=supplied,
        dropped=len(unknown) if policy == "drop" else 0,
        relabelled=len(unknown) if policy == "relabel" else 0,
    )
    return (Rows(dropped=unknown) if policy == "drop" else Rows(abstained=unknown)), facts


def _classes(session: Session, capability: Capability, text: str) -> list[Known]:
    """The class of every training row under a text."""
    probe, rows = session.loaded.config.probe, capability.splits["train"]
    candidate = session.candidate(capability, text)

    def asked(temperature: float, samples: int) -> list[list[bool]]:
        sampling = candidate.sampling.model_copy(update={"temperature": temperature, "top_p": 1.0})
        measured = session.meter.measure(
            replace(candidate, sampling=sampling), capability, "train", rows, samples=samples, stage="known"
        )
        # A row is not left out for want of a verdict.
        return [[r.passed or r.unjudged for r in row] for row in measured.rollouts]

    greedy, sampled = asked(0.0, 1), asked(probe.temperature, probe.samples)
    return [known(g[0], s) for g, s in zip(greedy, sampled, strict=True)]


def describe(facts: KnownFacts) -> str:
    """The counts, for the trail."""
    done = f"{facts.dropped} left out" if facts.policy == "drop" else f"{facts.relabelled} relabelled"
    text = "" if facts.supplied is None else f", a text supplies {facts.supplied} of them"
    return f"{facts.unknown} of {facts.n} training rows are unknown facts{text}; {done}"
