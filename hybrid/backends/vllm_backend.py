"""The `Backend` over vLLM, held to the base and the adapters that are trained.

A copy of the base stays on the CPU. It gives the fingerprint and the token ids that training reads, and it is the yardstick:
before the base, and before every adapter, answers its first request, a few tokens that vLLM generates greedily are scored by
that copy. Where the log-probabilities differ by more than rounding, vLLM serves something else (the bare base in place of
the adapted model, a stale adapter, another model under the same name), and nothing is answered. Adapters are handed over as
folders and never merged.

Does not: train, or share vLLM's cache with training. Answers differ from those of `transformers` by rounding when greedy,
and are other draws when sampled.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from hybrid.backends import rendering
from hybrid.backends.adapters import kind_of
from hybrid.backends.base import Adapter, Completion, ModelInfo, Request, Sampling
from hybrid.backends.loading import LoadedModel
from hybrid.backends.proxy_folder import is_proxy
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.backends.vllm_engines import Answer, Engine
from hybrid.config.schema import VllmBackendConfig
from hybrid.errors import AdapterError, BackendError

_TOKENS = 4
_GAP = {"float32": 0.02, "bfloat16": 0.25, "float16": 0.1}
"""Allowed difference of log-probabilities in nats: other kernels, another order of sums."""


class VllmBackend:
    """`loaded` is the base on the CPU; `device` is where vLLM computes, for the report."""

    def __init__(self, loaded: LoadedModel, engine: Engine, config: VllmBackendConfig, device: str) -> None:
        self._loaded, self._engine, self._rows, self._device = loaded, engine, config.batch_size, device
        self._shelf = AdapterShelf(loaded)
        self._proven: set[str] = set()

    def info(self) -> ModelInfo:
        """Facts of the base model."""
        return replace(self._loaded.info, device=self._device)

    def count_tokens(self, text: str) -> int:
        """Number of the model's tokens in `text`, without special tokens."""
        return rendering.count_tokens(self._loaded.tokenizer, text)

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        """One completion per request, in the order asked. Errors: see `Backend`."""
        if not requests:
            return []
        if adapter is not None and is_proxy(adapter):
            raise AdapterError(
                f"{adapter.path}: vLLM has no place for a second model beside the first; use transformers"
            )
        tokenizer, chat = self._loaded.tokenizer, self._loaded.chat
        rows = rendering.encode(tokenizer, [rendering.render(tokenizer, r.prompt, chat) for r in requests], chat)
        self._check(rows, sampling)
        self._prove(rows[0], adapter)
        done: list[Completion] = []
        for start in range(0, len(rows), self._rows):
            batch = rows[start : start + self._rows]
            seeds = [r.seed for r in requests[start : start + self._rows]]
            began = time.perf_counter()
            answers = self._engine.answer(batch, seeds, sampling, adapter)
            seconds = (time.perf_counter() - began) / len(batch)
            done += [self._completion(row, answer, seconds) for row, answer in zip(batch, answers, strict=True)]
        return done

    def _check(self, rows: Sequence[Sequence[int]], sampling: Sampling) -> None:
        limit = getattr(self._loaded.model.config.get_text_config(), "max_position_embeddings", None)
        for place, row in enumerate(rows):
            if not row:
                raise BackendError(
                    f"request {place + 1} of {len(rows)}: the prompt holds no token; give a non-empty prompt"
                )
            if limit is not None and len(row) + sampling.max_new_tokens > limit:
                raise BackendError(
                    f"request {place + 1} of {len(rows)}: {len(row)} prompt tokens plus max_new_tokens "
                    f"{sampling.max_new_tokens} exceed the model's limit of {limit} positions; shorten the skill or the prompt"
                )

    def _prove(self, row: Sequence[int], adapter: Adapter | None) -> None:
        """Once per adapter, and once for the base: vLLM's log-probabilities are those of the copy on the CPU."""
        key = adapter.sha256 if adapter else ""
        if key in self._proven:
            return
        if adapter is not None and kind_of(adapter.path) != "LORA":
            raise AdapterError(
                f"{adapter.path}: vLLM serves LoRA adapters alone; use backend.type transformers, or convert it to a LoRA"
            )
        answer = self._engine.answer([row], [0], Sampling(max_new_tokens=_TOKENS), adapter)[0]
        if not answer.ids or len(answer.logprobs) != len(answer.ids):
            raise BackendError("vLLM gave no token or no log-probabilities, so that what it serves cannot be checked")
        with self._shelf.active(adapter), torch.inference_mode():  # checks files, base and effect of the adapter too
            ids = torch.tensor([[*row, *answer.ids]])
            logits = self._loaded.model(input_ids=ids, use_cache=False).logits[0, len(row) - 1 : -1].float()
        scored = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        gap = float((scored - torch.tensor(answer.logprobs)).abs().max())
        if not gap <= _GAP[self._loaded.info.dtype]:
            kind, what = (BackendError, "base") if adapter is None else (AdapterError, f"adapter {key[:12]}...")
            raise kind(
                f"vLLM does not serve the {what} that is trained: log-probabilities differ by {gap:.3g} nats (allowed "
                f"{_GAP[self._loaded.info.dtype]:g}); check its model, dtype and max_lora_rank"
            )
        self._proven.add(key)

    def _completion(self, row: Sequence[int], answer: Answer, seconds: float) -> Completion:
        """Cut at the first stop id, as `TransformersBackend` does."""
        ids, stops = list(answer.ids), self._loaded.stop_ids
        stop = next((i for i, token in enumerate(ids) if token in stops), None)
        kept = ids if stop is None else ids[:stop]
        text = self._loaded.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        finish = "stop" if stop is not None or answer.finish == "stop" else "length"
        return Completion(
            text=text,
            tokens_in=len(row),
            tokens_out=len(ids) if stop is None else stop + 1,
            seconds=seconds,
            finish=finish,  # type: ignore[arg-type]  # one of the two
        )
