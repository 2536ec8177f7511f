"""What the proposer answers, in the dialect of whoever asks: it tells the three methods apart by their requests.

- skillopt: the roles of its prompts (`PROMPTS`; the package ships none, so these are ours), answered in its JSON;
- gepa: its published reflection prompt, answered by the whole document with one edit applied, in a fence;
- hybrid: requests that carry a reply schema, answered in that schema.

All of them get their edits from one `Proposals`. A review of an epoch is answered by a remark that changes nothing known, and
by a fixed note: a blind review has nothing to say, and skillopt puts what it says into the document without a gate at its
defaults, so that a harmful line there would sink it through no fault of its own.
Does not: see any row but those in the request, or know which edit is right.
"""

from __future__ import annotations

import json
import re
from typing import Any

from text_bench.pool import Key, Proposals

_SHAPE = '"edits": [{"op": "append|insert_after|replace|delete", "target": "...", "content": "..."}]'
PROMPTS = {
    "analyst_error": "Role: error analyst. Find what the failed trajectories have in common and propose edits of the skill. "
    f'Answer with JSON: {{"batch_size": n, "failure_summary": [], "patch": {{"reasoning": "...", {_SHAPE}}}}}',
    "analyst_success": "Role: success analyst. Find what made these trajectories succeed and propose edits of the skill. "
    f'Answer with JSON: {{"batch_size": n, "success_patterns": [], "patch": {{"reasoning": "...", {_SHAPE}}}}}',
    "merge_failure": f'Role: merger of patches from failures. Answer with JSON: {{"reasoning": "...", {_SHAPE}}}',
    "merge_success": f'Role: merger of patches from successes. Answer with JSON: {{"reasoning": "...", {_SHAPE}}}',
    "merge_final": f'Role: merger of both groups, failures first. Answer with JSON: {{"reasoning": "...", {_SHAPE}}}',
    "ranking": 'Role: ranker of edits. Answer with JSON: {"reasoning": "...", "selected_indices": [0]}',
    "slow_update": 'Role: slow update. Answer with JSON: {"reasoning": "...", "slow_update_content": "..."}',
    "meta_skill": 'Role: optimizer memory. Answer with JSON: {"reasoning": "...", "meta_skill_content": "..."}',
}
"""skillopt's prompts by the names under which it loads them."""
REMARK, NOTE = "# keep", "Nothing is known of these edits."
_GEPA = re.compile(r"instructions to perform a task for me:\n```\n(.*?)\n```\n\nThe following are examples", re.S)
_SKILL = re.compile(r"## Current Skill\n(.*?)\n\n## ", re.S)
_BLOCK = re.compile(r"^(?P<title>[^\n]*)\n<<< (?P<word>\S+)\n(?P<text>.*?)\n?>>> (?P=word)$", re.S | re.M)
_REJECTED = re.compile(r'^\s+\d+\. \[(\w+)\] (?:target="(.*?)" → )?"(.*)"$', re.M)


