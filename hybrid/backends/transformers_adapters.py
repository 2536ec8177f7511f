"""Adapters on a loaded base: attach, prove that they act, switch between them, and never change the base.

The base is held once. The first adapter makes PEFT wrap the base's linear layers in place; later ones are added beside
it, up to a number, and the least recently used one is dropped. Base weights are never merged into: merging and
unmerging in bfloat16 drifts. Does not: generate (see `transformers_backend`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from hybrid.backends.adapters import check_adapter, read_tensors
from hybrid.backends.base import Adapter
from hybrid.backends.loading import LoadedModel
from hybrid.backends.quantization import refuse_merge
from hybrid.errors import AdapterError

_PROBE_ROWS, _PROBE_TOKENS = 4, 12


class AdapterShelf:
    """The adapters that are attached to one loaded base, by sha256, at most `capacity` at a time."""

    def __init__(self, loaded: LoadedModel, capacity: int = 4) -> None:
        self._loaded = loaded
        self._capacity = capacity
        self._peft: Any = None
        self._names: dict[str, str] = {}  # sha256 -> PEFT name, least recently used first
        self._layers: list[Any] | None = None  # None: to be looked for again
        self._hooked: set[int] = set()
        self._row_names: list[str] | None = None

    @property
    def attached(self) -> tuple[str, ...]:
        """sha256 of the attached adapters, least recently used first."""
        return tuple(self._names)

    @contextmanager
    def active(self, adapter: Adapter | None) -> Iterator[None]:
        """Inside, the base computes with `adapter`, or bare for None. Raises AdapterError before anything runs."""
        if adapter is None:
            yield
            return
        self._attach(adapter)
        name = self._names.pop(adapter.sha256)
        self._names[adapter.sha256] = name
        self._drop_oldest()
        self._switch(name)
        try:
            yield
        finally:
            self._switch(None)

    def make_room(self, adapters: int) -> None:
        """Let so many adapters be attached at a time, where that is more than now."""
        self._capacity = max(self._capacity, adapters)

    @contextmanager
    def mixed(self, adapters: Sequence[Adapter | None]) -> Iterator[None]:
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
            self._names[sha256] = self._names.pop(sha256)
        self._drop_oldest()
        names = ["__base__" if a is None else self._names[a.sha256] for a in adapters]
        layers = self._tuner_layers()
        try:
            for layer in layers:
                layer._disable_adapters = False
            self._row_names = names
            yield
        finally:
            self._row_names = None
            for layer in layers:
                layer._disable_adapters = True

    def _tuner_layers(self) -> list[Any]:
        """The layers that hold LoRAs, each with a hook that tells it whose row is whose while `mixed` is on."""
        from peft.tuners.lora import LoraLayer

        if self._layers is None:
            self._layers = [m for m in self._peft.modules() if isinstance(m, LoraLayer)]
            for layer in self._layers:
                if id(layer) not in self._hooked:
                    layer.register_forward_pre_hook(self._tell, with_kwargs=True)
                    self._hooked.add(id(layer))
        return self._layers

    def _tell(
        self, _layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return None if self._row_names is None else (arguments, {**named, "adapter_names": self._row_names})

    def _switch(self, name: str | None) -> None:
        """Between calls every adapter is off, so that whoever uses the base directly gets the bare base."""
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name, inference_mode=True)

    def _attach(self, adapter: Adapter) -> None:
        """Check and load, unless it is attached. A failure leaves the base and the other adapters as they were."""
        if adapter.sha256 in self._names:
            return
        facts = check_adapter(adapter.path, self._loaded.info.fingerprint)
        if facts.adapter.sha256 != adapter.sha256:
            raise AdapterError(
                f"{adapter.path}: the files are not those of adapter {adapter.sha256[:12]}...; they were replaced"
            )
        name = f"a{adapter.sha256[:24]}"
        try:
            self._load(adapter, name)
            self._check_loaded(adapter, name)
            self._check_acts(adapter, name)
        except AdapterError:
            self._remove(name)
            raise
        self._names[adapter.sha256] = name
        self._layers = None  # it may have layers of its own

    def _load(self, adapter: Adapter, name: str) -> None:
        from peft import PeftModel

        device = self._loaded.info.device
        cuda = [torch.cuda.current_device()] if device == "cuda" else []
        try:
            # PEFT fills new layers with random numbers before it loads them: the process's own stream must not move.
            # What it warns of (tensors without a place) is an error in `_check_loaded`.
            with torch.random.fork_rng(devices=cuda), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                warnings.simplefilter("ignore", FutureWarning)  # PEFT's use of names that transformers deprecates
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(
                        self._loaded.model, str(adapter.path), adapter_name=name, torch_device=device
                    )
                else:
                    self._peft.load_adapter(str(adapter.path), adapter_name=name, torch_device=device)
        except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise AdapterError(f"{adapter.path}: does not fit this base: {reason[:300]}") from error
        self._peft.eval()
        refuse_merge(self._peft)

    def _check_loaded(self, adapter: Adapter, name: str) -> None:
        """Every tensor of the file is in the model, and every adapter weight of the model came from the file."""
        from peft import get_peft_model_state_dict

        wanted = read_tensors(adapter.path)
        found = get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
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

    def _check_acts(self, adapter: Adapter, name: str) -> None:
        """The model's output with the adapter differs somewhere from the bare base's on a few fixed token rows."""
        with torch.inference_mode():
            self._switch(name)
            adapted = self._probe()
            self._switch(None)
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

    def _remove(self, name: str) -> None:
        """Take a half-attached adapter off again; the last one unwraps the base."""
        if self._peft is None:
            _unwrap_orphan_layers(self._loaded.model)
        elif not self._names:
            self._peft.unload()
            self._peft = None
        elif name in self._peft.peft_config:
            self._switch(next(iter(self._names.values())))
            self._peft.delete_adapter(name)
            self._switch(None)

    def _drop_oldest(self) -> None:
        """Down to the capacity; the last one, which is wanted now, stays and becomes active first."""
        while len(self._names) > self._capacity:
            self._switch(next(reversed(self._names.values())))
            sha256, name = next(iter(self._names.items()))
            self._peft.delete_adapter(name)
            del self._names[sha256]


def _unwrap_orphan_layers(model: Any) -> None:
    """Put base layers back where a first injection failed half-way, before PEFT returned a handle to undo it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in wrapped:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
