"""`hybrid router ...`: the routing policy itself. Parses, calls, prints; see `app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybrid.cli.options import Json, output_of

router = typer.Typer(
    name="router",
    help="The routing policy itself: fit its thresholds to a table of runs in which every arm was built.",
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@router.callback()
def _router() -> None:
    """A group of its own, so that `fit` stays a word."""


@router.command()
def fit(
    context: typer.Context,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A folder of rows (*.json, *.jsonl), or one file.", exists=True)
    ],
    held_out: Annotated[
        Path | None,
        typer.Option("--held-out", metavar="TABLE", help="Rows to score the result on once.", exists=True),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", dir_okay=False, help="Write the YAML block there too.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit the thresholds of `router:` and its stated confidence; prints the block to paste."""
    from hybrid.router.fit import fit as fitted
    from hybrid.router.fit import score, told, yaml_block
    from hybrid.router.table import read_table
    from hybrid.store.atomic import write_text

    found = fitted(read_table(table))
    block = yaml_block(found, f"hybrid router fit {table}")
    lines = [f"before: {told(found.start)}", f"fitted: {told(found.score)}", f"left out: {told(found.validated)}"]
    data = {"policy": found.policy.model_dump(mode="json"), "rows": found.rows, "fitted": told(found.score)}
    data |= {"left_out": told(found.validated), "before": told(found.start), "yaml": block}
    if held_out is not None:
        scored = told(score(read_table(held_out), found.policy))
        lines.append(f"held out: {scored}")
        data["held_out"] = scored
    if out is not None:
        write_text(out, block)
    output_of(context).result(data, "\n".join([*lines, "", block]))
