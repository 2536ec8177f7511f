"""A transfer as data (`transfer.json`), from scores to verdicts, and drawn: Markdown, and text for a terminal.

The data say what the documents of a run are worth on another model. Every number stands beside its n, none is NaN, and
equal reports give equal bytes. The verdict is a pure function of paired scores. Does not: measure (`pipeline.transfer`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from hybrid.config.schema import PlacementName
from hybrid.errors import RunFolderError
from hybrid.evidence.stats import holm, mean_interval, paired_interval, paired_test
from hybrid.report.markdown import esc, table
from hybrid.report.parts import Count, Delta, Estimate, LedgerTotals, ModelFacts, Number, Part, Share, Text
from hybrid.report.text import ABSENT, cost_line, interval, line, num, pvalue, signed
from hybrid.store.atomic import canonical_json

SCHEMA_VERSION = 1
LEVEL = 0.95
RESAMPLES = 4_000
LEAST_MOVING = 8
"""Fewest pairs off the commonest one from which a bootstrap of a ratio is believed, as in `evidence.intervals`."""
TransferVerdict = Literal["carries over", "does not carry over", "harms", "not measurable"]


class TransferSettings(Part):
    """How the other model read the prompts, and what the verdicts rest on."""

    chat: bool
    separator: Text
    end_of_answer: Text | None
    """Null: the model's own end token."""
    alpha: Share
    minimum_effect: Share
    multiplicity: Literal["holm", "none"]


class DocumentFacts(Part):
    """The document that was measured. `shipped` is false for one that the run built and did not ship."""

    path: Text
    """Relative to the run folder."""
    sha256: Text
    """Of the body, which is all that a model reads."""
    shipped: bool
    placement: PlacementName
    """Where the run placed the capability; `both` shipped this document together with an adapter."""
    tokens: Count | None
    """In the other model's tokens; null where it cannot read them."""
    control: Text
    """What the irrelevant text of the same length was made of; "" where there was none."""
    control_tokens: Count | None


class SourceGain(Part):
    """What the same document gave the run's own model on the same examples."""

    base: Estimate
    document: Estimate
    delta: Delta | None
    """Null where the run's report holds no paired difference for this document."""
    origin: Literal["rollouts", "placement.json"]


class Ratio(Part):
    """Gain on the other model per gain on the run's model, with an interval by example.

    `method` is `bootstrap` (pairs resampled by example, percentiles), or `ends` where too few examples differ for a
    bootstrap: the extreme quotients of the two gains' intervals, each at a level that makes both hold at `level`.
    """

    value: Number
    low: Number
    high: Number
    n: Count
    level: Share = 0.95
    method: Literal["bootstrap", "ends"]


class SplitTransfer(Part):
    """One split on the other model: without a document, with it, with the control; all paired by example."""

    base: Estimate
    document: Estimate
    control: Estimate | None
    delta: Delta
    """The document against that model's own baseline."""
    over_control: Delta | None
    """The document against the irrelevant text of the same length."""
    source: SourceGain | None
    ratio: Ratio | None
    ratio_note: Text
    """Why there is no ratio; "" where there is one."""


class Claim(Part):
    """The tests behind a verdict, on `test`, each one-sided and corrected over the `family` of capabilities.

    `p_gain`: better than the baseline *and* than the control (the larger of the two p values). `p_harm`: worse than the
    baseline.
    """

    p_gain: Share
    p_gain_adjusted: Share
    p_harm: Share
    p_harm_adjusted: Share
    n: Count
    family: Count


class TransferEntry(Part):
    """One capability's document on the other model.

    `status`: `measured`; `unfit` when this model cannot read it (nothing was paid, and nothing will change that);
    `failed` when the model stopped while it was measured, which the same command tries again.
    """

    name: Annotated[Text, Field(min_length=1)]
    status: Literal["measured", "unfit", "failed"]
    verdict: TransferVerdict
    reason: Text
    document: DocumentFacts
    test: SplitTransfer | None
    variant: SplitTransfer | None
    claim: Claim | None
    ledger: LedgerTotals


class TransferReport(Part):
    """The documents of one run on one other model."""

    schema_version: Literal[1] = 1
    run_id: Text
    run_identity: Text
    created: Text
    seed: int
    source: ModelFacts
    model: ModelFacts
    same_model: bool
    """True for an A/A check: the other model is the run's own."""
    settings: TransferSettings
    ledger: LedgerTotals
    capabilities: tuple[TransferEntry, ...]
    notes: tuple[Text, ...]
    warnings: tuple[Text, ...]

    def to_json(self) -> str:
        """Canonical text: sorted keys, indent 2, a final newline, no NaN. Equal reports give equal bytes."""
        return canonical_json(self.model_dump(mode="json"), indent=2) + "\n"


