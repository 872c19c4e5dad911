"""The commands. Exit codes: 0 done, 1 it failed or found errors, 2 the command line is wrong."""

import asyncio
import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import pulumi
from pulumi_tandem import check as checks
from pulumi_tandem.cli import plan as planning
from pulumi_tandem.cli.picture import PictureError
from pulumi_tandem.cli.stack import Stack, find_stack
from pulumi_tandem.cli.tables import evidence_view, status_view
from pulumi_tandem.declare import Service
from pulumi_tandem.finding import DeclarationError, Finding
from pulumi_tandem.local.client import SupervisorError, call
from pulumi_tandem.local.paths import StackPaths
from pulumi_tandem.plan import judge
from pulumi_tandem.plan.search import By
from pulumi_tandem.resolve import resolve

HTTP_TIMEOUT_S = 3.0
PIPE_COLUMNS = 160
HEALTH_TIMEOUT_S = 600.0

stack_option = click.option("--stack", default="local", show_default=True, help="The Pulumi stack.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pulumi-tandem")
def main() -> None:
    r"""Disaggregated LLM serving: declare it, prove it, look at it.

    \b
    Start with:     tandem up          everything, proven, on this machine
    Then look:      tandem status      what runs and how fast
                    tandem logs        what the engines say
    Completion:     eval "$(_TANDEM_COMPLETE=bash_source tandem)"
    """


@main.command()
@stack_option
@json_option
def up(stack: str, as_json: bool) -> None:
    """Create or update the stack and print the proof.

    Goes on where a killed `up` stopped; changes nothing where nothing changed.
    """
    chosen = find_stack(stack)
    chosen.select()
    if chosen.release_dead_lock():
        click.echo("released the lock of an update whose process is gone", err=True)
    arguments = ["up", "--yes", "--skip-preview", *(["--non-interactive"] if not sys.stdout.isatty() else [])]
    if any(StackPaths(chosen.state_dir).entries.glob("*.json")):
        _ask(chosen, "ping")  # after a reboot: starts what should run
    else:
        arguments.append("--refresh")  # whatever Pulumi's state holds, nothing of it runs
    if as_json:
        arguments.append("--json")
    if code := chosen.pulumi(*arguments).returncode:
        sys.exit(1 if code > 0 else code)
    _await_health(chosen)
    if not as_json:
        _print_evidence(chosen)


@main.command()
@stack_option
def down(stack: str) -> None:
    """Destroy the stack and everything that runs for it; leaves no process and no port."""
    chosen = find_stack(stack)
    if chosen.exists():
        if chosen.release_dead_lock():
            click.echo("released the lock of an update whose process is gone", err=True)
        _ask(chosen, "retire", start=False)
        if code := chosen.pulumi("destroy", "--yes", "--skip-preview", "--remove", "--non-interactive").returncode:
            click.echo("nothing more was stopped; what still runs: `tandem status`", err=True)
            sys.exit(1 if code > 0 else code)
    stopped = (_ask(chosen, "shutdown", start=False) or {}).get("stopped", [])
    if stopped:
        click.echo(f"stopped what Pulumi did not know of: {', '.join(stopped)}")


@main.command()
@stack_option
@json_option
def evidence(stack: str, as_json: bool) -> None:
    """Print what the proof of the serving generation measured."""
    chosen = find_stack(stack)
    if as_json:
        click.echo(json.dumps(_outputs(chosen)["evidence"], indent=2))
    else:
        _print_evidence(chosen)


@main.command()
@stack_option
@json_option
@click.option("--watch", is_flag=True, help="Print again every two seconds until interrupted.")
def status(stack: str, as_json: bool, watch: bool) -> None:
    """Show pools, generations, requests in flight, TTFT, TPOT and KV speed."""
    chosen = find_stack(stack)
    console = _console()
    while True:
        seen, fleets, speeds = _look(chosen)
        if as_json:
            click.echo(json.dumps({"supervisor": seen, "fleets": fleets, "kv_gb_per_s": speeds}))
        else:
            console.print(status_view(seen, fleets, speeds))
        if not watch:
            return
        time.sleep(2.0)


@main.command()
@stack_option
@click.option("--follow", "-f", is_flag=True, help="Go on as lines come.")
@click.option(
    "--lines",
    "-n",
    default=20,
    show_default=True,
    help="Lines of each process to begin with.",
)
@click.argument("processes", nargs=-1)
def logs(stack: str, follow: bool, lines: int, processes: tuple[str, ...]) -> None:
    """Print what processes say: all of them, or those whose names contain one of PROCESSES."""
    folder = StackPaths(find_stack(stack).state_dir).root / "logs"
    files = [
        path for path in sorted(folder.glob("*.log")) if not processes or any(part in path.stem for part in processes)
    ]
    if not files:
        msg = f"no log matches {', '.join(processes) or 'anything'} in {folder}"
        raise click.ClickException(msg)
    command = [
        "tail",
        f"--lines={lines}",
        *(["--follow=name", "--retry"] if follow else []),
        *map(str, files),
    ]
    try:
        sys.exit(subprocess.run(command, check=False).returncode)
    except KeyboardInterrupt:
        sys.exit(0)


