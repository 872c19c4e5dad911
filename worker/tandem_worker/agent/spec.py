"""What to run: the worker's spec from a file, joined with what only the place knows."""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tandem_worker.agent.transport import PROTO_INFO
from tandem_worker.contract import CONTRACT_VERSION, WorkerSpec
from tandem_worker.tree import MARKER

CONTRACTS_READ = frozenset({CONTRACT_VERSION, max(1, CONTRACT_VERSION - 1)})
"""Contract versions that this worker understands."""

_PLACEHOLDER = re.compile(r"\$\((TANDEM_[A-Za-z0-9_]*)\)")


class _Version(BaseModel):
    """The one field that every contract version has."""

    contract: int = CONTRACT_VERSION


class SpecError(Exception):
    """The spec, or the place given for it, cannot be used; the message says all of what is wrong."""


@dataclass(frozen=True)
class Place:
    """What the target chose for this one worker."""

    name: str
    address: str
    """Where gateways and other workers reach this one; never 0.0.0.0, since peers are told it."""
    ports: Mapping[str, int]
    """First port of each named run of ports."""
    leader_address: str = ""
    """Where the first machine of a worker over several is reached; empty: this is the only one."""
    node_rank: int = 0
    """Number of this machine within its worker; 0 leads."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path of each of the spec's files."""
    launch_dir: str = ""
    """Where `mpirun` leaves what the other machines are to start; empty: this is the only one."""


@dataclass(frozen=True)
class Command:
    """The engine process to start; `env` is what is added to the agent's own environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def load_spec(path: Path) -> WorkerSpec:
    """Read and validate a spec file.

    Raises: SpecError with every fault of the file in one message.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        msg = f"cannot read the worker spec {str(path)!r}: {reason}; pass the file that the target wrote with --spec"
        raise SpecError(msg) from error
    try:
        # Before the fields: those of another version are not ours to judge.
        contract = _Version.model_validate_json(text).contract
        if contract not in CONTRACTS_READ:
            read = " and ".join(map(str, sorted(CONTRACTS_READ)))
            msg = (
                f"the worker spec {str(path)!r} has contract version {contract}, this worker reads {read}; "
                "use a worker image of the version that declared the service"
            )
            raise SpecError(msg)
        return WorkerSpec.model_validate_json(text)
    except ValidationError as error:
        raise SpecError(_in_words(path, error)) from error


def place_command(spec: WorkerSpec, place: Place) -> Command:
    """The spec's command with addresses, ports and the interpreter filled in.

    Raises: SpecError when a port is missing or unknown, or a placeholder names nothing.
    """
    declared = {port.name for port in spec.ports}
    problems = [
        f"port {name!r} has no number; pass --port {name}=NUMBER" for name in sorted(declared - set(place.ports))
    ]
    problems += [
        f"port {name!r} is not declared by the spec; it declares {', '.join(sorted(declared))}"
        for name in sorted(set(place.ports) - declared)
    ]
    problems += [
        f"the spec declares no port {name!r}; every worker needs one"
        for name in ("http", "agent")
        if name not in declared
    ]
    if not spec.argv:
        problems.append("`argv` is empty; there is no engine to start")
    problems += _misplaced(spec, place)
    values = _values(spec, place)
    name = "follower_argv" if place.node_rank else "argv"
    words = spec.follower_argv if place.node_rank else spec.argv
    argv = tuple(_fill(word, f"{name}[{index}]", values, problems) for index, word in enumerate(words))
    env = {name: _fill(value, f"env.{name}", values, problems) for name, value in spec.env.items()}
    if problems:
        raise SpecError("the worker spec cannot be placed: " + "; ".join(problems))
    if argv[0] == "python":
        argv = (sys.executable, *argv[1:])
    return Command(argv, env)


def write_files(spec: WorkerSpec, folder: Path) -> dict[str, str]:
    """Write the spec's files into a folder, for this user's eyes only; returns their paths.

    Raises: OSError.
    """
    paths: dict[str, str] = {}
    for name, text in spec.files.items():
        path = folder / re.sub(r"[^A-Za-z0-9.]", "_", name)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text, encoding="utf-8")
        paths[name] = str(path)
    return paths


def _misplaced(spec: WorkerSpec, place: Place) -> Iterator[str]:
    """What is wrong with this machine's place among those of its worker."""
    if not 0 <= place.node_rank < spec.nodes:
        yield f"--node-rank is {place.node_rank} and the worker has {spec.nodes} machine(s), counted from 0"
    elif spec.nodes > 1 and not place.leader_address:
        yield f"the worker spans {spec.nodes} machines; pass --leader-address, the address of the first one"
    elif place.node_rank and not spec.follower_argv:
        yield "`follower_argv` is empty; there is nothing to start on machines after the first"


def ports_of(spec: WorkerSpec, place: Place) -> dict[str, range]:
    """Every port number of each named run."""
    return {
        port.name: range(place.ports[port.name], place.ports[port.name] + port.count)
        for port in spec.ports
        if port.name in place.ports
    }


def engine_environment(command: Command, inherited: Mapping[str, str], instance: str) -> dict[str, str]:
    """The whole environment of the engine process: the agent's own, what the spec sets, and the marker."""
    return {
        "PYTHONUNBUFFERED": "1",
        "UCX_PROTO_INFO": PROTO_INFO,
        **inherited,
        **command.env,
        # vLLM's process titles would overwrite the environment block, by which the tree is found.
        "SPT_NOENV": "1",
        MARKER: instance,
    }


def _values(spec: WorkerSpec, place: Place) -> dict[str, str]:
    values = {"TANDEM_ADDRESS": place.address}
    if spec.nodes > 1:
        values["TANDEM_LEADER_ADDRESS"] = place.leader_address
        values["TANDEM_NODE_RANK"] = str(place.node_rank)
        values["TANDEM_FIRST_RANK"] = str(place.node_rank * spec.ranks_per_node)
        values["TANDEM_LAUNCH_DIR"] = place.launch_dir
    values |= {_key("TANDEM_FILE_", name): path for name, path in place.files.items()}
    for name, numbers in ports_of(spec, place).items():
        key = _key("TANDEM_PORT_", name)
        values[key] = str(numbers.start)
        values[key + "_LAST"] = str(numbers.stop - 1)
    return values


def _key(prefix: str, name: str) -> str:
    return prefix + re.sub(r"[^A-Z0-9]", "_", name.upper())


def _fill(text: str, where: str, values: Mapping[str, str], problems: list[str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            problems.append(f"{where} asks for $({name}), which is none of {', '.join(sorted(values))}")
        return values.get(name, "")

    return _PLACEHOLDER.sub(value_of, text)


def _in_words(path: Path, error: ValidationError) -> str:
    faults = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg'].lower()}" for fault in error.errors()
    )
    return f"the worker spec {str(path)!r} is not valid: {faults}"
