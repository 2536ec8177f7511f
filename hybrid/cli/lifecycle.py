"""The verbs over a finished run's life: `replace` its base, `review` what it shipped.

Each parses its arguments, calls one function of the product, and prints what it returns. Does not: hold logic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid.cli.options import (
    Chat,
    Device,
    Dtype,
    EndOfAnswer,
    GgufFile,
    Json,
    Limits,
    RunFolder,
    Separator,
    loading,
    output_of,
)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(replace)
    app.command()(review)


def replace(
    context: typer.Context,
    run_dir: RunFolder,
    model: Annotated[
        str, typer.Option("--model", metavar="PATH", help="The new base: a folder or a hub id.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR2", file_okay=False, help="The new run folder.", show_default="DIR-<name of the model>"
        ),
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    chat: Chat = None,
    separator: Separator = None,
    end_of_answer: EndOfAnswer = None,
    gguf_file: GgufFile = None,
    overrides: Limits = None,
    json: Json = False,
) -> None:
    """Place everything anew on another base model, and say what moves.

    The same command continues an interrupted replacement.
    """
    from hybrid.cli.display import make_display
    from hybrid.pipeline.replace import replace_base
    from hybrid.report.lifecycle_text import moves_text
    from hybrid.report.schema import load_report

    output = output_of(context)
    display = make_display(output.as_json)
    settings = loading(dtype, device, chat, separator, end_of_answer, gguf_file)
    try:
        path = replace_base(run_dir, model, settings, out, overrides=overrides or [], on_event=display.event)
    finally:
        display.close()
    report = load_report(path)
    assert report.moves is not None
    moves = report.moves.model_dump(mode="json")
    output.result({"out": str(path.parents[1]), "report": str(path), "moves": moves}, moves_text(report))


def review(
    context: typer.Context,
    run_dir: RunFolder,
    apply: Annotated[
        bool, typer.Option("--apply", help="Carry the proposals out, as a new run that goes on from this one.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR2",
            file_okay=False,
            help="The new run folder, with --apply.",
            show_default="DIR-<id of the review>",
        ),
    ] = None,
    horizon_days: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Days within which an adapter has to pay for its training.",
            show_default="router.horizon_days of the run",
        ),
    ] = None,
    overrides: Limits = None,
    json: Json = False,
) -> None:
    """Measure what ships on the data as they are now, and propose to keep, renew, promote, demote or retire it.

    The same command continues an interrupted one.
    """
    from hybrid.cli.display import make_display
    from hybrid.errors import UsageError
    from hybrid.pipeline import review as pipeline
    from hybrid.report.lifecycle_text import history_text
    from hybrid.report.review_text import to_text
    from hybrid.report.schema import load_report

    if out is not None and not apply:
        raise UsageError("--out names the run that carries the review out; it needs --apply")
    output = output_of(context)
    display = make_display(output.as_json)
    path: Path | None = None
    folder: Path | None = None
    try:
        if apply:
            made, path = pipeline.apply(
                run_dir, out, horizon_days=horizon_days, overrides=overrides or [], on_event=display.event
            )
        else:
            made, folder = pipeline.review(
                run_dir, horizon_days=horizon_days, overrides=overrides or [], on_event=display.event
            )
    finally:
        display.close()
    result = {"review": made.model_dump(mode="json"), "report": str(path) if path else None}
    told = to_text(made)
    if folder is not None:
        told += f"\n{folder / 'review.md'}"
    if path is not None:
        told += f"\n{history_text(load_report(path))}\n{path}"
    output.result(result, told)
