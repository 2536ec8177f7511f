"""In-process generation with transformers: batches of similar length, left-padded, with a KV cache.

Rows that begin with the same tokens (one skill document, many queries) share that beginning: its keys and values are
computed once (see `prefix` and `decode`). All other rows go through transformers' own `generate`.

    backend = TransformersBackend(load_base(config.model, resolve, cache_dir), config.backend)
    backend.generate([Request("q @rev abc =", seed=0)], Sampling(max_new_tokens=8), adapter=None)

Does not: load models, render skills into prompts, cache completions or count budgets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig

from hybrid.backends import prefix, rendering
from hybrid.backends.base import Adapter, Completion, Mixture, ModelInfo, Request, Sampling
from hybrid.backends.decode import PrefixKeys, SharedRows, UnsupportedModelError, decode, read_prefix
from hybrid.backends.loading import LoadedModel
from hybrid.backends.proxy_models import ProxyShelf, Steer
from hybrid.backends.ranks import Ranked
from hybrid.backends.sampling import SeededChoice
from hybrid.backends.svf.basis import bases_of
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.backends.transformers_ranks import target_ranks
from hybrid.capability.types import Message
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import BackendError, PromptError

_PADDING = 32
"""Padding of a row's own tokens that is not worth a batch of its own."""


@dataclass(frozen=True)
class _Row:
    """One request in tokens; `place` is its position in the call, `shared` how many tokens it shares with others."""

    place: int
    ids: tuple[int, ...]
    seed: int
    shared: int = 0

    @property
    def beginning(self) -> tuple[int, ...]:
        """The shared tokens."""
        return self.ids[: self.shared]

    @property
    def rest(self) -> tuple[int, ...]:
        """The tokens of this row alone."""
        return self.ids[self.shared :]


_Answers = Callable[[Sequence[_Row]], list[list[int]]]
"""New token ids of every row of a batch; what follows a stop id counts for nothing."""


