"""Proxies on a loaded base: the small model from the configuration, the vocabulary that both share, and who steers.

The small model is loaded when the first proxy needs it, once, from the path that the *configuration* names; a proxy folder
only says which fingerprint it has to have. A proxy whose small model is the base itself needs no other model.

Does not: generate, or choose alpha.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from hybrid.backends.adapters import check_adapter, read_config
from hybrid.backends.base import Adapter
from hybrid.backends.loading import LoadedModel
from hybrid.backends.proxy import MixedPair, ProxyLogits, SamePair
from hybrid.backends.proxy_facts import ProxyFacts, proxy_facts
from hybrid.backends.proxy_folder import is_proxy, unpack
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.errors import AdapterError, BackendError

Steer = Callable[[torch.Tensor], ProxyLogits]
"""From the attention mask (b, t) of one batch to its logits processor."""


class ProxyShelf:
    """The proxies of one loaded base. `load_small` gives the configured small model; None where none is configured.

    `base_shelf` holds the adapters of the base, among them those of proxies that steer the base by itself.
    """

    def __init__(
        self, base: LoadedModel, base_shelf: AdapterShelf, load_small: Callable[[], LoadedModel] | None
    ) -> None:
        self._base, self._base_shelf, self._load = base, base_shelf, load_small
        self._small: tuple[LoadedModel, AdapterShelf] | None = None
        self._known: dict[str, tuple[ProxyFacts, Adapter]] = {}  # sha256 of a proxy -> what it says, its LoRA

    def small(self) -> LoadedModel | None:
        """The configured small model, loaded and compared with the base; None where none is configured. Raises BackendError."""
        return None if self._load is None else self._loaded(self._load)[0]

    def steers(self, adapter: Adapter) -> bool:
        """Whether an adapter is a proxy; the folder of one that was used before is not looked at again. Raises AdapterError."""
        if adapter.sha256 in self._known:
            return True
        return adapter.sha256 not in self._base_shelf.attached and is_proxy(adapter)

    @contextmanager
    def active(self, adapter: Adapter) -> Iterator[Steer]:
        """Inside, what is yielded makes the processors of batches. Raises AdapterError before anything runs."""
        facts, lora = self._open(adapter)
        same = facts.small_fingerprint == self._base.info.fingerprint
        loaded, shelf = (self._base, self._base_shelf) if same else self._named(adapter, facts)
        with tempfile.TemporaryDirectory(prefix="hybrid-proxy-") as folder:
            if lora.sha256 not in shelf.attached:
                lora = unpack(adapter.path, Path(folder))
            with shelf.active(lora):
                pass  # attached and tried; from here on it is on only while the small model computes

            def halves(tuned: int, plain: int) -> AbstractContextManager[None]:
                return shelf.by_row([lora] * tuned + [None] * plain)

            kind = SamePair if same else MixedPair
            yield lambda mask: ProxyLogits(kind(loaded.model, halves), facts.alpha, mask)

    def positions(self, adapter: Adapter) -> int | None:
        """Most positions that the proxy's small model has; None where it names no limit."""
        facts, _ = self._open(adapter)
        same = facts.small_fingerprint == self._base.info.fingerprint
        found = self._base if same or self._load is None else self._loaded(self._load)[0]
        return getattr(found.model.config.get_text_config(), "max_position_embeddings", None)

    def _open(self, adapter: Adapter) -> tuple[ProxyFacts, Adapter]:
        """Check the folder the first time that it is used."""
        if adapter.sha256 not in self._known:
            found = check_adapter(adapter.path, self._base.info.fingerprint).adapter
            if found.sha256 != adapter.sha256:
                raise AdapterError(
                    f"{adapter.path}: the files are not those of adapter {adapter.sha256[:12]}...; they were replaced"
                )
            facts = proxy_facts(adapter.path, read_config(adapter.path))
            with tempfile.TemporaryDirectory(prefix="hybrid-proxy-") as folder:
                self._known[adapter.sha256] = (facts, unpack(adapter.path, Path(folder)))
        return self._known[adapter.sha256]

    def _named(self, adapter: Adapter, facts: ProxyFacts) -> tuple[LoadedModel, AdapterShelf]:
        """The configured small model, if it is the one that the folder names."""
        wanted = f"{adapter.path}: steers by a small model with fingerprint {facts.small_fingerprint[:12]}..."
        if self._load is None:
            raise AdapterError(f"{wanted}, and none is configured; name it as weights.proxy.small")
        loaded, shelf = self._loaded(self._load)
        if loaded.info.fingerprint != facts.small_fingerprint:
            raise AdapterError(
                f"{wanted}, while {loaded.info.path} (weights.proxy.small) is {loaded.info.fingerprint[:12]}...; name the "
                "small model that it was trained on"
            )
        return loaded, shelf

    def _loaded(self, load: Callable[[], LoadedModel]) -> tuple[LoadedModel, AdapterShelf]:
        if self._small is None:
            loaded = load()
            compare_vocabularies(self._base, loaded)
            self._small = (loaded, AdapterShelf(loaded))
        return self._small


def compare_vocabularies(base: LoadedModel, small: LoadedModel) -> None:
    """Raise BackendError, naming the first difference, unless a token id means the same to both models.

    Compared: every token's text and id, the tokens that begin, end and stand for unknown text, what ends an answer, the chat
    template where chats are rendered, and that both models score every token. Rows of the output layer beyond the
    vocabulary, which some models are padded with, may differ in number.
    """
    ours, theirs = base.tokenizer.get_vocab(), small.tokenizer.get_vocab()
    head = f"{small.info.path} (weights.proxy.small) cannot steer {base.info.path}: "
    for token in sorted({*ours, *theirs}, key=lambda t: (ours.get(t, theirs.get(t)), t)):
        if ours.get(token) != theirs.get(token):
            found = [
                f"{'is not a token' if n is None else f'is token {n}'}" for n in (theirs.get(token), ours.get(token))
            ]
            raise BackendError(f"{head}{token!r} {found[0]} of the small model and {found[1]} of the base; {_FIX}")
    for name in ("bos_token", "eos_token", "unk_token"):
        mine, other = getattr(base.tokenizer, name), getattr(small.tokenizer, name)
        if mine != other:
            raise BackendError(f"{head}its {name} is {other!r} and the base's is {mine!r}; {_FIX}")
    if base.stop_ids != small.stop_ids:
        raise BackendError(f"{head}it ends answers with tokens {small.stop_ids}, the base with {base.stop_ids}; {_FIX}")
    templates = [getattr(loaded.tokenizer, "chat_template", None) for loaded in (base, small)]
    if base.chat and templates[0] != templates[1]:
        raise BackendError(f"{head}the chat templates differ, so that they would read other prompts; {_FIX}")
    for loaded in (base, small):
        width, size = _width(loaded.model), 1 + max(ours.values())
        if width < size:
            raise BackendError(f"{head}{loaded.info.path} scores {width} tokens of a vocabulary of {size}; {_FIX}")


_FIX = "proxy-tuning needs two models of one vocabulary"


def _width(model: Any) -> int:
    """Tokens that the output layer scores."""
    head = model.get_output_embeddings()
    return int(model.config.get_text_config().vocab_size if head is None else head.weight.shape[0])
