"""The verbs over a finished run's life: `replace` its base, `review` what it shipped.

Each parses its arguments, calls one function of the product, and prints what it returns. Does not: hold logic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hybrid.cli.output import Output

RunFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A run folder.", exists=True, file_okay=False, show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Limits = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the budget, the batch size or the threads of the run."),
]
_RUNS = "as in the run"


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
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Precision of its weights.", show_default=_RUNS),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where it runs.", show_default=_RUNS)
    ] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Whether it reads chat turns.", show_default=_RUNS)
    ] = None,
    separator: Annotated[str | None, typer.Option(help="Text between document and prompt.", show_default=_RUNS)] = None,
    end_of_answer: Annotated[
        str | None, typer.Option(help="The token that ends an answer; empty: its own.", show_default=_RUNS)
    ] = None,
    gguf_file: Annotated[
        str | None, typer.Option(metavar="NAME", help="A GGUF inside the folder.", show_default=_RUNS)
    ] = None,
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

    output = _output(context)
    display = make_display(output.as_json)
    settings = {"dtype": dtype, "device": device, "chat": chat, "skill_separator": separator}
    settings |= {"end_of_answer": end_of_answer, "gguf_file": gguf_file}
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
        float, typer.Option(min=0.0, help="Days within which an adapter has to pay for its training.")
    ] = 30.0,
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
    output = _output(context)
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


def _output(context: typer.Context) -> Output:
    output = context.find_object(Output)
    if output is None:
        raise RuntimeError("the command line is started by hybrid.cli.edge.execute")
    return output
