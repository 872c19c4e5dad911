"""A spec and a place for it, as the agent's tests need them."""

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tandem_worker.agent.spec import Place
from tandem_worker.contract import Port, WorkerSpec

TREE_ENGINE = Path(__file__).with_name("tree_engine.py")


def worker_spec(**changes: Any) -> WorkerSpec:
    """A decode worker whose engine is `tree_engine.py`; `changes` replace fields."""
    fields: dict[str, Any] = {
        "service": "chat",
        "pool": "decode",
        "phase": "decode",
        "phases": ("prefill", "decode"),
        "dialect": "vllm-nixl-pull",
        "engine": "vllm 0.32.0",
        "generation": "1a2b3c4d",
        "pair_key": "5e6f",
        "argv": ("python", str(TREE_ENGINE), "--port", "$(TANDEM_PORT_HTTP)"),
        "ports": (Port(name="http"), Port(name="agent")),
        "served_names": ("smol",),
        "factors": {"dtype": "float32"},
        "settle_s": 0.2,
        "drain_timeout_s": 20.0,
        "stop_timeout_s": 5.0,
    }
    return WorkerSpec(**{**fields, **changes})


def place_of(**ports: int) -> Place:
    return Place("chat-decode-1a2b3c4d-0", "127.0.0.1", ports)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now; held together while they are chosen, so they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
