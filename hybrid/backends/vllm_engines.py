"""The two ways to vLLM: an engine in this process, or a `vllm serve` that is asked over HTTP.

Both take token ids and give token ids with their log-probabilities; adapters go over as folders and stay beside the base.
Nothing of vLLM is imported before an engine is made. Does not: tokenise, render text or check adapters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import SecretStr

from hybrid.backends.base import Adapter, Sampling
from hybrid.backends.endpoint_http import Failed, Refused, post
from hybrid.config.schema import ModelConfig, VllmBackendConfig
from hybrid.errors import AdapterError, BackendError


@dataclass(frozen=True)
class Answer:
    """New token ids, the log-probability in nats of each, and why generation ended."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


class Engine(Protocol):
    """Answers rows of token ids.

    One answer per row, in order. Sampled rows use their own seed. With an adapter, answers are those of base plus adapter;
    raises AdapterError where vLLM does not take it, BackendError where vLLM cannot be used.
    """

    def answer(
        self, rows: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, adapter: Adapter | None
    ) -> list[Answer]:
        """Answers to `rows`."""
        ...


class Colocated:
    """`vllm.LLM` in this process. `folder` holds the model in safetensors."""

    def __init__(self, model: ModelConfig, config: VllmBackendConfig, folder: Path, stop_ids: Sequence[int]) -> None:
        self._vllm, self._lora = import_vllm()
        self._stop_ids = list(stop_ids)
        self._numbers: dict[str, int] = {}  # sha256 -> vLLM's number of the adapter, from 1 on
        try:
            self._engine = self._vllm.LLM(
                model=str(folder),
                dtype=model.dtype,
                tensor_parallel_size=config.tensor_parallel_size,
                gpu_memory_utilization=config.gpu_memory_utilization,
                max_model_len=config.max_model_len,
                enable_lora=True,
                max_lora_rank=config.max_lora_rank,
                max_loras=1,
                enable_prefix_caching=True,
                trust_remote_code=False,
                generation_config="vllm",  # the model's own sampling defaults would change answers in silence
                logprobs_mode="raw_logprobs",
                seed=0,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise BackendError(f"vLLM cannot load {folder}: {_first_line(error)}") from error

    def answer(
        self, rows: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, adapter: Adapter | None
    ) -> list[Answer]:
        """See `Engine`."""
        params = [
            self._vllm.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed % 2**63 if sampling.temperature > 0 else None,
                max_tokens=sampling.max_new_tokens,
                stop_token_ids=self._stop_ids,
                logprobs=0,
                detokenize=False,
            )
            for seed in seeds
        ]
        prompts = [{"prompt_token_ids": list(row)} for row in rows]
        try:
            outputs = self._engine.generate(prompts, params, use_tqdm=False, lora_request=self._request(adapter))
        except (RuntimeError, ValueError) as error:
            kind = BackendError if adapter is None else AdapterError
            raise kind(f"vLLM does not answer: {_first_line(error)}") from error
        return [_read_output(output.outputs[0]) for output in outputs]

    def _request(self, adapter: Adapter | None) -> Any:
        if adapter is None:
            return None
        number = self._numbers.setdefault(adapter.sha256, len(self._numbers) + 1)
        return self._lora.LoRARequest(f"a{adapter.sha256[:24]}", number, str(adapter.path))


def _read_output(output: Any) -> Answer:
    ids = tuple(int(i) for i in output.token_ids)
    logprobs = tuple(float(step[i].logprob) for i, step in zip(ids, output.logprobs or (), strict=True))
    return Answer(ids, logprobs, "length" if output.finish_reason == "length" else "stop")


class Served:
    """A `vllm serve` with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, which sees the run folder's files."""

    def __init__(self, model: ModelConfig, config: VllmBackendConfig, stop_ids: Sequence[int]) -> None:
        assert config.url is not None
        self._url, self._limit_s = config.url.rstrip("/"), config.timeout_s
        self._name, self._stop_ids = config.served_model or model.path, list(stop_ids)
        self._loaded: set[str] = set()

    def answer(
        self, rows: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, adapter: Adapter | None
    ) -> list[Answer]:
        """See `Engine`. Greedy rows go over together; sampled ones one by one, as a request has one seed."""
        name = self._name if adapter is None else self._load(adapter)
        if sampling.temperature == 0:
            return self._ask(name, rows, sampling, None)
        return [self._ask(name, [row], sampling, seed)[0] for row, seed in zip(rows, seeds, strict=True)]

    def _load(self, adapter: Adapter) -> str:
        name = f"a{adapter.sha256[:24]}"
        if name not in self._loaded:
            self._post(
                "/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter.path.resolve())}, AdapterError
            )
            self._loaded.add(name)
        return name

    def _ask(self, name: str, rows: Sequence[Sequence[int]], sampling: Sampling, seed: int | None) -> list[Answer]:
        body = {
            "model": name,
            "prompt": [list(row) for row in rows],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": None if seed is None else seed % 2**63,
            "stop_token_ids": self._stop_ids,
            "logprobs": 0,
            "return_token_ids": True,
        }
        reply = json.loads(self._post("/completions", body, BackendError))
        try:
            choices = sorted(reply["choices"], key=lambda choice: choice["index"])
            answers = [_read_choice(choice) for choice in choices]
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError(
                f"{self._url}: the reply is not that of a vLLM that returns token ids ({error}); use vLLM 0.22 or newer"
            ) from error
        if len(answers) != len(rows):
            raise BackendError(f"{self._url}: {len(rows)} prompts were sent and {len(answers)} answers came back")
        return answers

    def _post(self, path: str, body: dict[str, Any], kind: type[BackendError] | type[AdapterError]) -> bytes:
        headers = {"content-type": SecretStr("application/json"), "accept-encoding": SecretStr("identity")}
        try:
            reply = post(SecretStr(self._url + path), headers, json.dumps(body).encode(), self._limit_s)
        except (Failed, Refused) as error:
            raise BackendError(f"{self._url}{path}: {error}; is `vllm serve` running there?") from error
        if reply.status != 200:
            told = reply.body[:200].decode("utf-8", "replace")
            raise kind(f"{self._url}{path} answers {reply.status}: {told}")
        return reply.body


def _read_choice(choice: dict[str, Any]) -> Answer:
    ids = tuple(int(i) for i in choice["token_ids"])
    logprobs = tuple(float(value) for value in choice["logprobs"]["token_logprobs"])
    if len(logprobs) != len(ids):
        raise ValueError(f"{len(ids)} tokens with {len(logprobs)} log-probabilities")
    return Answer(ids, logprobs, "length" if choice["finish_reason"] == "length" else "stop")


def import_vllm() -> tuple[Any, Any]:
    """The modules `vllm` and `vllm.lora.request`. Raises BackendError when vLLM is not installed."""
    try:
        import vllm
        import vllm.lora.request as lora
    except ImportError as error:
        raise BackendError(
            f"backend.type vllm needs vLLM ({error}); it pins torch and caps transformers: install `vllm>=0.22,<=0.31` into an "
            "environment of its own with hybrid (docs/memory.md), or use backend.type transformers"
        ) from error
    return vllm, lora


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
