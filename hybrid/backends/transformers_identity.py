"""What a loaded model *is*: fingerprints over weights, configuration and tokenizer.

Does not: load anything, or know where the model came from: equal content gives an equal fingerprint from any folder,
on any device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch

from hybrid.store.atomic import canonical_json

_LOCAL_KEYS = frozenset({"transformers_version", "dtype", "torch_dtype", "use_cache", "quantization_config"})
"""Configuration keys that say how or where a model was stored, not what it computes (the tensors carry their dtype)."""


def model_fingerprint(model: Any, tokenizer: Any) -> str:
    """sha256 (hex) over parameter names, shapes, dtypes and bytes, the configuration, and the tokenizer.

    The end-of-answer token is part of it: another one gives other completions. Take it before an adapter is attached;
    for a check that the base is unchanged under adapters, see `weights_checksum`.
    """
    digest = hashlib.sha256()
    digest.update(weights_checksum(model).encode())
    digest.update(canonical_json(_configuration(model)).encode())
    digest.update(_tokenizer_checksum(tokenizer).encode())
    return digest.hexdigest()


def weights_checksum(model: Any) -> str:
    """sha256 (hex) over the base's tensors: sorted names, shapes, dtypes, bytes. Those of adapters are left out.

    The value is the same before and after PEFT wraps the base, as long as no base tensor changed. Tensors that share
    memory (tied embeddings) are hashed once.
    """
    digest = hashlib.sha256()
    seen: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, tensor in sorted(_base_tensors(model)):
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and place in seen:
            digest.update(f"{name} = {seen[place]}\n".encode())
            continue
        seen[place] = name
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu()
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()


def _base_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """State of the base under its own names, whether or not PEFT has wrapped its layers."""
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if any(part.startswith(("lora_", "svf_")) for part in parts):
            continue
        yield ".".join(part for part in parts if part != "base_layer"), tensor


def _configuration(model: Any) -> dict[str, Any]:
    """The configuration without paths, versions and storage details, and the ids that end an answer."""
    config = json.loads(json.dumps(model.config.to_diff_dict(), default=str, sort_keys=True))
    ends = model.generation_config.eos_token_id
    ids = sorted(ends) if isinstance(ends, list) else [ends]
    return {"config": _without_local(config), "end": ids}


def _without_local(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_local(v) for k, v in value.items() if k not in _LOCAL_KEYS and not k.startswith("_")}
    return [_without_local(v) for v in value] if isinstance(value, list) else value


def _tokenizer_checksum(tokenizer: Any) -> str:
    """sha256 (hex) over vocabulary, merges, normalisation and special tokens, and the chat template."""
    digest = hashlib.sha256()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Padding and truncation are settings of the last call, not of the tokenizer.
        state = json.loads(backend.to_str())
        state.pop("padding", None)
        state.pop("truncation", None)
        digest.update(json.dumps(state, sort_keys=True).encode())
    else:
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    special = {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token}
    template = getattr(tokenizer, "chat_template", None)
    digest.update(json.dumps({"special": special, "template": template}, sort_keys=True).encode())
    return digest.hexdigest()
