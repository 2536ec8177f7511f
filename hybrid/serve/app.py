"""The HTTP application: an OpenAI-compatible server over a placed model, as an ASGI app.

    app = build_app(model, engine, ServerLimits(), key=None, log=print_line)

POST /v1/chat/completions and /v1/completions, GET /v1/models and /health. Limits are kept before anything is computed:
key, body size, requests under way, prompt and answer length. Every refusal has the protocol's error shape. A client that
goes away takes its rows out of the batch. What a request got is in the body (`hybrid`), in the header `x-hybrid-applied`
and in one log line, which holds no text of anybody unless that was asked for.
Does not: open sockets or catch signals (see `server`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hybrid.errors import AdapterError, HybridError, PromptError, UsageError
from hybrid.serve.engine import Delta, Done, Engine, EngineBusy, EngineClosed, Event, Failed, Ticket
from hybrid.serve.placed import BASE, ROUTED, PlacedModel, Prepared
from hybrid.serve.protocol import (
    ApiError,
    Asked,
    Kind,
    Said,
    StopText,
    chunk,
    parse_body,
    read_chat,
    read_text,
    reply,
    require_json,
    usage_chunk,
)

APPLIED_HEADER = "x-hybrid-applied"
Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class ServerLimits:
    """What one server takes. Sizes in bytes, times in seconds; `concurrent` counts requests under way, waiting ones too."""

    concurrent: int = 128
    body: int = 1 << 20
    tokens: int = 1024
    timeout_s: float = 120.0
    retry_after_s: int = 1


@dataclass(eq=False)
class _Stream:
    """One prompt's answer as it comes."""

    prepared: Prepared
    stop: StopText
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    ticket: Ticket | None = None
    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    finish: str = "stop"

    def said(self) -> Said:
        return Said(self.text, self.finish, self.tokens_in, self.tokens_out, self.prepared.applied.as_json())