class Replies:
    """The function behind the loopback server."""

    def __init__(self, proposals: Proposals) -> None:
        self.proposals = proposals

    def __call__(self, payload: dict[str, Any]) -> str:
        """The reply to one chat completion. Raises LookupError for a request of nobody we know."""
        messages = payload["messages"]
        last = str(messages[-1]["content"])
        role = next((name for name, text in PROMPTS.items() if text == messages[0]["content"]), None)
        if role is not None:
            return json.dumps(self._skillopt(role, last))
        if found := _GEPA.search(last):
            return self._gepa(found[1])
        schema = payload.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("properties")
        if schema is None:
            raise LookupError("a request of no known method")
        return json.dumps(self._hybrid(schema, last))

    def _gepa(self, document: str) -> str:
        self.proposals.begin()
        edits = self.proposals.take(1, document)
        text = edits[0].apply(document) if edits else document
        return f"```\n{text.strip()}\n```"

    def _skillopt(self, role: str, text: str) -> dict[str, Any]:
        if role in ("analyst_error", "analyst_success"):
            budget = re.search(r"at most L=(\d+)", text)
            skill = _SKILL.search(text)
            if budget is None or skill is None:
                raise LookupError("skillopt: a request without a skill or a budget")
            rejected = {(op, target, content) for op, target, content in _REJECTED.findall(text)}
            edits = self.proposals.take(int(budget[1]), skill[1], rejected)
            items = [{"op": e.op, "target": e.target, "content": e.content} for e in edits]
            return {"batch_size": 1, "patch": {"reasoning": "blind", "edits": items}}
        if role.startswith("merge"):
            patches = json.loads(text[re.search(r"^\[", text, re.M).start() :])  # type: ignore[union-attr]
            return {"reasoning": "equal edits put together", "edits": _together(patches)}
        if role == "ranking":
            return self._ranked(text)
        if role == "slow_update":
            return {"reasoning": "blind", "slow_update_content": REMARK}
        return {"reasoning": "blind", "meta_skill_content": NOTE}

    def _ranked(self, text: str) -> dict[str, Any]:
        """The first ones, in the order of the pool; the others go back, since they were never judged."""
        most = int(re.search(r"budget=(\d+)", text)[1])  # type: ignore[index]
        offered = re.findall(
            r"^\[(\d+)\] op=(\w+)(?:  target='(.*?)')?(?:  content='(.*?)')?(?:  support=|$)", text, re.M
        )
        self._leave([(op, target, content) for _, op, target, content in offered[most:]])
        return {"reasoning": "blind", "selected_indices": list(range(most))}

    def _leave(self, keys: list[Key]) -> None:
        self.proposals.give_back(set(keys))

    def _hybrid(self, schema: dict[str, Any], text: str) -> dict[str, Any]:
        blocks = {m["title"]: m["text"] for m in _BLOCK.finditer(text)}
        if "selected" in schema:
            numbered = _lines(blocks, "The proposed edits")
            chosen = re.search(r"Choose at most (\d+)", text)
            most = int(chosen[1]) if chosen else len(numbered)
            self._leave([_key(item) for item in numbered[most:]])
            return {"selected": [item["number"] for item in numbered[:most]]}
        if "slow" in schema:
            return {"slow": REMARK, "memory": NOTE}
        if "stands_for" in json.dumps(schema):
            items = _lines(blocks, "The proposed edits")
            return {"edits": [{**_fields(i), "stands_for": [i["number"]], "why": "as proposed"} for i in items]}
        return self._reflection(schema, text, blocks)

    def _reflection(self, schema: dict[str, Any], text: str, blocks: dict[str, str]) -> dict[str, Any]:
        wanted = re.search(r"Propose at most (\d+) edit", text)
        if wanted is None:
            raise LookupError("hybrid: a reflection without a budget")
        document = next((t for title, t in blocks.items() if title.startswith("The document as it stands")), "")
        listed = _lines(blocks, "Edits that the gate rejected") + _lines(blocks, "Edits that could not be applied")
        rejected = {_key(item) for item in listed if item["tried_on"] == "this document"}
        edits = self.proposals.take(int(wanted[1]), document, rejected)
        tasks = _lines(blocks, "Tasks that went")
        reply: dict[str, Any] = {
            "edits": [
                {"op": e.op, "target": e.target, "content": e.content, "support": len(tasks), "why": "blind"}
                for e in edits
            ]
        }
        if "failures" in schema:
            reply["failures"] = [{"example": task["example"], "kind": "defect", "why": "blind"} for task in tasks]
        return reply


def _together(patches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each edit once, in order, with the support of its copies added up."""
    merged: dict[Key, dict[str, Any]] = {}
    for item in (item for patch in patches for item in patch.get("edits", [])):
        known = merged.setdefault(_key(item), {**item, "support_count": 0})
        known["support_count"] += int(item.get("support_count", 1))
    return list(merged.values())


def _key(item: dict[str, Any]) -> Key:
    return str(item["op"]), str(item.get("target", "")), str(item.get("content", ""))


def _fields(item: dict[str, Any]) -> dict[str, str]:
    op, target, content = _key(item)
    return {"op": op, "target": target, "content": content}


def _lines(blocks: dict[str, str], title: str) -> list[dict[str, Any]]:
    """The JSON lines of the block whose title begins so; none where there is no such block."""
    text = next((t for name, t in blocks.items() if name.startswith(title)), "")
    return [json.loads(line) for line in text.split("\n") if line.strip()]
