"""One running batch that rows enter and leave between two tokens, each with its own adapter, sampling and end.

    batch = LiveBatch(backend)
    rows = batch.admit([LiveRequest(Request("q acgf @next", 0), Sampling(max_new_tokens=8), None)])
    while batch.rows:
        batch.step()                       # one more token for every row
    rows[0].text, rows[0].finish

A row that enters computes its prompt in a pass of its own and then goes on with the others (continuous batching, Yu et al.
2022, "Orca"). It computes what it would compute alone, up to rounding: keys and values are its own, positions count from
its own first token, and its random stream depends on its seed and step. Rows with LoRA adapters and without share passes;
PEFT adds to each row what its adapter says. The beginning of a prompt that its document alone decides is computed once and
kept (`prefix`).

Does not: queue, wait, know of stop texts or of who asked. One thread at a time may use a batch and its backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch

from hybrid.backends import rendering
from hybrid.backends.adapters import kind_of, read_config
from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.decode import (
    NO_PREFIX,
    PrefixKeys,
    SharedRows,
    UnsupportedModelError,
    attention_configs,
    computing,
    last_logits,
    read_prefix,
)
from hybrid.backends.prefix import BLOCK, SHORTEST
from hybrid.backends.sampling import SeededChoice
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.capability.types import Message
from hybrid.errors import BackendError, PromptError

Prompt = str | tuple[Message, ...]
_DOCUMENTS = 64
"""Documents whose tokens are remembered."""
MIXED = "lora"
"""The lane of the bare base and of every LoRA: they share passes."""


@dataclass(frozen=True)
class LiveRequest:
    """One completion to make. `document` is a prompt of another text under the same document, or None: what both prompts
    begin with is computed once. `shrink` lets the answer's limit give way where the model has fewer positions left."""

    request: Request
    sampling: Sampling
    adapter: Adapter | None
    document: Prompt | None = None
    shrink: bool = False


@dataclass(eq=False)
class LiveRow:
    """A row, the most tokens it may say, and what it has said so far.

    `text` never loses a character, and is whole once the row has ended.
    """

    asked: LiveRequest
    prompt: tuple[int, ...]
    most: int
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: Literal["stop", "length"] | None = None
    _decoded: int = 0
    _begin: int = 0

    @property
    def tokens_in(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)

    @property
    def tokens_out(self) -> int:
        """Tokens generated, the end token included."""
        return len(self.ids)


def lane(adapter: Adapter | None) -> str:
    """Which running batch a request belongs to. Raises AdapterError for an adapter of no known kind."""
    if adapter is None:
        return MIXED
    config = read_config(adapter.path)
    shares = kind_of(adapter.path, config) == "LORA" and not config.get("use_dora")  # PEFT mixes no rows under DoRA
    return MIXED if shares else adapter.sha256


def streams(adapter: Adapter | None) -> bool:
    """Whether an adapter is a change of layers, which a running batch can compute; what works on logits is not."""
    return adapter is None or kind_of(adapter.path) in ("LORA", "SVF")


