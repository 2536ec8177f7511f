"""What the adapter of a job looks like: PEFT's configuration of it, LoRA or SVF."""

from __future__ import annotations

from peft import LoraConfig, PeftConfig

from hybrid.backends.svf.basis import bases_of
from hybrid.backends.svf.tuner import SvfSettings
from hybrid.errors import ConfigError, Problem
from hybrid.weights.driver import Session
from hybrid.weights.remarks import keep_remarks


def adapter_config(session: Session) -> PeftConfig:
    """The adapter's shape. Raises ConfigError when a named module is not in the model. Never the output layer."""
    weights, svf = session.job.weights, session.job.weights.svf
    if session.job.method != "svf":
        shape = weights.lora
        return LoraConfig(
            r=shape.rank,
            lora_alpha=shape.alpha,
            use_rslora=shape.rslora,
            lora_dropout=0.0,
            bias="none",
            target_modules=_targets(session, "lora", shape.target_modules),
            task_type="CAUSAL_LM",
        )
    return SvfSettings(
        keep=svf.directions.keep,
        count=svf.directions.count,
        target_modules=_targets(session, "svf", svf.target_modules),
        task_type="CAUSAL_LM",
    )


def _targets(session: Session, section: str, targets: str | tuple[str, ...]) -> str | list[str]:
    if isinstance(targets, str):
        return targets
    names = [name for name, _ in session.loaded.model.named_modules()]
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if unknown:
        message = f"the model has no module called {unknown[0]!r}"
        raise ConfigError([Problem("config", 0, f"weights.{section}.target_modules", message, "use all-linear")])
    return list(targets)


def keep_basis_warnings(session: Session, rank: int) -> None:
    """Put on record, for the report, which kept singular directions were damaged and computed again."""
    warnings = bases_of(session.loaded.model).warnings
    if warnings and rank == 0:
        keep_remarks(session.job.out, warnings)
