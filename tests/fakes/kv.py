"""The KV side of a fake engine: blocks held for a reader, reads over a side channel, and the rules.

Pull mode of vLLM 0.32's NixlConnector: the engine that prefilled keeps the blocks of a request and
names them in kv_transfer_params; the engine that decodes reads them from `remote_host:remote_port`,
once. A second read, or one of blocks that nobody holds, succeeds on the real thing and yields another
prompt's KV under HTTP 200 (vllm#52234); here it is written down as a violation, on both sides, and
garbles the answer.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from tests.fakes.tokens import fingerprint

BLOCK_TOKENS = 16
KV_BYTES_PER_TOKEN = 23_040
"""SmolLM2-135M in bf16: 30 layers, 3 KV heads of 64, keys and values, 2 bytes."""
CONNECT_TIMEOUT_S = 5.0
"""Of a handshake. Source: zmq.RCVTIMEO in vllm 0.32's nixl/base_worker.py."""
_NEEDED = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port", "tp_size", "remote_block_ids")


class KvLoadError(Exception):
    """The blocks could not be read: the other engine is gone, or is another one."""


@dataclass(slots=True)
class Held:
    """Blocks that wait for their reader."""

    blocks: list[int]
    prompt: int
    """Fingerprint of the prompt whose KV it is."""


@dataclass(slots=True)
class Transfers:
    """What a reader has moved."""

    count: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failed: int = 0


@dataclass(slots=True)
class KvSide:
    """Holds blocks for readers and reads the blocks of others."""

    host: str = "127.0.0.1"
    port: int = 0
    engine_id: str = ""
    held: dict[str, Held] = field(default_factory=dict[str, Held])
    violations: list[str] = field(default_factory=list[str])
    transfers: Transfers = field(default_factory=Transfers)
    _next_block: int = 1
    _listener: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])
    _peers: dict[tuple[str, int], tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(
        default_factory=dict[tuple[str, int], tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    )
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        """Listens under a new engine id, as each start of a real engine does."""
        self.engine_id = str(uuid.uuid4())
        self.held.clear()
        self._listener = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """Forgets all blocks and closes every connection."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in [*self._writers, *(w for _, w in self._peers.values())]:
            writer.transport.abort()
        self._peers.clear()
        self.held.clear()

    def hold(self, request_id: str, prompt: Sequence[int]) -> dict[str, Any]:
        """Keeps the blocks of a finished prefill; the kv_transfer_params of its answer."""
        internal_id = f"{request_id}-{uuid.uuid4().hex[:8]}"
        count = -(-len(prompt) // BLOCK_TOKENS)
        blocks = list(range(self._next_block, self._next_block + count))
        self._next_block += count
        self.held[internal_id] = Held(blocks, fingerprint(prompt))
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [blocks],
            "remote_engine_id": self.engine_id,
            "remote_request_id": internal_id,
            "remote_host": self.host,
            "remote_port": self.port,
            "tp_size": 1,
            "dcp_size": 1,
            "pp_size": 1,
            "remote_num_tokens": len(prompt),
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
            "remote_prefill_cached_tokens": 0,
        }

    async def fetch(self, params: dict[str, Any], prompt: Sequence[int], *, broken: bool = False) -> bool:
        """Reads the blocks that `params` names; True when they are this prompt's, False when garbage.

        `broken` fails the read before it reaches the other engine. Raises: KvLoadError.
        """
        if broken:
            self.transfers.failed += 1
            raise KvLoadError("asked for by a test")
        started = time.perf_counter()
        question = {"request_id": params["remote_request_id"], "engine_id": params["remote_engine_id"]}
        question["blocks"] = params["remote_block_ids"]
        try:
            answer = await self._ask((str(params["remote_host"]), int(params["remote_port"])), question)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.transfers.failed += 1
            raise KvLoadError(str(error) or type(error).__name__) from error
        if "refused" in answer:
            self.transfers.failed += 1
            raise KvLoadError(answer["refused"])
        self.transfers.count += 1
        self.transfers.bytes += -(-len(prompt) // BLOCK_TOKENS) * BLOCK_TOKENS * KV_BYTES_PER_TOKEN
        self.transfers.seconds += time.perf_counter() - started
        if "violation" in answer:
            self.violations.append(f"read: {answer['violation']}")
        elif answer["prompt"] != fingerprint(prompt):
            self.violations.append(f"read the KV of another prompt: {params['remote_request_id']}")
        else:
            return True
        return False

    async def _ask(self, address: tuple[str, int], question: dict[str, Any]) -> dict[str, Any]:
        line = json.dumps(question).encode() + b"\n"
        async with self._lock:
            known = self._peers.pop(address, None)
            if known is not None:
                try:
                    return await self._exchange(address, known, line)
                except (OSError, asyncio.IncompleteReadError):
                    known[1].transport.abort()  # it was restarted: try the new one
            opened = await asyncio.wait_for(asyncio.open_connection(*address), CONNECT_TIMEOUT_S)
            return await self._exchange(address, opened, line)

    async def _exchange(
        self, address: tuple[str, int], peer: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes
    ) -> dict[str, Any]:
        peer[1].write(line)
        answer = await peer[0].readuntil(b"\n")
        self._peers[address] = peer
        return cast(dict[str, Any], json.loads(answer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._read(json.loads(line))).encode() + b"\n")
        except (OSError, asyncio.CancelledError):
            pass  # the reader died, or this engine is being killed
        finally:
            self._writers.discard(writer)
            writer.close()

    def _read(self, question: dict[str, Any]) -> dict[str, Any]:
        name = question["request_id"]
        if question["engine_id"] != self.engine_id:
            return {"refused": "Remote NIXL agent engine ID mismatch"}
        held = self.held.pop(name, None)
        if held is None:
            self.violations.append(f"blocks read twice, or never held: {name}")
            return {"violation": f"blocks read twice, or never held: {name}"}
        if question["blocks"] not in ([held.blocks], []):
            self.violations.append(f"other blocks than held: {name}")
            return {"violation": f"other blocks than held: {name}"}
        return {"prompt": held.prompt}


def wants_read(params: object) -> dict[str, Any] | None:
    """The params of a decode that vLLM would act on; others are ignored and prefilled locally."""
    if not isinstance(params, dict):
        return None
    given = cast(dict[str, Any], params)
    if given.get("do_remote_prefill") and given.get("remote_block_ids") and all(k in given for k in _NEEDED):
        return given
    return None


def wants_hold(params: object) -> bool:
    """Whether the answer shall name blocks for a reader."""
    return isinstance(params, dict) and bool(cast(dict[str, Any], params).get("do_remote_decode"))