class LiveBatch:
    """Rows of one lane that are decoded together. `mixed=False` is for rows that all have the same adapter."""

    def __init__(self, backend: TransformersBackend, *, mixed: bool = True) -> None:
        if not backend.can_share():
            raise BackendError("the model's attention cannot be replaced; generate whole answers instead")
        self._backend, self._loaded, self._mixed = backend, backend.loaded, mixed
        self._stop_ids = frozenset(self._loaded.stop_ids)
        self._configs = attention_configs(self._loaded.model)
        self._documents: dict[Prompt, tuple[int, ...]] = {}
        self._rows: SharedRows | None = None
        self.rows: list[LiveRow] = []

    def encode(self, asked: LiveRequest) -> LiveRow:
        """The prompt in tokens. Raises PromptError for one without tokens, and for one that leaves no room to answer."""
        ids, limit, most = self._ids(asked.request.prompt), self._backend.positions(), asked.sampling.max_new_tokens
        if not ids:
            raise PromptError("the prompt holds no token; give a non-empty prompt")
        if limit is not None and asked.shrink:
            most = max(1, min(most, limit - len(ids)))
        if limit is not None and len(ids) + most > limit:
            raise PromptError(
                f"{len(ids)} prompt tokens plus {most} of the answer exceed the model's limit of {limit} positions; shorten "
                "the prompt or ask for fewer tokens"
            )
        return LiveRow(asked, ids, most)

    def admit(self, asked: Sequence[LiveRequest]) -> list[LiveRow]:
        """Let rows in, and compute their prompts and first tokens in one pass.

        Raises PromptError (see `encode`), BackendError and AdapterError; the batch is as it was then.
        """
        rows = [self.encode(a) for a in asked]
        if rows:
            entered = self._enter(rows)
            if self._rows is None:
                self._rows = entered
            else:
                self._rows.join(entered)
            self.rows += rows
            self._leave()
        return rows

    def _enter(self, rows: list[LiveRow]) -> SharedRows:
        """The prompts of new rows in one pass, and their first tokens."""
        beginnings = [self._beginning(row) for row in rows]
        rests = [row.prompt[keys.length :] for row, keys in zip(rows, beginnings, strict=True)]
        shared = SharedRows([(keys, 1) for keys in beginnings], rests)
        self._pass(rows, shared, [[0] * (shared.width - len(rest)) + list(rest) for rest in rests])
        return shared

    def step(self) -> None:
        """One more token for every row; rows that end leave the batch."""
        if self._rows is not None:
            self._pass(self.rows, self._rows, [[row.ids[-1]] for row in self.rows])
            self._leave()

    def _pass(self, rows: Sequence[LiveRow], shared: SharedRows, ids: list[list[int]]) -> None:
        """Compute new columns of rows, and note what each says next. Raises BackendError where that cannot be computed."""
        model, shelf = self._loaded.model, self._backend.shelf
        adapters = [row.asked.adapter for row in rows]
        wanted = torch.tensor(ids, device=model.device)
        acting = shelf.by_row(adapters) if self._mixed else shelf.active(adapters[0])
        with _translated(len(rows)), torch.inference_mode(), acting, computing(model, shared, self._configs):
            logits = last_logits(model, wanted, shared.enter(len(ids[0]), model.device))
            shared.leave()
        self._say(rows, logits)

    def drop(self, rows: Sequence[LiveRow]) -> None:
        """Take rows out that nobody waits for any more."""
        gone = set(map(id, rows))
        self._keep([i for i, row in enumerate(self.rows) if id(row) not in gone])

    def _leave(self) -> None:
        self._keep([i for i, row in enumerate(self.rows) if row.finish is None])

    def _keep(self, places: list[int]) -> None:
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in places]
        if not self.rows or self._rows is None:
            self._rows = None
            return
        self._rows.keep(places)
        self._rows.trim()

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        tokenizer, chat = self._loaded.tokenizer, self._loaded.chat
        return tuple(rendering.encode(tokenizer, [rendering.render(tokenizer, prompt, chat)], chat)[0])

    def _beginning(self, row: LiveRow) -> PrefixKeys:
        """What a row's prompt begins with whatever is asked under its document, in whole blocks."""
        if row.asked.document is None:
            return NO_PREFIX
        if len(self._documents) > _DOCUMENTS:
            self._documents.clear()
        if row.asked.document not in self._documents:
            self._documents[row.asked.document] = self._ids(row.asked.document)
        other, length = self._documents[row.asked.document], 0
        most = min(len(other), len(row.prompt) - 1)
        while length < most and other[length] == row.prompt[length]:
            length += 1
        length = length // BLOCK * BLOCK
        if length < SHORTEST:
            return NO_PREFIX
        tokens, adapter, store = row.prompt[:length], row.asked.adapter, self._backend.prefixes
        keys, _ = store.get(adapter.sha256 if adapter else "", tokens, partial(self._read, adapter, tokens))
        store.trim()
        return keys

    def _read(self, adapter: Adapter | None, tokens: tuple[int, ...]) -> PrefixKeys:
        shelf = self._backend.shelf
        with _translated(1), torch.inference_mode(), shelf.active(adapter):
            self._backend.prefixes.retain(shelf.attached)
            return read_prefix(self._loaded.model, tokens)

    def _say(self, rows: Sequence[LiveRow], logits_bv: torch.Tensor) -> None:
        """Choose every row's next token and note it."""
        chosen = _choose(rows, logits_bv.to(torch.float32)).tolist()
        for row, token in zip(rows, chosen, strict=True):
            row.ids.append(token)
            if token in self._stop_ids:
                row.finish = "stop"
            elif len(row.ids) >= row.most:
                row.finish = "length"
            self._extend(row)

    def _extend(self, row: LiveRow) -> None:
        """Add to the row's text what its tokens say by now; a character whose bytes are not all there yet waits.

        Only the newest tokens are decoded, behind some that were already, since tokenizers join words by their neighbours.
        """
        if row.finish is not None:
            whole = self._decode(row.ids[:-1] if row.finish == "stop" else row.ids)
            row.text = whole if whole.startswith(row.text) else row.text
            return
        before = self._decode(row.ids[row._begin : row._decoded])
        now = self._decode(row.ids[row._begin :])
        if now.endswith("\ufffd") or not now.startswith(before) or len(now) == len(before):
            return
        row.text += now[len(before) :]
        row._begin, row._decoded = row._decoded, len(row.ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._loaded.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@contextmanager
def _translated(rows: int) -> Iterator[None]:
    """What keeps a pass from being computed, as the error that callers know."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BackendError(f"memory ran out with {rows} rows in a running batch") from error
    except UnsupportedModelError as error:
        raise BackendError(f"the model cannot go on in a running batch: {error}") from error


def _choose(rows: Sequence[LiveRow], logits_bv: torch.Tensor) -> torch.Tensor:
    """The next token (b,) of each row: the likeliest, or drawn from the row's own random stream at its own step."""
    chosen = logits_bv.argmax(dim=-1)
    kinds: dict[tuple[float, float, int], list[int]] = {}
    for place, row in enumerate(rows):
        sampling = row.asked.sampling
        if sampling.temperature > 0:
            kinds.setdefault((sampling.temperature, sampling.top_p, len(row.ids)), []).append(place)
    for (temperature, top_p, step), places in kinds.items():
        index = torch.tensor(places, device=logits_bv.device)
        choice = SeededChoice([rows[i].asked.request.seed for i in places], 0, temperature, top_p)
        scores = choice(torch.empty(len(places), step, device="meta"), logits_bv[index])
        chosen[index] = scores.argmax(dim=-1)
    return chosen
