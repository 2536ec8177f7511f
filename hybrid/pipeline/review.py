"""`hybrid review`: what ships, measured again on the data as they are now, and what should become of it.

    DIR/reviews/<id>/review.json, review.md     <id> is a hash of the run, the data as they are now, and the horizon

`review` measures the base and what ships on `search`, and proposes (`router.lifecycle`). `apply` carries the proposals out: a
forked run of the same configuration, in which each changed capability is sent where the review says and meets the same gates as
ever, beside what shipped before. Both go on after a kill by the same command.

Does not: open a sealed split while reviewing, or change anything in the run but its folder `reviews/`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from hybrid import __version__
from hybrid.backends.build import build_backend
from hybrid.capability.types import Capability
from hybrid.config.loader import resolved_json
from hybrid.config.schema import Config, WeightsConfig
from hybrid.errors import RunFolderError, UsageError
from hybrid.evidence.stats import mean_interval, paired_interval
from hybrid.pipeline import judges
from hybrid.pipeline.lineage import Before, Lineage, keep_previous, write_lineage
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.replace import alone, shipped
from hybrid.pipeline.run import run
from hybrid.pipeline.session import OnEvent, Session, open_session
from hybrid.pipeline.training import cache_folder
from hybrid.pipeline.transfer_source import Source, read_source, refuse_link
from hybrid.probe.base import Terms
from hybrid.report.parts import Effect, Estimate
from hybrid.report.parts_lifecycle import Costs
from hybrid.report.review_text import Review, ReviewEntry, load_review, to_markdown
from hybrid.report.schema import CapabilityReport
from hybrid.report.text import placed_arm, sealed
from hybrid.router.lifecycle import Now, Policy, Proposal, propose
from hybrid.router.upkeep import break_even_days
from hybrid.store.atomic import canonical_json, write_text
from hybrid.store.faults import faultpoint
from hybrid.store.folder import RunFolder

STAGE = "review"
BACKWARD = 3.0
"""Cost of a training token in forward passes: one forward and a backward of about two (Kaplan et al. 2020, 2001.08361, 2.1)."""


def review(
    run_dir: Path, *, horizon_days: float | None = None, overrides: Sequence[str] = (), on_event: OnEvent
) -> tuple[Review, Path]:
    """Review the finished run in `run_dir`; the review and its folder. A review that is there already is read.

    `horizon_days`: within which an adapter has to pay for its training; None is the run's `router.horizon_days`.

    Raises UsageError and RunFolderError (no run, no report, another base at the same path), DataError and BudgetExhausted.
    """
    alone("review")
    source = read_source(run_dir, overrides)
    if horizon_days is None:
        horizon_days = source.loaded.config.router.horizon_days
    capabilities = load_capabilities(source.loaded)
    data = {c.name: c.fingerprint() for c in capabilities}
    fields = {"run": source.identity, "data": data, "horizon_days": horizon_days, "code": __version__}
    path = run_dir / "reviews" / hashlib.sha256(canonical_json(fields).encode()).hexdigest()[:12]
    refuse_link(path.parent)
    with RunFolder(path) as folder:
        folder.claim(fields, resolved_json(source.loaded.config, source.loaded.root))
        if (path / "review.json").is_file():
            made = load_review(path / "review.json")
        else:
            made = _measured(source, folder, capabilities, data, horizon_days, on_event)
            write_text(path / "review.json", made.to_json())
        write_text(path / "review.md", to_markdown(made))
    return made, path


def apply(
    run_dir: Path,
    out: Path | None,
    *,
    horizon_days: float | None = None,
    overrides: Sequence[str] = (),
    on_event: OnEvent,
) -> tuple[Review, Path | None]:
    """Review, and carry out what it proposes as a forked run; the review and that run's `placement.json`, None where nothing is
    proposed. `out` defaults to `<run_dir>-<id of the review>`. Raises what `review` and `run` raise."""
    made, folder = review(run_dir, horizon_days=horizon_days, overrides=overrides, on_event=on_event)
    if not made.changes:
        return made, None
    source = read_source(run_dir, overrides)
    new = out if out is not None else run_dir.parent / f"{run_dir.name}-{folder.name}"
    if new.resolve() == run_dir.resolve():
        raise UsageError("--out names the folder of the reviewed run; what changes gets a run of its own")
    new.mkdir(parents=True, exist_ok=True)
    if not (new / "run.json").exists():
        for entry in made.changes:
            keep_previous(run_dir, new, entry.name)
        faultpoint("review.previous")
    write_lineage(new, _lineage(source, made))
    faultpoint("review.lineage")
    return made, run(source.loaded, new, fork=run_dir, on_event=on_event)


def _lineage(source: Source, made: Review) -> Lineage:
    reported = {c.name: c for c in source.report.capabilities}
    rows = {}
    for e in made.capabilities:
        c = reported[e.name]
        rows[e.name] = Before(
            was=e.was,
            reason=c.reason,
            action=e.action,
            target=e.target,
            why=e.why,
            changed=e.changed,
            base=sealed(c, "base"),
            shipped=sealed(c, placed_arm(c)),
            history=c.history,
        )
    return Lineage(
        kind="review",
        run_id=source.report.run_id,
        identity=source.identity,
        model=source.report.model,
        capabilities=rows,
    )


def _measured(
    source: Source,
    folder: RunFolder,
    capabilities: tuple[Capability, ...],
    data: dict[str, str],
    horizon_days: float,
    on_event: OnEvent,
) -> Review:
    config = source.loaded.config
    cache = cache_folder(source.path)
    backend = build_backend(config.model, config.backend, source.loaded.resolve, cache, config.small)
    info = backend.info()
    if info.fingerprint != source.report.model.fingerprint:
        raise RunFolderError(
            f"{source.path}: the model at {config.model.path} is not the run's; `hybrid replace` places the run on another"
        )
    capabilities = judges.bind(source.loaded, folder.path, capabilities, 0)
    session = open_session(source.loaded, folder, capabilities, backend, on_event)
    folder.events.append("attempt.started", device=info.device)
    head = {"name": f"review of {source.report.run_id}", "device": info.device, "model": info.path}
    on_event("run.started", {**head, "out": str(folder.path), "resumed": False, "reused_calls": 0})
    policy = Policy(config.gate.ship.minimum_effect, horizon_days, _unpromotable(config))
    reported = {c.name: c for c in source.report.capabilities}
    entries = []
    for capability in capabilities:
        with session.stage(capability.name, STAGE) as note:
            c = reported[capability.name]
            now = _now(source, session, capability, c, data[capability.name] != source.fields["data"].get(c.name))
            terms = terms_of(session, capability)
            costs = costs_of(c, config.weights, len(capability.splits["train"]), terms)
            entries.append(_entry(c, terms, now, propose(c, terms, now, costs, policy)))
            note["summary"] = entries[-1].action
        faultpoint("stage.review")
    started = folder.events.all("attempt.started")[0]
    return Review(
        run_id=source.report.run_id,
        run_identity=source.identity,
        created=datetime.fromtimestamp(started["t"], UTC).isoformat(timespec="seconds"),
        minimum_effect=policy.minimum_effect,
        horizon_days=horizon_days,
        calls=session.ledger.total().calls,
        data=data,
        capabilities=tuple(entries),
    )


def _unpromotable(config: Config) -> str:
    weights = config.weights
    if not config.trains:
        return "this backend cannot train an adapter"
    if weights.schedule.tasks == "shared":
        return "adapters are shared here (weights.schedule.tasks): one cannot be distilled alone"
    if weights.unknown_facts == "relabel":
        return "weights.unknown_facts: relabel has nothing to relabel where a document teaches"
    return ""


def terms_of(session: Session, capability: Capability) -> Terms:
    """What the capability declares of its use."""
    settings = session.settings(capability)
    return Terms(
        volatility=settings.volatility,
        calls_per_day=settings.calls_per_day,
        portable=settings.portable,
    )


def _now(source: Source, session: Session, capability: Capability, c: CapabilityReport, changed: bool) -> Now:
    """What ships and the base on `search`; nothing is measured where nothing ships."""
    then = sealed(c, placed_arm(c))
    if c.placement not in ("skill", "weights", "both"):
        return Now(changed)
    text, adapter = shipped(source, c)
    examples, measure = capability.splits["search"], session.meter.measure
    base = measure(session.candidate(capability), capability, "search", examples, stage=STAGE)
    mine = measure(session.candidate(capability, text, adapter), capability, "search", examples, stage=STAGE)
    pairs = [(a, b) for a, b in zip(base.values, mine.values, strict=True) if not math.isnan(a + b)]
    if not pairs:
        return Now(changed)
    mean, low, high = paired_interval([b - a for a, b in pairs], 0.95)
    scored = mean_interval([b for _, b in pairs], 0.95, source.report.seed)
    here = Estimate(mean=scored.mean, low=scored.low, high=scored.high, n=scored.n)
    gain = Effect(delta=mean, low=low, high=high, n=len(pairs))
    return Now(changed, gain, None if then is None else apart(then, here))


def apart(before: Estimate, after: Estimate) -> Effect:
    """The difference of two means over different examples, from their intervals (MOVER: Donner and Zou 2012, Stat Methods Med
    Res 21:347, which for shares is Newcombe's method 10, 1998). `n` is the smaller of the two."""
    delta = after.mean - before.mean
    low = delta - math.hypot(after.mean - after.low, before.high - before.mean)
    high = delta + math.hypot(after.high - after.mean, before.mean - before.low)
    return Effect(delta=delta, low=low, high=high, n=min(before.n, after.n))


def costs_of(c: CapabilityReport, weights: WeightsConfig, rows: int, terms: Terms) -> Costs:
    """The two prices, from the run's ledger. Training that the run did not pay is estimated: what distillation reads and trains,
    a trained token counting as three read ones; choosing a checkpoint is left out."""
    paid = [s for s in c.ledger.stages.values() if s.train_seconds == 0]
    tokens, spent = sum(s.tokens_in + s.tokens_out for s in paid), math.fsum(s.seconds for s in paid)
    each = spent / tokens if tokens and spent > 0 else None
    base, text = c.arms.base, c.arms.skill
    read = None
    if base is not None and text is not None and base.tokens_in is not None and text.tokens_in is not None:
        read = max(0.0, text.tokens_in - base.tokens_in)
    seconds: float | None = None
    training: Literal["measured", "estimated", "unknown"] = "unknown"
    if c.placement in ("weights", "both") and c.ledger.train_seconds > 0:
        seconds, training = c.ledger.train_seconds, "measured"
    elif each is not None and read is not None and base is not None and text is not None:
        answer = (base.tokens_in or 0.0) + (text.tokens_out or 0.0)
        d = weights.distill
        seconds = each * (rows * d.samples * (read + answer) + BACKWARD * d.steps * d.batch * answer)
        training = "estimated"
    return Costs(
        document_tokens=read,
        calls_per_day=terms.calls_per_day,
        seconds_per_token=each,
        training_seconds=seconds,
        training=training,
        break_even_days=break_even_days(seconds, read, terms.calls_per_day, each),
    )


def _entry(c: CapabilityReport, terms: Terms, now: Now, proposal: Proposal) -> ReviewEntry:
    return ReviewEntry(
        name=c.name,
        was=c.placement,
        action=proposal.action,
        target=proposal.target,
        why=proposal.why,
        looked=proposal.looked,
        changed=now.changed,
        gain=now.gain,
        drift=now.drift,
        volatility=terms.volatility,
        calls_per_day=terms.calls_per_day,
        portable=bool(terms.portable),
        costs=proposal.costs,
    )