def load_transfer(path: Path) -> TransferReport:
    """Read and check a `transfer.json`. RunFolderError, in one sentence: absent, damaged, or of another version."""
    fix = "delete it and give the same command again to rebuild it from the answers beside it"
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); {fix}") from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise RunFolderError(f"{path} has schema_version {version!r} and this version of hybrid reads {SCHEMA_VERSION}")
    try:
        return TransferReport.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(p) for p in first["loc"]) or "the file"
        raise RunFolderError(f"{path} is damaged at {place} ({first['msg']}); {fix}") from None


def estimate_of(values: Sequence[float], seed: int) -> Estimate:
    """A mean score with its interval."""
    i = mean_interval(values, LEVEL, seed)
    return Estimate(mean=i.mean, low=i.low, high=i.high, n=i.n)


def delta_of(before: Sequence[float], after: Sequence[float]) -> Delta:
    """The paired difference of scores, with its interval and one-sided p."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean, low, high = paired_interval(differences, LEVEL)
    up, down = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = paired_test(differences)
    return Delta(mean=mean, low=low, high=high, p=p, n=len(differences), improved=up, regressed=down)


Scores = tuple[Sequence[float], Sequence[float], Sequence[float] | None]
"""Of one document, by example: without it, with it, with the control (None without one)."""


def split_of(here: Scores, there: tuple[Sequence[float], Sequence[float]] | None, seed: int) -> SplitTransfer:
    """One split from scores by example. `there`: without and with the document on the run's model, where they are known."""
    base, document, control = here
    source, ratio = None, None
    if there is not None:
        gain = delta_of(*there)
        before, after = (estimate_of(values, seed) for values in there)
        source = SourceGain(base=before, document=after, delta=gain, origin="rollouts")
        if gain.low > 0:
            pairs = [(d - b, y - x) for b, d, x, y in zip(base, document, *there, strict=True)]
            ratio = transfer_ratio([p[0] for p in pairs], [p[1] for p in pairs], seed)
    return SplitTransfer(
        base=estimate_of(base, seed),
        document=estimate_of(document, seed),
        control=None if control is None else estimate_of(control, seed),
        delta=delta_of(base, document),
        over_control=None if control is None else delta_of(control, document),
        source=source,
        ratio=ratio,
        ratio_note="" if ratio else "no transfer ratio: the gain on the run's model is not measurable at this size",
    )


def transfer_ratio(here: Sequence[float], there: Sequence[float], seed: int) -> Ratio | None:
    """mean(here) / mean(there) of gains paired by position, with an interval; None where `there` is too near zero.

    Percentiles of a bootstrap over examples. It says nothing where fewer than 8 pairs leave the commonest one (were all
    equal, so would be every resample); there the extreme quotients of the two gains' intervals are given, each at level
    1 - 0.05 / 2, so that both hold together at 0.95 or more (Bonferroni).
    """
    pairs = np.array(sorted(zip(here, there, strict=True)), dtype=np.float64)
    if len(pairs) == 0 or pairs[:, 1].mean() <= 0:
        return None
    value = float(pairs[:, 0].mean() / pairs[:, 1].mean())
    commonest = int(np.unique(np.round(pairs, 12), axis=0, return_counts=True)[1].max())
    believed = len(pairs) - commonest >= LEAST_MOVING
    ends = _resampled(pairs, seed) if believed else _extremes(here, there)
    if ends is None:
        return None
    low, high = min(value, ends[0]), max(value, ends[1])
    return Ratio(value=value, low=low, high=high, n=len(pairs), method="bootstrap" if believed else "ends")


def _extremes(here: Sequence[float], there: Sequence[float]) -> tuple[float, float] | None:
    level = 1 - (1 - LEVEL) / 2
    (_, low, high), (_, least, most) = paired_interval(here, level), paired_interval(there, level)
    return (low / (most if low >= 0 else least), high / (least if high >= 0 else most)) if least > 0 else None


def _resampled(pairs: Any, seed: int) -> tuple[float, float] | None:
    index = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    above, below = pairs[:, 0][index].mean(axis=1), pairs[:, 1][index].mean(axis=1)
    # A resample without a gain to divide by is as far out as its numerator points.
    quotients = np.where(below > 0, above / np.where(below > 0, below, 1.0), np.copysign(np.inf, above))
    low = float(np.quantile(quotients, (1 - LEVEL) / 2, method="lower"))
    high = float(np.quantile(quotients, (1 + LEVEL) / 2, method="higher"))
    return (low, high) if np.isfinite([low, high]).all() else None


