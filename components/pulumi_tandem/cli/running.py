"""Commands on a stack that runs: up, down, evidence, status, logs, abort."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Annotated, Any

import typer

from pulumi_tandem.cli.refusal import Refusal
from pulumi_tandem.cli.screen import AsJson, console
from pulumi_tandem.cli.stack import Stack, find_stack
from pulumi_tandem.cli.tables import evidence_view, status_view
from pulumi_tandem.local.client import SupervisorError, call
from pulumi_tandem.local.paths import StackPaths

HTTP_TIMEOUT_S = 3.0
HEALTH_TIMEOUT_S = 600.0

StackName = Annotated[str, typer.Option("--stack", help="The Pulumi stack.")]


def up(stack: StackName = "local", as_json: AsJson = False) -> None:
    """Create or update the stack and print the proof.

    Goes on where a killed `up` stopped; changes nothing where nothing changed.
    """
    chosen = find_stack(stack)
    chosen.select()
    if chosen.release_dead_lock():
        typer.echo("released the lock of an update whose process is gone", err=True)
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


def down(stack: StackName = "local") -> None:
    """Destroy the stack and everything that runs for it; leaves no process and no port."""
    chosen = find_stack(stack)
    if chosen.exists():
        if chosen.release_dead_lock():
            typer.echo("released the lock of an update whose process is gone", err=True)
        _ask(chosen, "retire", start=False)
        if code := chosen.pulumi("destroy", "--yes", "--skip-preview", "--remove", "--non-interactive").returncode:
            typer.echo("nothing more was stopped; what still runs: `tandem status`", err=True)
            sys.exit(1 if code > 0 else code)
    stopped = (_ask(chosen, "shutdown", start=False) or {}).get("stopped", [])
    if stopped:
        typer.echo(f"stopped what Pulumi did not know of: {', '.join(stopped)}")


def evidence(stack: StackName = "local", as_json: AsJson = False) -> None:
    """Print what the proof of the serving generation measured."""
    chosen = find_stack(stack)
    if as_json:
        typer.echo(json.dumps(_outputs(chosen)["evidence"], indent=2))
    else:
        _print_evidence(chosen)


def status(
    stack: StackName = "local",
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Print again every two seconds until interrupted.")] = False,
) -> None:
    """Show pools, generations, requests in flight, TTFT, TPOT and KV speed."""
    chosen = find_stack(stack)
    screen = console()
    while True:
        seen, fleets, speeds = _look(chosen)
        if as_json:
            typer.echo(json.dumps({"supervisor": seen, "fleets": fleets, "kv_gb_per_s": speeds}))
        else:
            screen.print(status_view(seen, fleets, speeds))
        if not watch:
            return
        time.sleep(2.0)


def logs(
    processes: Annotated[list[str] | None, typer.Argument(help="Parts of names. Default: all processes.")] = None,
    stack: StackName = "local",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Lines of each process to begin with.")] = 20,
) -> None:
    """Print what processes say: all of them, or those whose names contain one of PROCESSES."""
    folder = StackPaths(find_stack(stack).state_dir).root / "logs"
    files = [
        path for path in sorted(folder.glob("*.log")) if not processes or any(part in path.stem for part in processes)
    ]
    if not files:
        msg = f"no log matches {', '.join(processes or ()) or 'anything'} in {folder}"
        raise Refusal(msg)
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


def abort(stack: StackName = "local") -> None:
    """Stop the workers of every generation that does not serve; the one that serves is not touched."""
    stopped = (_ask(find_stack(stack), "abort", start=False) or {}).get("stopped", [])
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else "no generation waits to be proven; nothing was stopped")


# --- parts ----------------------------------------------------------------------------------------


def _ask(stack: Stack, verb: str, *, start: bool = True, **arguments: Any) -> Any:
    try:
        return call(
            stack.state_dir,
            verb,
            start=start,
            on_progress=lambda line: typer.echo(line, err=True),
            **arguments,
        )
    except SupervisorError as error:
        raise Refusal(str(error)) from None


def _await_health(stack: Stack) -> None:
    """Wait until the stack's gateway can serve: after a reboot its engines start while Pulumi sees nothing to do."""
    url = stack.outputs().get("url")
    deadline_s = time.monotonic() + HEALTH_TIMEOUT_S
    told = False
    while url and _get(f"{url}/health", {}) is None:
        if time.monotonic() > deadline_s:
            msg = f"{url} does not serve after {HEALTH_TIMEOUT_S:.0f} s; see `tandem status` and `tandem logs`"
            raise Refusal(msg)
        if not told:
            typer.echo("the engines are starting; waiting until the service answers", err=True)
            told = True
        time.sleep(0.5)


def _outputs(stack: Stack) -> dict[str, Any]:
    outputs = stack.outputs()
    if not outputs.get("evidence"):
        msg = f"stack {stack.name} has no evidence: nothing of it is proven. `tandem up --stack {stack.name}` proves it"
        raise Refusal(msg)
    return outputs


def _print_evidence(stack: Stack) -> None:
    outputs = _outputs(stack)
    console().print(evidence_view(outputs["url"], outputs["evidence"]))


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
