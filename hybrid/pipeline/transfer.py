"""`hybrid transfer`: what the documents of a finished run are worth on another model.

For every document: the other model's own baseline, the document, and an irrelevant text of the same length, on the
sealed `test` split and on `variant`, paired by example; then the gain as a share of what the document gave the run's
own model. Everything lies in `DIR/transfers/<first 12 digits of the model's fingerprint>/`, where the same command goes
on and pays nothing twice; nothing else in the run folder is written.

Does not: change a document, a placement or the run, or measure adapters (an adapter belongs to its base).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hybrid import __version__
from hybrid.backends import rendering
from hybrid.backends.base import Backend
from hybrid.backends.build import build_backend
from hybrid.backends.transformers_files import Translating
from hybrid.capability.types import Capability, Split
from hybrid.config.loader import resolved_json
from hybrid.config.schema import ModelConfig, OpenAIBackendConfig, ScriptedBackendConfig
from hybrid.errors import BackendError, EndpointError, RunFolderError, UsageError
from hybrid.evidence.compose import compose
from hybrid.evidence.rollouts import judge_of, rollout_key, sample_seed
from hybrid.evidence.types import Candidate, Measurement, Rollout
from hybrid.pipeline.session import OnEvent, Session, open_session
from hybrid.pipeline.training import cache_folder
from hybrid.pipeline.transfer_source import (
    Document,
    Source,
    choose_model,
    find_documents,
    load_capabilities,
    read_source,
    refuse_link,
)
from hybrid.probe.profile import irrelevant_text
from hybrid.report import transfer_text as t
from hybrid.report.parts import LedgerTotals, ModelFacts
from hybrid.skill.leakguard import leaks
from hybrid.store.atomic import write_text
from hybrid.store.faults import faultpoint
from hybrid.store.folder import RunFolder
from hybrid.store.records import RecordLog

UNREADABLE = 0.1
"""Largest share of a document's visible characters that a tokenizer may not know."""
SPLITS: tuple[Split, ...] = ("test", "variant")
WHAT = {"run": "the run", "model": "dtype or device", "reading": "chat or separator", "code": "the version of hybrid"}


@dataclass
class _Case:
    """One document on its way into the report. `unfit`: why this model cannot be asked; `failed`: why it stopped."""

    document: Document
    capability: Capability
    control: str = ""
    made_of: str = ""
    tokens: int | None = None
    control_tokens: int | None = None
    unfit: str = ""
    unreadable: bool = False
    failed: str = ""
    measured: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    """By split, then by text (base, document, control)."""

    @property
    def texts(self) -> dict[str, str]:
        """The texts to measure, by name."""
        texts = {"base": "", "document": self.document.body, "control": self.control}
        return {name: text for name, text in texts.items() if name != "control" or text.strip()}

    def values(self, split: str) -> t.Scores:
        """Scores by example of the three texts."""
        row = self.measured[split]
        return row["base"].values, row["document"].values, row["control"].values if "control" in row else None


def transfer(
    run_dir: Path,
    backend: Backend,
    model: ModelConfig | None = None,
    *,
    everything: bool = False,
    overrides: Sequence[str] = (),
    on_event: OnEvent = lambda kind, data: None,
) -> tuple[t.TransferReport, Path]:
    """Measure the documents of the run in `run_dir` on `backend`; the report, and the folder that holds it.

    `model` says how that model reads prompts (separator, chat); default: as the run's model does. `everything` takes
    the documents too that were optimised and did not ship. A finished transfer is read, not measured again.

    Raises UsageError (no run, or no document in it), RunFolderError (no report yet; the data or a document changed;
    other settings before), DataError, BackendError when the model can read none of the documents, and BudgetExhausted:
    the run's `budget` applies to every transfer on its own.
    """
    source = read_source(run_dir, overrides)
    return _transfer(source, backend, model or source.loaded.config.model, everything, on_event)


