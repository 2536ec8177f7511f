"""Ranks of target tokens under a transformers model, in one forward pass per batch; see `hybrid.backends.ranks`.

Rows are padded on the left, so that every target ends at the last position and only the last scores are computed. Batches
are cut by a fixed number of scores, not by the configured batch size: what is ranked does not depend on a setting of speed.
Does not: decode, or use an adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from hybrid.backends import rendering
from hybrid.backends.loading import LoadedModel
from hybrid.backends.ranks import Ranked
from hybrid.capability.types import Message
from hybrid.errors import BackendError

_SCORES = 2**25
"""Most scores (rows x positions x vocabulary) held at once: 128 MiB in float32."""
_ROWS = 64

Row = tuple[list[int], list[int]]
"""Ids of a prompt and of its target."""


def target_ranks(loaded: LoadedModel, pairs: Sequence[tuple[str | tuple[Message, ...], str]]) -> list[Ranked]:
    """One `Ranked` per pair, in order. Must be called with the base bare."""
    rows = _encoded(loaded, pairs)
    vocabulary = int(loaded.model.get_input_embeddings().weight.shape[0])
    found: list[Ranked] = []
    with torch.inference_mode():
        for batch in _batches(rows, vocabulary):
            found += _ranked(loaded, batch)
    return found


def _encoded(loaded: LoadedModel, pairs: Sequence[tuple[str | tuple[Message, ...], str]]) -> list[Row]:
    tokenizer, chat = loaded.tokenizer, loaded.chat
    texts = [rendering.render(tokenizer, prompt, chat) for prompt, _ in pairs]
    prompts = rendering.encode(tokenizer, texts, chat)
    joint = rendering.encode(tokenizer, [text + target for text, (_, target) in zip(texts, pairs, strict=True)], chat)
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    rows: list[Row] = []
    for prompt, both, (_, target) in zip(prompts, joint, pairs, strict=True):
        # Encoded together, since many tokenizers put a space before every text of its own; where the two merge over
        # their border, the model could never produce those ids after this prompt.
        own = both[len(prompt) :] if both[: len(prompt)] == prompt else rendering.encode(tokenizer, [target], True)[0]
        end = tokenizer.eos_token_id
        ids = own if own[-1:] == [end] else [*own, end]
        if not prompt or (limit is not None and len(prompt) + len(ids) > limit):
            raise BackendError(
                f"{len(prompt)} prompt tokens and {len(ids)} target tokens cannot be ranked: the model has "
                f"{limit} positions and needs at least one prompt token"
            )
        rows.append((prompt, ids))
    return rows


def _batches(rows: Sequence[Row], vocabulary: int) -> Iterator[Sequence[Row]]:
    start = 0
    while start < len(rows):
        count, longest = 0, 0
        for _, ids in rows[start : start + _ROWS]:
            longest = max(longest, len(ids) + 1)
            if count and (count + 1) * longest * vocabulary > _SCORES:
                break
            count += 1
        yield rows[start : start + count]
        start += count


def _ranked(loaded: LoadedModel, rows: Sequence[Row]) -> list[Ranked]:
    width = max(len(prompt) + len(ids) for prompt, ids in rows)
    kept = max(len(ids) for _, ids in rows) + 1
    pad = loaded.tokenizer.pad_token_id or 0
    padded = [[pad] * (width - len(p) - len(t)) + p + t for p, t in rows]
    mask = [[0] * (width - len(p) - len(t)) + [1] * (len(p) + len(t)) for p, t in rows]
    ids_bt = torch.tensor(padded, device=loaded.model.device)
    mask_bt = torch.tensor(mask, device=loaded.model.device)
    scores = loaded.model(
        input_ids=ids_bt,
        attention_mask=mask_bt,
        position_ids=(mask_bt.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=kept,
    ).logits
    # The score of a token stands one position before it.
    before_btv, wanted_bt = scores[:, -kept:-1].float(), ids_bt[:, -(kept - 1) :]
    own_bt1 = before_btv.gather(2, wanted_bt[:, :, None])
    ranks_bt = ((before_btv > own_bt1).sum(dim=2) + 1).tolist()
    return [
        Ranked(tuple(ids), tuple(int(r) for r in row[-len(ids) :]))
        for (_, ids), row in zip(rows, ranks_bt, strict=True)
    ]
