"""A base in 4 or 8 bits through bitsandbytes, with what its CPU kernels get wrong put right or refused.

    options = load_options(config, device)     # for `from_pretrained`
    settle(model, config)                      # after it, before anything is computed
    parameters(model)                          # of the plain model: 4-bit weights are stored two to a byte

Three things in bitsandbytes 0.50 make a CPU compute other numbers than the weights say, without an error. Where it has
avx512_bf16, the first forward in evaluation mode repacks 4-bit weights in place with their scales rounded to bfloat16, so
that a base answers otherwise than it trains, and its bytes change. 4-bit rows that are no multiple of the block of 64 are
unpacked with the scales of other blocks. And an 8-bit layer rounds its inputs when it answers, but not when it trains. So
these layers get a forward of our own here, one for training and answering: it unpacks the weight as what it is, and keeps
no unpacked copy for the backward pass. On CUDA 4-bit layers keep the kernels of bitsandbytes; 8-bit layers get ours there
too, since the rounding of inputs needs a threshold for outliers that depends on every row of the batch. Every distinct
shape of layer is then tried once against a plain layer, on whatever device it is.

Does not: merge adapters. Merging into a quantised base rounds the sum again: another model than the one that was judged.
"""

from __future__ import annotations

import copy
import hashlib
import math
import types
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from hybrid.config.schema import ModelConfig, QuantizationConfig
from hybrid.errors import AdapterError, BackendError
from hybrid.store.atomic import canonical_json

_TOLERANCE = {"nf4": 0.2, "int8": 0.03}
"""Greatest relative error (Frobenius) of a layer's output on normal weights and inputs; nf4 has 0.10, int8 0.01."""
_PROBE_ROWS = 4


def load_options(config: ModelConfig, device: str) -> dict[str, Any]:
    """Arguments for `from_pretrained`; none without `model.quantization`. Raises BackendError without bitsandbytes."""
    wanted = config.quantization
    if wanted is None:
        return {}
    if find_spec("bitsandbytes") is None:
        raise BackendError("model.quantization needs bitsandbytes; `pip install 'hybrid-placement[quant]'`")
    from transformers import BitsAndBytesConfig

    if wanted.type == "nf4":
        options = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=wanted.double,
            bnb_4bit_compute_dtype=getattr(torch, wanted.compute_dtype or config.dtype),
        )
    else:
        options = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": options, "device_map": {"": device}}


def settle(model: Any, wanted: QuantizationConfig | None) -> None:
    """Make a model that was loaded with `load_options` compute what its weights say. Without quantisation nothing is done.

    Raises BackendError when no layer was quantised, or when a layer of some shape is further from the plain layer than
    quantisation explains.
    """
    if wanted is None:
        return
    layers = list(_layers(model))
    if not layers:
        raise BackendError(
            "model.quantization: the model has no linear layer that bitsandbytes can quantise; leave it out"
        )
    dtype = getattr(torch, wanted.compute_dtype) if wanted.compute_dtype else model.dtype
    for layer in layers:
        _settle_layer(layer, dtype)
    for layer in {_shape(layer): layer for layer in layers}.values():
        _try(layer, wanted)


def fingerprint(plain: str, wanted: QuantizationConfig | None) -> str:
    """The fingerprint of the base, which covers the packed bytes, with what else decides how they compute."""
    if wanted is None:
        return plain
    return hashlib.sha256(f"{plain} {canonical_json(wanted.model_dump(mode='json'))}".encode()).hexdigest()


def parameters(model: Any) -> int:
    """Number of the model's parameters, those of packed weights counted as what they stand for."""
    packed = {id(layer.weight): math.prod(_shape(layer)) for layer in _layers(model)}
    return sum(packed.get(id(p), p.numel()) for p in model.parameters())


def is_quantised(model: Any) -> bool:
    """Whether any layer of the model is quantised."""
    return next(_layers(model), None) is not None


def is_packed(layer: Any) -> bool:
    """Whether `layer` is a linear layer of bitsandbytes."""
    return type(layer).__name__ in ("Linear4bit", "Linear8bitLt") and hasattr(layer, "in_features")