def transfer_to(
    run_dir: Path,
    path: str,
    settings: Mapping[str, Any],
    *,
    everything: bool,
    overrides: Sequence[str],
    on_event: OnEvent,
) -> tuple[t.TransferReport, Path]:
    """`transfer` to the model at `path`, see `choose_model`; what is wrong with the run is said before it is loaded."""
    source = read_source(run_dir, overrides)
    _wanted(source, everything, frozenset())
    model, backend = choose_model(source, path, settings), source.loaded.config.backend
    if isinstance(backend, ScriptedBackendConfig):  # the models of a scripted run are scripts
        backend = backend.model_copy(update={"script": model.path})
    if isinstance(backend, OpenAIBackendConfig):  # another name at the same endpoint
        backend = backend.model_copy(update={"served_model": None})
    try:
        built = build_backend(model, backend, Path, cache_folder(source.path))
    except BackendError as error:
        if "end_of_answer" in str(error) and settings.get("end_of_answer") is None:
            raise BackendError(f"{error}; give --end-of-answer, empty for the model's own") from error
        raise
    return _transfer(source, built, model, everything, on_event)


def _wanted(source: Source, everything: bool, earlier: frozenset[str]) -> tuple[list[Document], list[Document]]:
    """(documents to measure, all documents). `earlier` were measured on this model before and stay in its report."""
    every = find_documents(source)
    wanted = [d for d in every if d.shipped or everything or d.name in earlier]
    if not wanted:
        more = f"; --all also measures the {len(every)} that were optimised and did not ship" if every else ""
        raise UsageError(f"{source.path}: no capability of this run has an accepted document{more}")
    return wanted, every


def _transfer(
    source: Source, backend: Backend, model: ModelConfig, everything: bool, on_event: OnEvent
) -> tuple[t.TransferReport, Path]:
    info = backend.info()
    path = source.path / "transfers" / info.fingerprint[:12]
    refuse_link(path.parent)
    opened = [e["data"] for e in RecordLog(path / "events.jsonl").read() if e["kind"] == "split.opened"]
    wanted, every = _wanted(source, everything, frozenset(str(d["capability"]) for d in opened))
    capabilities = load_capabilities(source, wanted)
    loaded = replace(source.loaded, config=source.loaded.config.model_copy(update={"model": model}))
    fields = {
        "run": source.identity,
        "model": {"fingerprint": info.fingerprint, "dtype": info.dtype, "device": info.device},
        "reading": {"chat": model.chat, "separator": model.skill_separator},
        "code": __version__,
    }
    with RunFolder(path) as folder:
        _refuse_other(path / "run.json", fields)
        resumed = folder.claim(fields, resolved_json(loaded.config, loaded.root))
        done = _finished(path, wanted)
        if done is None:
            session = open_session(loaded, folder, capabilities, backend, on_event)
            folder.events.append("attempt.started", device=info.device)
            head = {"name": f"transfer of {source.report.run_id}", "device": info.device, "model": info.path}
            reused = session.ledger.total().calls
            on_event("run.started", {**head, "out": str(path), "resumed": resumed, "reused_calls": reused})
            done = _measure_all(source, session, wanted, every)
            write_text(path / "transfer.json", done.to_json())
        drawn, text = path / "transfer.md", t.to_markdown(done)
        if not drawn.is_file() or drawn.read_bytes() != text.encode():
            write_text(drawn, text)
    return done, path


