"""A pod's client of the Kubernetes API server: get, patch, and watch, as its own service account.

Why none of the client libraries: the smallest that reads a rotated token again, lightkube, brings a second HTTP stack
into the gateway's image for three calls; the official asyncio one takes 38 MB of memory in 859 modules for them.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts the token, which it renews, the certificate authority, and the namespace's name."""
TIMEOUT_S = 20.0
WATCH_S = 300
"""After so long the server ends a watch, and it is begun anew: a connection that died silently is not kept."""
LINE_BYTES_MAX = 8 * 1024 * 1024
"""An object has at most 1.5 MB in etcd."""
NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What a server that goes away raises, before or within its answer; the last one for a cut line or a proxy's page."""


class ApiError(Exception):
    """The API server refused, or could not be reached; `status` is 0 then."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Conflict(ApiError):
    """Somebody else has written the object meanwhile."""


class Expired(ApiError):
    """The version that a watch was to begin at is gone; list again."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a watch tells: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: dict[str, Any]


class ApiServer:
    """One connection pool to one API server, for one namespace."""

    def __init__(
        self, url: str, namespace: str, *, token_file: Path | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """`token_file` is read for every request, since the kubelet renews it. No `ssl_context`: the system's."""
        self.url = url.rstrip("/")
        self.namespace = namespace
        self._token_file = token_file
        self._ssl = ssl_context
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> Self:
        """As the pod's service account.

        Raises: ApiError outside of a pod, or where the account's token is not mounted.
        """
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not (account / "token").exists():
            raise ApiError(
                "this is no pod with a service account: KUBERNETES_SERVICE_HOST or the account's token is missing; "
                "run it in a cluster, with automountServiceAccountToken"
            )
        return cls(
            f"https://{f'[{host}]' if ':' in host else host}:{port}",
            (account / "namespace").read_text().strip(),
            token_file=account / "token",
            ssl_context=ssl.create_default_context(cafile=str(account / "ca.crt")),
        )

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(read_bufsize=LINE_BYTES_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """The object or list at a path, with its query if it has one. Raises: ApiError."""
        return await self._ask("GET", path)

    async def patch(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Merge into the object; with `metadata.resourceVersion`, only when it is still that version.

        Raises: Conflict when it is not, ApiError.
        """
        return await self._ask("PATCH", path, body)

    async def watch(self, path: str, version: str) -> AsyncGenerator[Event]:
        """What changes after a version, until the server ends the watch. `path` has its query, if any.

        Raises: Expired when the version is gone, ApiError.
        """
        joint = "&" if "?" in path else "?"
        query = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}&resourceVersion={version}"
        limits = aiohttp.ClientTimeout(sock_connect=TIMEOUT_S, sock_read=WATCH_S + TIMEOUT_S)
        async with self._request("GET", f"{path}{joint}{query}", None, limits) as response:
            async for line in response.content:
                event = Event(**json.loads(line))
                if event.type == "ERROR":
                    raise _error(event.object.get("code", 0), event.object.get("message", "the watch failed"))
                yield event

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
        async with self._request(method, path, body, aiohttp.ClientTimeout(total=TIMEOUT_S)) as response:
            return await response.json()

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None, limits: aiohttp.ClientTimeout
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        assert self._session is not None, "the client is used inside `async with`"
        headers = {"accept": "application/json"}
        data = None
        if body is not None:
            headers["content-type"] = "application/merge-patch+json"
            data = json.dumps(body)
        try:
            if self._token_file is not None:
                headers["authorization"] = f"Bearer {await asyncio.to_thread(_read, self._token_file)}"
            async with self._session.request(
                method, self.url + path, data=data, headers=headers, ssl=self._ssl or True, timeout=limits
            ) as response:
                if response.status >= 400:
                    raise _error(response.status, f"{method} {path}: {_message(await response.text())}")
                yield response
        except NO_ANSWER as error:
            reason = str(error) or type(error).__name__
            raise ApiError(f"the API server does not answer {method} {path}: {reason}") from error


def _error(status: int, message: str) -> ApiError:
    kind = {409: Conflict, 410: Expired}.get(status, ApiError)
    return kind(f"the API server answered {status} to {message}", status)


def _message(text: str) -> str:
    try:
        return json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        return text[:200]


def _read(file: Path) -> str:
    return file.read_text().strip()