@main.command()
@stack_option
def abort(stack: str) -> None:
    """Stop the workers of every generation that does not serve; the one that serves is not touched."""
    stopped = (_ask(find_stack(stack), "abort", start=False) or {}).get("stopped", [])
    click.echo(f"stopped {', '.join(stopped)}" if stopped else "no generation waits to be proven; nothing was stopped")


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Check every service that FILE declares, without Pulumi; exits with 1 where one has errors."""
    findings: list[Finding] = [finding for service in _declared_services(file) for finding in _findings(service)]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        click.echo(checks.report(findings) if findings else f"{file}: no findings")
    sys.exit(any(finding.severity == "error" for finding in findings))


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--by", type=click.Choice(["cost", "gpus"]), default="cost", show_default=True, help="What is to be small."
)
@click.option("--gpus", type=click.IntRange(min=1), help="Say also the highest load that so many GPUs serve.")
@json_option
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the picture, as .png or .svg.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report with the picture.")
@click.option("--write", is_flag=True, help="Pin the shapes of tandem.Auto pools in FILE's .plan.json.")
def plan(file: Path, by: By, gpus: int | None, as_json: bool, **outputs: Any) -> None:
    """Plan every service that FILE declares: shapes that meet the objectives, and whether to disaggregate.

    Exits with 1 where a service cannot be planned, or has no pools that meet its objectives.
    """
    try:
        plans = planning.planned(_declared_services(file), by=by, gpus=gpus)
        done = planning.written(plans, program=file, **outputs)
    except (DeclarationError, PictureError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(planning.to_json(plans))
    else:
        _console().print(*(planning.plan_view(one) for one in plans), sep="\n")
    for line in done.lines:
        click.echo(line, err=True)
    sys.exit(0 if done.is_met else 1)


@main.command()
@click.argument("code")
def explain(code: str) -> None:
    """Tell the story of a rule, such as TND0001."""
    try:
        click.echo(checks.explain(code))
    except KeyError as error:
        raise click.ClickException(str(error.args[0])) from None


# --- parts ----------------------------------------------------------------------------------------


def _console() -> Console:
    # A pipe has no width; a table cut to 80 columns would hide what it is for.
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def _ask(stack: Stack, verb: str, *, start: bool = True, **arguments: Any) -> Any:
    try:
        return call(
            stack.state_dir,
            verb,
            start=start,
            on_progress=lambda line: click.echo(line, err=True),
            **arguments,
        )
    except SupervisorError as error:
        raise click.ClickException(str(error)) from None


def _await_health(stack: Stack) -> None:
    """Wait until the stack's gateway can serve: after a reboot its engines start while Pulumi sees nothing to do."""
    url = stack.outputs().get("url")
    deadline_s = time.monotonic() + HEALTH_TIMEOUT_S
    told = False
    while url and _get(f"{url}/health", {}) is None:
        if time.monotonic() > deadline_s:
            msg = f"{url} does not serve after {HEALTH_TIMEOUT_S:.0f} s; see `tandem status` and `tandem logs`"
            raise click.ClickException(msg)
        if not told:
            click.echo("the engines are starting; waiting until the service answers", err=True)
            told = True
        time.sleep(0.5)


def _outputs(stack: Stack) -> dict[str, Any]:
    outputs = stack.outputs()
    if not outputs.get("evidence"):
        msg = f"stack {stack.name} has no evidence: nothing of it is proven. `tandem up --stack {stack.name}` proves it"
        raise click.ClickException(msg)
    return outputs


def _print_evidence(stack: Stack) -> None:
    outputs = _outputs(stack)
    _console().print(evidence_view(outputs["url"], outputs["evidence"]))


def _look(
    stack: Stack,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, float | None]]:
    seen = _ask(stack, "status", start=False) or {"active": {}, "processes": []}
    fleets: dict[str, dict[str, Any]] = {}
    speeds: dict[str, float | None] = {}
    for process in seen["processes"]:
        if process["kind"] == "gateway":
            token = StackPaths(stack.state_dir).proof_token(process["service"]).read_text().strip()
            if body := _get(f"{process['url']}/fleet", {"x-tandem-proof": token}):
                fleets[process["service"]] = json.loads(body)
        elif body := _get(f"{process['agent_url']}/metrics", {}):
            speeds[process["name"]] = _sample(body, "tandem_kv_gigabytes_per_second")
    return seen, fleets, speeds


def _get(url: str, headers: dict[str, str]) -> str | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=HTTP_TIMEOUT_S) as response:
            return response.read().decode()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def _sample(metrics: str, name: str) -> float | None:
    line = next((line for line in metrics.splitlines() if line.startswith(name)), None)
    return float(line.split()[-1]) if line else None


def _findings(service: Service) -> tuple[Finding, ...]:
    try:
        return (*checks.check(resolve(service)), *judge(service))
    except DeclarationError as error:
        return error.findings


def _declared_services(file: Path) -> list[Service]:
    """Every service that a module's variables hold, lists and dicts included; the module may be a Pulumi program."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    asyncio.set_event_loop(asyncio.new_event_loop())
    pulumi.runtime.set_mocks(_NoResources(), project=file.stem, stack=file.stem, preview=True)
    try:
        spec.loader.exec_module(module)
    except DeclarationError as error:
        raise click.ClickException(str(error)) from None
    except pulumi.RunError as error:
        if not _services_in(list(vars(module).values())):
            raise click.ClickException(str(error)) from None
    services = _services_in(list(vars(module).values()))
    if not services:
        msg = f"{file} declares no tandem.Service in its variables"
        raise click.ClickException(msg)
    return services


def _services_in(values: list[Any]) -> list[Service]:
    found: list[Service] = []
    for value in values:
        if isinstance(value, Service):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _services_in(list(value))
        elif isinstance(value, dict):
            found += _services_in(list(value.values()))
    return found


class _NoResources(pulumi.runtime.Mocks):
    """A program that is only checked creates nothing."""

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        """A resource that has what it was given."""
        return args.name, args.inputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], None]:
        """A function that has nothing to say."""
        del args
        return {}, None
