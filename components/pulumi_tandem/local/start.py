"""Waiting until a process that was just started is ready, telling how far it is."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

from pulumi_tandem.local import process
from pulumi_tandem.local.decide import last_words, probable_cause
from pulumi_tandem.local.http import Http
from pulumi_tandem.local.keeper import Keeper
from tandem_worker.contract import WorkerSpec

POLL_S = 0.25
SAY_NEWS_EVERY_S = 5.0
SAY_EVERY_S = 20.0
GATEWAY_TIMEOUT_S = 30.0
PREFLIGHT_FAILED = 65
"""The agent's exit code, as in `tandem_worker.agent`."""
ENGINE_SAYS = re.compile(r"INFO .*?\[[\w.]+:\d+\] (?!Route)(\S.+)")
"""A line of vLLM's log: level, time, place, words."""


class StartFailedError(Exception):
    """The process did not become ready; the message holds its last lines and the probable cause."""


async def await_worker(keeper: Keeper, spec: WorkerSpec, http: Http, say: Callable[[str], None]) -> None:
    """Wait until the worker's agent says that it is ready.

    Raises:
        StartFailedError: it died, or was not ready within `spec.start_timeout_s`.
        OSError: it could not be started.
    """
    entry = keeper.entry
    await _await(
        keeper,
        lambda: _is_ready(http, f"http://{entry.address}:{entry.ports['agent']}/ready"),
        timeout_s=spec.start_timeout_s,
        what=f"{entry.name} ({spec.engine})",
        say=say,
    )


async def await_gateway(keeper: Keeper, http: Http, say: Callable[[str], None]) -> None:
    """Wait until this very gateway process answers; another one may share its listening socket.

    Raises:
        StartFailedError: it died, or did not answer in time.
        OSError: it could not be started.
    """
    url = f"http://{keeper.entry.address}:{keeper.entry.first_port}/live"

    async def answers() -> bool:
        answer = await http.get_json(url)
        return answer is not None and answer.get("instance") == keeper.entry.instance

    await _await(keeper, answers, timeout_s=GATEWAY_TIMEOUT_S, what=keeper.entry.name, say=say)


async def _is_ready(http: Http, url: str) -> bool:
    answer = await http.get(url)
    return answer is not None and answer[0] == 200


async def _await(
    keeper: Keeper,
    is_ready: Callable[[], Awaitable[bool]],
    *,
    timeout_s: float,
    what: str,
    say: Callable[[str], None],
) -> None:
    started_s = said_s = time.monotonic()
    deaths, said = keeper.deaths, ""
    while not await is_ready():
        now_s = time.monotonic()
        if keeper.fault:
            raise keeper.fault
        if keeper.deaths > deaths:
            raise StartFailedError(_story(keeper, f"{what} ended while it was starting"))
        if now_s - started_s > timeout_s:
            raise StartFailedError(_story(keeper, f"{what} was not ready within {timeout_s:.0f} s"))
        line = _newest_line(keeper)
        if now_s - said_s >= (SAY_NEWS_EVERY_S if line != said else SAY_EVERY_S):
            said_s, said = now_s, line
            say(f"{what}: starting, {now_s - started_s:.0f} s{': ' + line if line else ''}")
        await asyncio.sleep(POLL_S)
    say(f"{what}: ready after {time.monotonic() - started_s:.1f} s")


def _newest_line(keeper: Keeper) -> str:
    """What the engine last said it was doing; warnings and half-written lines tell a waiting person nothing."""
    for line in reversed(process.last_lines(keeper.paths.log_of(keeper.entry.name), count=50)):
        if said := ENGINE_SAYS.search(line):
            return said[1][:90]
    return ""


def _story(keeper: Keeper, what: str) -> str:
    lines = process.last_lines(keeper.paths.log_of(keeper.entry.name), count=40)
    reason = keeper.failure() if keeper.exit_code is not None else ""
    parts = [f"{what}{': ' + reason if reason else ''}"]
    if keeper.exit_code != PREFLIGHT_FAILED:  # preflight's reason says all there is, and the engine never ran
        if cause := probable_cause(lines):
            parts.append(f"probable cause: {cause}")
        parts.append("its last lines:")
        parts += [f"  {line[:200]}" for line in lines if not last_words(line)][-8:]
    parts.append(f"the whole log: {keeper.paths.log_of(keeper.entry.name)}")
    return "\n".join(parts)
