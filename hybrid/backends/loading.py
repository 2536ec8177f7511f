"""Load the base model: checked folder, safetensors only, no remote code, one end-of-answer token, frozen.

    loaded = load_base(config.model, resolve, cache_dir)
    loaded.info.fingerprint                              # equal for equal weights, wherever they lie

Does not: generate (see `transformers_backend`), attach adapters, or train.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from hybrid.backends import quantization
from hybrid.backends.base import ModelInfo
from hybrid.backends.device import choose_device, set_threads
from hybrid.backends.svf.basis import Bases, attach
from hybrid.backends.transformers_files import Translating, check_folder, dequantised, find_model
from hybrid.backends.transformers_identity import model_fingerprint, weights_checksum
from hybrid.config.schema import ModelConfig
from hybrid.errors import BackendError

# PEFT imports bitsandbytes wherever it is installed: a note on a missing optional kernel on every start, and one line per layer
# and call on the rounding of inputs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = ["LoadedModel", "fold_lm_head", "load_base", "model_fingerprint", "model_folder", "weights_checksum"]


@dataclass(frozen=True)
class LoadedModel:
    """The base in memory, frozen and in evaluation mode.

    `stop_ids` end an answer; they are also the model's `generation_config.eos_token_id`, and the first one is the
    tokenizer's `eos_token_id`, which trainers use. `device_reason` says why this device computes.
    """

    model: Any
    tokenizer: Any
    info: ModelInfo
    chat: bool
    stop_ids: tuple[int, ...]
    device_reason: str


def load_base(config: ModelConfig, resolve: Callable[[str], Path], cache_dir: Path) -> LoadedModel:
    """Load `config.path` on the configured device at the configured precision.

    `resolve` turns a path of the configuration into a path on disk; `cache_dir` keeps dequantised models, and the
    singular directions of its weights once an adapter needs them (`svf.basis`). Sets
    torch's CPU threads for the process. Raises BackendError, with the place and the reason, for everything that keeps
    the model from being used: missing or pickled files, weights that do not fill the model, an unknown architecture, an
    end-of-answer text that is no single token, a device that does not work.
    """
    device = choose_device(config.device)
    set_threads(config.threads)
    folder = model_folder(config, resolve, cache_dir)
    with _quiet():
        tokenizer = _load_tokenizer(folder)
        model = _load_model(folder, config.dtype, quantization.load_options(config, device.device))
    stop_ids = _set_end(model, tokenizer, config.end_of_answer)
    _refuse_appended_end(tokenizer)
    model.eval().requires_grad_(False)
    quantization.settle(model, config.quantization)
    fingerprint = quantization.fingerprint(model_fingerprint(model, tokenizer), config.quantization)
    if config.quantization is None:  # a quantised one was packed where it computes
        with Translating(f"the model does not fit on {device.device}"):
            model.to(device.device)
    fold_lm_head(model)
    attach(model, Bases(cache_dir / "svf", fingerprint))
    info = ModelInfo(
        path=config.path,
        fingerprint=fingerprint,
        parameters=quantization.parameters(model),
        dtype=config.dtype,
        device=device.device,
    )
    return LoadedModel(model, tokenizer, info, config.chat, stop_ids, device.reason)


def model_folder(config: ModelConfig, resolve: Callable[[str], Path], cache_dir: Path) -> Path:
    """The checked folder that holds the model in safetensors; a GGUF is dequantised first. Raises BackendError."""
    folder = find_model(config, resolve)
    check_folder(folder, config.gguf_file)
    if config.gguf_file is None:
        return folder
    with _quiet():
        return dequantised(folder, config.gguf_file, config.dtype, cache_dir)


def fold_lm_head(model: Any) -> None:
    """Make the output layer see two-dimensional input, whatever the caller passes; results keep their shape.

    `generate` hands the last hidden state over as a non-contiguous (rows, 1, width) slice. With a weight that needs no
    gradient, torch then copies the whole weight once per row instead of doing one matrix product, which makes a frozen
    model with a large vocabulary some twenty times slower on a CPU. Calling this again does nothing.
    """
    head = model.get_output_embeddings()
    if head is None or any(isinstance(getattr(hook, "__self__", None), _Fold) for hook in head._forward_hooks.values()):
        return
    fold = _Fold()
    head.register_forward_pre_hook(fold.before)
    head.register_forward_hook(fold.after)


class _Fold:
    """The pair of hooks of `fold_lm_head`; `shape` is the leading shape of the call in progress, None: left alone."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None

    def before(self, _module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self.shape = tuple(arguments[0].shape[:-1]) if arguments and arguments[0].dim() > 2 else None
        if self.shape is None:
            return None
        return (arguments[0].reshape(-1, arguments[0].shape[-1]), *arguments[1:])

    def after(self, _module: Any, _arguments: tuple[Any, ...], output: Any) -> Any:
        return output if self.shape is None else output.reshape(*self.shape, output.shape[-1])


def _load_tokenizer(folder: Path) -> Any:
    with Translating(f"the tokenizer in {folder} cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.padding_side = "left"
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def _load_model(folder: Path, dtype: str, options: Mapping[str, Any]) -> Any:
    """The model, every weight from the file: transformers fills missing ones with random numbers and only warns.

    `options` are those of quantisation.
    """
    with Translating(f"the model in {folder} cannot be loaded"):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
            ignore_mismatched_sizes=True,  # they are named and refused below, instead of in a logged table
        )
    absent = sorted(report["missing_keys"])
    if absent:
        raise BackendError(
            f"{folder}: {len(absent)} weights are missing from the file, first {absent[0]}; download it again"
        )
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"])
    if wrong:
        raise BackendError(f"{folder}: {wrong[0]} has another shape than config.json says; download the model again")
    return model


def _set_end(model: Any, tokenizer: Any, end_of_answer: str | None) -> tuple[int, ...]:
    """Make tokenizer and generation agree on what ends an answer; returns those ids, the tokenizer's first.

    The model's own generation_config is replaced: a repetition penalty or a suppressed token that came with the model
    would change greedy answers although no setting of hybrid says so.
    """
    own = model.generation_config.eos_token_id
    own_ids = list(own) if isinstance(own, list | tuple) else [own] if own is not None else []
    if end_of_answer is not None:
        stop_ids = [end_token_id(tokenizer, end_of_answer)]
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_ids[0])
        if tokenizer.eos_token_id != stop_ids[0]:
            raise BackendError(f"model.end_of_answer {end_of_answer!r} cannot be made the tokenizer's end token")
    else:
        if tokenizer.eos_token_id is None and own_ids:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(own_ids[0])
        stop_ids = list(dict.fromkeys([i for i in (tokenizer.eos_token_id, *own_ids) if i is not None]))
        if not stop_ids:
            raise BackendError("the model names no token that ends an answer; set model.end_of_answer")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config = GenerationConfig(
        bos_token_id=model.generation_config.bos_token_id,
        eos_token_id=stop_ids if len(stop_ids) > 1 else stop_ids[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    return tuple(stop_ids)


def end_token_id(tokenizer: Any, text: str) -> int:
    """The id of the single token `text`. Raises BackendError when `text` is no single token of the vocabulary.

    The text is tried as it is; where that gives several tokens (tokenizers that put a space in front of every text),
    the vocabulary entry with exactly this spelling counts.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return int(ids[0])
    exact = tokenizer.get_vocab().get(text)
    if exact is not None:
        return int(exact)
    found = f"it is read as {len(ids)} tokens" if len(ids) != 1 else "it is not in the vocabulary"
    raise BackendError(f"model.end_of_answer {text!r} must be one token of the model: {found}; choose another text")


def _refuse_appended_end(tokenizer: Any) -> None:
    """A tokenizer that ends every prompt with the end token would ask for an answer after the end."""
    with_special, without = (tokenizer("a", add_special_tokens=flag)["input_ids"] for flag in (True, False))
    end = tokenizer.eos_token_id
    if with_special and with_special[-1] == end and without[-1:] != [end]:
        raise BackendError(
            "the tokenizer appends its end token to every prompt; set add_eos_token: false in its config"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' notes and progress bars off the terminal while loading; what matters is checked and raised."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
