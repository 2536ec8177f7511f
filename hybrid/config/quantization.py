"""The section `model.quantization`: the base in 4 or 8 bits, through bitsandbytes.

It belongs to the model and not to training: the base that is measured must be the base that an adapter is trained on, and
a quantised base answers otherwise than the plain one. Does not: quantise (see `hybrid.backends.quantization`).
"""

from __future__ import annotations

from typing import Literal

from hybrid.config.section import Section


class QuantizationConfig(Section):
    """How the linear layers of the base are stored. Embeddings, norms and the output layer stay at `model.dtype`."""

    type: Literal["nf4", "int8"]
    """`nf4`: 4-bit normal float in blocks of 64 (Dettmers et al. 2023, QLoRA, 2305.14314). `int8`: every row of a weight in 8-bit
    integers of one scale; inputs are not rounded, unlike LLM.int8() (2208.07339), whose bytes these are."""
    double: bool = True
    """`nf4`: the blocks' scales are quantised too, which saves 0.37 bits per weight."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the products with the unpacked weights; default: `model.dtype`."""
