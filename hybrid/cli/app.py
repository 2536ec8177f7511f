"""The verbs. Each parses its arguments, calls one function of the product, and prints what it returns.

Nothing but typer is imported here at the top, so that `hybrid --help` is instant; each command imports what it calls.
Does not: hold logic, catch errors (`edge` does) or draw progress (`display` does).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid.cli.lifecycle import register
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
from hybrid.cli.output import Output
from hybrid.cli.router import router
from hybrid.cli.serving import register as register_serving

if TYPE_CHECKING:
    from hybrid.config.loader import LoadedConfig

app = typer.Typer(
    name="hybrid",
    help="Decide by measurement where each capability of a language model should live: in a skill or in its weights.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(router)


class ReportFormat(StrEnum):
    """Forms of the placement report."""

    MD = "md"
    HTML = "html"
    JSON = "json"


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file of the run.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key, for example weights.grpo.steps=50.", show_default=False
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", file_okay=False, help="The run folder.", show_default="runs/<name of the run>"
    ),
]


def invoke(argv: list[str], output: Output) -> int:
    """Run one command line. Returns the verb's exit code; raises what it raises, typer's usage errors included."""
    command = typer.main.get_command(app)
    try:
        # Not `command.main`, which turns interrupts and closed pipes into exits of its own.
        with command.make_context("hybrid", argv, obj=output) as context:
            code = command.invoke(context)
    except typer.Exit as leaving:
        code = leaving.exit_code
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    json: Json = False,
) -> None:
    if version:
        from hybrid import __version__

        output_of(context).result({"version": __version__}, f"hybrid {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def validate(
    context: typer.Context,
    config: ConfigPath,
    data: Annotated[bool, typer.Option("--data", help="Also grade every gold answer: each must score 1.0.")] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Check a configuration and its data.

    Every problem is shown at once, with its line and what to do about it.
    """
    from hybrid.config.loader import inspect_config
    from hybrid.errors import ConfigError
    from hybrid.pipeline.prepare import validate as validate_data

    inspection = inspect_config(config, overrides or [])
    problems, capabilities = set(inspection.problems), []
    if inspection.readable is not None:
        report = validate_data(inspection.readable, score_gold=data)
        problems |= {inspection.original(problem) for problem in report.problems}
        capabilities = [dict(row) for row in report.capabilities]
    if problems or inspection.loaded is None:
        raise ConfigError(tuple(problems))
    from hybrid.cli.text import table

    output_of(context).result(
        {"ok": True, "problems": [], "capabilities": capabilities}, f"{config}: valid\n{table(capabilities)}"
    )


