"""Reading a spec and placing its command."""

import json
import sys
from pathlib import Path

import pytest

from tandem_worker.agent.spec import (
    Place,
    SpecError,
    engine_environment,
    load_spec,
    place_command,
    ports_of,
    write_files,
)
from tandem_worker.agent.transport import PROTO_INFO
from tandem_worker.contract import CONTRACT_VERSION, Port
from tests.agent.place import place_of, worker_spec

PORTS = (Port(name="http"), Port(name="agent"), Port(name="side_channel", count=4))


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.json"
    path.write_text(text)
    return path


def test_reads_what_was_written(tmp_path: Path) -> None:
    """A spec survives the way through its file."""
    spec = worker_spec(env={"A": "1"}, kv_gb_per_s_min=0.5)

    assert load_spec(write(tmp_path, spec.model_dump_json())) == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", "the file: invalid json", id="not json"),
        pytest.param("[]", "the file: input should be an object", id="not an object"),
        pytest.param('{"contract": 1}', "service: field required; pool: field required", id="all faults at once"),
        pytest.param('{"contract": "x"}', "contract: input should be a valid integer", id="version is no number"),
    ],
)
def test_says_all_that_is_wrong_with_a_file(tmp_path: Path, text: str, words: str) -> None:
    """Every fault of the file is in one message that names the file."""
    path = write(tmp_path, text)

    with pytest.raises(SpecError) as caught:
        load_spec(path)

    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_refuses_a_contract_of_the_future_before_its_fields(tmp_path: Path) -> None:
    """Another contract's fields are not complained of, only its version."""
    text = json.dumps({"contract": CONTRACT_VERSION + 1, "never_heard_of": 1})

    with pytest.raises(SpecError, match=f"has contract version {CONTRACT_VERSION + 1}, this worker reads "):
        load_spec(write(tmp_path, text))


def test_says_that_a_file_is_missing(tmp_path: Path) -> None:
    """A missing file is an error in words."""
    with pytest.raises(SpecError, match="No such file or directory; pass the file that the target wrote with --spec"):
        load_spec(tmp_path / "none.json")


def test_fills_in_the_place() -> None:
    """Addresses and ports appear in argv and env, the last port of a run too; other dollars stay."""
    spec = worker_spec(
        argv=("python", "-m", "engine", "--port=$(TANDEM_PORT_HTTP)", "--host", "$(TANDEM_ADDRESS)", "$(HOME) $X"),
        env={"RANGE": "$(TANDEM_PORT_SIDE_CHANNEL)-$(TANDEM_PORT_SIDE_CHANNEL_LAST)"},
        ports=PORTS,
    )
    command = place_command(spec, place_of(http=1000, agent=1001, side_channel=1002))

    assert command.argv == (
        sys.executable,
        "-m",
        "engine",
        "--port=1000",
        "--host",
        "127.0.0.1",
        "$(HOME) $X",
    )
    assert command.env == {"RANGE": "1002-1005"}


def test_names_every_port_and_placeholder_that_does_not_fit() -> None:
    """Missing ports, unknown ports and unknown placeholders are reported together."""
    spec = worker_spec(argv=("engine", "$(TANDEM_PORT_GRPC)"), ports=PORTS)

    with pytest.raises(SpecError) as caught:
        place_command(spec, place_of(http=1000, agent=1001, transfer=7))

    assert "port 'side_channel' has no number; pass --port side_channel=NUMBER" in str(caught.value)
    assert "port 'transfer' is not declared by the spec" in str(caught.value)
    assert "argv[1] asks for $(TANDEM_PORT_GRPC), which is none of TANDEM_ADDRESS" in str(caught.value)


def test_counts_the_ports_of_a_run() -> None:
    """A run of ports is consecutive from its first number."""
    assert ports_of(worker_spec(ports=PORTS), place_of(side_channel=50))["side_channel"] == range(50, 54)


def test_marks_the_environment() -> None:
    """The marker wins over everything, the spec over what is inherited, both over our own defaults."""
    spec = worker_spec(env={"A": "spec", "TANDEM_INSTANCE": "forged"})
    command = place_command(spec, place_of(http=1, agent=2))
    environment = engine_environment(command, {"A": "inherited", "B": "inherited"}, "instance-1")

    assert environment["TANDEM_INSTANCE"] == "instance-1"
    assert (environment["A"], environment["B"]) == ("spec", "inherited")
    assert environment["SPT_NOENV"] == "1"
    assert environment["UCX_PROTO_INFO"] == PROTO_INFO
    assert engine_environment(command, {"UCX_PROTO_INFO": "n"}, "instance-1")["UCX_PROTO_INFO"] == "n"


def test_files_are_for_this_user_only_and_the_command_names_them(tmp_path: Path) -> None:
    """A spec's files are written before the engine starts, and referred to by name."""
    spec = worker_spec(argv=("engine", "--config", "$(TANDEM_FILE_CONFIG_YAML)"), files={"config.yaml": "a: 1\n"})
    paths = write_files(spec, tmp_path)
    command = place_command(spec, Place("w", "127.0.0.1", {"http": 1, "agent": 2}, files=paths))

    written = Path(command.argv[2])
    assert written.read_text() == "a: 1\n"
    assert written.stat().st_mode & 0o777 == 0o600
    assert written.parent == tmp_path


def spanning(rank: int, leader: str = "10.0.0.1") -> Place:
    return Place("w", "10.0.0.2", {"http": 1, "agent": 2}, leader, rank)


def test_every_machine_of_a_worker_starts_its_own_command() -> None:
    """The first machine runs argv, the others follower_argv, each with its number and that of its first rank."""
    follower = ("engine", "--rank=$(TANDEM_NODE_RANK)", "--first=$(TANDEM_FIRST_RANK)", "$(TANDEM_LEADER_ADDRESS)")
    spec = worker_spec(argv=("engine", "--serve"), nodes=3, ranks_per_node=4, follower_argv=follower)

    assert place_command(spec, spanning(0)).argv == ("engine", "--serve")
    assert place_command(spec, spanning(2)).argv == ("engine", "--rank=2", "--first=8", "10.0.0.1")


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        pytest.param({}, spanning(1), "--node-rank is 1 and the worker has 1 machine", id="one machine"),
        pytest.param({"nodes": 2}, spanning(2), "--node-rank is 2 and the worker has 2 machine", id="too far"),
        pytest.param({"nodes": 2}, spanning(0, ""), "pass --leader-address", id="no leader"),
        pytest.param({"nodes": 2}, spanning(1), "`follower_argv` is empty", id="no command"),
    ],
)
def test_says_when_a_machine_has_no_place_in_its_worker(changes: dict[str, int], place: Place, words: str) -> None:
    """A number out of range, a missing leader and a missing command are each a sentence."""
    with pytest.raises(SpecError) as caught:
        place_command(worker_spec(**changes), place)

    assert words in str(caught.value)