def claims(scores: Mapping[str, Scores], multiplicity: Literal["holm", "none"]) -> dict[str, Claim]:
    """The two tests of every capability, corrected over all of them: gains among gains, harms among harms.

    A gain has to beat the baseline and the control: its p is the larger of the two, and needs no correction for being
    two (intersection-union test, Berger 1982, Technometrics 24:295).
    """
    gain = {
        n: max([delta_of(b, d).p, *([delta_of(c, d).p] if c is not None else [])]) for n, (b, d, c) in scores.items()
    }
    harm = {name: delta_of(document, base).p for name, (base, document, _) in scores.items()}
    more, less = (holm(gain), holm(harm)) if multiplicity == "holm" else (gain, harm)
    return {
        name: Claim(
            p_gain=gain[name],
            p_gain_adjusted=more[name],
            p_harm=harm[name],
            p_harm_adjusted=less[name],
            n=len(base),
            family=len(scores),
        )
        for name, (base, _, _) in scores.items()
    }


def decide(split: SplitTransfer, claim: Claim, alpha: float, effect: float) -> tuple[TransferVerdict, str]:
    """The verdict on `test` in words, and the sentence that says why.

    In this order: not measurable (too few pairs), harms, carries over, not measurable (no room above the baseline), does
    not carry over (the interval of the gain, over the baseline or over the control, ends below `effect`, the least gain
    that counts), not measurable.
    """
    delta, over = split.delta, split.over_control
    told = f"gain {_delta(delta)} over {delta.n} pairs"
    if 2.0**-delta.n > alpha:
        return "not measurable", f"not measurable at this size: {delta.n} pairs cannot reach p = {alpha:g}"
    if delta.mean < 0 and claim.p_harm_adjusted <= alpha:
        return "harms", f"worse than without the document, adjusted p {pvalue(claim.p_harm_adjusted)}: {told}"
    if delta.high >= effect and claim.p_gain_adjusted <= alpha:
        ratio = f", {_ratio(split.ratio)} of the gain on the run's model" if split.ratio else ""
        beaten = "the baseline and an irrelevant text" if over else "the baseline"
        return "carries over", f"better than {beaten}, adjusted p {pvalue(claim.p_gain_adjusted)}: {told}{ratio}"
    if 1 - split.base.mean < effect:
        return "not measurable", f"no room: without a document the model scores {num(split.base.mean)} already; {told}"
    if delta.high < effect:
        return "does not carry over", f"the gain is below the least that counts ({effect:g}): {told}"
    if over is not None and over.high < effect:
        why = "an irrelevant text of the same length does as much"
        return "does not carry over", f"{why} (the document is {_delta(over)} over it): {told}"
    why = f"both no gain and one of {effect:g} are possible"
    return "not measurable", f"not measurable at this size, {why}, adjusted p {pvalue(claim.p_gain_adjusted)}: {told}"


