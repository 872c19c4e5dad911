"""Naming transports from UCX's own output and from settings."""

import json

import pytest

from tandem_worker.agent.transport import Transport, UcxTables, allowed_transport, kv_backends, transports

# Printed by UCX 1.23 (nixl 1.5.1), two agents on one host, UCX_TLS=tcp,self.
TCP = """\
[1795449458.986910] [vm:27227:0]   +--------+-------------+-----------------------------------+
[1795449458.986910] [vm:27227:0]   | a self cfg#0                                             |
[1795449458.986910] [vm:27227:0]   | remote memory read by ucp_get*(multi) into host memory from host |
[1795449458.986910] [vm:27227:0]   +--------+-------------+-----------------------------------+
[1795449458.986910] [vm:27227:0]   | Range  | Description |              Config               |
[1795449458.986910] [vm:27227:0]   | 0..inf | zero-copy   | cma/memory                        |
[1795449458.997337] [vm:27227:0]   | b intra-node cfg#1                                       |
[1795449458.997337] [vm:27227:0]   | remote memory write by ucp_put* from host memory to host |
[1795449458.997337] [vm:27227:0]   | 0..inf | zero-copy   | 52% on rc_mlx5/lo and 48% on rc_mlx5/eth0 |
[1795449459.022394] [vm:27227:0]   +--------+--------------------+------------------------------------+
[1795449459.022394] [vm:27227:0]   | b intra-node cfg#1                                               |
[1795449459.022394] [vm:27227:0]   | remote memory read by ucp_get*(multi) into host memory from host |
[1795449459.022394] [vm:27227:0]   +--------+--------------------+------------------------------------+
[1795449459.022394] [vm:27227:0]   | Range  |    Description     |               Config               |
[1795449459.022394] [vm:27227:0]   +--------+--------------------+------------------------------------+
[1795449459.022394] [vm:27227:0]   | 0..inf | software emulation | tcp/lo                             |
[1795449459.022394] [vm:27227:0]   +--------+--------------------+------------------------------------+
"""


# The decode side of two vLLM 0.32 CPU engines; UCX pads a short pid.
VLLM_READ = """\
[1795451068.782248] [vm:4861 :0]   | 92658013-9a1f-47b5-a36b-ac150b4 intra-node cfg#1                 |
[1795451068.782248] [vm:4861 :0]   | remote memory read by ucp_get*(multi) into host memory from host |
[1795451068.782248] [vm:4861 :0]   | Range  |    Description     |               Config               |
[1795451068.782248] [vm:4861 :0]   | 0..inf | software emulation | tcp/lo                             |
"""


def seen_in(text: str) -> set[str]:
    tables = UcxTables()
    for line in text.splitlines():
        tables.take(line)
    return tables.seen


def test_names_what_ucx_reads_from_peers_with() -> None:
    """Traffic with itself and writes do not count; the read from a peer does."""
    assert seen_in(TCP) == {"tcp"}
    assert seen_in(VLLM_READ) == {"tcp"}


def test_names_every_transport_of_a_split_read() -> None:
    """Several rails, and a copy through shared memory, are all named."""
    rows = TCP.replace("tcp/lo  ", "50% on rc_mlx5/mlx5_0:1 and 50% on rc_mlx5/mlx5_1:1, cuda_copy/cuda")

    assert seen_in(rows) == {"rc_mlx5", "cuda_copy"}


def test_reads_the_counted_form() -> None:
    """`UCX_PROTO_INFO=used` puts a count before the range."""
    assert seen_in(TCP.replace("| 0..inf | soft", "|     1 | 0..inf | soft")) == {"tcp"}


def test_keeps_the_tables_of_two_threads_apart() -> None:
    """Lines of two processes interleave in one output."""
    ours = TCP.splitlines()[-7:]
    theirs = [line.replace("vm:27227:0", "vm:9:0").replace("intra-node", "self") for line in ours]
    theirs = [line.replace("tcp/", "posix/") for line in theirs]
    mixed = [line for pair in zip(ours, theirs, strict=True) for line in pair]

    assert seen_in("\n".join(mixed)) == {"tcp"}


def test_is_not_misled_by_other_output() -> None:
    """Tables of others and half lines say nothing."""
    assert seen_in("| a | b |\n| 0..inf | zero-copy | tcp/lo |\nINFO tcp/lo | x\n") == set()


VLLM = ("python", "-m", "vllm.entrypoints.openai.api_server", "--kv-transfer-config")
NIXL = json.dumps({"kv_connector": "NixlConnector", "kv_role": "kv_both"})


@pytest.mark.parametrize(
    ("tls", "name"),
    [
        ("tcp,self", "tcp"),
        ("tcp", "tcp"),
        ("rc_mlx5,self", "rc_mlx5"),
        ("tcp,cma,self", None),
        ("rc,self", None),
        ("^cuda_ipc", None),
        ("^tcp", None),
        ("all", None),
        ("", None),
    ],
)
def test_says_what_is_allowed_only_where_one_is_left(tls: str, name: str | None) -> None:
    """Several transports, or an alias of several, are no evidence."""
    assert allowed_transport([*VLLM, NIXL], {"UCX_TLS": tls}) == name


def test_reads_the_backends_of_a_command() -> None:
    """UCX settings say nothing about another backend, nor about an engine that moves no KV."""
    libfabric = json.dumps({"kv_connector": "NixlConnector", "kv_connector_extra_config": {"backends": ["LIBFABRIC"]}})

    assert kv_backends([*VLLM, NIXL]) == ("UCX",)
    assert kv_backends(["x", f"--kv-transfer-config={libfabric}"]) == ("LIBFABRIC",)
    assert kv_backends(["x"]) == kv_backends([*VLLM, "{"]) == kv_backends([*VLLM, "[]"]) == kv_backends(VLLM) == ()
    assert allowed_transport([*VLLM, libfabric], {"UCX_TLS": "tcp"}) is None


def test_prefers_ucx_own_words() -> None:
    """What is allowed is told only until something was seen."""
    assert transports([], "tcp") == [Transport("tcp", "allowed")]
    assert transports(["cma", "tcp"], "tcp") == [Transport("cma", "log"), Transport("tcp", "log")]
    assert transports([], None) == []