class TransformersBackend:
    """The `Backend` over a loaded base.

    `tokens_out` counts the end token, since it was generated; the text does not hold it. `warnings` collects what a
    report should mention: a batch size that had to be lowered because the accelerator's memory ran out, a model with
    which shared beginnings cannot be used, and kept singular directions that were damaged. `share_prefixes=False` sends
    every row through `generate`. `batch_rows` is the most rows in a batch at present. `load_small` loads the small model that
    proxies need; nobody calls it before.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: TransformersBackendConfig,
        *,
        share_prefixes: bool = True,
        prefixes: prefix.PrefixStore | None = None,
        load_small: Callable[[], LoadedModel] | None = None,
    ) -> None:
        self._loaded = loaded
        self.batch_rows = config.batch_size
        self._shelf = AdapterShelf(loaded)
        self._proxies = ProxyShelf(loaded, self._shelf, load_small)
        self._warnings: list[str] = []
        self._sharing: bool | None = None if share_prefixes else False  # None: the model was not checked yet
        self._prefixes = prefix.PrefixStore() if prefixes is None else prefixes
        self.prefix_use = prefix.PrefixUse()

    @property
    def loaded(self) -> LoadedModel:
        """The base in memory, for trainers and probes that need it; it must not be changed in place."""
        return self._loaded

    def small(self) -> LoadedModel | None:
        """The small model of proxies, loaded and compared with the base; None where none is configured. Raises BackendError."""
        return self._proxies.small()

    @property
    def shelf(self) -> AdapterShelf:
        """The adapters on the base, for who computes passes of its own (see `live`)."""
        return self._shelf

    @property
    def prefixes(self) -> prefix.PrefixStore:
        """The beginnings of prompts that are kept."""
        return self._prefixes

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went other than configured, oldest first."""
        return (*self._warnings, *bases_of(self._loaded.model).warnings)

    def info(self) -> ModelInfo:
        """Facts of the base model."""
        return self._loaded.info

    def count_tokens(self, text: str) -> int:
        """Number of the model's tokens in `text`, without special tokens."""
        return rendering.count_tokens(self._loaded.tokenizer, text)

    def positions(self) -> int | None:
        """Most tokens of prompt and answer together; None where the model sets no limit."""
        limit = getattr(self._loaded.model.config.get_text_config(), "max_position_embeddings", None)
        return None if limit is None else int(limit)

    def target_ranks(self, pairs: Sequence[tuple[str | tuple[Message, ...], str]]) -> list[Ranked]:
        """Ranks of every target's tokens under the bare base; see `Ranks`."""
        return target_ranks(self._loaded, pairs)  # between calls every adapter is off

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        """One completion per request, in the order asked.

        Raises BackendError for a prompt that does not fit the model's positions together with `max_new_tokens`, for one
        without tokens, and when one row alone exceeds the accelerator's memory; AdapterError for an adapter that must
        not be used. Nothing is generated then.
        """
        done = self.generate_part(requests, sampling, adapter, 0, 1)
        return [done[place] for place in range(len(requests))]

    def generate_part(
        self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None, part: int, parts: int
    ) -> dict[int, Completion]:
        """`generate` for every batch whose number leaves `part` when divided by `parts`: completions by place.

        Batches are cut from the whole call, so that a row has the same neighbours and padding whoever computes it.
        Raises as `generate` does, in every part alike where the request or the adapter is at fault.
        """
        if adapter is not None and self._proxies.steers(adapter):
            return self._steered_part(
                self._encode(requests, sampling, self._proxies.positions(adapter)), sampling, adapter, part, parts
            )
        shared, alone = self._share(self._encode(requests, sampling))
        # Longest first: padding is small, and a batch that does not fit into memory shows at once, not after an hour.
        alone.sort(key=lambda row: (-len(row.ids), row.place))
        key = adapter.sha256 if adapter else ""
        done: dict[int, Completion] = {}
        cut = [*((rows, True) for rows in self._batches(shared)), *((rows, False) for rows in self._batches(alone))]
        with self._shelf.active(adapter), torch.inference_mode():
            self._prefixes.retain(self._shelf.attached)
            for rows, sharing in cut[part::parts]:
                if sharing:
                    self._all(rows, lambda batch: self._shared_answers(batch, sampling, key), done)
                else:
                    self._all(rows, lambda batch: self._answers(batch, sampling), done)
            self._prefixes.trim()
        return done

    def generate_mixed(
        self, requests: Sequence[Request], sampling: Sampling, mixtures: Sequence[Mixture]
    ) -> list[Completion]:
        """See `MixingBackend`. Prompts are computed in full: what rows begin with differs with their mixture."""
        if len({mixture.stack.sha256 for mixture in mixtures}) != 1 or len(mixtures) != len(requests):
            raise ValueError("mixtures of one stack, one for each request")
        rows = sorted(self._encode(requests, sampling), key=lambda row: (-len(row.ids), row.place))
        done: dict[int, Completion] = {}
        with self._shelf.gated(mixtures[0].stack) as gates, torch.inference_mode():

            def answers(batch: Sequence[_Row]) -> list[list[int]]:
                gates.set([mixtures[row.place].gates for row in batch])
                return self._answers(batch, sampling)

            self._all(rows, answers, done)
        return [done[place] for place in range(len(requests))]

    def _steered_part(
        self, rows: list[_Row], sampling: Sampling, adapter: Adapter, part: int, parts: int
    ) -> dict[int, Completion]:
        """`generate_part` under a proxy. Beginnings are not shared: those of the small model would have to be held too."""
        rows.sort(key=lambda row: (-len(row.ids), row.place))
        done: dict[int, Completion] = {}
        with self._proxies.active(adapter) as steer, torch.inference_mode():
            for batch in self._batches(rows)[part::parts]:
                self._all(batch, lambda some: self._answers(some, sampling, steer), done)
        return done

    def _batches(self, rows: Sequence[_Row]) -> list[Sequence[_Row]]:
        """Rows cut into batches of the current size."""
        found: list[Sequence[_Row]] = []
        start = 0
        while start < len(rows):
            batch = rows[start : start + self.batch_rows]
            found.append(batch[: _even_width(batch)])
            start += len(found[-1])
        return found

    def _all(self, rows: Sequence[_Row], answers: _Answers, done: dict[int, Completion]) -> None:
        """Every row's completion into `done`, by place, in batches of at most the current size."""
        start = 0
        while start < len(rows):
            batch = rows[start : start + self.batch_rows]
            batch = batch[: _even_width(batch)]
            completions = self._fitting(batch, answers)
            if completions is None:
                continue
            for row, completion in zip(batch, completions, strict=True):
                done[row.place] = completion
            start += len(batch)

    def _share(self, rows: Sequence[_Row]) -> tuple[list[_Row], list[_Row]]:
        """Rows with a shared beginning, neighbours where it is the same one, and the other rows."""
        groups = [] if self._sharing is False else prefix.find_groups([row.ids for row in rows])
        if groups and not self.can_share():
            groups = []
        shared = [replace(rows[i], shared=group.length) for group in groups for i in group.members]
        taken = {row.place for row in shared}
        return shared, [row for row in rows if row.place not in taken]

    def can_share(self) -> bool:
        """Whether the decoder of `decode` may be used with this model; the first call tries it against the model itself."""
        if self._sharing is None:
            with torch.inference_mode():
                reason, tokens = prefix.check(self._loaded.model)
            self.prefix_use.checked += tokens
            self._sharing = True
            if reason is not None:
                self._stop_sharing(reason)
        return self._sharing

    def _stop_sharing(self, reason: str) -> None:
        """For the rest of this backend's life every prompt is computed in full."""
        self._sharing = False
        self._prefixes.clear()
        self._warnings.append(
            f"prompts that share a document are computed in full, row by row, from here on: the model is slower that way "
            f"and answers the same; {reason}"
        )

    def _encode(self, requests: Sequence[Request], sampling: Sampling, most: int | None = None) -> list[_Row]:
        tokenizer, chat = self._loaded.tokenizer, self._loaded.chat
        texts = [rendering.render(tokenizer, request.prompt, chat) for request in requests]
        ids = rendering.encode(tokenizer, texts, chat)
        limit = min((n for n in (self.positions(), most) if n is not None), default=None)
        for place, tokens in enumerate(ids):
            if not tokens:
                raise PromptError(
                    f"request {place + 1} of {len(ids)}: the prompt holds no token; give a non-empty prompt"
                )
            if limit is not None and len(tokens) + sampling.max_new_tokens > limit:
                raise PromptError(
                    f"request {place + 1} of {len(ids)}: {len(tokens)} prompt tokens plus max_new_tokens "
                    f"{sampling.max_new_tokens} exceed the model's limit of {limit} positions; shorten the skill "
                    "or the prompt, or lower decoding.max_new_tokens"
                )
        return [_Row(i, tuple(t), r.seed) for i, (t, r) in enumerate(zip(ids, requests, strict=True))]

    def _fitting(self, batch: Sequence[_Row], answers: _Answers) -> list[Completion] | None:
        """The batch's completions, or None after the batch size was halved because memory ran out."""
        try:
            started = time.perf_counter()
            generated = answers(batch)
            seconds = (time.perf_counter() - started) / len(batch)
            return [self._completion(row, ids, seconds) for row, ids in zip(batch, generated, strict=True)]
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise BackendError(
                    f"one prompt of {len(batch[0].ids)} tokens exceeds the memory of {self._loaded.info.device}; use a "
                    "smaller model or precision, or shorten the skill"
                ) from error
        # Outside the handler: the traceback of the error would keep the failed batch's tensors alive.
        self.batch_rows = (len(batch) + 1) // 2
        self._prefixes.clear()
        self._warnings.append(
            f"out of memory with {len(batch)} rows: the batch size is {self.batch_rows} for the rest of this run"
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _answers(self, batch: Sequence[_Row], sampling: Sampling, steer: Steer | None = None) -> list[list[int]]:
        """New token ids of every row, from the whole prompts."""
        width = max(len(row.ids) for row in batch)
        answers: list[list[int]] = self._run(batch, width, sampling, steer)[:, width:].tolist()
        return answers

    def _shared_answers(self, batch: Sequence[_Row], sampling: Sampling, adapter: str) -> list[list[int]]:
        """New token ids of every row, from the stored beginnings and the rows' own tokens."""
        if not self._sharing:
            return self._answers(batch, sampling)
        try:
            return self._continued(batch, sampling, adapter)
        except UnsupportedModelError as error:
            self._stop_sharing(str(error))
        return self._answers(batch, sampling)

    def _continued(self, batch: Sequence[_Row], sampling: Sampling, adapter: str) -> list[list[int]]:
        """`_shared_answers` without a way back: raises UnsupportedModelError."""
        model, use = self._loaded.model, self.prefix_use
        segments: list[tuple[PrefixKeys, int]] = []
        for tokens, members in groupby(batch, key=lambda row: row.beginning):
            keys, there = self._prefixes.get(adapter, tokens, partial(read_prefix, model, tokens))
            count = sum(1 for _ in members)
            segments.append((keys, count))
            use.rows += count
            use.computed += 0 if there else len(tokens)
            use.reused += len(tokens) if there else 0
            use.spared += len(tokens) * (count if there else count - 1)

        def choose(scores: torch.Tensor, going: Sequence[int], step: int) -> torch.Tensor:
            if sampling.temperature > 0:
                choice = SeededChoice([batch[i].seed for i in going], 0, sampling.temperature, sampling.top_p)
                # The processor reads the step off the number of tokens so far, and nothing else.
                scores = choice(torch.empty(len(going), step, device="meta"), scores)
            return scores.argmax(dim=-1)

        rows = SharedRows(segments, [row.rest for row in batch])
        stop_ids = self._loaded.stop_ids
        return decode(model, rows, max_new_tokens=sampling.max_new_tokens, stop_ids=stop_ids, choose=choose)

    def _run(self, batch: Sequence[_Row], width: int, sampling: Sampling, steer: Steer | None) -> torch.Tensor:
        """Prompt and generated ids (rows, width + generated); shorter rows are padded on both sides. `steer` is a proxy's."""
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row.ids)) + list(row.ids) for row in batch])
        mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in batch])
        device = self._loaded.info.device
        processors: list[Any] = [] if steer is None else [steer(mask.to(device))]
        if sampling.temperature > 0:
            seeds = [row.seed for row in batch]
            processors.append(SeededChoice(seeds, width, sampling.temperature, sampling.top_p))
        result: torch.Tensor = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            logits_processor=processors,
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                eos_token_id=list(self._loaded.stop_ids),
                pad_token_id=pad,
                disable_compile=True,
            ),
        )
        return result

    def _completion(self, row: _Row, ids: list[int], seconds: float) -> Completion:
        """Cut at the first stop id; what follows it is padding."""
        stop = next((i for i, token in enumerate(ids) if token in self._loaded.stop_ids), None)
        answer = ids if stop is None else ids[:stop]
        text = self._loaded.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(
            text=text,
            tokens_in=len(row.ids),
            tokens_out=len(ids) if stop is None else stop + 1,
            seconds=seconds,
            finish="length" if stop is None else "stop",
        )


def _even_width(batch: Sequence[_Row]) -> int:
    """How many rows of the batch, from the first on, go together: one much shorter than the widest starts a new one."""
    widest = 0
    for count, row in enumerate(batch):
        widest = max(widest, len(row.rest))
        if row.shared and 2 * len(row.rest) + _PADDING < widest:
            return count
    return len(batch)
