"""Waiting until an object is ready, or gone: asks the API server again and again until a judgement holds.

Source of the messages: pulumi-kubernetes v4, provider/pkg/await/error.go.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.standin import ready
from tests.standin.api import UNREACHABLE, ApiFailure, Cluster, NoMatch
from tests.standin.objects import SKIP_AWAIT, TIMEOUT_S, Kind, annotation, is_annotated, kind_of, name, namespace
from tests.standin.properties import Object
from tests.standin.ready import Rule, Verdict, View

INTERVAL_S = 0.5
SETTLE_S = 10.0
"""How long endpoints must have stood still before a Service counts as ready (service.go)."""
DELETION_TIMEOUT_S = 300.0
LONG_DELETIONS = frozenset({"Deployment", "StatefulSet", "DaemonSet"})
"""Kinds whose deletion is waited for twice as long."""


class Unready(Exception):
    """The object exists, and is not what was waited for."""

    def __init__(self, message: str, reasons: tuple[str, ...], live: Object) -> None:
        super().__init__(message)
        self.reasons = reasons
        self.live = live


@dataclass
class Wait:
    """One wait of one resource: the time it has, and whether the engine called it off."""

    cluster: Cluster
    cancelled: asyncio.Event
    timeout_s: float | None
    """None: the kind's own."""
    say: Callable[[str], Awaitable[None]]
    reasons: dict[str, None] = field(default_factory=dict[str, None])
    """What was wrong so far, in its order: a Job's Pods may be gone by the time that it fails."""

    async def until_ready(self, obj: Object) -> Object:
        """The live object once it is ready.

        Raises:
            Unready: It failed, took too long, or the engine called the wait off.
        """
        rule = None if is_annotated(obj, SKIP_AWAIT) else ready.rule_for(obj)
        if rule is None:
            return obj
        deadline_s = time.monotonic() + (self.timeout_s or rule.timeout_s)
        settling = Settling(obj)
        live = obj
        while True:
            try:
                view = await look(self.cluster, obj, rule)
            except (ApiFailure, *UNREACHABLE) as failure:  # it exists: only time decides that it does not get ready
                verdict = Verdict((f"the API server does not show it: {failure or 'timed out'}",))
            else:
                live, verdict = view.live, settling.judge(view, rule)
            if verdict.is_ready:
                return live
            self._note(live, verdict)
            if verdict.has_failed:
                raise Unready(f"Resource '{name(live)}' was created but failed to initialize", self._said(), live)
            await self._pause(deadline_s, live)
            await self.say("; ".join(verdict.reasons[:1]))

    async def until_gone(self, obj: Object) -> None:
        """Return once the object is gone, or stands there anew.

        Raises:
            Unready: It is still there, and took too long or the engine called the wait off.
        """
        default_s = DELETION_TIMEOUT_S * (2 if obj["kind"] in LONG_DELETIONS else 1)
        deadline_s = time.monotonic() + (self.timeout_s or default_s)
        live = obj
        while True:
            try:
                live = await self.cluster.get(obj)
            except NoMatch:
                return
            except (ApiFailure, *UNREACHABLE) as failure:
                if isinstance(failure, ApiFailure) and failure.code == 404:
                    return
            if live["metadata"]["uid"] != obj["metadata"]["uid"]:
                return
            if finalizers := live["metadata"].get("finalizers"):
                self.reasons = {f"finalizers might be preventing deletion ({', '.join(finalizers)})": None}
            await self._pause(deadline_s, live)

    def _note(self, live: Object, verdict: Verdict) -> None:
        if kind_of(live) != Kind("batch", "v1", "Job"):
            self.reasons = {}
        self.reasons |= dict.fromkeys(verdict.reasons)

    def _said(self) -> tuple[str, ...]:
        return tuple(self.reasons)

    async def _pause(self, deadline_s: float, live: Object) -> None:
        if time.monotonic() >= deadline_s:
            raise Unready(f"'{name(live)}' timed out waiting to be Ready", self._said(), live)
        try:
            await asyncio.wait_for(self.cancelled.wait(), INTERVAL_S)
        except TimeoutError:
            return
        raise Unready(f'Resource operation was cancelled for "{name(live)}"', self._said(), live)


async def look(cluster: Cluster, obj: Object, rule: Rule) -> View:
    """The live object and what its rule looks at beside it."""
    live = await cluster.get(obj)
    beside = await asyncio.gather(*(cluster.listed(kind, namespace(obj)) for kind in rule.beside))
    return View(live, dict(zip(rule.beside, beside, strict=True)))


def timeout_s(custom_s: float, inputs: Object) -> float | None:
    """The resource's customTimeouts, else its annotation; None where it has neither."""
    if custom_s:
        return custom_s
    try:
        return float(annotation(inputs, TIMEOUT_S)) or None
    except ValueError:
        return None


class Settling:
    """Holds a Service back until its endpoints have stood still: stragglers would change what is ready."""

    def __init__(self, obj: Object) -> None:
        self._applies = kind_of(obj) == Kind("", "v1", "Service") and ready.has_endpoints(obj)
        self._seen: list[Object] = []
        self._since_s = time.monotonic()

    def judge(self, view: View, rule: Rule) -> Verdict:
        verdict = rule.judge(view)
        if not self._applies or not verdict.is_ready:
            return verdict
        endpoints = [one for kind in rule.beside for one in view.beside[kind] if name(one) == name(view.live)]
        if endpoints != self._seen:
            self._seen, self._since_s = endpoints, time.monotonic()
        is_settled = time.monotonic() - self._since_s >= SETTLE_S
        return verdict if is_settled else Verdict(("Waiting for the Service's endpoints to settle",))