@app.command()
def doctor(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Also load the model of this file.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Look at machine, packages, device and model."""
    from hybrid.backends.doctor import examine
    from hybrid.cli.text import findings
    from hybrid.config.loader import load_config

    found = examine(load_config(config) if config is not None else None)
    healthy = all(finding.status != "fail" for finding in found)
    rows = [finding.model_dump(mode="json") for finding in found]
    output_of(context).result({"ok": healthy, "findings": rows}, findings(rows))
    return 0 if healthy else 1


@app.command()
def plan(context: typer.Context, config: ConfigPath, overrides: Overrides = None, json: Json = False) -> None:
    """Say what a run would do and cost."""
    from hybrid.pipeline.plan import plan as make_plan
    from hybrid.pipeline.plan import render

    made = make_plan(_load(config, overrides))
    output = output_of(context)
    output.result(made.model_dump(mode="json"), "" if output.as_json else render(made))


@app.command()
def probe(
    context: typer.Context, config: ConfigPath, out: Out = None, overrides: Overrides = None, json: Json = False
) -> None:
    """Measure what the model does now.

    Stops before anything is changed; `run` goes on from there.
    """
    _run(context, _load(config, overrides), out, probe_only=True)


@app.command()
def run(
    context: typer.Context,
    config: ConfigPath,
    out: Out = None,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the run folder holds and start over.")] = False,
    fork: Annotated[
        Path | None,
        typer.Option(
            "--fork",
            metavar="DIR",
            file_okay=False,
            help="Go on from the run in DIR, as a new run.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a damaged or unfinished checkpoint instead of an older one.")
    ] = False,
    json: Json = False,
) -> None:
    """Probe, place, improve, verify and report.

    The same command continues an interrupted run.
    """
    _run(context, _load(config, overrides), out, fresh=fresh, fork=fork, strict=strict)


@app.command()
def status(context: typer.Context, run_dir: RunFolder, json: Json = False) -> None:
    """Say where a run is."""
    from hybrid.cli.text import tree
    from hybrid.pipeline.status import status as status_of

    state = status_of(run_dir)
    output_of(context).result(state, tree(state))


@app.command()
def report(
    context: typer.Context,
    run_dir: RunFolder,
    formats: Annotated[
        list[ReportFormat] | None, typer.Option("--format", help="May be repeated.", show_default="md and html")
    ] = None,
    json: Json = False,
) -> None:
    """Draw the placement report of a run again."""
    from hybrid.report.render import write_report

    wanted = tuple(f.value for f in formats or (ReportFormat.MD, ReportFormat.HTML))
    files = {name: str(path) for name, path in write_report(run_dir, wanted).items()}
    output_of(context).result({"files": files}, "\n".join(files[name] for name in sorted(files)))


@app.command()
def explain(
    context: typer.Context,
    run_dir: RunFolder,
    capability: Annotated[str, typer.Argument(help="The name of a capability.", show_default=False)],
    json: Json = False,
) -> None:
    """Say why a capability went where it went."""
    from hybrid.report.render import explain as explain_placement

    text = explain_placement(run_dir, capability)
    output_of(context).result({"capability": capability, "explanation": text}, text.rstrip("\n"))


@app.command()
def export(
    context: typer.Context,
    run_dir: RunFolder,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="Where the export goes; new or empty.", show_default=False)
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace what the folder holds.")] = False,
    engine: Annotated[
        Literal["hub", "vllm", "ollama"] | None,
        typer.Option("--format", help="Also write what another engine needs.", show_default=False),
    ] = None,
    svf_rank: Annotated[
        int, typer.Option(min=1, help="Most rank of the LoRA that an SVF adapter becomes for vLLM and Ollama.")
    ] = 64,
    json: Json = False,
) -> None:
    """Write skills, adapters, a manifest and a model card of a finished run."""
    from hybrid.cli.text import table
    from hybrid.serve.export import export as export_run
    from hybrid.serve.export import launch_of

    exported = export_run(run_dir, to, force=force, fmt=engine, svf_rank=svf_rank)
    rows = [
        {key: row[key] or "-" for key in ("name", "placement", "skill", "adapter")}
        for row in exported.manifest["capabilities"]
    ]
    result = {"folder": str(exported.folder), "manifest": exported.manifest}
    lines = [table(rows), *launch_of(exported.manifest), str(exported.folder)]
    output_of(context).result(result, "\n".join(lines))


@app.command()
def transfer(
    context: typer.Context,
    run_dir: RunFolder,
    model: Annotated[
        str, typer.Option("--model", metavar="PATH", help="The other model: a folder or a hub id.", show_default=False)
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Also measure documents that were optimised and did not ship.")
    ] = False,
    dtype: Dtype = None,
    device: Device = None,
    chat: Chat = None,
    separator: Separator = None,
    end_of_answer: EndOfAnswer = None,
    gguf_file: GgufFile = None,
    overrides: Limits = None,
    json: Json = False,
) -> None:
    """Measure the documents of a finished run on another model.

    The same command continues an interrupted transfer.
    """
    from hybrid.cli.display import make_display
    from hybrid.pipeline.transfer import transfer_to
    from hybrid.report.transfer_text import to_text

    output = output_of(context)
    display = make_display(output.as_json)
    settings = loading(dtype, device, chat, separator, end_of_answer, gguf_file)
    try:
        report, folder = transfer_to(
            run_dir, model, settings, everything=everything, overrides=overrides or [], on_event=display.event
        )
    finally:
        display.close()
    output.result(report.model_dump(mode="json"), f"{to_text(report)}\n{folder / 'transfer.md'}")


register(app)
register_serving(app)


@app.command()
def schema(context: typer.Context, json: Json = False) -> None:
    """Print the JSON schema of configurations."""
    from json import dumps

    from hybrid.config.loader import config_json_schema

    document = config_json_schema()
    output_of(context).result(document, dumps(document, indent=2))


def _load(config: Path, overrides: list[str] | None) -> LoadedConfig:
    from hybrid.config.loader import load_checked

    return load_checked(config, overrides or [])


def _run(
    context: typer.Context,
    loaded: LoadedConfig,
    out: Path | None,
    *,
    fresh: bool = False,
    probe_only: bool = False,
    fork: Path | None = None,
    strict: bool = False,
) -> None:
    from hybrid.cli.display import make_display
    from hybrid.pipeline.run import run as run_pipeline

    output = output_of(context)
    folder = out if out is not None else Path("runs") / loaded.config.name
    display = make_display(output.as_json)
    try:
        path = run_pipeline(
            loaded, folder, fresh=fresh, probe_only=probe_only, fork=fork, strict=strict, on_event=display.event
        )
    finally:
        display.close()
    result = {**display.outcome(), "out": str(folder), "report": str(path)}
    output.result(result, f"profile: {path}" if probe_only else "")
