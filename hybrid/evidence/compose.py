"""How a skill document and a prompt become what the model reads. One rule for measurement and training alike.

Does not: apply chat templates or count tokens (backends do).
"""

from __future__ import annotations

from hybrid.capability.types import Message

Prompt = str | tuple[Message, ...]


def as_turns(prompt: Prompt) -> tuple[Message, ...]:
    """`prompt` as a chat: a text becomes one user message."""
    return (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt


def compose(prompt: Prompt, skill: str, separator: str) -> Prompt:
    """`prompt` with the skill text before it: joined by `separator` for text, as the system message for chat turns.

    An empty skill leaves the prompt as it is. A chat that already has a system message gets the skill before it.
    """
    if not skill.strip():
        return prompt
    if isinstance(prompt, str):
        return skill.rstrip("\n") + separator + prompt
    if prompt and prompt[0].role == "system":
        merged = Message(role="system", content=f"{skill.rstrip()}\n\n{prompt[0].content}")
        return (merged, *prompt[1:])
    return (Message(role="system", content=skill.rstrip()), *prompt)
