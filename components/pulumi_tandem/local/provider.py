"""Dynamic providers of the local target: each only asks the stack's supervisor.

Their import path is a public contract: Pulumi's state names these classes, and an older state's deletes run through
the newer library. They hold no state of their own.
"""

import asyncio
import functools
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, NoReturn

from pulumi.dynamic import (
    CreateResult,
    DiffResult,
    ReadResult,
    ResourceProvider,
    UpdateResult,
)

from pulumi_tandem.local.client import SupervisorError, call
from pulumi_tandem.local.paths import StackPaths
from pulumi_tandem.lower import ProofSpec
from pulumi_tandem.prove.plan import Candidate
from pulumi_tandem.prove.run import Door, ProofFailedError, Subject, prove

ENGINE_POLL_S = 2.0


class Failed(Exception):
    """What could not be done, and why."""


class ProofFailed(Failed):
    """The generation must not serve."""


for _shown in (Failed, ProofFailed):
    _shown.__module__ = "builtins"  # a traceback's last line then reads `ProofFailed: ...`, without our modules' names


def _fail(error: Failed) -> NoReturn:
    # Pulumi shows a provider's exception with its traceback; a user's mistake must be one message.
    sys.tracebacklimit = 0
    raise error from None


def _tell(line: str) -> None:
    # What a plugin writes here, Pulumi shows while it waits.
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@functools.cache
def _leave_with_the_engine() -> None:
    """End this plugin process when the engine that started it is gone.

    A Pulumi CLI that is killed leaves its plugins behind for ever; a dynamic provider is told the engine's address.
    """
    host, _, port = sys.argv[-1].rpartition(":")
    if not (host and port.isdigit()):
        return  # not in a plugin: a test, or an embedding

    def watch() -> None:
        while True:
            time.sleep(ENGINE_POLL_S)
            try:
                socket.create_connection((host, int(port)), ENGINE_POLL_S).close()
            except OSError:
                os._exit(0)

    threading.Thread(target=watch, daemon=True, name="watch the engine").start()


def _call(verb: str, props: dict[str, Any], **arguments: Any) -> Any:
    _leave_with_the_engine()
    try:
        return call(
            props["state_dir"],
            verb,
            on_progress=_tell,
            **arguments,
        )
    except SupervisorError as error:
        _fail(Failed(str(error)))


def _spec(props: dict[str, Any]) -> dict[str, Any]:
    return json.loads(props["spec"])


def _differs(olds: dict[str, Any], news: dict[str, Any], *names: str) -> list[str]:
    return [name for name in names if olds.get(name) != news.get(name)]


class WorkerProvider(ResourceProvider):
    """A worker; any change of what it does is another generation and so another resource."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Have the worker run and be ready."""
        return CreateResult(props["name"], self._start(props))

    def _start(self, props: dict[str, Any]) -> dict[str, Any]:
        worker = _call(
            "start_worker",
            props,
            name=props["name"],
            spec=_spec(props),
            python=props["python"],
            address=props["address"],
        )
        return {**props, "url": worker["url"], "agent_url": worker["agent_url"]}

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Another interpreter or address restarts it in place; another spec has another name."""
        return DiffResult(changes=bool(_differs(_olds, _news, "spec", "python", "address")))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Replace the process under its name."""
        return UpdateResult(self._start(_news))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Whether the supervisor still knows it."""
        return ReadResult(id_ if _is_known(props) else None, props)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Drain and end the worker."""
        _call("remove", props, name=props["name"])


class GatewayProvider(ResourceProvider):
    """The front door of a service; a changed one starts beside the old one on the same socket."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Have the gateway answer."""
        return CreateResult(props["name"], self._start(props))

    def _start(self, props: dict[str, Any]) -> dict[str, Any]:
        options = {"api-keys-file": props["api_keys_file"]} if props["api_keys_file"] else {}
        entry = {
            "name": props["name"],
            "service": _spec(props)["service"],
            "spec": _spec(props),
            "python": sys.executable,
            "address": props["address"],
            "first_port": int(props["port"]),
            "options": options,
        }
        gateway = _call("start_gateway", props, entry=entry)
        return {**props, "url": gateway["url"]}

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """What needs another process."""
        return DiffResult(changes=bool(_differs(_olds, _news, "spec", "address", "port", "api_keys_file")))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Start the new one, then drain the old one."""
        return UpdateResult(self._start(_news))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Whether the supervisor still knows it."""
        return ReadResult(id_ if _is_known(props) else None, props)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Drain and end the gateway."""
        _call("remove", props, name=props["name"])


class ProofProvider(ResourceProvider):
    """Proves a generation, then gives it the traffic; its delete takes the traffic away again."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Prove and activate."""
        return CreateResult(f"{props['service']}-{props['generation']}", self._prove(props))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """More or other workers, or other demands, are proven anew.

        So is what lost the traffic without Pulumi's knowledge: an `up` may be killed right after it has activated
        another generation.
        """
        changed = _differs(_olds, _news, "generation", "proof", "workers")
        return DiffResult(changes=bool(changed) or not _is_active(_news))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Whether this generation still serves."""
        return ReadResult(id_ if _is_active(props) else None, props)

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Prove and activate again."""
        return UpdateResult(self._prove(_news))

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Take the traffic away, where this generation still has it."""
        _call(
            "deactivate",
            props,
            service=props["service"],
            generation=props["generation"],
        )

    def _prove(self, props: dict[str, Any]) -> dict[str, Any]:
        service, generation = props["service"], props["generation"]
        spec = ProofSpec.model_validate_json(props["proof"])
        workers = _call("ensure", props, names=props["workers"])
        token = StackPaths(Path(props["state_dir"])).proof_token(service).read_text().strip()
        try:
            evidence = asyncio.run(
                prove(
                    Door(url=props["url"], token=token, model=props["model"]),
                    Subject(
                        service=service,
                        generation=generation,
                        workers=tuple(_candidate(worker) for worker in workers),
                        disaggregated=props["disaggregated"],
                        context_tokens=int(props["context_tokens"]),
                    ),
                    spec,
                    salt=uuid.uuid4().hex[:8],
                )
            )
        except ProofFailedError as error:
            kept = "Its workers still run (keep_failed)"
            if not spec.keep_failed:
                _call("halt", props, service=service, generation=generation)
                kept = "Its workers were stopped"
            _fail(ProofFailed(f"generation {generation} of {service}: {error}. {kept}; what served before serves on"))
        _call("activate", props, service=service, generation=generation)
        return {**props, "evidence": evidence.model_dump(mode="json")}


def _candidate(worker: dict[str, Any]) -> Candidate:
    return Candidate(worker["name"], worker["phase"], tuple(worker["phases"]), worker["agent_url"])


def _is_active(props: dict[str, Any]) -> bool:
    status = call(props["state_dir"], "status", start=Path(props["state_dir"]).exists())
    return status is not None and status["active"].get(props["service"]) == props["generation"]


def _is_known(props: dict[str, Any]) -> bool:
    status = call(props["state_dir"], "status", start=Path(props["state_dir"]).exists())
    return status is not None and props["name"] in {process["name"] for process in status["processes"]}
