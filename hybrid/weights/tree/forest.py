"""The trees of several prompts grown together: what they want next is sampled, graded and scored in one go.

    forest = Forest(job, loaded, critics, grade)
    trees = forest.grow(policy, [Root(row=3, ids=prompt_ids)], stream="17")

A token depends on (seed, stream, place of the prompt, number of the sample, position) and its logits alone, never on a random
state, so a resumed step grows the same trees. Critics look at the hidden states of the base with the adapter off.

Does not: train, or keep anything but the critics' rows.

Legend of axis suffixes: b rows, t tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import GenerationConfig

from hybrid.backends.loading import LoadedModel
from hybrid.backends.sampling import SeededChoice
from hybrid.capability.types import Score
from hybrid.config.tree import CriticName
from hybrid.errors import TrainingError
from hybrid.weights.base import TrainJob
from hybrid.weights.rollouts import evaluating
from hybrid.weights.tree.critics import Array, Critics
from hybrid.weights.tree.search import Branch, Cut, Leaf, Tree, cutter

Grade = Callable[[int, str], Score | None]
"""(training row, completion) -> its score; None where the grader gave no verdict."""


@dataclass(frozen=True)
class Root:
    """One prompt to search: its training row and the ids that the model reads."""

    row: int
    ids: tuple[int, ...]


class SampleLog(Protocol):
    """Samples that an earlier attempt made, a wave at a time: the key of a sample is its seed."""

    def get(self, seeds: Sequence[int]) -> list[list[int]] | None:
        """The tokens of every sample of a wave; None when it is not known."""
        ...

    def add(self, seeds: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Keep a wave durably."""
        ...


@dataclass(frozen=True)
class Lesson:
    """Rows for one critic: features (n, width), targets in [0, 1] and the training rows that they come from."""

    critic: CriticName
    features: Array
    targets: tuple[float, ...]
    prompts: tuple[int, ...]


