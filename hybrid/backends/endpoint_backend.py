"""The `Backend` over a model behind an OpenAI-compatible endpoint: measured and given documents, never trained.

    backend = EndpointBackend(ModelConfig(path="m"), OpenAIBackendConfig(type="openai", url="http://127.0.0.1:8000/v1"))
    backend.generate([Request((Message(role="user", content="2 + 2 ="),), seed=0)], Sampling(), None)

Retries, waits, deadlines and the key are those of `EndpointChat`. Does not: train, load adapters, log, or know what a
request costs in money.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from hybrid.backends.base import Adapter, Completion, ModelInfo, Request, Sampling
from hybrid.backends.chat import ChatReply, ChatRequest
from hybrid.backends.endpoint import EndpointChat
from hybrid.backends.endpoint_wire import CHARACTERS_PER_TOKEN
from hybrid.capability.types import Message
from hybrid.config.schema import ModelConfig, OpenAIBackendConfig
from hybrid.errors import AdapterError, BackendError
from hybrid.store.atomic import canonical_json

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")
SEEDS = 2**31
"""Seeds are sent modulo this: some servers keep them in 32 bits."""


class EndpointBackend:
    """`concurrency` requests at once, answers in the order asked.

    A prompt that is text becomes one user message; a system message (the skill document) goes over as it is. The seed goes
    over where an answer is sampled; whether the server keeps to it is the server's affair, so that a repetition may
    differ. Tokens are those that the server counts (`usage`), characters / 4 where it counts none.

    The fingerprint is that of address, name and settings: what a provider does to the model behind them cannot be seen
    from here. Where the server names what answered, and it names more than one thing, that is a warning.

    Raises UsageError for an unset key or an unusable address, EndpointError when a request stays without an answer,
    AdapterError for any adapter.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: OpenAIBackendConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._model, self._config, self._sleep = model, config, sleep
        self._pace = Pace(config.requests_per_minute, clock, sleep)
        self._lock = threading.Lock()
        self._served: set[str] = set()
        self._info = self._describe(self._chat(Sampling()))

    def info(self) -> ModelInfo:
        """Address and name; a model of unknown size. The address is shown without user, password or query."""
        return self._info

    def count_tokens(self, text: str) -> int:
        """Characters / 4, rounded up: an estimate, as the endpoint's tokenizer is not here."""
        return -(-len(text) // CHARACTERS_PER_TOKEN)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader of a report has to know about the answers."""
        found = [
            f"{self._info.path}: a provider may change the model behind an address without notice; the run's fingerprint is "
            "that of address, name and settings"
        ]
        with self._lock:
            served = sorted(self._served)
        if len(served) > 1:
            found.append(f"{self._info.path}: {len(served)} models answered under one name: {', '.join(served)}")
        return tuple(found)

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        """One completion per request, in the order asked. Errors: see the class."""
        if adapter is not None:
            raise AdapterError(
                f"{self._info.path}: an endpoint takes no adapter; measure adapters with backend.type transformers or vllm"
            )
        if not requests:
            return []
        chat = self._chat(sampling)
        asked = [self._question(request, sampling) for request in requests]
        return at_once(lambda question: self._ask(chat, question), asked, self._config.concurrency)

    def _ask(self, chat: EndpointChat, question: ChatRequest) -> Completion:
        self._pace.wait()
        reply = chat.complete(question)
        self._note(reply)
        return Completion(reply.text, reply.tokens_in, reply.tokens_out, reply.seconds, reply.finish)

    def _note(self, reply: ChatReply) -> None:
        if reply.served:
            with self._lock:
                self._served.add(reply.served)

    def _question(self, request: Request, sampling: Sampling) -> ChatRequest:
        prompt = request.prompt
        messages = (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt
        if not messages or messages[-1].role == "assistant":
            raise BackendError(
                "a chat prompt must end with a user or system message, so that the assistant's turn is next"
            )
        return ChatRequest(
            purpose="measure",
            messages=messages,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=request.seed % SEEDS if sampling.temperature > 0 else 0,
        )

    def _chat(self, sampling: Sampling) -> EndpointChat:
        return EndpointChat(
            self._config.endpoint(self._model.path),
            sleep=self._sleep,
            section="backend",
            extra={} if sampling.top_p == 1.0 else {"top_p": sampling.top_p},
            length_key=self._config.length_key,
        )

    def _describe(self, chat: EndpointChat) -> ModelInfo:
        settings = {"who": chat.identity(), "length_key": self._config.length_key}
        fingerprint = hashlib.sha256(canonical_json(settings).encode()).hexdigest()
        return ModelInfo(path=chat.identity(), fingerprint=fingerprint, parameters=0, dtype="unknown", device="remote")


def at_once(call: Callable[[Asked], Answered], asked: Sequence[Asked], most: int) -> list[Answered]:
    """`call` on everything `asked`, at most so many at a time, answers in order. Raises the first error that any call raises.

    After an error or an interrupt nothing more is begun and nothing is waited for: calls under way end with the process. (A
    pool of `concurrent.futures` would be waited for when the interpreter ends, however long its calls take.)
    """
    if not asked:
        return []
    numbers, lock, over = iter(range(len(asked))), threading.Lock(), threading.Event()
    done: dict[int, Answered] = {}
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not over.is_set():
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                answer = call(asked[number])
                with lock:
                    done[number] = answer
                    if len(done) == len(asked):
                        over.set()
        except BaseException as error:  # noqa: BLE001  # raised where it was asked, below
            errors.append(error)
            over.set()

    try:
        for _ in range(min(most, len(asked))):
            threading.Thread(target=work, daemon=True).start()
        over.wait()
    finally:
        over.set()
    if errors:
        raise errors[0]
    return [done[number] for number in range(len(asked))]


class Pace:
    """Lets at most `per_minute` callers pass in any minute, evenly; None lets all pass. From any thread."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Sleep until it is this caller's turn."""
        if not self._gap:
            return
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            self._sleep(turn - now)
