"""The door for autoscalers, on a port of its own: `/figures` of this gateway, `/scale` of all gateways of the service.

Where a process serves several services, `?service=NAME` says whose. It is none for clients: what it says needs no key,
so a NetworkPolicy says who may ask.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict

import msgspec
from aiohttp import web
from pydantic import ValidationError

from tandem_worker.contract import GatewaySpec
from tandem_worker.gateway.errors import Refusal, error_body
from tandem_worker.gateway.scale import Figures, Scale, together
from tandem_worker.gateway.upstream import Upstream, UpstreamError

ASK_TIMEOUT_S = 1.0
"""For a peer; KEDA gives up on an answer after 3 s."""
FRESH_S = 0.5
"""So long an answer serves whoever asks next: every trigger of every object asks for itself."""
JSON = "application/json"
Place = tuple[str, int]


class Peers:
    """The figures of all gateways, of which each is asked once however many want to know."""

    def __init__(
        self, spec: GatewaySpec, own: Callable[[], Figures], places: Callable[[], Iterable[Place]], upstream: Upstream
    ) -> None:
        """`places`: where gateways serve `/figures`, this one among them or not."""
        self._spec = spec
        self._own = own
        self._places = places
        self._upstream = upstream
        self._asking: asyncio.Task[list[Figures]] | None = None
        self._asked_s = 0.0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of the door."""
        if request.method != "GET" or request.path not in ("/figures", "/scale"):
            return _missing(f"there is no {request.path[:200]} here")
        if request.path == "/figures":
            return web.Response(body=self._own().model_dump_json(), content_type=JSON)
        known = await self._known()
        body = {"services": {self._spec.service: {"gateways": len(known), **asdict(together(known, self._spec))}}}
        return web.Response(body=msgspec.json.encode(body), content_type=JSON)

    async def scale(self) -> Scale:
        """The service's figures."""
        return together(await self._known(), self._spec)

    async def _known(self) -> list[Figures]:
        """The figures of every gateway that answers in time, this one's among them."""
        now_s = asyncio.get_running_loop().time()
        if self._asking is None or now_s > self._asked_s + FRESH_S:
            self._asked_s = now_s
            self._asking = asyncio.create_task(self._ask_all())
        return await asyncio.shield(self._asking)

    async def _ask_all(self) -> list[Figures]:
        answers = await asyncio.gather(*(self._ask(place) for place in self._places()))
        own = self._own()
        found = {answer.gateway: answer for answer in answers if answer is not None}
        return list({**found, own.gateway: own}.values())

    async def _ask(self, place: Place) -> Figures | None:
        wire = None
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                wire = await self._upstream.get(*place, f"/figures?service={self._spec.service}")
                status, body = await wire.headers(), await wire.read_all()
            return Figures.model_validate_json(body) if status == 200 else None
        except (UpstreamError, TimeoutError, ValidationError):
            return None
        finally:
            if wire is not None:
                self._upstream.release(wire)


def at_one_door(peers: Mapping[str, Peers]) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Answers for several services, by their names."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        named = request.query.get("service", "")
        if (own := peers.get(named)) is None:
            return _missing(f"there is no service {named[:200]!r} here; `?service=` takes {', '.join(peers)}")
        return await own.handle(request)

    return next(iter(peers.values())).handle if len(peers) == 1 else handle


def _missing(why: str) -> web.Response:
    missing = Refusal(404, "invalid_request_error", "not_found", why)
    return web.Response(status=404, body=error_body(missing), content_type=JSON)
