"""What the agent sees of its engine: health, metrics, and the processes of its tree."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from errno import ECONNREFUSED
from typing import Final, Protocol

import aiohttp
import psutil

from tandem_worker.agent.decide import Healthy, Unwell
from tandem_worker.contract import Dialect
from tandem_worker.dialects.tensorrt_llm_metrics import TensorRtLlmMeter
from tandem_worker.dialects.vllm_metrics import EngineNumbers, VllmMeter
from tandem_worker.tree import record_shm, segments_of, tree_members

HEALTH_PERIOD_S: Final = 0.5
HEALTH_TIMEOUT_S: Final = 2.0
"""With the period, how long a silent engine can look ready: a gateway hears of it after some 3 s."""
METRICS_TIMEOUT_S: Final = 5.0
"""TensorRT-LLM waits 2 s for iterations to tell of when there are none (`get_iteration_stats`)."""
METRICS_BYTES_MAX: Final = 8 * 1024 * 1024
SEARCH_PERIOD_MIN_S: Final = 1.0
SEARCH_PERIOD_MAX_S: Final = 16.0
"""How often the tree is searched for new processes and segments. A search reads all of /proc, some
50 ms of a small machine's core; an engine makes nearly all of them while it starts, so the period
doubles once it is ready."""


class Meter(Protocol):
    """Turns an engine's pages of metrics into the agent's numbers."""

    @property
    def paths(self) -> Sequence[str]:
        """What to ask for, in order."""
        ...

    def read(self, pages: Sequence[str]) -> EngineNumbers:
        """The numbers of one reading. Raises: ValueError when a page is not what it should be."""
        ...


METERS: Mapping[Dialect, Callable[[], Meter]] = {"vllm-nixl-pull": VllmMeter, "trtllm-disagg": TensorRtLlmMeter}


class Tree:
    """The live processes of one instance, refreshed now and then; used from one thread at a time."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._members: list[psutil.Process] = []
        self._search_at_s = float("-inf")
        self._period_s = SEARCH_PERIOD_MIN_S

    def look(self, *, starting: bool) -> str | None:
        """Search when due, write down the tree's shared memory, and say which process is stopped.

        Returns None when all run. An engine core that is stopped (SIGSTOP, a frozen cgroup, a
        debugger) leaves its API server answering health checks, so this is seen here or not at all.
        """
        now_s = time.monotonic()
        if now_s >= self._search_at_s:
            self._members = tree_members(self._instance)
            self._period_s = SEARCH_PERIOD_MIN_S if starting else min(2 * self._period_s, SEARCH_PERIOD_MAX_S)
            self._search_at_s = now_s + self._period_s
            with suppress(OSError):  # no /dev/shm to write to: then there is nothing to clean up either
                record_shm(self._instance, segments_of(member.pid for member in self._members))
        for member in self._members:
            with suppress(psutil.Error):
                if member.status() == psutil.STATUS_STOPPED:
                    return f"process {member.pid} ({member.name()}) is stopped"
        return None


class EngineClient:
    """The engine's HTTP side, asked with short timeouts and never twice at once for the same thing."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, meter: Meter) -> None:
        self._session = session
        self._base_url = base_url
        self._meter = meter
        self._reading: asyncio.Task[EngineNumbers | None] | None = None

    async def health(self) -> Healthy | Unwell:
        """One health check."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
        try:
            async with self._session.get(f"{self._base_url}/health", timeout=timeout) as response:
                if response.status == 200:
                    return Healthy()
                return Unwell(f"the engine answers /health with {response.status}", refusing=response.status == 503)
        except TimeoutError:
            return Unwell(f"the engine has not answered /health for {HEALTH_TIMEOUT_S:g} s")
        except aiohttp.ClientConnectorError as error:
            # Nobody listens any more. Under mpirun the server is no child of the agent, and others outlive it.
            return Unwell(f"the engine does not answer /health: {error}", refusing=error.errno == ECONNREFUSED)
        except aiohttp.ClientError as error:
            return Unwell(f"the engine does not answer /health: {error}")

    async def numbers(self) -> EngineNumbers | None:
        """One reading of the engine's metrics, shared by everyone who asks meanwhile; None: no answer."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_numbers(), name="engine metrics")
        return await asyncio.shield(self._reading)

    async def _read_numbers(self) -> EngineNumbers | None:
        try:
            pages = [page for path in self._meter.paths if (page := await self._page(path)) is not None]
            return self._meter.read(pages) if len(pages) == len(self._meter.paths) else None
        except (TimeoutError, aiohttp.ClientError, ValueError):
            return None

    async def _page(self, path: str) -> str | None:
        timeout = aiohttp.ClientTimeout(total=METRICS_TIMEOUT_S)
        async with self._session.get(f"{self._base_url}{path}", timeout=timeout) as response:
            if response.status != 200:
                return None
            page = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                page += chunk
                if len(page) > METRICS_BYTES_MAX:
                    return None
            return page.decode("utf-8", errors="replace")