class Forest:
    """Grows trees with a policy; `rows` is the most rows of one forward pass, `samples` what is known of earlier ones."""

    def __init__(
        self,
        job: TrainJob,
        loaded: LoadedModel,
        critics: Critics,
        grade: Grade,
        rows: int,
        samples: SampleLog | None = None,
    ) -> None:
        self._job, self._tokenizer, self._critics, self._grade = job, loaded.tokenizer, critics, grade
        self._stops = tuple(loaded.stop_ids)
        self._rows, self._samples = rows, samples
        self._cut = option_cut(job, loaded.tokenizer)

    def grow(self, policy: Any, roots: Sequence[Root], stream: str, first: int = 0) -> list[Tree]:
        """One whole tree per root; `first` is the place of the first root among those of all processes."""
        settings, grpo = self._job.weights.tree, self._job.weights.grpo
        trees = [Tree(settings, self._cut, grpo.generations, self._job.max_new_tokens) for _ in roots]
        estimating = self._estimating()
        with evaluating(policy):
            if estimating:
                self._estimate(policy, roots, [(place, 0) for place in range(len(roots))], trees)
            while wanted := [(place, branch) for place, tree in enumerate(trees) for branch in tree.want()]:
                prefixes = [(*roots[place].ids, *branch.prefix) for place, branch in wanted]
                seeds = [self._seed(stream, first + place, branch.draw) for place, branch in wanted]
                rooms = [branch.room for _, branch in wanted]
                found = self._samples.get(seeds) if self._samples else None
                if found is None:
                    found = self._sample(policy, prefixes, rooms, seeds)
                    if self._samples:
                        self._samples.add(seeds, found)
                self._add(policy, roots, trees, wanted, found)
        return trees

    def judge(self, roots: Sequence[Root], trees: Sequence[Tree]) -> None:
        """Give every leaf the checker's score, whoever scored it in the search."""
        for root, tree in zip(roots, trees, strict=True):
            for leaf in tree.leaves:
                self._check(root, tree, leaf)

    def lessons(self, policy: Any, roots: Sequence[Root], trees: Sequence[Tree]) -> list[Lesson]:
        """What judged trees say of their states, as rows for the critics."""
        states = [(place, number) for place, tree in enumerate(trees) for number in range(len(tree.nodes))]
        with evaluating(policy):
            features = dict(zip(states, self._features(policy, roots, states, trees), strict=True))
        found = []
        for rows in (_value_rows, _process_rows, _outcome_rows):
            name, made = rows(roots, trees, features)
            if made:
                x, y, prompts = zip(*made, strict=True)
                found.append(Lesson(name, np.stack(x), y, prompts))
        return found

    def _add(
        self,
        policy: Any,
        roots: Sequence[Root],
        trees: Sequence[Tree],
        wanted: Sequence[tuple[int, Branch]],
        found: Sequence[Sequence[int]],
    ) -> None:
        """Put samples into their trees, score their leaves, and estimate the states that are new."""
        by_critic = "outcome" in self.consulted
        before = [len(tree.nodes) for tree in trees]
        added = [(place, trees[place].take(branch, ids)) for (place, branch), ids in zip(wanted, found, strict=True)]
        if not by_critic:
            for place, leaf in added:
                self._check(roots[place], trees[place], trees[place].leaves[leaf])
        new = [(p, number) for p, tree in enumerate(trees) for number in range(before[p], len(tree.nodes))]
        if self._estimating():
            self._estimate(policy, roots, new, trees)
        if by_critic:
            ends = [(place, trees[place].leaves[leaf].path[-1]) for place, leaf in added]
            estimates = self._critics.score("outcome", self._features(policy, roots, ends, trees))
            for (place, leaf), score in zip(added, estimates, strict=True):
                trees[place].leaves[leaf].score = score

    def _check(self, root: Root, tree: Tree, leaf: Leaf) -> None:
        """The checker's score; where there is no verdict the mean of those that there are, which moves nothing."""
        leaf.judged = True
        found = self._grade(root.row, self.text(leaf.tokens))
        if found is not None:
            leaf.score = found.value
            return
        leaf.judged = False
        known = [other.score for other in tree.leaves if other is not leaf and other.judged]
        leaf.score = sum(known) / len(known) if known else 0.5

    def finished(self, tokens: Sequence[int]) -> bool:
        """Whether a completion ended by itself: one that was cut would teach where to stop, wrongly."""
        return tokens[-1] in self._stops

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a completion, by the rule by which the backend makes the text that is measured."""
        cut = next((i for i, token in enumerate(tokens) if token in self._stops), len(tokens))
        found: str = self._tokenizer.decode(
            list(tokens[:cut]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return found

    @property
    def consulted(self) -> tuple[CriticName, ...]:
        """The critics that a search would ask now: the calibrated ones, and `outcome` only in the checker's place."""
        by_critic = self._job.weights.tree.outcome == "critic"
        return tuple(name for name in self._critics.usable if name != "outcome" or by_critic)

    def _estimating(self) -> bool:
        return any(name != "outcome" for name in self.consulted)

    def _estimate(
        self, policy: Any, roots: Sequence[Root], states: Sequence[tuple[int, int]], trees: Sequence[Tree]
    ) -> None:
        """What the calibrated critics of states say of them. A finished completion has its score, and no estimate."""
        states = [(place, number) for place, number in states if not trees[place].nodes[number].ended]
        if not states:
            return
        features = self._features(policy, roots, states, trees)
        if "value" in self._critics.usable:
            for (place, number), score in zip(states, self._critics.score("value", features), strict=True):
                trees[place].nodes[number].estimates["value"] = score
        steps = [k for k, (_, number) in enumerate(states) if number]
        if "process" in self._critics.usable and steps:
            after = [states[k] for k in steps]
            before = self._features(policy, roots, [_parent(trees, state) for state in after], trees)
            joined = np.hstack([features[steps], features[steps] - before])
            for (place, number), score in zip(after, self._critics.score("process", joined), strict=True):
                trees[place].nodes[number].estimates["process"] = score

    def _features(
        self, policy: Any, roots: Sequence[Root], states: Sequence[tuple[int, int]], trees: Sequence[Tree]
    ) -> Array:
        """The base's last hidden state at the last token of every state, (n, width)."""
        rows = [(*roots[place].ids, *trees[place].nodes[number].prefix) for place, number in states]
        # A state that begins another one is read off the longer row.
        longest, place_of = _covering(rows)
        found: dict[int, torch.Tensor] = {}
        with torch.no_grad(), _bare(policy):
            base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
            device = next(policy.parameters()).device
            for begin in range(0, len(longest), self._rows):
                part = longest[begin : begin + self._rows]
                ids_bt, mask_bt = _padded(part, device, left=False)
                hidden = base.base_model(input_ids=ids_bt, attention_mask=mask_bt, use_cache=False).last_hidden_state
                for index, (cover, place) in enumerate(place_of):
                    if begin <= cover < begin + len(part):
                        found[index] = hidden[cover - begin, place].float().cpu()
        stacked: Array = torch.stack([found[index] for index in range(len(rows))]).numpy().astype(np.float64)
        return stacked

    def _sample(
        self, policy: Any, prefixes: Sequence[tuple[int, ...]], rooms: Sequence[int], seeds: Sequence[int]
    ) -> list[list[int]]:
        """Continuations, each up to its first stop token, which it keeps, or its room."""
        found: list[list[int]] = []
        device = next(policy.parameters()).device
        for begin in range(0, len(prefixes), self._rows):
            part = slice(begin, begin + self._rows)
            ids_bt, mask_bt = _padded(prefixes[part], device, left=True)
            width = int(ids_bt.shape[1])
            choice = SeededChoice(seeds[part], width, self._job.weights.grpo.temperature, 1.0)
            output = policy.generate(
                input_ids=ids_bt,
                attention_mask=mask_bt,
                logits_processor=[choice],
                generation_config=GenerationConfig(
                    max_new_tokens=max(rooms[part]),
                    do_sample=False,
                    eos_token_id=list(self._stops),
                    pad_token_id=self._tokenizer.pad_token_id,
                    disable_compile=True,
                ),
            )
            for row, room in zip(output[:, width:].tolist(), rooms[part], strict=True):
                end = next((i + 1 for i, token in enumerate(row) if token in self._stops), len(row))
                found.append(row[: min(end, room)])
        return found

    def _seed(self, stream: str, place: int, draw: int) -> int:
        text = f"tree:{self._job.seed}:{stream}:{place}:{draw}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def option_cut(job: TrainJob, tokenizer: Any) -> Cut:
    """Where options end for this tokenizer. Raises TrainingError for a delimiter that no token of it can hold."""
    settings = job.weights.tree
    holds: dict[int, bool] = {}
    delimiter = settings.delimiter
    if delimiter is not None:
        ids = tokenizer(delimiter, add_special_tokens=False)["input_ids"]
        if not any(delimiter in tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids):
            raise TrainingError(
                f"{job.capability}: no token of the model holds the delimiter {delimiter!r}: set weights.tree.delimiter to "
                "a shorter text, or to null for options of a fixed length"
            )

    def is_delimiter(token: int) -> bool:
        if delimiter is None:
            return False
        if token not in holds:
            holds[token] = delimiter in tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return holds[token]

    return cutter(is_delimiter, settings.option_tokens)


