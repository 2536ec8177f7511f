"""How foreign text is shown to a language model that works on a skill document: fences, JSON lines, limits of size.

Documents, completions and feedback are foreign text: they may say anything, and must not be taken for the question.
Each stands between two lines that hold a word made from all of the foreign text, so that none can end its own block;
rows and edits are JSON, one a line, so that none can pose as another field. Hidden characters are left out. Every text
is clipped, and so is a request as a whole. The same material always gives the same bytes.
Does not: hold the instructions (`model_prompts`), read replies (`model_replies`), or choose what is shown.

    Question("rank", RANK, ("Choose at most 2.", Block("The edits:", edit_lines)), schema).messages()
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeAlias

from hybrid.backends.chat import ChatModel, ChatReply, ChatRequest
from hybrid.capability.types import Message
from hybrid.skill.edits import Append, Delete, Edit
from hybrid.skill.reflection import RejectedEdit, RolloutView
from hybrid.skill.text import is_hidden, lines_of, single_line

MOST_CHARACTERS, LEAST_CHARACTERS = 48_000, 20_000
"""Characters of a whole request: the default cap, and the smallest cap that leaves room for rows."""
MOST_MEMORY = 2_000
MOST_TASK = 2_000
REPAIR_EXCERPT, REPAIR_ROOM = 1_500, 2_500
"""Characters of a bad reply that a repair shows, and what is kept free for all of a repair."""
PROMPT, COMPLETION, FEEDBACK, REFERENCE = 1_500, 1_500, 500, 600
"""Characters of each field of a row where there is room enough."""
SCALES = (1.0, 0.5, 0.25, 0.125, 1 / 32)
LEAST_ROW = 1_000
"""Every row fits in so many characters at the last scale."""
EDIT_FIELD = 400
"""Characters of the target and content of an edit that is only recalled."""


@dataclass(frozen=True)
class Block:
    """Foreign text under a title of ours. It is shown behind a fence."""

    title: str
    text: str


Part: TypeAlias = str | Block


@dataclass(frozen=True)
class Question:
    """One question: the step that asks, the instruction, the parts of what is shown, and the wanted reply's schema."""

    purpose: str
    instruction: str
    parts: tuple[Part, ...]
    reply_schema: Mapping[str, Any]

    def messages(self) -> tuple[Message, ...]:
        """The instruction and the material, as two chat turns."""
        return Message(role="system", content=self.instruction), Message(role="user", content=render(self.parts))

    def again(self, problem: str, reply: str) -> Question:
        """The same question after a reply that could not be read: it tells why, and how that reply began."""
        begun = reply[:REPAIR_EXCERPT]
        shown: tuple[Part, ...] = (Block("That reply began:", clean(begun)),) if clean(begun).strip() else ()
        told = f"An earlier reply to this could not be used: {problem}."
        ask = "Answer the question above anew, with one complete JSON object and nothing else. Be brief."
        return replace(self, purpose="repair", parts=(*self.parts, told, *shown, ask))

    @property
    def size(self) -> int:
        """Characters of all messages."""
        return sum(len(message.content) for message in self.messages())


