"""Arguments and options that several verbs take, each written once. Does not: read what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hybrid.cli.output import Output

_RUNS = "as in the run"

RunFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A run folder.", exists=True, file_okay=False, show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Limits = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the budget, the batch size or the threads of the run."),
]

# How another model than the run's is loaded; what is not given is as in the run.
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Precision of its weights.", show_default=_RUNS),
]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where it runs.", show_default=_RUNS)]
Chat = Annotated[bool | None, typer.Option("--chat/--no-chat", help="Whether it reads chat turns.", show_default=_RUNS)]
Separator = Annotated[str | None, typer.Option(help="Text between document and prompt.", show_default=_RUNS)]
EndOfAnswer = Annotated[
    str | None, typer.Option(help="The token that ends an answer; empty: its own.", show_default=_RUNS)
]
GgufFile = Annotated[str | None, typer.Option(metavar="NAME", help="A GGUF inside the folder.", show_default=_RUNS)]


def loading(
    dtype: Dtype, device: Device, chat: Chat, separator: Separator, end_of_answer: EndOfAnswer, gguf_file: GgufFile
) -> dict[str, Any]:
    """The options of loading under the keys of the section `model`; None where one was not given."""
    return {
        "dtype": dtype,
        "device": device,
        "chat": chat,
        "skill_separator": separator,
        "end_of_answer": end_of_answer,
        "gguf_file": gguf_file,
    }


def output_of(context: typer.Context) -> Output:
    """What this command prints with."""
    output = context.find_object(Output)
    if output is None:
        raise RuntimeError("the command line is started by hybrid.cli.edge.execute")
    return output
