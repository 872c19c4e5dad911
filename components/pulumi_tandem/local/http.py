"""The few HTTP questions that the supervisor asks: is it ready, what does it see."""

import json
from typing import Any

import aiohttp

TIMEOUT_S = 3.0


class Http:
    """A client that answers None instead of raising: a process that does not answer is simply not ready."""

    def __init__(self) -> None:
        """Opens nothing before the first question."""
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes] | None:
        """Status and body, or None where nobody answers in time."""
        if self._session is None:
            connector = aiohttp.TCPConnector(force_close=True)  # a new connection each: every gateway gets its turn
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        try:
            async with self._session.get(url, headers=headers) as response:
                return response.status, await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None

    async def get_json(self, url: str, headers: dict[str, str] | None = None) -> Any:
        """The JSON of a 200, or None."""
        answer = await self.get(url, headers)
        try:
            return json.loads(answer[1]) if answer and answer[0] == 200 else None
        except ValueError:
            return None

    async def close(self) -> None:
        """Close the client."""
        if self._session:
            await self._session.close()
