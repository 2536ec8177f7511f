"""One HTTP request with an end: connection, headers and body together take at most so long and so many bytes.

A read timeout alone is renewed by every byte, so a server that drips could hold a run for ever. Here a timer cuts the
connection. Does not: retry, redirect, decompress, or know what a chat is.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 4 * 2**20
"""Largest body that is read."""


class Failed(Exception):  # noqa: N818  # a signal between two modules: always caught
    """A try that may be repeated: why, and the wait that the server asked for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.why, self.wait_s = why, wait_s


class Refused(Exception):  # noqa: N818  # as above
    """An answer that repeating would not change."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.why, self.status = why, status


@dataclass(frozen=True)
class Reply:
    """What came back. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def post(
    url: SecretStr,
    headers: Mapping[str, SecretStr],
    content: bytes,
    limit_s: float,
    transport: httpx.BaseTransport | None = None,
) -> Reply:
    """POST `content` over a connection of its own and read the whole reply.

    Raises Failed for a connection that breaks, a reply that is not there after `limit_s` seconds, and a body above
    `MOST_BYTES`; Refused for a request that cannot be sent at all. Proxies of the environment are used, but not for
    loopback addresses.
    """
    import httpx

    address = url.get_secret_value()
    plain = {name: value.get_secret_value() for name, value in headers.items()}
    watch = _Watchdog(limit_s)
    try:
        with (
            watch,
            httpx.Client(
                timeout=limit_s,
                follow_redirects=False,
                transport=transport,
                trust_env=not _is_loopback(address),
                verify=_trust(),
            ) as client,
            client.stream(
                "POST", address, content=content, headers=plain, extensions={"trace": watch.trace}
            ) as response,
        ):
            body = bytearray()
            if response.headers.get("content-encoding", "identity") != "identity":
                raise Failed("the reply is compressed, which was not asked for")  # a small one can unpack to any size
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise Failed(f"the reply is larger than {MOST_BYTES // 2**20} MiB")
            watch.stop()
            reply = Reply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, bytes(body))
    except (httpx.TransportError, httpx.StreamError) as error:
        if watch.bitten or isinstance(error, httpx.TimeoutException):
            raise Failed(_late(limit_s)) from None
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            raise Refused(f"the request cannot be sent ({type(error).__name__})") from None
        raise Failed(f"{type(error).__name__}: {error}") from None
    except httpx.InvalidURL:
        raise Refused("the address cannot be used; see skill.proposer.url") from None
    if watch.bitten:  # a cut connection can look like the end of a reply without a length
        raise Failed(_late(limit_s))
    return reply


@cache
def _trust() -> ssl.SSLContext:
    """The certificates to trust: read once, for a client lives for one try alone."""
    import httpx

    return httpx.create_ssl_context()


def _late(limit_s: float) -> str:
    return f"no whole reply within {limit_s:.3g} s (skill.proposer.timeout_s)"


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class _Watchdog:
    """Shuts the connection down after `limit_s` seconds, which wakes a read that waits on it.

    `trace` is httpx's extension of that name: it tells of every stream that is opened, and the newest one is in use.
    """

    def __init__(self, limit_s: float) -> None:
        self.bitten = False
        self._lock = threading.Lock()
        self._stream: Any = None
        self._timer = threading.Timer(limit_s, self._bite)
        self._timer.daemon = True

    def __enter__(self) -> _Watchdog:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the connection be."""
        with self._lock:
            self._timer.cancel()
            self._stream = None

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of an opened stream."""
        stream = info.get("return_value")
        if event.endswith((".connect_tcp.complete", ".start_tls.complete", ".connect_unix_socket.complete")) and stream:
            with self._lock:
                self._stream = stream
                if self.bitten:
                    _shut(stream)

    def _bite(self) -> None:
        with self._lock:
            self.bitten = True
            if self._stream is not None:
                _shut(self._stream)


def _shut(stream: Any) -> None:
    """Shut down the socket below a stream; one that is closed already is left alone."""
    sock = stream.get_extra_info("socket")
    if isinstance(sock, socket.socket):
        try:
            socket.socket.shutdown(
                sock, socket.SHUT_RDWR
            )  # the plain one: TLS's own would drop its state under a reader
        except OSError:
            return
