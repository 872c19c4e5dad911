"""Where commands print."""

import sys
from typing import Annotated

import typer
from rich.console import Console

PIPE_COLUMNS = 160

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def console() -> Console:
    """The terminal, with colours; or a pipe, without.

    A pipe has no width; a table cut to 80 columns would hide what it is for.
    """
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
