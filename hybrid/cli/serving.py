"""The verb `serve`. Does not: hold logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hybrid.cli.options import output_of

Served = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="A run folder or an export.", exists=True, file_okay=False, show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(serve)


def serve(
    context: typer.Context,
    folder: Served,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The base, where it lies elsewhere.", show_default="as in the run"),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where it runs.", show_default="as in the run")
    ] = None,
    max_concurrent: Annotated[int, typer.Option(min=1, help="Requests under way; more get 429.")] = 128,
    max_batch: Annotated[int, typer.Option(min=1, help="Answers that are computed together.")] = 64,
    max_body: Annotated[int, typer.Option(min=1024, help="Bytes of a request; more get 413.")] = 1 << 20,
    max_tokens: Annotated[int, typer.Option(min=1, max=32_768, help="Tokens of an answer.")] = 1024,
    batch_window_ms: Annotated[float, typer.Option(min=0, help="How long a request waits for others when idle.")] = 4.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 120.0,
    key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the key; unset: no key.")
    ] = "HYBRID_API_KEY",
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Also log prompts and answers.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the address as a JSON document.")] = False,
) -> int:
    """Serve a placed model: an OpenAI-compatible endpoint.

    Ends on SIGTERM, after what runs was answered. Needs the extra `serve`.
    """
    import signal
    import sys

    from hybrid.serve.placed import load
    from hybrid.serve.server import ServeOptions, read_key
    from hybrid.serve.server import serve as run_server

    output = output_of(context)
    options = ServeOptions(
        host=host,
        port=port,
        concurrent=max_concurrent,
        rows=max_batch,
        body=max_body,
        tokens=max_tokens,
        window_s=batch_window_ms / 1000,
        timeout_s=timeout,
        key_env=key_env,
        log_prompts=log_prompts,
    )
    read_key(key_env)  # before a model is loaded in vain
    placed = load(folder, model=model, device=device)
    info = placed.backend.info()

    def ready(url: str) -> None:
        served = {"url": f"{url}/v1", "device": info.device, "capabilities": list(placed.capabilities)}
        output.result(served, f"device: {info.device}; {len(placed.capabilities)} capabilities at {url}/v1")

    def warn(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)

    return 130 if run_server(placed, options, warn=warn, ready=ready) == signal.SIGINT else 0
