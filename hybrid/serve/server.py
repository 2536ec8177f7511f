"""`hybrid serve`: a placed model behind a socket, until a signal.

    serve(load("runs/quickstart"), ServeOptions(port=8000))      # returns the signal that ended it

SIGTERM and SIGINT end it gently: what is new is refused, what runs is answered, then the process leaves. A second signal
stops at once. The key is read from an environment variable and from nowhere else. Does not: load models.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from hybrid.errors import BackendError, UsageError
from hybrid.serve.engine import Engine, EngineLimits
from hybrid.serve.placed import PlacedModel

if TYPE_CHECKING:
    from hybrid.serve.app import Api

KEY_ENV = "HYBRID_API_KEY"
LEAST_KEY = 16
"""Characters of a key at least."""


@dataclass(frozen=True)
class ServeOptions:
    """Where to listen and what to take. Sizes in bytes, times in seconds; see `docs/serving.md`."""

    host: str = "127.0.0.1"
    port: int = 8000
    concurrent: int = 128
    rows: int = 64
    body: int = 1 << 20
    tokens: int = 1024
    window_s: float = 0.004
    timeout_s: float = 120.0
    drain_s: float = 60.0
    key_env: str = KEY_ENV
    log_prompts: bool = False


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_key(name: str) -> str | None:
    """The key in the environment variable `name`; None where it is not set. Raises UsageError for one that is too short."""
    key = os.environ.get(name, "")
    if key and len(key) < LEAST_KEY:
        raise UsageError(f"{name} holds a key of {len(key)} characters; {LEAST_KEY} is the least")
    return key or None


def exposure(options: ServeOptions, key: str | None) -> str | None:
    """What to warn of before listening; None where only this machine, or only who has the key, gets answers."""
    if key is not None or is_local(options.host):
        return None
    return f"{options.host} can be reached from other machines and no key is set ({options.key_env}): anybody may ask"


def log_line(line: dict[str, Any]) -> None:
    """One JSON line on stderr."""
    print(json.dumps({"t": round(time.time(), 3), **line}, ensure_ascii=False), file=sys.stderr, flush=True)


def serve(
    model: PlacedModel,
    options: ServeOptions,
    *,
    warn: Callable[[str], None] = lambda text: None,
    ready: Callable[[str], None] = lambda url: None,
    log: Callable[[dict[str, Any]], None] = log_line,
) -> int:
    """Serve until a signal, and return its number. `ready` is called with the address once requests are taken.

    Raises BackendError where the packages of the extra `serve` are missing, and UsageError for an address that cannot be
    listened on.
    """
    try:
        import uvicorn  # noqa: F401  # a clear error before anything is started
        from starlette.applications import Starlette  # noqa: F401
    except ImportError as error:
        raise BackendError(f"serving needs {error.name}; pip install 'hybrid-placement[serve]'") from None
    from hybrid.serve.app import Api, ServerLimits

    key = read_key(options.key_env)
    if (warning := exposure(options, key)) is not None:
        warn(warning)
    model.warm()
    engine = Engine(model.backend, EngineLimits(options.rows, options.concurrent, options.window_s))
    limits = ServerLimits(options.concurrent, options.body, options.tokens, options.timeout_s)
    api = Api(model, engine, limits, key=key, log=log, log_prompts=options.log_prompts)
    server = _listener(api, options, ready)
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        api.draining = True
        server.force_exit = bool(received)
        server.should_exit = True
        received.append(number)

    with _signals(stop):
        try:
            server.run()
        except SystemExit:
            if not server.started:
                raise UsageError(
                    f"cannot listen on {options.host}:{options.port}; see above, or give another --port"
                ) from None
        finally:
            engine.close(options.drain_s)
    return received[0] if received else 0


def _listener(api: Api, options: ServeOptions, ready: Callable[[str], None]) -> Any:
    """uvicorn's server over the application, not started."""
    import uvicorn

    from hybrid.serve.app import build_app

    class Server(uvicorn.Server):
        """Tells when it listens, and leaves signals to this module: uvicorn raises them again at its end."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                port = self.servers[0].sockets[0].getsockname()[1] if self.servers else options.port
                host = f"[{options.host}]" if ":" in options.host else options.host
                ready(f"http://{host}:{port}")

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(
        uvicorn.Config(
            build_app(api),
            host=options.host,
            port=options.port,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=max(1, int(options.drain_s)),
            h11_max_incomplete_event_size=64 * 1024,
        )
    )


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
