"""An API server, as far as a provider needs it: discovery, and objects as they are on the wire."""

import asyncio
from typing import Any

import aiohttp

from tests.standin.kubeconfig import Access
from tests.standin.objects import Kind, kind_of, name, namespace
from tests.standin.properties import Object

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
REQUEST_TIMEOUT_S = 60.0
BUSY_RETRIES = 10
"""As client-go does where the API server says when to come again."""
DRY_RUN = {"dryRun": "All"}


class ApiFailure(Exception):
    """The API server's own Status; the message is its own."""

    def __init__(self, status: Object) -> None:
        super().__init__(status.get("message") or str(status))
        self.code: int = status.get("code", 0)
        self.reason: str = status.get("reason", "")
        self.about: str = (status.get("details") or {}).get("kind", "")

    @property
    def is_of_missing_namespace(self) -> bool:
        return self.code == 404 and self.about == "namespaces"


class Busy(ApiFailure):
    """The API server has too much to do, and says when to come again."""

    def __init__(self, status: Object, wait_s: float) -> None:
        super().__init__(status)
        self.wait_s = wait_s


class NoMatch(Exception):
    """The API server serves no such kind."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f'no matches for kind "{kind.name}" in version "{kind.api_version}"')


class Cluster:
    """One API server, and the connections to it."""

    def __init__(self, access: Access) -> None:
        self._served: dict[tuple[str, str], tuple[str, bool]] = {}
        self._http = aiohttp.ClientSession(
            base_url=f"{access.server}/",
            headers={"User-Agent": "pulumi-kubernetes-standin", **access.headers},
            connector=aiohttp.TCPConnector(ssl=access.tls, limit=32),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        )

    async def close(self) -> None:
        await self._http.close()

    async def reach(self) -> None:
        """Raise what keeps the API server from answering."""
        await self._call("GET", "version")

    async def is_namespaced(self, kind: Kind) -> bool:
        """Whether objects of the kind have a namespace.

        Raises:
            NoMatch: The API server serves no such kind.
        """
        return (await self._discovered(kind))[1]

    async def get(self, obj: Object) -> Object:
        """The live object of that kind, name and namespace."""
        return await self._call("GET", await self._path(kind_of(obj), namespace(obj), name(obj)))

    async def listed(self, kind: Kind, within: str) -> list[Object]:
        """All objects of a kind in a namespace."""
        return (await self._call("GET", await self._path(kind, within))).get("items", [])

    async def create(self, obj: Object, manager: str, *, is_preview: bool) -> Object:
        parameters = {"fieldManager": manager, "fieldValidation": "Strict", **(DRY_RUN if is_preview else {})}
        return await self._call("POST", await self._path(kind_of(obj), namespace(obj)), parameters, obj)

    async def apply(self, obj: Object, manager: str, *, is_forced: bool, is_preview: bool) -> Object:
        """A server-side apply; creates the object where it does not exist."""
        parameters = {"fieldManager": manager, "force": str(is_forced).lower(), **(DRY_RUN if is_preview else {})}
        path = await self._path(kind_of(obj), namespace(obj), name(obj))
        return await self._call("PATCH", path, parameters, obj, APPLY)

    async def replace(self, obj: Object, manager: str, *, is_preview: bool) -> Object:
        parameters = {"fieldManager": manager, **(DRY_RUN if is_preview else {})}
        return await self._call("PUT", await self._path(kind_of(obj), namespace(obj), name(obj)), parameters, obj)

    async def patch(self, obj: Object, operations: list[Object]) -> Object:
        path = await self._path(kind_of(obj), namespace(obj), name(obj))
        return await self._call("PATCH", path, {}, operations, JSON_PATCH)

    async def delete(self, obj: Object, propagation: str) -> None:
        path = await self._path(kind_of(obj), namespace(obj), name(obj))
        await self._call("DELETE", path, {"propagationPolicy": propagation})

    async def _path(self, kind: Kind, within: str = "", called: str = "") -> str:
        plural, is_namespaced = await self._discovered(kind)
        scope = f"namespaces/{within or 'default'}/" if is_namespaced else ""
        return f"{_group_version(kind)}/{scope}{plural}" + (f"/{called}" if called else "")

    async def _discovered(self, kind: Kind) -> tuple[str, bool]:
        """Plural name and scope; asked anew while unknown, since its definition may come in the same update."""
        key = (kind.api_version, kind.name)
        if key not in self._served:
            try:
                resources = (await self._call("GET", _group_version(kind)))["resources"]
            except ApiFailure as failure:
                if failure.code == 404:
                    raise NoMatch(kind) from failure
                raise
            for resource in resources:
                if "/" not in resource["name"]:
                    self._served[kind.api_version, resource["kind"]] = (resource["name"], resource["namespaced"])
        if key not in self._served:
            raise NoMatch(kind)
        return self._served[key]

    async def _call(
        self, method: str, path: str, parameters: dict[str, str] | None = None, body: Any = None, content: str = ""
    ) -> Object:
        for _ in range(BUSY_RETRIES):
            try:
                return await self._ask(method, path, parameters, body, content)
            except Busy as busy:
                await asyncio.sleep(busy.wait_s)
        return await self._ask(method, path, parameters, body, content)

    async def _ask(self, method: str, path: str, parameters: dict[str, str] | None, body: Any, content: str) -> Object:
        headers = {"Content-Type": content or "application/json"} if body is not None else {}
        async with self._http.request(method, path, params=parameters, json=body, headers=headers) as response:
            answer = await _read(response)
        if response.status in (429, 503) and "Retry-After" in response.headers:
            raise Busy({"code": response.status, **answer}, float(response.headers["Retry-After"]))
        if response.status >= 400:
            raise ApiFailure({"code": response.status, **answer})
        return answer


async def _read(response: aiohttp.ClientResponse) -> Object:
    if response.content_type == "application/json":
        return await response.json()
    return {"message": (await response.text()).strip()}


def _group_version(kind: Kind) -> str:
    return f"apis/{kind.api_version}" if kind.group else f"api/{kind.api_version}"


UNREACHABLE = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What is raised when the API server does not answer."""
