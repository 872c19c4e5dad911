"""The supervisor of one local stack: owns the stack's processes.

Nothing of Pulumi lives after `up`, so this does. It keeps every process that is wanted running. Killed, it is started
again by its guard and takes its processes over by (pid, start time). `server` lets clients call its verbs.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pulumi_tandem.local import ports
from pulumi_tandem.local.entry import Entry, Wanted, saved_entries
from pulumi_tandem.local.http import Http
from pulumi_tandem.local.keeper import Keeper, give_ports, listen
from pulumi_tandem.local.paths import StackPaths, read_json, write_atomically
from pulumi_tandem.local.start import StartFailedError, await_gateway, await_worker
from tandem_worker.contract import GatewaySpec, ServiceState, WorkerSpec

Say = Callable[[str], None]

ACTIVATION_TIMEOUT_S = 15.0
STOP_MARGIN_S = 5.0
REST_GRACE_S = 10.0
"""A machine that shuts down gives its services little more."""


class RefusedError(Exception):
    """The supervisor will not do it; the message says why and what to do instead."""


class Supervisor:
    """Every public coroutine named `do_*` is a verb of the socket; `say` sends a line of progress to the caller."""

    def __init__(self, paths: StackPaths) -> None:
        """Take over what an earlier supervisor of this stack left."""
        self.paths = paths
        self.keepers: dict[str, Keeper] = {}
        self.http = Http()
        self.ended = asyncio.Event()
        self._locks: dict[str, asyncio.Lock] = {}
        for entry in saved_entries(paths):
            self._adopt(entry)

    def _adopt(self, entry: Entry) -> None:
        keeper = self.keepers[entry.name] = Keeper(self.paths, entry)
        if entry.wanted == "running":
            with contextlib.suppress(OSError):  # only the claim is lost: the process itself still listens
                keeper.block = give_ports(entry)
            keeper.start()

    # --- verbs ----------------------------------------------------------------------------------

    async def do_ping(self, _say: Say) -> dict[str, Any]:
        """Who answers."""
        return {"pid": os.getpid(), "root": str(self.paths.root)}

    async def do_start_worker(
        self,
        say: Say,
        *,
        name: str,
        spec: dict[str, Any],
        python: str,
        address: str = "127.0.0.1",
    ) -> dict[str, Any]:
        """Have this worker run and be ready: adopt it, replace one of another spec, or start it."""
        worker = WorkerSpec.model_validate(spec)
        wanted = Entry(
            name=name,
            kind="worker",
            service=worker.service,
            spec=spec,
            python=python,
            address=address,
        )
        async with self._lock(name):
            keeper = self.keepers.get(name)
            if keeper and not keeper.entry.does_the_same_as(wanted):
                say(f"{name}: another specification runs under this name; replacing it")
                await self._remove(keeper, say)
                keeper = None
            is_new = keeper is None
            if keeper is None:
                keeper = self.keepers[name] = Keeper(self.paths, wanted)
            keeper.entry.wanted = "running"
            try:
                if keeper.block is None:
                    keeper.block = self._ports_for(keeper.entry)
                keeper.entry.save(self.paths)
                keeper.start()
                await await_worker(keeper, worker, self.http, say)
            except (StartFailedError, OSError) as error:
                await keeper.stop(worker.stop_timeout_s)
                if is_new:
                    self._forget(keeper)
                why = self.paths.told(error) if isinstance(error, OSError) else error
                raise RefusedError(f"{why}\n{name} was stopped and removed; nothing of it is left running") from None
            return self._describe(keeper)

    async def do_start_gateway(self, say: Say, *, entry: dict[str, Any]) -> dict[str, Any]:
        """Have this gateway run: adopt it, or start it, beside one of another spec, which then drains.

        `first_port` of the entry is the port that clients use; 0: the one it has, or any.
        """
        wanted = Entry.model_validate({**entry, "kind": "gateway"})
        wanted.options["proof-token-file"] = str(self._proof_token(wanted.service))
        async with self._lock(wanted.name):
            before = self.keepers.get(wanted.name)
            stays = before is not None and wanted.first_port in (0, before.entry.first_port)
            if before and stays and before.entry.does_the_same_as(wanted):
                before.entry.wanted = "running"
                before.start()
                await await_gateway(before, self.http, say)
                return self._describe(before)
            keeper = Keeper(self.paths, wanted)
            self._give_door(keeper, before if stays else None)
            keeper.start()
            try:
                await await_gateway(keeper, self.http, say)
            except BaseException as error:
                await self._give_up_gateway(keeper, before)
                if isinstance(error, StartFailedError):
                    raise RefusedError(str(error)) from None
                raise
            self.keepers[wanted.name] = keeper
            if before:
                say(f"{wanted.name}: the new gateway answers; the old one drains")
                await before.stop(GatewaySpec.model_validate(before.entry.spec).drain_timeout_s)
                if before.listener and before.listener is not keeper.listener:
                    before.listener.close()
                keeper.entry.save(self.paths)
            return self._describe(keeper)

    def _give_door(self, keeper: Keeper, before: Keeper | None) -> None:
        """Give a new gateway its listening socket: that of the one before it, or a new one."""
        entry = keeper.entry
        if before:
            entry.first_port = before.entry.first_port
            keeper.listener, keeper.block, before.block = before.listener, before.block, None
        elif entry.first_port == 0:
            keeper.block = give_ports(entry)
        elif not ports.is_free(entry.address, entry.first_port):
            raise RefusedError(
                f"{entry.address}:{entry.first_port} is taken by another process; give {entry.name} another port"
            )
        keeper.listener = keeper.listener or listen(entry.address, entry.first_port)

    async def _give_up_gateway(self, keeper: Keeper, before: Keeper | None) -> None:
        await keeper.stop(0.0)
        if before:
            before.block, keeper.block = keeper.block or before.block, None
            before.note()
        else:
            self._forget(keeper)

    async def do_remove(self, say: Say, *, name: str) -> dict[str, Any]:
        """Drain and end a process and forget it; unknown names are gone already."""
        async with self._lock(name):
            keeper = self.keepers.get(name)
            if keeper is None:
                return {}
            if keeper.entry.kind == "worker" and self._is_last_of_active_pool(keeper):
                raise RefusedError(
                    f"{name} is the last worker of its pool in generation {keeper.entry.generation}, which serves "
                    f"clients; its successor is not proven. Nothing was stopped. Fix what failed and run `pulumi up` "
                    f"again, or run `tandem abort` to give the successor up"
                )
            await self._remove(keeper, say)
            return {}

    async def do_ensure(self, say: Say, *, names: list[str]) -> list[dict[str, Any]]:
        """Have workers run that were started before, such as those of a generation whose proof failed."""
        lost = [name for name in names if name not in self.keepers]
        if lost:
            raise RefusedError(
                f"Pulumi's state holds {', '.join(lost)}, but no process of that name is known here "
                f"(was {self.paths.root} removed?); run `pulumi refresh`, then `pulumi up`"
            )
        entries = [self.keepers[name].entry for name in names]
        return await asyncio.gather(
            *(self.do_start_worker(say, name=e.name, spec=e.spec, python=e.python, address=e.address) for e in entries)
        )

    async def do_activate(self, say: Say, *, service: str, generation: str) -> dict[str, Any]:
        """Give a generation the traffic and wait until every gateway has seen it."""
        previous = self._state(service).active_generation
        self._write_state(service, generation)
        await self._await_gateways(service, generation)
        # What no later `up` can know of: workers that a killed `up` had started for a generation nobody asks for now.
        kept = {generation, previous}
        strays = [k for k in self._workers(service) if k.entry.generation not in kept and k.entry.wanted == "running"]
        for keeper in strays:
            say(f"{keeper.entry.name}: left by an update that was cut off; stopping it")
            await self._halt(keeper)
        return {"previous": previous}

    async def do_deactivate(self, _say: Say, *, service: str, generation: str) -> dict[str, Any]:
        """Take the traffic from a generation that is being destroyed."""
        if self._state(service).active_generation != generation:
            return {}
        unproven = [k for k in self._workers(service) if k.entry.wanted != "given-up"]
        others = {keeper.entry.generation for keeper in unproven} - {generation}
        if others:
            raise RefusedError(
                f"generation {generation} of {service} serves clients and {', '.join(sorted(others))} is not proven: "
                f"refusing to take it down. To go back, restore the declaration and run `pulumi up`; "
                f"to destroy the service, run `tandem abort` first"
            )
        self._write_state(service, None)
        return {}

    async def do_halt(self, _say: Say, *, service: str, generation: str) -> dict[str, Any]:
        """Stop the workers of a generation that failed its proof, but remember them for the next attempt."""
        halted = [k for k in self._workers(service) if k.entry.generation == generation and k.entry.wanted == "running"]
        await asyncio.gather(*(self._halt(keeper) for keeper in halted))
        return {"stopped": [keeper.entry.name for keeper in halted]}

    async def do_abort(self, _say: Say) -> dict[str, Any]:
        """Give every generation up that does not serve clients."""
        victims = [
            keeper
            for keeper in self.keepers.values()
            if keeper.entry.kind == "worker"
            and keeper.entry.generation != self._state(keeper.entry.service).active_generation
        ]
        ran = [keeper.entry.name for keeper in victims if keeper.entry.wanted == "running"]
        await asyncio.gather(*(self._halt(keeper, "given-up") for keeper in victims))
        return {"stopped": ran}

    async def do_retire(self, _say: Say) -> dict[str, Any]:
        """Take the traffic from every service: the stack is about to be destroyed, whatever state it is in."""
        for service in {keeper.entry.service for keeper in self.keepers.values()}:
            self._write_state(service, None)
        return {}

    async def do_status(self, _say: Say) -> dict[str, Any]:
        """Everything that the supervisor knows."""
        services = sorted({keeper.entry.service for keeper in self.keepers.values()})
        return {
            "pid": os.getpid(),
            "active": {service: self._state(service).active_generation for service in services},
            "processes": [self._describe(keeper) for keeper in self.keepers.values()],
        }

    async def do_shutdown(self, say: Say) -> dict[str, Any]:
        """Drain and end everything, then the supervisor itself."""
        gateways = [keeper for keeper in self.keepers.values() if keeper.entry.kind == "gateway"]
        workers = [keeper for keeper in self.keepers.values() if keeper.entry.kind == "worker"]
        for group in (gateways, workers):
            await asyncio.gather(*(self._remove(keeper, say) for keeper in group))
        self.ended.set()
        return {"stopped": [keeper.entry.name for keeper in (*gateways, *workers)]}

    def _ports_for(self, entry: Entry) -> ports.Block:
        try:
            return give_ports(entry)
        except OSError:
            entry.first_port = 0  # somebody took them while it was stopped; any others will do
            return give_ports(entry)

    # --- parts of verbs -------------------------------------------------------------------------

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _workers(self, service: str) -> list[Keeper]:
        return [k for k in self.keepers.values() if k.entry.kind == "worker" and k.entry.service == service]

    def _describe(self, keeper: Keeper) -> dict[str, Any]:
        entry = keeper.entry
        alive = keeper.process is not None and keeper.process.is_alive
        described = entry.model_dump(exclude={"spec"})
        return {
            **described,
            "alive": alive,
            "generation": entry.generation,
            "pool": entry.spec.get("pool"),
            "phase": entry.spec.get("phase"),
            "phases": entry.spec.get("phases"),
            "url": f"http://{entry.address}:{entry.ports.get('http', entry.first_port)}",
            "agent_url": f"http://{entry.address}:{entry.ports['agent']}" if entry.kind == "worker" else None,
            "log": str(self.paths.log_of(entry.name)),
        }

    async def _remove(self, keeper: Keeper, say: Say) -> None:
        entry = keeper.entry
        if entry.kind == "worker":
            spec = WorkerSpec.model_validate(entry.spec)
            keeper.leave_fleet()
            await self._await_out_of_sight(keeper)
            grace_s = spec.settle_s + spec.drain_timeout_s + spec.stop_timeout_s
        else:
            grace_s = GatewaySpec.model_validate(entry.spec).drain_timeout_s
        await keeper.stop(grace_s + STOP_MARGIN_S, say=say)
        self._forget(keeper)

    async def _halt(self, keeper: Keeper, wanted: Wanted = "stopped") -> None:
        await keeper.stop(WorkerSpec.model_validate(keeper.entry.spec).stop_timeout_s, wanted=wanted)

    async def rest(self) -> None:
        """Stop every process, as the machine or the session ends, but want them again: the next `up` starts them."""
        self.ended.set()
        await asyncio.gather(
            *(keeper.stop(REST_GRACE_S, wanted=keeper.entry.wanted) for keeper in self.keepers.values())
        )

    def _forget(self, keeper: Keeper) -> None:
        keeper.release_ports()
        if keeper.listener:
            keeper.listener.close()
        keeper.entry.forget(self.paths)
        if self.keepers.get(keeper.entry.name) is keeper:
            del self.keepers[keeper.entry.name]

    def _is_last_of_active_pool(self, keeper: Keeper) -> bool:
        entry = keeper.entry
        if self._state(entry.service).active_generation != entry.generation:
            return False
        pool = [
            k
            for k in self._workers(entry.service)
            if (k.entry.generation, k.entry.spec["pool"]) == (entry.generation, entry.spec["pool"])
        ]
        return len(pool) == 1

    def _proof_token(self, service: str) -> Path:
        path = self.paths.proof_token(service)
        if not path.exists():
            write_atomically(path, secrets.token_urlsafe(32))
        return path

    def _state(self, service: str) -> ServiceState:
        content = read_json(self.paths.fleet(service) / "service.json")
        return ServiceState.model_validate(content) if content else ServiceState(service=service)

    def _write_state(self, service: str, generation: str | None) -> None:
        state = ServiceState(service=service, active_generation=generation)
        write_atomically(self.paths.fleet(service) / "service.json", state.model_dump_json())

    # --- what the gateways have seen ------------------------------------------------------------

    async def _fleets(self, service: str) -> list[dict[str, Any]]:
        token = self._proof_token(service).read_text().strip()
        gateways = [k for k in self.keepers.values() if k.entry.kind == "gateway" and k.entry.service == service]
        alive = [k for k in gateways if k.process and k.process.is_alive]
        answers = [
            await self.http.get_json(f"{self._describe(k)['url']}/fleet", {"x-tandem-proof": token}) for k in alive
        ]
        return [answer for answer in answers if answer is not None]

    async def _await_gateways(self, service: str, generation: str) -> None:
        deadline_s = time.monotonic() + ACTIVATION_TIMEOUT_S
        while any(fleet["active_generation"] != generation for fleet in await self._fleets(service)):
            if time.monotonic() > deadline_s:
                raise RefusedError(
                    f"a gateway of {service} has not taken generation {generation} up "
                    f"within {ACTIVATION_TIMEOUT_S:.0f} s"
                )
            await asyncio.sleep(0.1)

    async def _await_out_of_sight(self, keeper: Keeper) -> None:
        deadline_s = time.monotonic() + ACTIVATION_TIMEOUT_S
        name = keeper.entry.name
        while any(name in {w["name"] for w in fleet["workers"]} for fleet in await self._fleets(keeper.entry.service)):
            if time.monotonic() > deadline_s:
                return  # the agent still takes late requests while it settles
            await asyncio.sleep(0.1)
