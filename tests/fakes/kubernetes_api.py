"""An API server of one namespace: lists and watches endpoint slices and config maps, and misbehaves as told.

Source: Kubernetes' API concepts, "Efficient detection of changes": a watch is lines of JSON, each with a type and an
object; a version that is gone is an ERROR event with code 410.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


class FakeKubernetes:
    """Objects by kind and name; `lists` and `watches` count what was asked for."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[str, dict[str, dict[str, Any]]] = {"endpointslices": {}, "configmaps": {}}
        self.lists = 0
        self.watches = 0
        self.tokens: list[str] = []
        self.list_fault: Handler | None = None
        self.watch_fault: Handler | None = None
        self._version = 1
        self._told: list[tuple[int, str, bytes]] = []
        """Version, kind and line of every change."""
        self._watching: dict[asyncio.Queue[bytes | None], str] = {}

    def put(self, kind: str, name: str, **content: Any) -> None:
        """Create or change an object; everybody who watches its kind is told."""
        self._version += 1
        labels = content.pop("labels", {})
        metadata = {"name": name, "labels": labels, "resourceVersion": str(self._version)}
        known = name in self.objects[kind]
        self.objects[kind][name] = {"metadata": metadata, **content}
        self._tell(kind, "MODIFIED" if known else "ADDED", self.objects[kind][name])

    def delete(self, kind: str, name: str) -> None:
        """Delete an object."""
        self._version += 1
        gone = self.objects[kind].pop(name)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._tell(kind, "DELETED", gone)

    def end_watches(self) -> None:
        """End every watch, as the server does after its timeout."""
        for queue in self._watching:
            queue.put_nowait(None)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.tokens.append(request.headers.get("authorization", ""))
        kind = request.path.rsplit("/", 1)[1]
        if request.method == "PATCH":
            return web.json_response({"message": "the object has been modified"}, status=409)
        if "watch" in request.query:
            self.watches += 1
            return await (self.watch_fault(request) if self.watch_fault else self._watch(request, kind))
        self.lists += 1
        if self.list_fault:
            return await self.list_fault(request)
        metadata = {"resourceVersion": str(self._version)}
        return web.json_response({"metadata": metadata, "items": list(self.objects[kind].values())})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        response = web.StreamResponse()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._watching[queue] = kind
        since = int(request.query["resourceVersion"])
        for version, told, line in self._told:
            if told == kind and version > since:  # changed between the list and the watch
                queue.put_nowait(line)
        try:
            await response.prepare(request)
            while (line := await queue.get()) is not None:
                await response.write(line)
        finally:
            del self._watching[queue]
        return response

    def _tell(self, kind: str, event: str, item: dict[str, Any]) -> None:
        line = json.dumps({"type": event, "object": item}).encode() + b"\n"
        self._told.append((self._version, kind, line))
        for queue, watched in self._watching.items():
            if watched == kind:
                queue.put_nowait(line)


def answers(text: str, content_type: str = "application/json", status: int = 200) -> Handler:
    """A fault: this text, whatever was asked."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type, status=status)

    return handler


async def cut_within(request: web.Request) -> web.StreamResponse:
    """A fault: the connection is lost in the middle of an answer."""
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
    await response.prepare(request)
    await response.write(b'{"items":')
    assert request.transport is not None
    request.transport.close()
    return response


@asynccontextmanager
async def kubernetes() -> AsyncIterator[FakeKubernetes]:
    """A served API server."""
    fake = FakeKubernetes()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        fake.url = f"http://{host}:{port}"
        yield fake
    finally:
        fake.end_watches()
        await runner.cleanup()