def _refuse_other(file: Path, fields: Mapping[str, Any]) -> None:
    """The folder belongs to one run, model and way of reading: the test split is opened once for it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["fields"] if file.exists() else fields
        differing = [WHAT[key] for key in fields if found.get(key) != fields[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{file} cannot be read ({error}); restore it, or delete its folder") from None
    if differing:
        raise RunFolderError(
            f"{file.parent} was measured with another state of: {', '.join(differing)}; test is opened once per run and "
            "model: repeat it as it was, or delete that folder to measure again"
        )


def _finished(path: Path, wanted: Sequence[Document]) -> t.TransferReport | None:
    """The finished report over these documents (and what was measured before); None when something is still owed."""
    if not (path / "transfer.json").is_file():
        return None
    report = t.load_transfer(path / "transfer.json")
    known = {e.name: e for e in report.capabilities}
    for document in wanted:
        if document.name in known and known[document.name].document.sha256 != document.sha256:
            raise _changed(document, path)
    whole = {d.name for d in wanted} <= set(known) and all(e.status != "failed" for e in known.values())
    return report if whole else None


def _changed(document: Document, path: Path) -> RunFolderError:
    return RunFolderError(
        f"{document.path}, or a document that its control is made of, changed since it was measured on this model; "
        f"restore it, or delete {path} to measure again"
    )


def _measure_all(
    source: Source, session: Session, wanted: Sequence[Document], every: Sequence[Document]
) -> t.TransferReport:
    """Every document in turn. One that this model cannot read, or stops at, does not stop the others."""
    info = session.backend.info()
    if info.device == "cpu" and session.loaded.config.model.device == "auto":
        session.warn("device: auto found no CUDA device and ran on the CPU")
    if source.fields.get("code") != __version__:
        session.warn(f"the run was measured by hybrid {source.fields.get('code')}, the transfer by {__version__}")
    cases = [_Case(d, c) for d, c in zip(wanted, session.capabilities, strict=True)]
    for case in cases:
        _prepare(session, case, every)
    if all(case.unreadable for case in cases):
        raise BackendError(f"{info.path}: its tokenizer can read none of the documents; {cases[0].unfit}")
    for case in cases:
        with session.stage(case.document.name, "transfer") as note:
            if not case.unfit:
                _measure(session, case)
            stopped = case.unfit or case.failed
            scores = {name: m.mean for name, m in case.measured.get("test", {}).items()}
            told = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
            note["summary"] = f"not measurable: {stopped}" if stopped else told
        faultpoint("stage.transfer")
    return _report(source, session, cases)


def _prepare(session: Session, case: _Case, every: Sequence[Document]) -> None:
    """The control text, and whether this model can be asked at all; nothing is paid."""
    document, splits, backend = case.document, case.capability.splits, session.backend
    leaked = leaks(document.body, splits["train"], [*splits["search"], *splits["confirm"], *splits["test"]])
    if leaked:
        case.unfit = f"line {leaked[0].line} of the document holds {leaked[0].why}: no honest score is possible"
        return
    try:
        with Translating("the model's tokenizer cannot read the document"):
            case.tokens, unknown = backend.count_tokens(document.body), unknown_share(backend, document.body)
    except BackendError as error:
        case.unfit, case.unreadable = str(error), True
        return
    if not case.tokens or unknown > UNREADABLE:
        share = f"{unknown:.0%} of" if case.tokens else "any of"
        case.unfit, case.unreadable = f"the model's tokenizer does not know {share} the document's characters", True
        return
    if unknown:
        session.warn(f"{document.name}: the tokenizer does not know {unknown:.1%} of the document's characters")
    place = [d.name for d in every].index(document.name)
    others = [(d.name, d.body) for d in (*every[place + 1 :], *every[:place])]
    seed = session.loaded.config.seed
    case.control, case.made_of = control_text(document.body, others, backend.count_tokens, seed)
    case.control_tokens = backend.count_tokens(case.control) if case.control else None
    case.unfit = _misfit(session, case)


def unknown_share(backend: Backend, text: str) -> float:
    """Share of the visible characters of `text` that the model's tokenizer drops or reads as its unknown token.

    0 for backends that do not show their tokenizer.
    """
    tokenizer: Any = getattr(getattr(backend, "loaded", None), "tokenizer", None)
    visible = {i for i, char in enumerate(text) if not char.isspace()}
    if not visible or not getattr(tokenizer, "is_fast", False):
        return 0.0
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    known = {i for token, (a, b) in pairs if token != tokenizer.unk_token_id for i in range(a, b)}
    return len(visible - known) / len(visible)


def control_text(
    own: str, others: Sequence[tuple[str, str]], count: Callable[[str], int], seed: int
) -> tuple[str, str]:
    """An irrelevant text as long as `own` (in tokens, by `count`), and what it is made of.

    The first of `others` (name, text) that is another text, cut or repeated to that length; with none, the own words in
    random order; ("", "") where not even that is another text.
    """
    for name, text in others:
        words = re.findall(r"\S+\s*", text.rstrip("\n") + "\n") * (count(own) // max(1, count(text)) + 2)
        low, high = 0, len(words)
        while low < high:  # the most words that fit
            middle = (low + high + 1) // 2
            low, high = (middle, high) if count("".join(words[:middle])) <= count(own) else (low, middle - 1)
        if low and [w.strip() for w in words[:low]] != own.split():
            return "".join(words[:low]), f"the document of {name}, cut or repeated to the same length"
    shuffled = irrelevant_text(own, [], seed, letters=False)
    return shuffled, "the document's own words in random order" if shuffled else ""


def _misfit(session: Session, case: _Case) -> str:
    """Why this model cannot be asked ("" when it can): a template that refuses the prompts, or too little room.

    Looks where the backend shows its model; others say so when they are asked.
    """
    loaded: Any = getattr(session.backend, "loaded", None)
    if loaded is None:
        return ""
    room = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    answer = session.sampling(case.capability).max_new_tokens
    examples = [e for split in SPLITS for e in case.capability.splits.get(split, ())]
    for name, text in case.texts.items():
        what = "a prompt alone" if name == "base" else f"a prompt with the {name}"
        prompts = [compose(e.prompt, text, session.meter.separator) for e in examples]
        try:
            rendered = [rendering.render(loaded.tokenizer, prompt, loaded.chat) for prompt in prompts]
            with Translating(f"the model's tokenizer cannot read {what}"):
                longest = max(len(ids) for ids in rendering.encode(loaded.tokenizer, rendered, loaded.chat))
        except BackendError as error:
            return str(error)
        if room is not None and longest + answer > room:
            return f"{what} has up to {longest} tokens, its answer {answer}: too long for the model's {room} positions"
    return ""


def _measure(session: Session, case: _Case) -> None:
    """Open `test` for this model and measure; a model that stops is noted, and tried again by the same command."""
    capability, texts = case.capability, case.texts
    candidates = [session.candidate(capability, text) for text in texts.values()]
    before = session.folder.events.last("split.opened", capability=capability.name, split="test")
    if before is not None and before["data"]["candidates"] != sorted({c.key for c in candidates}):
        raise _changed(case.document, session.folder.path)
    session.meter.open_sealed(capability, "test", candidates)
    for split in SPLITS:
        examples = capability.splits.get(split, ())
        try:
            rows = session.meter.measure_many(candidates, capability, split, examples, stage="transfer")
        except EndpointError:  # out of reach for every document: the command stops, and goes on later
            raise
        except BackendError as error:
            case.failed = str(error)
            return
        if examples:
            case.measured[split] = dict(zip(texts, rows, strict=True))


def _stored(source: Source, case: _Case, text: str, split: Split) -> list[Rollout] | None:
    """The run's own answers with `text` on a split, in the order of its examples; None unless all are there.

    The log is read as it lies: nothing in the run's folder is repaired from here.
    """
    capability, seed = case.capability, source.report.seed
    sampling = case.measured[split]["base"].candidate.sampling
    candidate = Candidate(source.report.model.fingerprint, text, None, sampling)
    path = source.path / "rollouts" / f"{candidate.key[:32]}.jsonl"
    try:
        known = {r.key: r for r in (Rollout(**record) for record in RecordLog(path).read())}
    except ValidationError:
        raise RunFolderError(f"{path} holds a record that is no answer; restore the file from a copy") from None
    judge, examples = judge_of(capability), capability.splits[split]
    keys = [rollout_key(candidate, judge, split, e, 0, sample_seed(seed, e, 0)) for e in examples]
    return [known[key] for key in keys] if all(key in known for key in keys) else None


def _split(source: Source, session: Session, case: _Case, split: Split) -> t.SplitTransfer:
    """One split, beside what the same document gave the run's own model."""
    stored = [_stored(source, case, text, split) for text in ("", case.document.body)]
    seed = session.loaded.config.seed
    if stored[0] is not None and stored[1] is not None:
        there = [r.value for r in stored[0]], [r.value for r in stored[1]]
        return t.split_of(case.values(split), there, seed)
    gained, why = _reported(source, case.document, split)
    bare = t.split_of(case.values(split), None, seed)
    return bare.model_copy(update={"source": gained, "ratio_note": f"no transfer ratio on {split}: {why}"})