def plain_weight(layer: Any) -> torch.Tensor:
    """The weight (out, in) of a linear layer, packed or not, as floating numbers on its device."""
    if is_packed(layer):
        return _unpack(layer, torch.float32)
    weight: torch.Tensor = layer.weight.detach()
    return weight


def refuse_merge(peft: Any) -> None:
    """Make merging an adapter into a quantised base an AdapterError that says why; on a plain base nothing is done."""
    if not is_quantised(peft):
        return

    def refused(*_: Any, **__: Any) -> None:
        raise AdapterError(
            "the base is quantised (model.quantization): an adapter merged into it is rounded with it, which is another "
            "model than the one that was measured; keep the adapter beside the base"
        )

    for name in ("merge_adapter", "merge_and_unload"):
        setattr(peft, name, refused)


def _layers(model: Any) -> Iterator[Any]:
    """Quantised layers, in the model's order. Without bitsandbytes in the process there are none."""
    return (m for m in model.modules() if is_packed(m))


def _shape(layer: Any) -> tuple[int, int]:
    return int(layer.out_features), int(layer.in_features)


def _settle_layer(layer: Any, dtype: torch.dtype) -> None:
    if type(layer).__name__ == "Linear4bit" and layer.weight.device.type == "cuda":
        return
    layer.compute_dtype = dtype
    layer.support_avx512bf16_for_cpu = False
    layer.forward = types.MethodType(_forward, layer)


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """The layer's output (..., out) for `x` (..., in), in the dtype of `x`."""
    output: torch.Tensor = _Unpacked.apply(x.to(layer.compute_dtype), layer)
    if layer.bias is not None:
        output = output + layer.bias.to(layer.compute_dtype)
    return output.to(x.dtype)


class _Unpacked(torch.autograd.Function):  # type: ignore[misc]
    """x W' with W unpacked for the call alone: in the backward pass it is unpacked again instead of kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        return torch.nn.functional.linear(x, _unpack(layer, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        (gradient,) = gradients
        return gradient @ _unpack(ctx.layer, gradient.dtype), None


def _unpack(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """The layer's weight (out, in) at `dtype`."""
    if type(layer).__name__ == "Linear8bitLt":
        scales = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
        unpacked: torch.Tensor = layer.weight.data.to(dtype) * (scales / 127.0).to(dtype)[:, None]
        return unpacked
    from bitsandbytes import functional

    # The CPU kernel restarts its blocks at every row, so it is given one row.
    state = copy.copy(layer.weight.quant_state)
    shape, state.shape, state.dtype = tuple(state.shape), (1, math.prod(state.shape)), dtype
    flat: torch.Tensor = functional.dequantize_4bit(layer.weight.data.reshape(-1, 1), state)
    return flat.reshape(shape)


def _try(layer: Any, wanted: QuantizationConfig) -> None:
    """Compare a fresh layer of this shape with a plain one, on fixed random numbers of a stream of its own."""
    import bitsandbytes

    rows, width = _shape(layer)
    device = layer.weight.device
    stream = torch.Generator().manual_seed(0)
    plain = torch.randn(rows, width, generator=stream)
    x = torch.randn(_PROBE_ROWS, width, generator=stream)
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # a layer starts with random numbers
        if wanted.type == "nf4":
            state = layer.weight.quant_state
            fresh = bitsandbytes.nn.Linear4bit(
                width,
                rows,
                bias=False,
                compute_dtype=layer.compute_dtype,
                compress_statistics=state.nested,
                quant_type=state.quant_type,
            )
        else:
            fresh = bitsandbytes.nn.Linear8bitLt(width, rows, bias=False, has_fp16_weights=False)
        fresh.load_state_dict({"weight": plain})
        fresh = fresh.to(device).eval()
        _settle_layer(fresh, layer.compute_dtype)
        found = fresh(x.to(device)).float().cpu()
    exact = x @ plain.T
    error = float((found - exact).norm() / exact.norm())
    if not error <= _TOLERANCE[wanted.type]:
        raise BackendError(
            f"model.quantization: on {device.type} bitsandbytes computes a {wanted.type} layer of {rows} x {width} with a "
            f"relative error of {error:.2g} (up to {_TOLERANCE[wanted.type]:g} is rounding); use the other type, or leave it out"
        )
