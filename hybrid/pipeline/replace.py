"""`hybrid replace`: a finished run again, on a new base model, and what that moves.

The documents that shipped are first measured on the new base as they are (`transfer`), then a run of its own begins there: the
configuration is the old one with the model replaced and those documents as seeds, everything is probed, placed and gated anew,
and the report says of every capability where it was and where it is, with the evidence of both. Adapters belong to their base
and are not carried over. The same command goes on after a kill; `hybrid run NEW/config.resolved.json --out NEW` does too.

Does not: change the old run, but for its folder `transfers/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hybrid.backends.adapters import inspect_adapter
from hybrid.backends.base import Adapter, Sampling
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig
from hybrid.config.schema import CapabilityConfig, Config, ModelConfig, ScriptedBackendConfig
from hybrid.errors import BackendError, RunFolderError, UsageError
from hybrid.evidence.rollouts import judge_of, rollout_key, sample_seed
from hybrid.evidence.types import Candidate, Rollout
from hybrid.pipeline import workers
from hybrid.pipeline.lineage import Before, Lineage, Scores, read_lineage, write_lineage
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.run import run
from hybrid.pipeline.session import OnEvent
from hybrid.pipeline.transfer import transfer_to
from hybrid.pipeline.transfer_source import Source, choose_model, find_documents, read_source
from hybrid.report.parts import Effect
from hybrid.report.parts_lifecycle import DocumentMove
from hybrid.report.schema import CapabilityReport
from hybrid.report.text import placed_arm, sealed
from hybrid.report.transfer_text import TransferEntry
from hybrid.store.atomic import write_bytes
from hybrid.store.faults import faultpoint
from hybrid.store.records import RecordLog

SEEDS = "seeds"


def replace_base(
    run_dir: Path,
    path: str,
    settings: Mapping[str, Any],
    out: Path | None,
    *,
    overrides: Sequence[str],
    on_event: OnEvent,
) -> Path:
    """Measure the run in `run_dir` anew on the model at `path`; returns the new run's `placement.json`.

    `settings` are keys of `model`, see `choose_model`. `out` defaults to `<run_dir>-<name of the model>`. Raises UsageError for
    a folder that is no finished run, RunFolderError for a damaged one or another run in `out`, and what `run` raises.
    """
    alone("replace")
    source = read_source(run_dir, overrides)
    model = choose_model(source, path, settings)
    folder = out if out is not None else run_dir.parent / f"{run_dir.name}-{Path(model.path).name}"
    if folder.resolve() == run_dir.resolve():
        raise UsageError("--out names the folder of the old run; the new base gets a run of its own")
    _refuse_changed(source)
    folder.mkdir(parents=True, exist_ok=True)
    loaded = replace(source.loaded, config=_config(source, model, folder))
    known = read_lineage(folder)
    if known is None:
        moved, rollouts, note = _documents(source, path, settings, overrides, on_event)
        _copy_rollouts(rollouts, folder / "rollouts")
        write_lineage(folder, _lineage(source, loaded, moved, note, model))
    elif (known.kind, known.identity, known.target) != ("replace", source.identity, model.path):
        raise RunFolderError(
            f"{folder} goes back to another run ({known.run_id}), or to another base; give --out another folder"
        )
    faultpoint("replace.lineage")
    return run(loaded, folder, on_event=on_event)


def _refuse_changed(source: Source) -> None:
    """Two things that change at once cannot be told apart: the data have to be the run's."""
    known = source.fields["data"]
    changed = [c.name for c in load_capabilities(source.loaded) if known.get(c.name) != c.fingerprint()]
    if changed:
        raise RunFolderError(
            f"{', '.join(changed)}: the data, or what grades them, changed since the run. Carry that out first (hybrid review "
            f"{source.path} --apply), then replace the base of the run that this makes"
        )


def alone(verb: str) -> None:
    """Refuse several processes: they come in with `hybrid run`, once the new run's folder is there. Raises UsageError."""
    if workers.world_size() > 1:
        raise UsageError(
            f"hybrid {verb} is started by one process; once it has begun, `hybrid run NEW/config.resolved.json --out NEW` goes "
            "on with it on several"
        )


def _documents(
    source: Source, path: str, settings: Mapping[str, Any], overrides: Sequence[str], on_event: OnEvent
) -> tuple[dict[str, TransferEntry], Path | None, str]:
    """What the shipped documents are worth on the new base, where its answers lie, and why they could not be measured."""
    if not any(d.shipped for d in find_documents(source)):
        return {}, None, ""
    try:
        report, folder = transfer_to(
            source.path, path, settings, everything=False, overrides=overrides, on_event=on_event
        )
    except BackendError as error:  # a model that cannot be loaded at all is met again by the run, which says so
        return {}, None, f"not measured before the run: {error}"
    return {e.name: e for e in report.capabilities}, folder / "rollouts", ""


