"""The largest pass of a training, once, before its first step: what does not fit shows at once and not after an hour.

Generates from the longest rows, and computes the loss of the longest pass forwards and backwards. Gradients are dropped and
the random state is put back, so that a training with it has the same bytes as one without.
Does not: predict anything (see `preflight`), or move a weight.
"""

from __future__ import annotations

import ctypes
import gc
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from hybrid.errors import TrainingError
from hybrid.weights.shard import whole

if TYPE_CHECKING:
    from hybrid.weights.preflight import Forecast


def rehearse(trainer: Any, forecast: Forecast) -> None:
    """Raises TrainingError, on every process alike, when memory runs out."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    device = next(model.parameters()).device
    devices = [device.index or 0] if device.type == "cuda" else []
    training, failed = model.training, ""
    with torch.random.fork_rng(devices=devices):
        try:
            with whole(model):
                _generate(model, forecast, device)
            model.train()
            _learn(trainer, model, forecast, device)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            failed = str(error).splitlines()[0][:200]
    # Outside the handler: the traceback of the error would keep the tensors of the pass alive.
    for parameter in model.parameters():
        parameter.grad = None
    model.train(training)
    _give_back(device)
    if bool(trainer.accelerator.gather(torch.tensor([bool(failed)], device=trainer.accelerator.device)).any()):
        what = f"{forecast.rows} rows of {len(forecast.prompt) + forecast.answer} tokens"
        raise TrainingError(
            f"memory ran out on the largest pass ({what}; {failed or 'on another process'}); lower weights.rows_per_device below "
            f"{forecast.rows}, shorten the skill, or set model.quantization; nothing was trained"
        )


def _give_back(device: torch.device) -> None:
    """Return the memory of the pass: what graphs in cycles hold, and what the allocator keeps."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def _generate(model: Any, forecast: Forecast, device: torch.device) -> None:
    """One token after the longest rows, whose cache is as long as it ever gets."""
    if not forecast.generated:
        return
    ids = _ids(forecast, forecast.generated, device)[:, :-1]
    with torch.no_grad():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                max_new_tokens=1, do_sample=False, pad_token_id=int(ids[0, 0]), disable_compile=True
            ),
        )


def _learn(trainer: Any, model: Any, forecast: Forecast, device: torch.device) -> None:
    """Loss and gradients of the longest pass, with room taken for the moments that the optimiser makes in its first step."""
    moments = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad for _ in range(2)]
    ids = _ids(forecast, forecast.rows, device)
    with torch.enable_grad(), trainer.accelerator.autocast():
        trainer.score(ids, torch.ones_like(ids), forecast.answer).mean().backward()
    del moments


def _ids(forecast: Forecast, rows: int, device: torch.device) -> torch.Tensor:
    """The longest prompt, `rows` times, its last token in place of an answer: (rows, prompt + answer)."""
    row = [*forecast.prompt, *[forecast.prompt[-1]] * forecast.answer]
    return torch.tensor([row] * rows, device=device)
