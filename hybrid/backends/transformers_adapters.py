"""Adapters on a loaded base: attach, prove that they act, switch between them, and never change the base.

The base is held once. The first adapter of a kind makes PEFT wrap the base's linear layers in place; later ones are added
beside it, up to a number, and the least recently used one is dropped. Kinds (LoRA, SVF) take turns in being in place
(`wrappers`). Base weights are never merged into: merging and unmerging in bfloat16 drifts. Does not: generate (see
`transformers_backend`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from hybrid.backends.adapters import check_adapter, read_tensors
from hybrid.backends.base import Adapter
from hybrid.backends.loading import LoadedModel
from hybrid.backends.wrappers import Wrapper
from hybrid.errors import AdapterError

_PROBE_ROWS, _PROBE_TOKENS = 4, 12


class Gates:
    """Factors on the rank of an adapter, one list for every row of the batch that is computed."""

    def __init__(self) -> None:
        self._rows: torch.Tensor | None = None

    def set(self, rows: Sequence[Sequence[float]]) -> None:
        """The factors (rows, rank) of the batch to come, in its order."""
        self._rows = torch.tensor(rows, dtype=torch.float32)

    def __call__(self, _module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """As a forward hook: the output (rows, tokens, rank) times the factors. Raises AdapterError for another shape."""
        rows = self._rows
        shape = (output.shape[0], output.shape[-1])
        if rows is None or output.ndim != 3 or shape != tuple(rows.shape):
            raise AdapterError("this model does not keep a batch's rows apart, so mixtures cannot share one")
        if rows.dtype != output.dtype or rows.device != output.device:
            self._rows = rows = rows.to(device=output.device, dtype=output.dtype)
        return output * rows[:, None, :]


class AdapterShelf:
    """The adapters that are attached to one loaded base, by sha256, at most `capacity` at a time, of any kinds."""

    def __init__(self, loaded: LoadedModel, capacity: int = 4) -> None:
        self._loaded = loaded
        self._capacity = capacity
        self._wrappers: dict[str, Wrapper] = {}
        self._current: Wrapper | None = None  # the one that is in place
        self._homes: dict[str, Wrapper] = {}  # sha256 -> its wrapper, least recently used first

    @property
    def attached(self) -> tuple[str, ...]:
        """sha256 of the attached adapters, least recently used first."""
        return tuple(self._homes)

    @property
    def peft(self) -> Any:
        """The PEFT model of the kind that is in place; None before the first adapter. Between calls its adapters are off."""
        return None if self._current is None else self._current.peft

    @contextmanager
    def active(self, adapter: Adapter | None) -> Iterator[None]:
        """Inside, the base computes with `adapter`, or bare for None. Raises AdapterError before anything runs."""
        if adapter is None:
            yield
            return
        self._attach(adapter)
        home = self._homes.pop(adapter.sha256)
        self._homes[adapter.sha256] = home
        self._drop_oldest()
        self._bring(home)
        home.switch(_name(adapter.sha256))
        try:
            yield
        finally:
            home.switch(None)  # whoever uses the base directly gets the bare base

    def make_room(self, adapters: int) -> None:
        """Let so many adapters be attached at a time, where that is more than now."""
        self._capacity = max(self._capacity, adapters)

    @contextmanager
    def by_row(self, adapters: Sequence[Adapter | None]) -> Iterator[None]:
        """Inside, row i of every pass computes with `adapters[i]`, and those of None with the bare base. LoRA only.

        Raises AdapterError before anything runs, also where there are more of them than the shelf has room for. Costs a
        fraction of `active`, which walks through the model: this is entered once per token.
        """
        distinct = {a.sha256: a for a in adapters if a is not None}
        if len(distinct) > self._capacity:
            raise AdapterError(f"{len(distinct)} adapters in one batch, and {self._capacity} can be attached")
        if not distinct:
            yield
            return
        for sha256, adapter in distinct.items():
            self._attach(adapter)
            home = self._homes[sha256] = self._homes.pop(sha256)
            if home.kind != "LORA":
                raise AdapterError(f"{adapter.path}: is a {home.kind} adapter, which cannot share a pass with others")
        self._drop_oldest()
        self._bring(home)
        with home.by_row([None if a is None else _name(a.sha256) for a in adapters]):
            yield

    def _bring(self, wrapper: Wrapper) -> None:
        """Make `wrapper` the one that is in place."""
        if wrapper is self._current:
            return
        if self._current is not None:
            self._current.take_out()
        wrapper.put_in()
        self._current = wrapper

    @contextmanager
    def gated(self, stack: Adapter) -> Iterator[Gates]:
        """Inside, the base computes with `stack`, each row of a batch with its own factors on the stack's rank."""
        with self.active(stack):
            name = _name(stack.sha256)
            gates = Gates()
            layers = [layer.lora_A[name] for layer in self.peft.modules() if name in getattr(layer, "lora_A", ())]
            hooks = [layer.register_forward_hook(gates) for layer in layers]
            try:
                yield gates
            finally:
                for hook in hooks:
                    hook.remove()

    def _attach(self, adapter: Adapter) -> None:
        """Check and load, unless it is attached. A failure leaves the base and the other adapters as they were."""
        if adapter.sha256 in self._homes:
            return
        facts = check_adapter(adapter.path, self._loaded.info.fingerprint)
        if facts.adapter.sha256 != adapter.sha256:
            raise AdapterError(
                f"{adapter.path}: the files are not those of adapter {adapter.sha256[:12]}...; they were replaced"
            )
        home = self._wrappers.setdefault(facts.kind, Wrapper(self._loaded.model, facts.kind))
        self._bring(home)
        try:
            self._load(home, adapter)
            self._check_loaded(home, adapter)
            self._check_acts(home, adapter)
        except AdapterError:
            home.drop(_name(adapter.sha256))
            raise
        self._homes[adapter.sha256] = home

    def _load(self, home: Wrapper, adapter: Adapter) -> None:
        try:
            home.load(adapter.path, _name(adapter.sha256), self._loaded.info.device)
        except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise AdapterError(f"{adapter.path}: does not fit this base: {reason[:300]}") from error

    def _check_loaded(self, home: Wrapper, adapter: Adapter) -> None:
        """Every tensor of the file is in the model, and every adapter weight of the model came from the file."""
        from peft import get_peft_model_state_dict

        wanted = read_tensors(adapter.path)
        name = _name(adapter.sha256)
        found = get_peft_model_state_dict(home.peft, adapter_name=name, save_embedding_layers=False)
        unmatched, unfilled = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        if unmatched and not set(wanted) & set(found):
            raise AdapterError(
                f"{adapter.path}: matches nothing in the model (first name {unmatched[0]}); train it on this base"
            )
        if unmatched or unfilled:
            gaps = [f"{len(unmatched)} of its tensors have no place (first {unmatched[0]})"] if unmatched else []
            gaps += [f"{len(unfilled)} places of the model got no weights (first {unfilled[0]})"] if unfilled else []
            raise AdapterError(f"{adapter.path}: matches only a part of the model: {'; '.join(gaps)}; train it again")
        for key, tensor in wanted.items():
            if not torch.equal(found[key].detach().cpu().float(), tensor.float()):
                raise AdapterError(f"{adapter.path}: {key} was not loaded as it is in the file")

    def _check_acts(self, home: Wrapper, adapter: Adapter) -> None:
        """The model's output with the adapter differs somewhere from the bare base's on a few fixed token rows."""
        with torch.inference_mode():
            home.switch(_name(adapter.sha256))
            adapted = self._probe()
            home.switch(None)
            bare = self._probe()
        if torch.equal(adapted, bare):
            raise AdapterError(
                f"{adapter.path}: changes nothing: the output with it equals the base's; train it longer"
            )
        if not bool(adapted.isfinite().all()):
            raise AdapterError(
                f"{adapter.path}: makes the output overflow at {self._loaded.info.dtype}; use an earlier checkpoint"
            )

    def _probe(self) -> torch.Tensor:
        """Logits on rows of tokens spread evenly over the vocabulary."""
        size = int(self._loaded.model.get_input_embeddings().weight.shape[0])
        count = _PROBE_ROWS * _PROBE_TOKENS
        ids = torch.tensor([i * size // count for i in range(count)], device=self._loaded.info.device)
        logits: torch.Tensor = self._loaded.model(
            input_ids=ids.view(_PROBE_TOKENS, _PROBE_ROWS).T, use_cache=False
        ).logits
        return logits

    def _drop_oldest(self) -> None:
        """Down to the capacity; the last one, which is wanted now, stays."""
        while len(self._homes) > self._capacity:
            sha256, home = next(iter(self._homes.items()))
            self._bring(home)
            home.drop(_name(sha256))
            del self._homes[sha256]


def _name(sha256: str) -> str:
    """PEFT's name of an adapter."""
    return f"a{sha256[:24]}"
