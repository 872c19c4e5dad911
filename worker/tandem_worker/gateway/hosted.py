"""One service in a gateway's process: what answers for it, and what keeps its picture of the fleet true."""

import asyncio
import os
from collections.abc import Coroutine

from tandem_worker.contract import GatewaySpec
from tandem_worker.dialects.table import HAND_OFFS
from tandem_worker.gateway.exchange import Shared
from tandem_worker.gateway.fleet import Fleet
from tandem_worker.gateway.keys import Keys
from tandem_worker.gateway.metrics import Metrics
from tandem_worker.gateway.peers import Peers
from tandem_worker.gateway.scale import figures
from tandem_worker.gateway.server import TICK_S, Gateway
from tandem_worker.gateway.silence import Limits
from tandem_worker.gateway.upstream import Upstream
from tandem_worker.gateway.watch import Source, Watcher


class Hosted:
    """A service that can be served once its chores run."""

    def __init__(self, spec: GatewaySpec, keys: Keys, source: Source) -> None:
        self.spec = spec
        self._source = source
        self._now = asyncio.get_running_loop().time
        self._upstream = Upstream(asyncio.get_running_loop())
        self._fleet = Fleet()
        shared = Shared(
            self._fleet,
            self._upstream,
            Metrics(),
            self._now,
            Limits(spec.prefill_timeout_s, spec.stall_timeout_s),
            HAND_OFFS[spec.dialect],
            spec.resume_tokens_max if spec.resume else 0,
            spec.context_tokens_max,
        )
        self.gateway = Gateway(spec, shared, keys)
        self._watcher = Watcher(source, self._fleet, self._upstream, shared.fleet_changed.fire)
        self._watcher.refresh()

    def chores(self) -> tuple[Coroutine[None, None, None], ...]:
        """What runs beside requests, each until it is cancelled."""
        return self._source.run(self._upstream), self._watcher.run(), self._tick()

    def peers(self) -> Peers:
        """What this gateway and its peers tell autoscalers from now on; the spec has `scaling`."""
        name = os.urandom(8).hex()
        own = Peers(
            self.spec, lambda: figures(name, self._fleet, self._now()), lambda: self._source.peers, self._upstream
        )
        self.gateway.scale = own.scale
        return own

    def close(self) -> None:
        """Let go of the connections to workers."""
        self._upstream.close()

    async def _tick(self) -> None:
        while True:
            self.gateway.tick()
            self.gateway.divide(self._source.gateways)
            await asyncio.sleep(TICK_S)