def _copy_rollouts(found: Path | None, target: Path) -> None:
    """The transfer's answers count in the new run where they are exactly what it asks for."""
    shutil.rmtree(target, ignore_errors=True)
    if found is None or not found.is_dir():
        return
    target.mkdir(parents=True)
    for path in sorted(found.glob("*.jsonl")):
        if not path.is_symlink():
            shutil.copyfile(path, target / path.name)


def _config(source: Source, model: ModelConfig, folder: Path) -> Config:
    """The old configuration with the model replaced and the shipped documents, copied into `folder`, as seeds."""
    old = source.loaded.config
    backend = old.backend
    if isinstance(backend, ScriptedBackendConfig):  # the models of a scripted run are scripts
        backend = backend.model_copy(update={"script": model.path})
    shipped = {d.name: d for d in find_documents(source) if d.shipped}

    def seeded(settings: CapabilityConfig) -> CapabilityConfig:
        if settings.name not in shipped:
            return settings
        seed = folder.absolute() / SEEDS / settings.name / "SKILL.md"
        write_bytes(seed, (source.path / shipped[settings.name].path).read_bytes())
        return settings.model_copy(update={"skill": str(seed)})

    capabilities = tuple(seeded(c) for c in old.capabilities)
    return old.model_copy(update={"model": model, "backend": backend, "capabilities": capabilities})


def _lineage(
    source: Source, loaded: LoadedConfig, moved: Mapping[str, TransferEntry], note: str, model: ModelConfig
) -> Lineage:
    """Everything that the new report says of the old run, so that it does not need that run's folder again."""
    capabilities = {c.name: c for c in load_capabilities(loaded)}
    settings = {c.name: c for c in loaded.config.capabilities}
    why = f"the base {source.report.model.path} is replaced by {model.path}"
    rows = {}
    for c in source.report.capabilities:
        built = shipped(source, c)
        sampling = Sampling(**settings[c.name].decoding.model_dump())
        entry = moved.get(c.name)
        rows[c.name] = Before(
            was=c.placement,
            reason=c.reason,
            action="replace",
            target=c.placement,
            why=why,
            base=sealed(c, "base"),
            shipped=sealed(c, placed_arm(c)),
            base_scores=stored(source, capabilities[c.name], sampling, ("", None)),
            shipped_scores=stored(source, capabilities[c.name], sampling, built),
            profile=c.profile,
            document=_document(entry),
            note=note if built[0] else "",
            history=c.history,
        )
        if entry is not None and rows[c.name].document is None:
            rows[c.name] = rows[c.name].model_copy(update={"note": entry.reason})
    return Lineage(
        kind="replace",
        run_id=source.report.run_id,
        identity=source.identity,
        model=source.report.model,
        capabilities=rows,
        target=model.path,
    )


def _document(entry: TransferEntry | None) -> DocumentMove | None:
    if entry is None or entry.test is None:
        return None
    ratio = entry.test.ratio
    return DocumentMove(
        verdict=entry.verdict,
        gain=entry.test.delta,
        over_control=entry.test.over_control,
        ratio=None if ratio is None else Effect(delta=ratio.value, low=ratio.low, high=ratio.high, n=ratio.n),
    )


def shipped(source: Source, capability: CapabilityReport) -> tuple[str, Adapter | None]:
    """The text and the adapter that a run shipped; empty and None where it shipped nothing."""
    if capability.placement not in ("skill", "weights", "both"):
        return "", None
    text = next((d.body for d in find_documents(source) if d.name == capability.name and d.shipped), "")
    folder = source.path / "adapters" / capability.name
    adapter = inspect_adapter(folder) if capability.placement != "skill" else None
    return text, adapter


def stored(
    source: Source, capability: Capability, sampling: Sampling, built: tuple[str, Adapter | None]
) -> Scores | None:
    """A candidate's scores on the run's sealed test, from its stored answers; rows without one are left out, and None
    where none has one. The log is read as it lies."""
    candidate = Candidate(source.report.model.fingerprint, built[0], built[1], sampling)
    path = source.path / "rollouts" / f"{candidate.key[:32]}.jsonl"
    try:
        known = {r.key: r for r in (Rollout(**record) for record in RecordLog(path).read())}
    except ValidationError:
        raise RunFolderError(f"{path} holds a record that is no answer; restore the file from a copy") from None
    judge, seed, found = judge_of(capability), source.report.seed, []
    for example in capability.splits["test"]:
        row = known.get(rollout_key(candidate, judge, "test", example, 0, sample_seed(seed, example, 0)))
        if row is not None and not row.unjudged:
            found.append((example.id, example.fingerprint(), row.value))
    if not found:
        return None
    return Scores(ids=tuple(f[0] for f in found), prints=tuple(f[1] for f in found), values=tuple(f[2] for f in found))
