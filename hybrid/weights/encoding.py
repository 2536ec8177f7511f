"""Training rows in tokens: the prompt as the backend reads it, and the gold answer with one end token.

Does not: build tensors, truncate or import torch. A prompt that does not fit is an error, never a cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybrid.backends import rendering
from hybrid.errors import TrainingError
from hybrid.evidence.compose import compose
from hybrid.weights.base import TrainJob


@dataclass(frozen=True)
class PromptRow:
    """One training prompt: the text that the model reads, skill included, and its ids."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class GoldRow:
    """One supervised row: `ids` are prompt and answer, the first `prompt` of them carry no loss."""

    ids: tuple[int, ...]
    prompt: int


def split(row: GoldRow) -> tuple[tuple[int, ...], int]:
    """A supervised row as its prompt's ids and the number of tokens after them."""
    return row.ids[: row.prompt], len(row.ids) - row.prompt


def prompt_rows(job: TrainJob, tokenizer: Any) -> list[PromptRow]:
    """Every example's composed prompt, with exactly the ids that generation reads when the candidate is measured."""
    texts = [_text(job, tokenizer, row) for row in range(len(job.examples))]
    ids = rendering.encode(tokenizer, texts, job.model.chat)
    for example, row in zip(job.examples, ids, strict=True):
        if not row:
            raise TrainingError(f"{job.capability}: example {example.id!r}: the prompt holds no token")
    return [PromptRow(text, tuple(row)) for text, row in zip(texts, ids, strict=True)]


def gold_rows(job: TrainJob, tokenizer: Any) -> list[GoldRow]:
    """Every example's prompt and gold completion, ended by the tokenizer's end token exactly once."""
    found = []
    for example, prompt in zip(job.examples, prompt_rows(job, tokenizer), strict=True):
        answer = _answer_ids(tokenizer, prompt, example.gold_completion, job.model.chat)
        end = tokenizer.eos_token_id
        answer = answer if answer[-1:] == [end] else [*answer, end]
        found.append(GoldRow((*prompt.ids, *answer), len(prompt.ids)))
    return found


def check_lengths(job: TrainJob, lengths: list[int], limit: int | None) -> None:
    """Raise TrainingError for the first row whose tokens exceed the model's positions (None: no limit known)."""
    for example, length in zip(job.examples, lengths, strict=True):
        if limit is not None and length > limit:
            raise TrainingError(
                f"{job.capability}: example {example.id!r} needs {length} tokens, the model has {limit} positions; "
                "shorten the skill or the prompt, or lower decoding.max_new_tokens"
            )


def _text(job: TrainJob, tokenizer: Any, row: int) -> str:
    composed = compose(job.examples[row].prompt, job.skill_of(row), job.model.skill_separator)
    return rendering.render(tokenizer, composed, job.model.chat)


def _answer_ids(tokenizer: Any, prompt: PromptRow, answer: str, chat: bool) -> list[int]:
    """Ids of `answer` as they follow the prompt.

    Encoded together first: many tokenizers put a space before every text of its own. Where the two merge over their
    border, generation could never produce those ids after this prompt, so the answer is encoded alone.
    """
    joint = rendering.encode(tokenizer, [prompt.text + answer], chat)[0]
    if tuple(joint[: len(prompt.ids)]) == prompt.ids:
        return joint[len(prompt.ids) :]
    return rendering.encode(tokenizer, [answer], chat=True)[0]
