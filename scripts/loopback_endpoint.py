"""A small OpenAI-compatible server on this machine alone, with faults on demand: for tests, rehearsals and benchmarks.

    with LoopbackEndpoint(lambda payload: "hello", faults=["500", "429:0.3"]) as server:
        ...                                   # POST {server.url}/chat/completions
        server.requests                       # the payloads that arrived, in order

    python scripts/loopback_endpoint.py --port 0 --answers answers.jsonl --faults slow:2 500 --log asked.jsonl

As a program it prints `{"url": ...}` and serves until it is stopped. A line of the answers file is
`{"answer": "...", "contains": "..."}`: the first one whose `contains` stands in the last message answers (without
`contains`: any). `--log` gets one line per request, before it is answered.

One fault is used up per request, in order; after the last one all goes well:

    ok             no fault                                   truncate   half of the JSON, as if it were whole
    slow:S         the answer comes after S seconds           cut        the connection ends in the middle of the body
    drip:S         one byte every S seconds, from the headers on    garbage    200 with a body that is not JSON
    ooze:S         the same for a body whose length is not told
    STATUS[:WAIT]  an error status, with Retry-After: WAIT    huge       5 MiB of JSON
    STATUS@WAIT    the same, with Retry-After as a date       drop       the connection ends without an answer
    redirect:URL   307 to URL                                 empty, nousage   a reply without choices, without counts

An error body repeats the Authorization header, as careless servers do. Tokens are characters / 4; an answer longer than
`max_tokens` is cut and finishes by `length`. Does not: speak TLS, stream, check keys, or listen beyond the loopback.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

Answer = Callable[[dict[str, Any]], str]
"""The payload of a request -> the text of the reply. Called one at a time."""
FORMATS = ("json_schema", "json_object")
_STATUS = re.compile(r"(\d{3})(?:([:@])(\d+(?:\.\d+)?))?")
_FAULT = re.compile(r"ok|truncate|cut|garbage|huge|drop|empty|nousage|(slow|drip|ooze):\d+(\.\d+)?|redirect:\S+")


class LoopbackEndpoint:
    """The server, in threads of this process while the `with` block runs.

    `requests` holds the payloads and `headers` their headers (names in lower case), in the order of arrival. An answer
    that raises is a 500. `formats` names the kinds of `response_format` that it knows: others are a 400. `on_request` is
    called with each payload before it is answered. Raises ValueError for a fault that it does not know.
    """

    def __init__(
        self,
        answer: Answer,
        faults: Sequence[str] = (),
        *,
        port: int = 0,
        formats: Sequence[str] = FORMATS,
        on_request: Callable[[dict[str, Any]], None] = lambda payload: None,
    ) -> None:
        unknown = [fault for fault in faults if not (_FAULT.fullmatch(fault) or _STATUS.fullmatch(fault))]
        if unknown:
            raise ValueError(f"unknown fault {unknown[0]!r}")
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._answer, self._faults, self._on_request = answer, list(faults), on_request
        self._formats = tuple(formats)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), _handler(self))

    @property
    def url(self) -> str:
        """The base address, as a client wants it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> LoopbackEndpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self) -> None:
        """Serve in this thread until the process ends."""
        self._server.serve_forever()

    def arrived(self, payload: dict[str, Any], headers: dict[str, str]) -> str:
        """Take note of a request; the fault that it meets."""
        with self._lock:
            self.requests.append(payload)
            self.headers.append(headers)
            self._on_request(payload)
            return self._faults.pop(0) if self._faults else "ok"

    def knows(self, payload: dict[str, Any]) -> bool:
        """Whether the wanted form of the reply is one that this server can be held to."""
        wanted = payload.get("response_format")
        return wanted is None or wanted.get("type") in self._formats

    def reply(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The body of a good reply."""
        with self._lock:
            text = self._answer(payload)
        most = 4 * int(payload.get("max_tokens") or 2**20)
        asked = sum(len(str(message.get("content"))) for message in payload["messages"])
        used = {"prompt_tokens": -(-asked // 4), "completion_tokens": -(-len(text[:most]) // 4)}
        message = {"role": "assistant", "content": text[:most]}
        finish = "length" if len(text) > most else "stop"
        return {
            "object": "chat.completion",
            "model": payload.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {**used, "total_tokens": sum(used.values())},
        }

    def pause(self, seconds: float) -> None:
        """Wait, but not for a server that is closing."""
        self._closing.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what half of the faults are for; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Exchange(BaseHTTPRequestHandler):
    """One request and its answer, with the fault in between."""

    owner: LoopbackEndpoint
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if not self.path.partition("?")[0].endswith("/chat/completions"):
            self._fail(404, "no such path")
            return
        try:
            payload = json.loads(body)
            payload["messages"][0]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            self._fail(400, "the body is not a chat completion")
            return
        self._meet(self.owner.arrived(payload, {k.lower(): v for k, v in self.headers.items()}), payload)

    def _meet(self, fault: str, payload: dict[str, Any]) -> None:
        kind, _, argument = fault.partition(":")
        status = _STATUS.fullmatch(fault)
        if status:
            self._fail(int(status[1]), f"status {status[1]} was asked for", _wait(status[2], status[3]))
        elif kind == "redirect":
            self._send(307, b"", {"Location": argument})
        elif kind == "garbage":
            self._send(200, b"<html>not JSON</html>")
        elif kind == "drop":
            self.close_connection = True
        elif not self.owner.knows(payload):
            self._fail(400, f"response_format {payload['response_format'].get('type')} is not supported")
        else:
            self._reply(kind, float(argument or 0), payload)

    def _reply(self, kind: str, seconds: float, payload: dict[str, Any]) -> None:
        try:
            value = self.owner.reply(payload)
        except Exception as error:  # noqa: BLE001  # the edge of a server: whatever the answer does is a 500
            self._fail(500, f"{type(error).__name__}: {error}")
            return
        if kind == "empty":
            value["choices"] = []
        elif kind == "nousage":
            del value["usage"]
        elif kind == "huge":
            value["padding"] = "x" * (5 * 2**20)
        body = json.dumps(value).encode()
        if kind == "slow":
            self.owner.pause(seconds)
        if kind in ("drip", "ooze"):
            self._drip(body, seconds, at_once=kind == "ooze")
        elif kind == "truncate":
            self._send(200, body[: len(body) // 2])
        elif kind == "cut":
            self._send(200, body[: len(body) // 2], {"Content-Length": str(len(body))})
        else:
            self._send(200, body)

    def _drip(self, body: bytes, seconds: float, at_once: bool) -> None:
        """Byte by byte: the body alone, without its length, where the headers come at once; else everything."""
        self.close_connection = True
        head = b"HTTP/1.1 200 OK\r\n\r\n" if at_once else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        if at_once:
            self.wfile.write(head)
        for byte in body if at_once else head + body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            self.owner.pause(seconds)

    def _fail(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        message = f"{why}; you sent Authorization: {self.headers.get('authorization')}"
        self._send(status, json.dumps({"error": {"message": message}}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


def _wait(mark: str | None, seconds: str | None) -> dict[str, str]:
    if mark is None:
        return {}
    return {"Retry-After": str(seconds) if mark == ":" else formatdate(time.time() + float(seconds or 0), usegmt=True)}


def _handler(endpoint: LoopbackEndpoint) -> type[_Exchange]:
    return type("Exchange", (_Exchange,), {"owner": endpoint})


def answers_from(path: Path) -> Answer:
    """The answers of a file, see the head of this module. Raises LookupError in the server when no line fits."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def answer(payload: dict[str, Any]) -> str:
        last = str(payload["messages"][-1]["content"])
        for line in lines:
            if line.get("contains", "") in last:
                return str(line["answer"])
        raise LookupError("no line of the answers fits")

    return answer


def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--answers", type=Path, required=True, help="JSONL file")
    parser.add_argument("--faults", nargs="*", default=[], help="one per request, in order")
    parser.add_argument("--log", type=Path, help="JSONL file that gets every payload")
    given = parser.parse_args()

    def note(payload: dict[str, Any]) -> None:
        if given.log:
            with given.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(payload, sort_keys=True) + "\n")

    endpoint = LoopbackEndpoint(answers_from(given.answers), given.faults, port=given.port, on_request=note)
    print(json.dumps({"url": endpoint.url}), flush=True)
    endpoint.serve_forever()


if __name__ == "__main__":
    main()
