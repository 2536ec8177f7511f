"""The editor that asks a language model: merges proposals, ranks them to the edit budget, and looks back on an epoch.

Source: the merge, ranking, slow update and meta skill of SkillOpt (arXiv 2605.23904). A reply that cannot be used costs
nothing but itself: merging falls back to adding up equal edits, ranking to the order of the proposals.
Does not: apply edits, or gate the slow update.

    ModelEditor(chat, capability="units", task="", max_tokens=2048, temperature=0.0, seed=0).merge(body, proposals, "")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hybrid.backends.chat import ChatModel
from hybrid.skill.evidence_editor import aggregate, ordered
from hybrid.skill.model_material import LEAST_CHARACTERS, MOST_CHARACTERS, Asker, about
from hybrid.skill.model_prompts import merge_question, rank_question, review_question
from hybrid.skill.model_replies import Unusable, merge_reply, rank_reply, review_reply
from hybrid.skill.reflection import Proposal, Review, ReviewContext

AUTONOMOUS_FALLBACK = 4
"""Edits that are applied when the model was free to choose and its choice could not be read."""


def _unheard(note: str) -> None:
    """Default for notes: nobody listens."""


class ModelEditor:
    """An `Editor` that asks `chat`, as `ModelProposer` does and with the same parameters.

    `on_note` hears of replies that could not be used and of proposals that a merge left out. Nothing is asked where
    there is nothing to decide: a single proposal is not merged, and no more proposals than the budget are not ranked.
    """

    looks_back = True

    def __init__(
        self,
        chat: ChatModel,
        *,
        capability: str,
        task: str,
        max_tokens: int,
        temperature: float,
        seed: int,
        most_characters: int = MOST_CHARACTERS,
        on_note: Callable[[str], None] = _unheard,
    ) -> None:
        if most_characters < LEAST_CHARACTERS:
            raise ValueError(f"most_characters must be at least {LEAST_CHARACTERS}, not {most_characters}")
        self._asker = Asker(chat, max_tokens, temperature, seed)
        self._intro = about(capability, task)
        self._most, self._on_note = most_characters, on_note

    def merge(self, body: str, proposals: Sequence[Proposal], memory: str) -> list[Proposal]:
        """Proposals of several reflections as one list. Equal edits are put together without asking."""
        distinct = aggregate(proposals)
        if len(distinct) < 2:
            return distinct
        question = merge_question(body, distinct, memory, self._intro, self._most)
        if question is None:
            self._on_note("merge: the proposals are too long to be shown; equal edits were put together")
            return distinct
        merged = merge_reply(self._asker.ask(question).text, distinct)
        if isinstance(merged, Unusable):
            self._on_note(f"merge: the reply could not be used: {merged.why}; equal edits were put together")
            return distinct
        for note in merged[1]:
            self._on_note(note)
        return merged[0]

    def rank(self, body: str, proposals: Sequence[Proposal], budget: int | None, memory: str) -> list[Proposal]:
        """The proposals to apply, best first; without a budget the model chooses how many, none included."""
        if not proposals or (budget is not None and len(proposals) <= budget):
            return list(proposals)
        question = rank_question(body, proposals, budget, memory, self._intro, self._most)
        if question is None:
            return self._unranked(proposals, budget, "the proposals are too long to be shown")
        numbers = rank_reply(self._asker.ask(question).text, len(proposals))
        if isinstance(numbers, Unusable):
            return self._unranked(proposals, budget, f"the reply could not be used: {numbers.why}")
        if not numbers and budget is not None:
            return self._unranked(proposals, budget, "the reply chose nothing")
        return [proposals[n] for n in numbers[:budget]]

    def _unranked(self, proposals: Sequence[Proposal], budget: int | None, why: str) -> list[Proposal]:
        """What is applied without the model's choice."""
        self._on_note(f"rank: {why}; the order of the proposals was kept")
        return list(proposals[:budget]) if budget is not None else ordered(proposals)[:AUTONOMOUS_FALLBACK]

    def review(self, context: ReviewContext) -> Review | None:
        """New text for the slow section and new notes, either of which may be left as it is."""
        reply = self._asker.ask(review_question(context, self._intro, self._most))
        read = review_reply(reply.text)
        return (
            Review(notes=(f"review: the reply could not be used: {read.why}",)) if isinstance(read, Unusable) else read
        )
