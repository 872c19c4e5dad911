"""Commands on what files declare, and on what rules and catalog know; nothing is created."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pulumi_tandem import catalog as rows_of
from pulumi_tandem import check as checks
from pulumi_tandem.check.declared import same_names
from pulumi_tandem.cli import catalog_view
from pulumi_tandem.cli.formats import Checked, Format, written
from pulumi_tandem.cli.program import Program, read_program
from pulumi_tandem.cli.refusal import Refusal
from pulumi_tandem.cli.screen import AsJson, console
from pulumi_tandem.declare import Service
from pulumi_tandem.finding import DeclarationError, Finding
from pulumi_tandem.plan import judge
from pulumi_tandem.resolve import resolve

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Python files that declare services."),
]


class TableName(StrEnum):
    """Tables of the catalog."""

    GPUS = "gpus"
    INSTANCES = "instances"
    MODELS = "models"
    ENGINES = "engines"


def check(
    files: Files,
    form: Annotated[Format, typer.Option("--format", help="How to print the findings.")] = Format.TEXT,
    as_json: AsJson = False,
) -> None:
    """Say everything that is wrong with the services that FILEs declare, before anything exists.

    Exit codes: 0 nothing, or warnings only; 1 errors; 2 the command line is wrong. Pulumi is loaded only by a file
    that uses it, and no resource is created.
    """
    programs = [read_program(file) for file in files]
    checked = [Checked(file=program.file, findings=_findings(program)) for program in programs]
    told = written(checked, Format.JSON if as_json else form)
    if told:
        typer.echo(told)
    if any(finding.severity == "error" for one in checked for finding in one.findings):
        raise typer.Exit(1)


def explain(codes: Annotated[list[str], typer.Argument(metavar="CODE...", help="Codes of rules, as TND0001.")]) -> None:
    """Tell the stories of rules: what must hold, what users see when it does not, and where that is known from."""
    try:
        typer.echo("\n\n".join(checks.explain(code) for code in codes))
    except KeyError as error:
        raise Refusal(str(error.args[0])) from None


def catalog(
    table: Annotated[TableName | None, typer.Argument(help="A table. Default: what there is.")] = None,
    name: Annotated[str | None, typer.Argument(help="A row; of engines, a kind or a release.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is known of GPUs, EC2 instances, models and engine releases, each row with its source."""
    try:
        found = catalog_view.rows(cast("rows_of.Table", table.value), name) if table else []
    except rows_of.UnknownName as error:
        near = f"; did you mean {error.nearest}?" if error.nearest else ""
        raise Refusal(f"{error}{near}") from None
    if as_json:
        tables = (cast("rows_of.Table", table.value),) if table else rows_of.TABLES
        shown: Any = {each: catalog_view.as_json(catalog_view.rows(each, name)) for each in tables}
        typer.echo(json.dumps(shown, indent=2))
    elif not table:
        console().print(catalog_view.overview())
    else:
        console().print(catalog_view.one(found[0]) if name and len(found) == 1 else catalog_view.many(found))


# --- parts ----------------------------------------------------------------------------------------


def _findings(program: Program) -> tuple[Finding, ...]:
    found = [*program.findings, *same_names(program.services)]
    for service in program.services:
        found += _findings_of(service)
    return tuple(found)


def _findings_of(service: Service) -> Sequence[Finding]:
    try:
        return (*checks.check(resolve(service)), *judge(service))
    except DeclarationError as error:
        return error.findings