@dataclass(frozen=True)
class Asker:
    """A chat model and how it is asked. Its errors pass through."""

    chat: ChatModel
    max_tokens: int
    temperature: float
    seed: int

    def ask(self, question: Question) -> ChatReply:
        """One reply to one question."""
        request = ChatRequest(
            purpose=question.purpose,
            messages=question.messages(),
            reply_schema=dict(question.reply_schema),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        return self.chat.complete(request)


def render(parts: Sequence[Part]) -> str:
    """The parts as one text, every block between two lines with a word that no block holds."""
    word = _word([part.text for part in parts if isinstance(part, Block)])
    shown = [
        f"{part.title}\n<<< {word}\n{part.text}\n>>> {word}" if isinstance(part, Block) else part for part in parts
    ]
    return "\n\n".join(part for part in shown if part)


def _word(texts: Sequence[str]) -> str:
    """A word made from the texts that occurs in none of them, whatever the case of its letters."""
    joined = "\0".join(texts)
    digests = (hashlib.sha256(f"{n}\0{joined}".encode()).hexdigest() for n in count())
    folded = joined.casefold()
    return next(word for digest in digests if (word := f"data-{digest[:12]}") not in folded)


def clean(text: str) -> str:
    """`text` without hidden characters; line feeds and tabs stay."""
    return text if text.isprintable() else "".join(c for c in text if not is_hidden(c))


def clip(text: str, most: int) -> str:
    """`text` without hidden characters, its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return clean(text)
    head = most - most // 3
    left_out = f" [... {len(text) - most} characters left out ...] "
    return clean(text[:head]) + left_out + clean(text[len(text) - most // 3 :])


def about(capability: str, task: str) -> str:
    """Whose document it is, in the user's own words."""
    described = clip(task.strip(), MOST_TASK)
    return f"The capability: {single_line(capability, 200)}." + (f"\nWhat it is: {described}" if described else "")


def document(body: str, most: int) -> tuple[Part, ...]:
    """The document line by line as it is; where it is longer than `most` characters, its first whole lines."""
    lines = lines_of(body)
    if not lines:
        return ("The document is empty: only append can be used.",)
    shown, used = 0, 0
    while shown < len(lines) and used + len(lines[shown]) + 1 <= most:
        used += len(lines[shown]) + 1
        shown += 1
    block = Block("The document as it stands:", clean("\n".join(lines[:shown])))
    if shown == len(lines):
        return (block,)
    return block, f"The {len(lines) - shown} lines after these are not shown. Leave them as they are."


def memory_notes(memory: str, most: int = MOST_MEMORY) -> tuple[Part, ...]:
    """The model's own notes of earlier epochs, or nothing."""
    notes = clean(memory[: min(most, MOST_MEMORY)]).strip()
    return (Block("Your own notes from earlier rounds:", notes),) if notes else ()


def edit_fields(edit: Edit, most: int | None = None) -> dict[str, str]:
    """An edit as the fields that replies use; texts whole, or clipped to `most` characters."""
    target = "" if isinstance(edit, Append) else edit.target
    content = "" if isinstance(edit, Delete) else edit.content
    target, content = (clean(text) if most is None else clip(text, most) for text in (target, content))
    return {"op": edit.op, "target": target, "content": content}


def rejected_line(rejected: RejectedEdit, same: bool) -> str:
    """A refusal of the gate: the edit, the measured change of the score, and whether the document is the present one."""
    verdict = rejected.verdict
    fields: dict[str, Any] = dict(edit_fields(rejected.edit, EDIT_FIELD))
    fields |= {"change": round(verdict.delta, 3), "interval": [round(verdict.low, 3), round(verdict.high, 3)]}
    fields |= {"rows": verdict.n, "tried_on": "this document" if same else "an earlier document"}
    return json_line(fields if rejected.alone else fields | {"tried_together_with_others": rejected.together - 1})


def newest(title: str, lines: Sequence[str], most: int) -> tuple[Part, ...]:
    """As many of the last lines as fit in `most` characters, in their order."""
    shown: list[str] = []
    used = 0
    for line in reversed(lines):
        used += len(line) + 1
        if used > most:
            break
        shown.append(line)
    if not shown:
        return ()
    older = len(lines) - len(shown)
    return (Block(title + (f" ({older} older ones are not shown)" if older else ""), "\n".join(reversed(shown))),)


def row_lines(views: Sequence[RolloutView], most: int) -> list[str]:
    """Rollouts, one JSON line each, in at most `most` characters together; rows that find no room are left out."""
    shown = views[: max(0, most) // LEAST_ROW]
    return [_fitting(view, most // len(shown) - 1) for view in shown]


def _fitting(view: RolloutView, most: int) -> str:
    lines = (json_line(row_fields(view, scale)) for scale in SCALES)
    return next((line for line in lines if len(line) <= most), "") or json_line(row_fields(view, SCALES[-1]))


def row_fields(view: RolloutView, scale: float = 1.0) -> dict[str, Any]:
    """A rollout of a training row: its id, the task, the answer, and what the grader made of it."""
    example = view.example
    fields = {
        "example": shown_id(example.id),
        "task": clip(example.prompt_text, int(PROMPT * scale)),
        "answer": clip(view.completion, int(COMPLETION * scale)),
        "score": round(view.value, 3),
        "grader": clip(view.feedback, int(FEEDBACK * scale)),
        "reference": clip(example.reference, int(REFERENCE * scale)),
    }
    if example.gold_completion != example.reference:
        fields["right_answer"] = clip(example.gold_completion, int(REFERENCE * scale))
    return fields


def shown_id(example_id: str) -> str:
    """An example's id as it is shown: one line without hidden characters."""
    return single_line(example_id, 200)


def json_line(fields: Mapping[str, Any]) -> str:
    """Fields as one line of JSON."""
    return json.dumps(fields, ensure_ascii=False)