def _reported(source: Source, document: Document, split: Split) -> tuple[t.SourceGain | None, str]:
    """What the run's report says of a document whose answers are not all stored, and why there is no ratio."""
    told = next(c for c in source.report.capabilities if c.name == document.name)
    if told.skill_text is None or told.skill_text.strip() != document.body.strip():
        return None, "this is not the document that the run measured"
    base, skill = (getattr(arm, split) if arm else None for arm in (told.arms.base, told.arms.skill))
    if base is None or skill is None:
        return None, "the run did not measure this document"
    delta = told.delta if told.placement == "skill" and split == "test" else None
    gained = t.SourceGain(base=base, document=skill, delta=delta, origin="placement.json")
    return gained, "the run's answers are not all there to pair with"


def _report(source: Source, session: Session, cases: Sequence[_Case]) -> t.TransferReport:
    config, events, info = session.loaded.config, session.folder.events, session.backend.info()
    # The time until these answers were there: an attempt that only finds them keeps the report's bytes.
    calls = session.ledger.total().calls
    measured = events.last("run.measured", calls=calls)
    measured = measured or events.append("run.measured", calls=calls, wall_seconds=round(events.wall_seconds(), 3))
    policy, started = config.gate.ship, events.all("attempt.started")[0]
    same = info.fingerprint == source.report.model.fingerprint
    whole = {c.document.name: c.values("test") for c in cases if not c.unfit and not c.failed}
    tests = t.claims(whole, policy.multiplicity)
    notes = ["A/A check: the other model is the run's own, so the same gains are expected"] if same else []
    return t.TransferReport(
        run_id=source.report.run_id,
        run_identity=source.identity,
        created=datetime.fromtimestamp(started["t"], UTC).isoformat(timespec="seconds"),
        seed=config.seed,
        source=source.report.model,
        model=ModelFacts(**vars(info)),
        same_model=same,
        settings=t.TransferSettings(
            chat=config.model.chat,
            separator=config.model.skill_separator,
            end_of_answer=config.model.end_of_answer,
            **policy.model_dump(include={"alpha", "minimum_effect", "multiplicity"}),
        ),
        ledger=_ledger(session, None, float(measured["data"]["wall_seconds"])),
        capabilities=tuple(_entry(source, session, case, tests.get(case.document.name)) for case in cases),
        notes=tuple(notes),
        warnings=session.told(),
    )


