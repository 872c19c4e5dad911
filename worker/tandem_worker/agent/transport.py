"""Naming the transport that KV really takes.

UCX prints, when an operation to a peer is first used and `UCX_PROTO_INFO` matches it, a table with
the protocol and the transport of every message size (UCX 1.23, as bundled with nixl 1.5.1):

    [1795449283.701905] [host:22100:0]   | NAME intra-node cfg#1                                            |
    [1795449283.701905] [host:22100:0]   | remote memory read by ucp_get*(multi) into host memory from host |
    [1795449283.701905] [host:22100:0]   | Range  |    Description     |               Config               |
    [1795449283.701905] [host:22100:0]   | 0..inf | software emulation | tcp/lo                             |

A read is printed by the side that reads, which in pull mode is the decode side. Settings say less:
where they leave one transport it is "allowed", and where they leave several nothing is claimed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

Evidence = Literal["log", "allowed"]

PROTO_INFO: Final = "*remote memory read*"
"""`UCX_PROTO_INFO` as the agent sets it: eight lines per kind of peer, where `y` gives a hundred."""

_HEAD = re.compile(r"\[(?P<thread>[^\[\]]+:\d+ *:\d+ *)\]\s+\| .*(?P<peer>self|intra-node|inter-node) cfg#\d+ +\|")
_ROW = re.compile(r"\[(?P<thread>[^\[\]]+:\d+ *:\d+ *)\]\s+\|(?P<cells>.*)\|\s*$")
_READ = "remote memory read by ucp_get"
_LANE = re.compile(r"\b([a-z][a-z0-9_]*)/\S")
_RANGE = re.compile(r"^(\d+|\d+\.\.(\d+[KMG]?|inf))$")
_TABLES_MAX: Final = 64
"""Tables followed at once; one per thread that talks to UCX, so an engine has a few."""

_CONCRETE: Final = frozenset(
    {"tcp", "cma", "posix", "sysv", "xpmem", "rc_verbs", "rc_mlx5", "dc_mlx5", "ud_verbs", "ud_mlx5", "srd", "cuda_ipc"}
)
"""UCX's names that mean one transport; `rc`, `sm`, `ib` and `all` mean several."""


class Transport(NamedTuple):
    """One transport, and how it is known."""

    name: str
    """UCX's own name, as `tcp`, `rc_mlx5`, `cuda_ipc`."""
    evidence: Evidence
    """`log`: UCX named it for reads from a peer; `allowed`: the settings leave no other."""


class UcxTables:
    """Reads an engine's output line by line and remembers which transports UCX named for reads from peers."""

    def __init__(self) -> None:
        self._tables: dict[str, str] = {}
        self.seen: set[str] = set()

    def take(self, line: str) -> None:
        """Note what this line says; most lines say nothing and cost one search for a bar."""
        if "|" not in line or (row := _ROW.search(line)) is None:
            return
        thread = row["thread"]
        if (head := _HEAD.search(line)) is not None:
            # Traffic of a process with itself says nothing about its peers.
            self._follow(thread, "peer" if head["peer"] != "self" else "self")
        elif self._tables.get(thread) == "peer" and _READ in line:
            self._follow(thread, "read")
        elif self._tables.get(thread) == "read":
            self._take_row([cell.strip() for cell in row["cells"].split("|")])
        else:
            self._tables.pop(thread, None)

    def _follow(self, thread: str, part: str) -> None:
        if thread in self._tables or len(self._tables) < _TABLES_MAX:
            self._tables[thread] = part

    def _take_row(self, cells: list[str]) -> None:
        # With `UCX_PROTO_INFO=used` a count stands before the range.
        if len(cells) >= 3 and _RANGE.match(cells[-3]):
            self.seen.update(_LANE.findall(cells[-1]))


def transports(seen: Iterable[str], allowed: str | None) -> list[Transport]:
    """What may be claimed: what UCX said, else what the settings leave."""
    named = [Transport(name, "log") for name in sorted(seen)]
    if named or allowed is None:
        return named
    return [Transport(allowed, "allowed")]


def allowed_transport(argv: Sequence[str], env: Mapping[str, str]) -> str | None:
    """The one transport that the engine's settings leave, if they leave one.

    `self` does not count: it carries nothing between two processes.
    """
    if kv_backends(argv) != ("UCX",):
        return None
    words = env.get("UCX_TLS", "").lower()
    names = {word.strip() for word in words.split(",")} - {"self", ""}
    if words.startswith("^") or len(names) != 1 or not names <= _CONCRETE:
        return None
    return names.pop()


def kv_backends(argv: Sequence[str]) -> tuple[str, ...]:
    """The NIXL backends that a vLLM command asks for; empty when it moves no KV through NIXL.

    Source: `kv_connector_extra_config.backends`, default `["UCX"]` (vllm 0.32 nixl connector).
    """
    config = _kv_transfer_config(argv)
    if not str(config.get("kv_connector", "")).startswith("Nixl"):
        return ()
    extra = config.get("kv_connector_extra_config")
    backends = extra.get("backends", ["UCX"]) if isinstance(extra, dict) else ["UCX"]
    return tuple(map(str, backends)) if isinstance(backends, list) else ()


def _kv_transfer_config(argv: Sequence[str]) -> dict[str, Any]:
    flag = "--kv-transfer-config"
    for index, word in enumerate(argv):
        if word == flag and index + 1 < len(argv):
            text = argv[index + 1]
        elif word.startswith(f"{flag}="):
            text = word.removeprefix(f"{flag}=")
        else:
            continue
        try:
            config = json.loads(text)
        except ValueError:
            return {}  # the engine refuses it, in its own words
        return config if isinstance(config, dict) else {}
    return {}
