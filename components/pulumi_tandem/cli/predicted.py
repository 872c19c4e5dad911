"""Commands that say what a declaration will do: plan and simulate."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from pulumi_tandem.cli import plan as planning
from pulumi_tandem.cli.picture import PictureError
from pulumi_tandem.cli.program import File, services_of
from pulumi_tandem.cli.refusal import Refusal
from pulumi_tandem.cli.screen import AsJson, console
from pulumi_tandem.finding import DeclarationError

if TYPE_CHECKING:
    from pulumi_tandem.plan.search import By


class Smallest(StrEnum):
    """What a plan keeps small."""

    COST = "cost"
    GPUS = "gpus"


def plan(  # noqa: PLR0913, PLR0917 - a command line
    file: File,
    by: Annotated[Smallest, typer.Option(help="What is to be small.")] = Smallest.COST,
    gpus: Annotated[int | None, typer.Option(min=1, help="Say also the highest load that so many GPUs serve.")] = None,
    as_json: AsJson = False,
    plot: Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the picture, as .png or .svg.")] = None,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a report with the picture.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Pin the shapes of tandem.Auto pools in FILE's .plan.json.")
    ] = False,
) -> None:
    """Plan the services that FILE declares: shapes that meet the objectives, and whether to disaggregate.

    Exits with 1 where a service cannot be planned, or has no pools that meet its objectives.
    """
    try:
        plans = planning.planned(services_of(file), by=cast("By", by.value), gpus=gpus)
        done = planning.written(plans, program=file, plot=plot, html=html, write=write)
    except (DeclarationError, PictureError) as error:
        raise Refusal(str(error)) from None
    if as_json:
        typer.echo(planning.to_json(plans))
    else:
        console().print(*(planning.plan_view(one) for one in plans), sep="\n")
    for line in done.lines:
        typer.echo(line, err=True)
    if not done.is_met:
        raise typer.Exit(1)


def simulate(  # noqa: PLR0913, PLR0917 - a command line
    file: File,
    rate: Annotated[float | None, typer.Option(min=1e-9, help="Requests per second, in place of the declared.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Requests as .jsonl or .csv: arrival_s, prompt_tokens, output_tokens."),
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option(min=1, help="Simulated seconds of load. Default: 600, or the whole trace.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is left to chance.")] = 0,
    as_json: AsJson = False,
    plot: Annotated[Path | None, typer.Option(dir_okay=False, help="Draw times and queues, as .png or .svg.")] = None,
) -> None:
    """Simulate the services that FILE declares, request by request: latencies, queues, goodput.

    The load is the service's workload, or a trace. Exits with 1 where fewer requests than the objectives ask for are
    answered within them.
    """
    from pulumi_tandem.cli import simulate as simulating  # noqa: PLC0415 - brings numpy, which no other command needs
    from pulumi_tandem.simulate import TraceError  # noqa: PLC0415 - likewise

    ask = simulating.Ask(requests_per_s=rate, trace=trace, duration_s=duration_s, seed=seed)
    try:
        done = simulating.simulated(services_of(file), ask, console=Console(stderr=True))
        lines = simulating.plotted(done, plot) if plot else ()
    except (DeclarationError, TraceError, PictureError) as error:
        raise Refusal(str(error)) from None
    if as_json:
        typer.echo(simulating.to_json(done))
    else:
        console().print(*(simulating.simulation_view(one) for one in done), sep="\n")
    for line in lines:
        typer.echo(line, err=True)
    if not all(map(simulating.is_met, done)):
        raise typer.Exit(1)