def to_text(report: TransferReport) -> str:
    """The table and a sentence per capability, for a terminal. Everything hostile is made visible."""
    head = ("capability", "verdict", "n", "baseline", "document", "control", "gain", "p (adjusted)", "ratio")
    rows = [head, *(_text_row(entry) for entry in report.capabilities)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [f"documents of {_shown(report.run_id)} on {_shown(report.model.path)}", ""]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", *(f"{e.name}: {_shown(e.reason)}" for e in report.capabilities)]
    lines += [f"note: {_shown(note)}" for note in report.notes]
    return "\n".join(lines)


def _text_row(entry: TransferEntry) -> tuple[str, ...]:
    name = entry.name if entry.document.shipped else f"{entry.name} (not shipped)"
    test = entry.test
    if test is None or entry.claim is None:
        return (name, entry.verdict, *[ABSENT] * 7)
    return (
        name,
        entry.verdict,
        str(test.delta.n),
        num(test.base.mean),
        num(test.document.mean),
        num(test.control.mean) if test.control else ABSENT,
        f"{signed(test.delta.mean)} {interval(test.delta, sign=True)}",
        pvalue(entry.claim.p_gain_adjusted),
        _ratio(test.ratio),
    )


def _shown(text: str) -> str:
    return line(text, 1000)


def _ratio(ratio: Ratio | None) -> str:
    return ABSENT if ratio is None else f"{num(ratio.value)} {interval(ratio)}"


def to_markdown(report: TransferReport) -> str:
    """The whole report as Markdown. Hostile text cannot open a tag, a link or a table cell."""
    return "\n".join(_markdown(report)).rstrip("\n") + "\n"


def _markdown(report: TransferReport) -> Iterator[str]:
    yield f"# Documents of {esc(report.run_id)} on another model"
    yield ""
    yield f"- other model: {_model(report.model)}"
    yield f"- the run's model: {_model(report.source)}"
    yield f"- read as: {_reading(report.settings)}"
    yield f"- measured {esc(report.created)}, seed {report.seed}; {esc(cost_line(report.ledger))}"
    yield ""
    yield from table(
        ("capability", "verdict", "n", "baseline", "document", "control", "gain [95 % CI]", "p (adjusted)",
         "gain on the run's model", "transfer ratio [95 % CI]"),
        (_verdict_row(entry) for entry in report.capabilities),
    )  # fmt: skip
    yield from _legend(report.settings)
    for entry in report.capabilities:
        yield from _entry(entry)
    for title, texts in (("Notes", report.notes), ("Warnings", report.warnings)):
        if texts:
            yield from (f"## {title}", "", *(f"- {esc(text, 1000)}" for text in texts), "")
    yield from _limits()


def _model(facts: ModelFacts) -> str:
    return (
        f"{esc(facts.path)}, {facts.parameters:,} parameters, {esc(facts.dtype)} on {esc(facts.device)}, "
        f"fingerprint {esc(facts.fingerprint[:12])}"
    )


def _reading(settings: TransferSettings) -> str:
    how = "chat template" if settings.chat else f"plain text, separator {esc(json.dumps(settings.separator))}"
    end = "the model's own end" if settings.end_of_answer is None else f"end {esc(json.dumps(settings.end_of_answer))}"
    return f"{how}, {end}"


def _verdict_row(entry: TransferEntry) -> Sequence[str]:
    name = esc(entry.name) + ("" if entry.document.shipped else " (did not ship)")
    test = entry.test
    if test is None or entry.claim is None:
        return (name, f"**{entry.verdict}**", *[ABSENT] * 8)
    source = test.source
    return (
        name,
        f"**{entry.verdict}**",
        str(test.delta.n),
        num(test.base.mean),
        num(test.document.mean),
        num(test.control.mean) if test.control else ABSENT,
        _delta(test.delta),
        pvalue(entry.claim.p_gain_adjusted),
        _delta(source.delta) if source else ABSENT,
        _ratio(test.ratio),
    )


def _delta(delta: Delta | None) -> str:
    return ABSENT if delta is None else f"{signed(delta.mean)} {interval(delta, sign=True)}"


def _legend(settings: TransferSettings) -> Iterator[str]:
    correction = "Holm over the capabilities" if settings.multiplicity == "holm" else "no correction"
    yield (
        f"Gain: document minus baseline, paired by example, sealed test split. p: better than the baseline and than the "
        f"irrelevant text of the same length, one-sided, {correction}; alpha {settings.alpha:g}, least gain that counts "
        f"{settings.minimum_effect:g}."
    )
    yield ""


def _entry(entry: TransferEntry) -> Iterator[str]:
    document = entry.document
    yield f"## {esc(entry.name)}: {entry.verdict}"
    yield ""
    yield f"{esc(entry.reason, 2000)}"
    yield ""
    state = f"shipped ({document.placement})" if document.shipped else f"**did not ship** ({document.placement})"
    if document.shipped and document.placement == "both":
        state = "shipped together with an adapter, measured without it"
    yield f"- document: {esc(document.path)}, {_tokens(document.tokens)}, {state}, sha256 {esc(document.sha256[:12])}"
    if document.control:
        yield f"- control: {esc(document.control)}, {_tokens(document.control_tokens)}"
    yield f"- cost: {esc(cost_line(entry.ledger))}"
    for note in dict.fromkeys(s.ratio_note for s in (entry.test, entry.variant) if s and s.ratio_note):
        yield f"- {esc(note)}"
    yield ""
    splits = [(name, s) for name, s in (("test", entry.test), ("variant", entry.variant)) if s is not None]
    if splits:
        head = ("split", "n", "baseline", "document", "control", "gain", "p", "over the control",
                "gain on the run's model", "ratio")  # fmt: skip
        yield from table(head, (_split_row(name, split) for name, split in splits))


def _split_row(name: str, split: SplitTransfer) -> Sequence[str]:
    delta = split.delta
    return (
        name,
        str(delta.n),
        _estimate(split.base),
        _estimate(split.document),
        _estimate(split.control),
        f"{_delta(delta)}, {delta.improved} up, {delta.regressed} down",
        pvalue(delta.p),
        _delta(split.over_control),
        _delta(split.source.delta) if split.source else ABSENT,
        _ratio(split.ratio) + (" (ends)" if split.ratio and split.ratio.method == "ends" else ""),
    )


def _estimate(estimate: Estimate | None) -> str:
    return ABSENT if estimate is None else f"{num(estimate.mean)} {interval(estimate)}"


def _tokens(count: int | None) -> str:
    return "unknown length" if count is None else f"{count:,} tokens"


def _limits() -> Iterator[str]:
    said = (
        "One other model and one seed: the intervals cover the choice of examples, not of models.",
        "The examples are those of the run, in which the document was chosen without them; the test split was opened "
        "once for this model.",
        "A gain on the run's model was measured there, on the same examples; its model is not measured again.",
    )
    yield from ("## Limits", "", *(f"- {text}" for text in said), "")
