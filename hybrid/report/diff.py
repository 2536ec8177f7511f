"""The edit-by-edit history of a skill document as lines that were kept, added or removed.

Each edit is shown by its own anchor and content, not by replaying it on the document: so a rejected edit reads the
same as an accepted one. The whole document is compared from seed to final with difflib. Does not: apply edits.
"""

from __future__ import annotations

import difflib
from typing import Literal

from hybrid.report.schema import CapabilityReport, SkillEdit

Change = tuple[Literal["same", "added", "removed", "gap"], str]
SIGNS = {"same": " ", "added": "+", "removed": "-", "gap": "…"}


def line_diff(before: str, after: str, context: int = 2) -> list[Change]:
    """Changed lines with `context` unchanged lines around them; a gap stands for the rest."""
    old, new = before.splitlines(), after.splitlines()
    changes: list[Change] = []
    for number, group in enumerate(
        difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(context)
    ):
        if number:
            changes.append(("gap", ""))
        for tag, a, b, c, d in group:
            if tag == "equal":
                changes.extend(("same", text) for text in old[a:b])
            else:
                changes.extend(("removed", text) for text in old[a:b])
                changes.extend(("added", text) for text in new[c:d])
    return changes


def edit_diff(edit: SkillEdit) -> list[Change]:
    """What one edit does: a deletion removes its target, a replacement rewrites it, any other adds content at it."""
    op = edit.op.lower()
    if op.startswith(("delete", "remove")):
        return [("removed", text) for text in edit.target.splitlines()]
    if op.startswith(("replace", "rewrite")):
        return line_diff(edit.target, edit.content, context=1) or [("same", text) for text in edit.content.splitlines()]
    at: list[Change] = [("same", text) for text in edit.target.splitlines()]
    added: list[Change] = [("added", text) for text in edit.content.splitlines()]
    return added + at if "before" in op else at + added


def whole_diff(capability: CapabilityReport) -> list[Change]:
    """From the seed document (or nothing) to the final one; empty when there is no final one or no change."""
    if capability.skill_text is None:
        return []
    return line_diff(capability.seed_skill_text or "", capability.skill_text, context=3)
