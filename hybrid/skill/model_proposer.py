"""The proposer that asks a language model: one request per reflection, and one more when the reply cannot be read.

Source: the error and success analysts of SkillOpt (arXiv 2605.23904). The model sees the document, a minibatch of
training rollouts, what the gate turned down and its own notes; nothing of other splits, and nothing of the grader but
its feedback. Edits are not tried here: `expected_gain` stays None, and the gate decides.

    ModelProposer(chat, capability="units", task="", max_tokens=2048, temperature=0.0, seed=0).propose(context)
"""

from __future__ import annotations

from hybrid.backends.chat import ChatModel, ChatReply
from hybrid.skill.edits import Edit
from hybrid.skill.model_material import LEAST_CHARACTERS, MOST_CHARACTERS, Asker, about, shown_id
from hybrid.skill.model_prompts import reflection_question
from hybrid.skill.model_replies import Shown, Unusable, reflection_reply
from hybrid.skill.reflection import Reflection, ReflectionContext, body_hash


class ModelProposer:
    """A `Proposer` that asks `chat`. Holds no state, so it is as deterministic as the chat model.

    `task` describes the capability in a paragraph, "" for none. `max_tokens`, `temperature` and `seed` go into every
    request; `repair` asks once more after a reply that cannot be read; `most_characters` caps a request. Errors of the
    chat model pass through. Raises ValueError for a cap below 20,000 characters, which leaves no room for rows.
    """

    tries = False

    def __init__(
        self,
        chat: ChatModel,
        *,
        capability: str,
        task: str,
        max_tokens: int,
        temperature: float,
        seed: int,
        repair: bool = True,
        most_characters: int = MOST_CHARACTERS,
    ) -> None:
        if most_characters < LEAST_CHARACTERS:
            raise ValueError(f"most_characters must be at least {LEAST_CHARACTERS}, not {most_characters}")
        self._asker = Asker(chat, max_tokens, temperature, seed)
        self._intro = about(capability, task)
        self._repair, self._most = repair, most_characters

    def propose(self, context: ReflectionContext) -> Reflection:
        """Edits and labels for the minibatch of `context.source`; without rollouts nothing is asked."""
        if context.budget < 1 or not (context.failures if context.source == "failure" else context.successes):
            return Reflection()
        question, views = reflection_question(context, self._intro, self._most)
        ids = {shown_id(view.example.id): view.example.id for view in views}
        shown = Shown(ids, context.budget, context.source, _known(context))
        reply = self._asker.ask(question)
        read = reflection_reply(reply.text, shown)
        if isinstance(read, Reflection):
            return read
        problem = _told(read, reply)
        if not self._repair:
            return Reflection(notes=(f"the reply could not be used: {problem}",))
        reply = self._asker.ask(question.again(problem, reply.text))
        read = reflection_reply(reply.text, shown)
        if isinstance(read, Reflection):
            return read.model_copy(update={"notes": (f"the first reply could not be used: {problem}", *read.notes)})
        second = _told(read, reply)
        return Reflection(notes=(f"neither reply could be used; the first: {problem}; the second: {second}",))


def _told(unusable: Unusable, reply: ChatReply) -> str:
    return unusable.why + (" (it was cut at the token limit)" if reply.finish == "length" else "")


def _known(context: ReflectionContext) -> dict[Edit, str]:
    """Edits that are known to fail for the present body, each with the reason."""
    present = body_hash(context.body)
    known: dict[Edit, str] = {r.edit: f"it cannot be applied: {r.why}" for r in context.refused if r.before == present}
    alone = [r for r in context.rejected if r.before == present and r.alone]
    known |= {r.edit: "the gate has rejected it for this document" for r in alone}
    return known
