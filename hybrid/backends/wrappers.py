"""What PEFT puts around a base, one wrapper per kind of adapter, of which at most one is in place.

    wrapper = Wrapper(model, "SVF")
    wrapper.load(folder, "name", device)      # wraps the base's layers at the first adapter of the kind
    wrapper.take_out(); other.put_in()        # the base's own layers between them: bare, not just switched off

PEFT refuses two kinds of adapter on one model. Here each kind has a wrapper of its own, whose layers are moved in and out of
the base's module tree; base layers are shared and never copied. Does not: check adapters (see `transformers_adapters`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hybrid.backends.quantization import refuse_merge


class Wrapper:
    """The adapters of one kind on one base. Every method but `put_in` needs the wrapper in place, or nothing in place yet."""

    def __init__(self, model: Any, kind: str) -> None:
        self._model, self.kind = model, kind
        self._layers: dict[str, Any] = {}
        self.peft: Any = None
        self.names: list[str] = []
        self._rows: list[str] | None = None
        self._hooked: set[int] = set()
        if kind == "SVF":
            from hybrid.backends.svf.tuner import register

            register()

    def load(self, folder: Path, name: str, device: str) -> None:
        """Load an adapter by name, switched off. What PEFT raises comes through; `drop` takes the rest of it off then."""
        from peft import PeftModel

        cuda = [torch.cuda.current_device()] if device == "cuda" else []
        # PEFT fills new layers with random numbers before it loads them: the process's own stream must not move.
        # What it warns of (tensors without a place) is an error of whoever checks what was loaded.
        with torch.random.fork_rng(devices=cuda), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)  # PEFT's use of names that transformers deprecates
            if self.peft is None:
                self.peft = PeftModel.from_pretrained(self._model, str(folder), adapter_name=name, torch_device=device)
            else:
                self.peft.load_adapter(str(folder), adapter_name=name, torch_device=device)
        self.names.append(name)
        self.peft.eval()
        refuse_merge(self.peft)
        self._layers = _wrapped(self._model)

    def switch(self, name: str | None) -> None:
        """Compute with the adapter `name`, or as the bare base."""
        if name is None:
            self.peft.base_model.disable_adapter_layers()
        else:
            self.peft.base_model.enable_adapter_layers()
            self.peft.set_adapter(name, inference_mode=True)

    @contextmanager
    def by_row(self, names: Sequence[str | None]) -> Iterator[None]:
        """Inside, row i of every pass computes with the LoRA `names[i]`, or as the bare base; off before and after.

        PEFT tells each layer whose row is whose and walks through the model for it; here a hook on each layer does, and the
        layers are switched by their flag, so that this may be entered once per token.
        """
        layers = list(self._layers.values())
        for layer in layers:
            if id(layer) not in self._hooked:
                layer.register_forward_pre_hook(self._tell, with_kwargs=True)
                self._hooked.add(id(layer))
        try:
            for layer in layers:
                layer._disable_adapters = False
            self._rows = ["__base__" if name is None else name for name in names]
            yield
        finally:
            self._rows = None
            for layer in layers:
                layer._disable_adapters = True

    def _tell(
        self, _layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return None if self._rows is None else (arguments, {**named, "adapter_names": self._rows})

    def drop(self, name: str) -> None:
        """Take an adapter off, loaded or half loaded; with the last one the base is as it was."""
        if name in self.names:
            self.names.remove(name)
        if not self.names:
            if self.peft is None:
                _unwrap(self._model)  # a first injection failed half-way, before PEFT returned a handle to undo it
            else:
                self.peft.unload()
            self.peft, self._layers, self._hooked = None, {}, set()
        elif name in self.peft.peft_config:
            self.switch(self.names[-1])
            self.peft.delete_adapter(name)
            self.switch(None)

    def take_out(self) -> None:
        """Put the base's own layers back in their places."""
        for path, layer in self._layers.items():
            _place(self._model, path, layer.get_base_layer())
        if self._layers:
            del self._model.peft_config

    def put_in(self) -> None:
        """Put the wrapped layers in place again."""
        for path, layer in self._layers.items():
            _place(self._model, path, layer)
        if self._layers:
            self._model.peft_config = self.peft.peft_config


def _wrapped(model: Any) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {path: module for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def _unwrap(model: Any) -> None:
    for path, layer in _wrapped(model).items():
        _place(model, path, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def _place(model: Any, path: str, layer: Any) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)
