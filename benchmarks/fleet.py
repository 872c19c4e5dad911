"""The fleet folder and the gateway's process, as both benchmarks need them."""

import subprocess
import sys
from pathlib import Path

from tandem_worker.contract import GatewaySpec, ServiceState, WorkerRecord


def write_fleet(folder: Path, generation: str, records: list[WorkerRecord]) -> None:
    """Names the workers and the generation that serves."""
    (folder / "workers").mkdir(parents=True)
    state = ServiceState(service=records[0].service, active_generation=generation)
    (folder / "service.json").write_text(state.model_dump_json())
    for record in records:
        (folder / "workers" / f"{record.name}.json").write_text(record.model_dump_json())


def gateway_command(spec: GatewaySpec, folder: Path, listen: str, *more: str) -> list[str]:
    """The command line of our gateway before the fleet in `folder`; writes its spec there."""
    path = folder / "gateway.json"
    path.write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "tandem_worker", "gateway", "--spec", str(path)]
    return [*command, "--fleet-dir", str(folder), "--listen", listen, *more]


def spawn(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a process with its output in a file."""
    with log.open("ab") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)
