"""Keeps the fleet's picture true: reads the fleet folder and asks every worker's agent.

The folder is written by the local target (`service.json`, `workers/NAME.json`). A file that cannot
be read as what it should be is reported once and the last good content stays.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from tandem_worker.contract import CONTRACT_VERSION, ServiceState, WorkerRecord
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.upstream import Upstream, UpstreamError

FOLDER_POLL_S = 0.25
READY_POLL_S = 0.5
READY_TIMEOUT_S = 5.0
"""An agent asks its engine before it answers, so its silence is the engine's."""
CONTRACTS_READ = frozenset({CONTRACT_VERSION, max(1, CONTRACT_VERSION - 1)})

log = logging.getLogger("tandem.gateway")
Stamp = tuple[int, int, int]
_Value = TypeVar("_Value", WorkerRecord, ServiceState)


class FolderSource:
    """Reads the fleet folder; stats only, while nothing has changed."""

    def __init__(self, folder: Path, service: str) -> None:
        self._folder = folder
        self._service = service
        self._stamps: dict[Path, Stamp] = {}
        self._complained: dict[Path, Stamp] = {}
        self._records: dict[Path, WorkerRecord] = {}
        self._state: ServiceState | None = None

    gateways = 1
    """A fleet folder is one gateway's."""
    peers: Sequence[tuple[str, int]] = ()

    async def run(self, upstream: Upstream) -> None:
        """Nothing: the files are looked at when they are read."""

    def read(self) -> tuple[list[WorkerRecord], str | None]:
        """The workers on record and the active generation, as far as the files can be read."""
        paths = {path: stamp for path in self._folder.glob("workers/*.json") if (stamp := _stamp(path)) is not None}
        for path, stamp in paths.items():
            if self._stamps.get(path) != stamp:
                record = self._load(path, stamp, WorkerRecord)
                if record is not None:
                    self._records[path] = record
        for path in [path for path in self._records if path not in paths]:
            del self._records[path]
            self._stamps.pop(path, None)
        service = self._folder / "service.json"
        stamp = _stamp(service)
        if stamp is not None and self._stamps.get(service) != stamp:
            self._state = self._load(service, stamp, ServiceState) or self._state
        active = self._state.active_generation if self._state is not None else None
        return list(self._records.values()), active

    def _load(self, path: Path, stamp: Stamp, kind: type[_Value]) -> _Value | None:
        try:
            value = kind.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            return self._complain(path, stamp, str(error).replace("\n", " "))
        if value.contract not in CONTRACTS_READ:
            read = " and ".join(map(str, sorted(CONTRACTS_READ)))
            return self._complain(path, stamp, f"contract version {value.contract}, this gateway reads {read}")
        if value.service != self._service:
            return self._complain(path, stamp, f"it belongs to service {value.service!r}, this is {self._service!r}")
        self._stamps[path] = stamp
        return value

    def _complain(self, path: Path, stamp: Stamp, why: str) -> None:
        if self._complained.get(path) != stamp:
            self._complained[path] = stamp
            log.warning("ignoring %s: %s", path.name, why[:500])


def _stamp(path: Path) -> Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


class Source(Protocol):
    """Where workers and the active generation are on record."""

    @property
    def gateways(self) -> int:
        """How many gateways share the service's limits."""
        ...

    @property
    def peers(self) -> Sequence[tuple[str, int]]:
        """Where the gateways of the service tell autoscalers what they know."""
        ...

    def read(self) -> tuple[list[WorkerRecord], str | None]:
        """The workers on record and the active generation, as they are known now."""
        ...

    async def run(self, upstream: Upstream) -> None:
        """What it takes to know them, until cancelled."""
        ...


class _Ready(BaseModel):
    """What of an answer of `/ready` matters here."""

    reason: str | None = None
    kv_share: float | None = None
    kv_tokens: int | None = None
    prompt_tokens_cached: int | None = None
    prompt_tokens_read: int | None = None


LEAVING = ("draining", "stopping")
"""Words in an agent's reason that mean: no new requests, but running ones are being looked after."""


class Watcher:
    """Brings the fleet up to date, and calls `changed` when a request may find what it did not find before."""

    def __init__(self, source: Source, fleet: Fleet, upstream: Upstream, changed: Callable[[], None]) -> None:
        self._source = source
        self._fleet = fleet
        self._upstream = upstream
        self._changed = changed
        self._probes: dict[str, asyncio.Task[None]] = {}

    def refresh(self) -> None:
        """Read the folder once and see to it that every worker is being asked."""
        records, active = self._source.read()
        if self._fleet.observe(records, active):
            self._changed()
        for name in list(self._probes):
            if name not in self._fleet.workers:
                self._probes.pop(name).cancel()
        for name in self._fleet.workers:
            if name not in self._probes:
                self._probes[name] = asyncio.create_task(self._keep_asking(name))

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                self.refresh()
                await asyncio.sleep(FOLDER_POLL_S)
        finally:
            for probe in self._probes.values():
                probe.cancel()

    async def _keep_asking(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        while (worker := self._fleet.get(name)) is not None:
            asked_s = loop.time()
            good, draining, said = await self._ask(worker.record)
            self._fleet.loaded(name, said.kv_share, said.kv_tokens)
            if said.prompt_tokens_cached is not None and said.prompt_tokens_read is not None:
                self._fleet.read(name, said.prompt_tokens_cached, said.prompt_tokens_read, loop.time())
            if self._fleet.probed(name, good=good, draining=draining, asked_s=asked_s, now_s=loop.time()):
                self._changed()
            await asyncio.sleep(READY_POLL_S)

    async def _ask(self, record: WorkerRecord) -> tuple[bool, bool, _Ready]:
        """Whether a worker may take requests, whether it is leaving, and what its agent says of it."""
        wire = None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                wire = await self._upstream.get(record.address, record.agent_port, "/ready")
                status = await wire.headers()
                body = await wire.read_all()
        except (UpstreamError, TimeoutError):
            return False, False, _Ready()
        finally:
            if wire is not None:
                self._upstream.release(wire)
        said = _read(body)
        leaving = any(word in (said.reason or "") for word in LEAVING)
        return status == 200, status != 200 and leaving, said


def _read(body: bytes) -> _Ready:
    try:
        return _Ready.model_validate_json(body)
    except ValidationError:
        return _Ready()
