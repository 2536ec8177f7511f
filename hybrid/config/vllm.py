"""The section `backend` of type `vllm`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hybrid.config.section import Section


class VllmBackendConfig(Section):
    """Answers from vLLM, for measuring; training generates with the model that it trains. Not in the tested set of packages:
    vLLM pins torch and caps transformers, see docs/memory.md."""

    type: Literal["vllm"]
    mode: Literal["colocate", "server"] = "colocate"
    """`colocate`: an engine in this process. `server`: a running `vllm serve` at `url`, on the same files."""
    batch_size: int = Field(default=256, ge=1)
    """Rows handed over together."""
    gpu_memory_utilization: float = Field(default=0.4, gt=0, le=1)
    """`colocate`: share of the GPU that the engine takes. Trainings need the rest."""
    max_model_len: int | None = Field(default=None, ge=16)
    """`colocate`: longest prompt plus answer in tokens; default: the model's own."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """`colocate`: GPUs that share the model."""
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 64
    """`colocate`: the largest rank of an adapter."""
    url: str | None = Field(default=None, pattern=r"^https?://[^\s?#]+$")
    """`server`: the address up to and with `/v1`."""
    served_model: str | None = None
    """`server`: the name under which it serves the base; default: `model.path`."""
    timeout_s: float = Field(default=300.0, gt=0)
    """`server`: seconds for one request."""

    @model_validator(mode="after")
    def _addressed(self) -> VllmBackendConfig:
        if (self.mode == "server") != (self.url is not None):
            raise ValueError("url belongs to mode server, which needs it")
        return self
