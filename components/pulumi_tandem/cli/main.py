"""The `tandem` command. Exit codes: 0 done, 1 it failed or found errors, 2 the command line is wrong."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from pulumi_tandem.cli import declared, predicted, rendered, running
from pulumi_tandem.cli.refusal import Refusal

app = typer.Typer(
    name="tandem",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a fault of ours is a plain traceback, to be sent to us
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

BEFORE = "Before anything exists"
RUNNING = "A stack that runs"
for command in (
    declared.check,
    predicted.plan,
    predicted.simulate,
    rendered.render,
    declared.explain,
    declared.catalog,
):
    app.command(rich_help_panel=BEFORE)(command)
for command in (running.up, running.status, running.logs, running.evidence, running.abort, running.down):
    app.command(rich_help_panel=RUNNING)(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandem, version {version('pulumi-tandem')}")
        raise typer.Exit


@app.callback()
def tandem(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Disaggregated LLM serving: declare it, check it, prove it, look at it.

    Begin with `tandem check stacks/local.py`, which says what is wrong before anything exists; `tandem up` creates and
    proves it on this machine, and `tandem status` says how fast it is.
    """


def main() -> None:
    """Runs the command line; a refusal is one message and exit code 1."""
    try:
        app()
    except Refusal as refusal:
        typer.echo(f"Error: {refusal}", err=True)
        sys.exit(1)
