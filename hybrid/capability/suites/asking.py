"""Options that most suites share: what stands around a question, for chat models, for base models, and for tiny ones.

Does not: make rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator

from hybrid.capability.types import Example
from hybrid.config.schema import Section


class Asking(Section):
    """How a question is put."""

    template: str = "{question}"
    """What a prompt is, around `{question}`: `"Q: {question}\\nA:"` for a base model, say."""
    shots: int = Field(default=0, ge=0, le=16)
    """Worked examples in front of every question, for a base model; the same ones in every split, and never asked."""
    space: bool = False
    """Gold answers begin with a space, as the tokenizers of most base models expect after a colon."""

    @field_validator("template")
    @classmethod
    def _one_slot(cls, text: str) -> str:
        if text.count("{question}") != 1:
            raise ValueError("the template holds {question} once; write it where the question belongs")
        return text

    @model_validator(mode="after")
    def _shots_end(self) -> Asking:
        if self.shots and not self.space and self.template.endswith("{question}"):
            raise ValueError(
                'shots: nothing stands between question and answer; write a template such as "Q: {question}\\nA: "'
            )
        return self

    def framed(self, row: Example, shots: Sequence[Example]) -> Example:
        """The row with its prompt in the template, behind the shots, and its gold answer as a completion."""
        before = "".join(f"{self._put(shot)}{self._gold(shot)}\n" for shot in shots)
        update = {"prompt": before + self._put(row), "gold": self._gold(row) if self.space else row.gold}
        return row.model_copy(update=update)

    def _put(self, row: Example) -> str:
        return self.template.replace("{question}", row.prompt_text)

    def _gold(self, row: Example) -> str:
        return f"{' ' if self.space else ''}{row.gold_completion}"