class _Streamed(StreamingResponse):
    """A streamed reply that says when it is over, also where its client went before the first piece."""

    def __init__(self, over: Callable[[], None], *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client that goes away ends it, and is nobody's mistake."""
        try:
            with contextlib.suppress(ClientDisconnect):
                await super().__call__(scope, receive, send)
        finally:
            self._over()


def model_ids(model: PlacedModel) -> dict[str, str | None]:
    """Model ids and the capability that each names; None for the routed one. A capability called as one of the fixed ids
    has `-capability` behind its name."""
    taken = {ROUTED, BASE}
    named = {(f"{name}-capability" if name in taken else name): name for name in model.capabilities}
    return {ROUTED: None, BASE: BASE, **named}


class Api:
    """The handlers of one server. `draining` refuses what is new."""

    def __init__(
        self,
        model: PlacedModel,
        engine: Engine,
        limits: ServerLimits,
        *,
        key: str | None,
        log: Log,
        log_prompts: bool = False,
    ) -> None:
        self._model, self._engine, self._limits, self._key = model, engine, limits, key
        self._log, self._log_prompts = log, log_prompts
        self._ids = model_ids(model)
        self._started = int(time.time())
        self.under_way = 0
        self.draining = False

    async def health(self, _request: Request) -> Response:
        """Whether the server answers; open to everybody, says nothing of the model."""
        sound = self._engine.alive and not self.draining
        state = "ok" if sound else "draining" if self.draining else "failed"
        return JSONResponse({"status": state}, status_code=200 if sound else 503)

    async def models(self, request: Request) -> Response:
        """The list of model ids."""
        self._authorise(request)
        rows = [{"id": i, "object": "model", "created": self._started, "owned_by": "hybrid"} for i in self._ids]
        return JSONResponse({"object": "list", "data": rows})

    async def one_model(self, request: Request) -> Response:
        """One of the list."""
        self._authorise(request)
        ident = request.path_params["ident"]
        if ident not in self._ids:
            raise _no_model(ident)
        return JSONResponse({"id": ident, "object": "model", "created": self._started, "owned_by": "hybrid"})

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._complete(request, "chat")

    async def text(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._complete(request, "text")

    async def _complete(self, request: Request, kind: Kind) -> Response:
        self._authorise(request)
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if self.under_way >= self._limits.concurrent:
            raise self._busy()
        self.under_way += 1
        handed_over = False
        try:
            asked = await self._read(request, kind)
            streams = self._start(asked)
            if asked.stream:
                response = await self._streamed(asked, streams)
                handed_over = True
                return response
            return await self._whole(request, asked, streams)
        finally:
            if not handed_over:
                self.under_way -= 1

    def _authorise(self, request: Request) -> None:
        if self._key is None:
            return
        given = request.headers.get("authorization", "")
        wanted = f"Bearer {self._key}"
        if not hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode()):
            raise ApiError(401, "a valid key is needed: Authorization: Bearer KEY", code="invalid_api_key")

    async def _read(self, request: Request, kind: Kind) -> Asked:
        """The request, read no further than the limit allows."""
        require_json(request.headers.get("content-type", ""))
        most = self._limits.body
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told[:20]) > most:
            raise _too_large(most)
        body = bytearray()
        async with asyncio.timeout(self._limits.timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise _too_large(most)
        read = read_chat if kind == "chat" else read_text
        return read(parse_body(bytes(body)), self._limits.tokens)

    def _start(self, asked: Asked) -> list[_Stream]:
        """Decide on every prompt and hand it to the engine: all of them or none."""
        if asked.model not in self._ids:
            raise _no_model(asked.model)
        named = self._ids[asked.model]
        if asked.capability is not None and named is not None and asked.capability != named:
            raise ApiError(400, "model and capability name different ones", param="capability")
        streams = []
        for prompt in asked.prompts:
            try:
                prepared = self._model.prepare(
                    prompt,
                    capability=asked.capability or named,
                    max_new_tokens=asked.max_tokens,
                    temperature=asked.temperature,
                    top_p=asked.top_p,
                    seed=asked.seed,
                )
            except UsageError as error:
                raise ApiError(400, str(error)) from None
            streams.append(_Stream(self._fitting(asked, prepared), StopText(asked.stop)))
        self._submit(streams)
        return streams

    def _fitting(self, asked: Asked, prepared: Prepared) -> Prepared:
        """Where the caller gave no limit of its own, the server's holds too."""
        if asked.max_tokens is not None or prepared.sampling.max_new_tokens <= self._limits.tokens:
            return prepared
        sampling = prepared.sampling.model_copy(update={"max_new_tokens": self._limits.tokens})
        return replace(prepared, sampling=sampling)

    def _submit(self, streams: Sequence[_Stream]) -> None:
        loop = asyncio.get_running_loop()

        def deliver(stream: _Stream) -> Callable[[Event], None]:
            return lambda event: _post(loop, stream.events, event)

        try:
            for stream in streams:
                stream.ticket = self._engine.submit(stream.prepared, deliver(stream))
        except EngineBusy:
            _cancel(streams)
            raise self._busy() from None
        except EngineClosed:
            _cancel(streams)
            raise ApiError(503, "the server is shutting down", code="shutting_down") from None

    async def _whole(self, request: Request, asked: Asked, streams: Sequence[_Stream]) -> Response:
        began, ident = time.monotonic(), _ident(asked.kind)
        gone = asyncio.create_task(_gone(request))
        work = asyncio.create_task(self._collect(streams))
        try:
            await asyncio.wait({gone, work}, timeout=self._limits.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                status = 499 if gone.done() else 504
                self._note(asked, streams, ident, began, status)
                raise _timed_out(self._limits.timeout_s)
            try:
                work.result()
            except ApiError as error:
                self._note(asked, streams, ident, began, error.status)
                raise
        finally:
            _cancel(streams)
            gone.cancel()
            work.cancel()
        said = [s.said() for s in streams]
        self._note(asked, streams, ident, began, 200)
        body = reply(asked.kind, ident, int(time.time()), asked.model, said)
        return JSONResponse(body, headers={APPLIED_HEADER: _header(streams)})

    async def _collect(self, streams: Sequence[_Stream]) -> None:
        for stream in streams:
            async for _ in _pieces(stream):
                pass

    async def _streamed(self, asked: Asked, streams: Sequence[_Stream]) -> Response:
        """The reply opens with the first event, so that a request that fails at once has the status of its error."""
        began, ident, created = time.monotonic(), _ident(asked.kind), int(time.time())
        deadline = began + self._limits.timeout_s
        try:
            for stream in streams:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    first = await stream.events.get()
                if isinstance(first, Failed):
                    raise _api_error(first.error)
                _put_back(stream.events, first)
        except TimeoutError:
            _cancel(streams)
            self._note(asked, streams, ident, began, 504)
            raise _timed_out(self._limits.timeout_s) from None
        except (ApiError, asyncio.CancelledError):
            _cancel(streams)
            raise

        ended = [499]  # until the last piece was sent, the client may have gone

        async def body() -> AsyncIterator[bytes]:
            try:
                async for piece in self._chunks(asked, streams, ident, created, deadline):
                    yield piece
                ended[0] = 200
            except ApiError as error:
                ended[0] = error.status
                self.failed(error)
                yield _event(error.body())

        def over() -> None:
            _cancel(streams)
            self.under_way -= 1
            self._note(asked, streams, ident, began, ended[0])

        headers = {APPLIED_HEADER: _header(streams), "cache-control": "no-store"}
        return _Streamed(over, body(), media_type="text/event-stream", headers=headers)

    async def _chunks(
        self, asked: Asked, streams: Sequence[_Stream], ident: str, created: int, deadline: float
    ) -> AsyncIterator[bytes]:
        kind, model = asked.kind, asked.model
        for index, stream in enumerate(streams):
            applied = stream.prepared.applied.as_json()
            yield _event(chunk(kind, ident, created, model, index, "", first=True, applied=applied))
            pieces = _pieces(stream)
            while True:
                try:
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    raise _timed_out(self._limits.timeout_s) from None
                yield _event(chunk(kind, ident, created, model, index, piece))
            yield _event(chunk(kind, ident, created, model, index, "", finish=stream.finish))
        if asked.usage_in_stream:
            yield _event(usage_chunk(kind, ident, created, model, [s.said() for s in streams]))
        yield b"data: [DONE]\n\n"

    def _busy(self) -> ApiError:
        return ApiError(429, "too many requests are under way; try again", code="rate_limit_exceeded", kind="requests")

    def _note(self, asked: Asked, streams: Sequence[_Stream], ident: str, began: float, status: int) -> None:
        """One line per request."""
        line: dict[str, Any] = {
            "id": ident,
            "kind": asked.kind,
            "model": asked.model,
            "stream": asked.stream,
            "status": status,
            "seconds": round(time.monotonic() - began, 4),
            "tokens_in": sum(s.tokens_in for s in streams),
            "tokens_out": sum(s.tokens_out for s in streams),
            "applied": [s.prepared.applied.as_json() for s in streams],
        }
        if self._log_prompts:
            line["prompts"] = [p if isinstance(p, str) else [m.model_dump() for m in p] for p in asked.prompts]
            line["answers"] = [s.text for s in streams]
        self._log(line)

    def failed(self, error: ApiError) -> Response:
        """An error as a response, and its line in the log: never a word of the request."""
        line: dict[str, Any] = {"status": error.status, "refused": error.code or error.kind}
        self._log(line if error.cause is None else {**line, "cause": error.cause})
        headers = {"retry-after": str(self._limits.retry_after_s)} if error.status in (429, 503) else {}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(error.body(), status_code=error.status, headers=headers)


def build_app(api: Api) -> Starlette:
    """The ASGI application over the handlers."""

    async def api_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return api.failed(error)

    async def http_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = {404: "there is nothing here", 405: "this method is not allowed here"}.get(error.status_code)
        found = api.failed(ApiError(error.status_code, message or str(error.detail), code="unknown_url"))
        found.headers.update(error.headers or {})
        return found

    async def slow_body(_request: Request, _error: Exception) -> Response:
        return api.failed(ApiError(408, "the body did not arrive in time"))

    async def nobody(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)

    async def bug(_request: Request, _error: Exception) -> Response:
        return api.failed(ApiError(500, "the server failed on this request; its log says why"))

    return Starlette(
        routes=[
            Route("/health", api.health),
            Route("/v1/models", api.models),
            Route("/v1/models/{ident}", api.one_model),
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/completions", api.text, methods=["POST"]),
        ],
        exception_handlers={
            ApiError: api_error,
            HTTPException: http_error,
            TimeoutError: slow_body,
            ClientDisconnect: nobody,
            Exception: bug,
        },
    )


async def _pieces(stream: _Stream) -> AsyncIterator[str]:
    """The visible pieces of one answer; afterwards the stream holds the whole text, its end and its tokens."""
    while True:
        event = await stream.events.get()
        if isinstance(event, Failed):
            raise _api_error(event.error)
        if isinstance(event, Done):
            stream.finish, stream.tokens_in, stream.tokens_out = event.finish, event.tokens_in, event.tokens_out
            shown = stream.stop.rest()
        else:
            shown, stream.tokens_out = stream.stop.feed(event.text), event.tokens_out
            stream.tokens_in = event.tokens_in
        stream.text += shown
        if shown:
            yield shown
        if stream.stop.met and not isinstance(event, Done):
            stream.finish = "stop"
            if stream.ticket is not None:
                stream.ticket.cancel()
            return
        if isinstance(event, Done):
            return


async def _gone(request: Request) -> None:
    """Until the client goes away."""
    while not await request.is_disconnected():  # ASGI tells it by being asked
        await asyncio.sleep(0.05)


def _post(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Event], event: Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(queue.put_nowait, event)


def _put_back(queue: asyncio.Queue[Event], first: Event) -> None:
    """`first` before whatever came meanwhile."""
    later = [queue.get_nowait() for _ in range(queue.qsize())]
    for event in (first, *later):
        queue.put_nowait(event)


def _cancel(streams: Sequence[_Stream]) -> None:
    for stream in streams:
        if stream.ticket is not None:
            stream.ticket.cancel()


def _api_error(error: HybridError) -> ApiError:
    """What a failed row says: a prompt that does not fit is the caller's, everything else the server's."""
    text = str(error)
    if isinstance(error, PromptError):
        return ApiError(400, text, code="context_length_exceeded" if "exceed" in text else "invalid_prompt")
    if isinstance(error, AdapterError):
        return ApiError(500, "the adapter of this capability cannot be used; the server's log says why", cause=text)
    return ApiError(500, "the model could not answer; the server's log says why", cause=text)


def _header(streams: Sequence[_Stream]) -> str:
    """What was applied, per prompt: `capability=NAME; skill=...; adapter=...`, hashes cut to 12 digits."""
    parts = []
    for a in (s.prepared.applied for s in streams[:8]):
        fields = {"capability": a.capability, "skill": (a.skill or "")[:12], "adapter": (a.adapter or "")[:12]}
        parts.append("; ".join(f"{key}={value or '-'}" for key, value in fields.items()))
    return ", ".join(parts)


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def _ident(kind: Kind) -> str:
    return f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"


def _no_model(name: str) -> ApiError:
    return ApiError(
        404, f"there is no model {name[:100]!a}; GET /v1/models lists them", param="model", code="model_not_found"
    )


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes", code="body_too_large")


def _timed_out(seconds: float) -> ApiError:
    return ApiError(504, f"the answer took longer than {seconds:g} s", code="timeout")


__all__ = ["APPLIED_HEADER", "Api", "Delta", "ServerLimits", "build_app", "model_ids"]