def _entry(source: Source, session: Session, case: _Case, claim: t.Claim | None) -> t.TransferEntry:
    document, policy = case.document, session.loaded.config.gate.ship
    splits = {} if claim is None else {s: _split(source, session, case, s) for s in SPLITS if s in case.measured}
    decided: tuple[t.TransferVerdict, str] = ("not measurable", case.unfit or f"the model stopped: {case.failed}")
    if claim is not None:
        decided = t.decide(splits["test"], claim, policy.alpha, policy.minimum_effect)
    return t.TransferEntry(
        name=document.name,
        status="unfit" if case.unfit else "failed" if case.failed else "measured",
        verdict=decided[0],
        reason=decided[1],
        document=t.DocumentFacts(
            path=document.path,
            sha256=document.sha256,
            shipped=document.shipped,
            placement=next(c.placement for c in source.report.capabilities if c.name == document.name),
            tokens=case.tokens,
            control=case.made_of,
            control_tokens=case.control_tokens,
        ),
        test=splits.get("test"),
        variant=splits.get("variant"),
        claim=claim,
        ledger=_ledger(session, document.name, None),
    )


def _ledger(session: Session, name: str | None, wall_seconds: float | None) -> LedgerTotals:
    cost = session.ledger.total(name)
    spent = {"calls": cost.calls, "tokens_in": cost.tokens_in, "tokens_out": cost.tokens_out}
    return LedgerTotals(**spent, train_seconds=0.0, wall_seconds=wall_seconds)