Features = dict[tuple[int, int], Array]
Rows = list[tuple[Array, float, int]]


def _value_rows(roots: Sequence[Root], trees: Sequence[Tree], features: Features) -> tuple[CriticName, Rows]:
    """Every state that is not a completion, with the mean return of what was sampled from it."""
    rows: Rows = []
    for place, tree in enumerate(trees):
        values = tree.values([leaf.score for leaf in tree.leaves])
        open_ones = [n for n, node in enumerate(tree.nodes) if not node.ended]
        rows += [(features[place, n], values[n], roots[place].row) for n in open_ones]
    return "value", rows


def _process_rows(roots: Sequence[Root], trees: Sequence[Tree], features: Features) -> tuple[CriticName, Rows]:
    """Every step to a state that is not a completion, with whether any leaf below is right."""
    rows: Rows = []
    for place, tree in enumerate(trees):
        for n, node in enumerate(tree.nodes):
            if node.parent is None or node.ended:
                continue
            right = float(max(tree.leaves[leaf].score for leaf in node.leaves) >= 0.5)
            step = np.concatenate([features[place, n], features[place, n] - features[place, node.parent]])
            rows.append((step, right, roots[place].row))
    return "process", rows


def _outcome_rows(roots: Sequence[Root], trees: Sequence[Tree], features: Features) -> tuple[CriticName, Rows]:
    """Every completion that was judged, with its score."""
    return "outcome", [
        (features[place, leaf.path[-1]], leaf.score, roots[place].row)
        for place, tree in enumerate(trees)
        for leaf in tree.leaves
        if leaf.judged
    ]


def _parent(trees: Sequence[Tree], state: tuple[int, int]) -> tuple[int, int]:
    place, number = state
    parent = trees[place].nodes[number].parent
    assert parent is not None
    return place, parent


def _covering(rows: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    """The rows that begin no other, and for every row (which of these it is or begins, the place of its last token)."""
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    longest: list[tuple[int, ...]] = []
    place_of: list[tuple[int, int]] = [(0, 0)] * len(rows)
    for index in reversed(order):  # in this order a row comes right before those that it begins
        row = rows[index]
        if not longest or longest[-1][: len(row)] != row:
            longest.append(row)
        place_of[index] = (len(longest) - 1, len(row) - 1)
    return longest, place_of


def _padded(rows: Sequence[Sequence[int]], device: Any, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (b, t); what pads is masked."""
    width = max(len(row) for row in rows)
    gaps = [[0] * (width - len(row)) for row in rows]
    ids = [[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, gaps, strict=True)]
    seen = [[1] * len(row) for row in rows]
    mask = [[*gap, *one] if left else [*one, *gap] for one, gap in zip(seen, gaps, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@contextmanager
def _bare(policy: Any) -> Iterator[None]:
    """The base alone, where the policy is an adapted one."""
    if not hasattr(policy, "disable_adapter"):
        yield
        return
    with policy.disable_adapter():
        yield
