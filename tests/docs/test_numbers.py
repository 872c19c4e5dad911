"""Numbers in the documentation that are settings of the code."""

import re

import pytest

from pulumi_tandem import resolve
from pulumi_tandem.declare import Limits
from pulumi_tandem.local import decide as restarts
from pulumi_tandem.local import guard, ports, server, start
from pulumi_tandem.manifest import worker_pod as pods
from pulumi_tandem.prove import plan
from tandem_worker.agent import decide as agent
from tandem_worker.gateway import admit, fleet, handoff, metrics, silence, watch
from tandem_worker.gateway import server as gateway
from tests.docs.pages import ROOT

TOLD = [
    ("docs/gateway.md", f"asked every {watch.READY_POLL_S:g} s"),
    ("docs/gateway.md", f"`retry-after` (1 to {admit.RETRY_AFTER_S_MAX} s"),
    ("docs/gateway.md", f"waits up to {handoff.PATIENCE_S:g} s in all"),
    ("docs/gateway.md", f"{fleet.ERRORS_UNTIL_SUSPECT} answers of status 5xx in a row"),
    ("docs/gateway.md", ", ".join(f"{s:g}" for s in fleet.SUSPICION_S[:-1]) + f" and {fleet.SUSPICION_S[-1]:g} s"),
    ("docs/gateway.md", f"after {silence.UNWELL_S:g} s already when its agent reports it unwell"),
    ("docs/gateway.md", f"of the last {metrics.WINDOW:,} answers"),
    ("docs/gateway.md", f"at most {gateway.REQUEST_ID_CHARS_MAX} printable ASCII characters"),
    (
        "docs/running.md",
        f"at most every {start.SAY_NEWS_EVERY_S:g} s, the same one every {start.SAY_EVERY_S:g} s",
    ),
    ("docs/running.md", f"over the last {metrics.WINDOW:,} answers"),
    ("docs/running.md", f"grows beyond {server.LOG_BYTES_MAX >> 20} MiB"),
    ("docs/running.md", f"after {restarts.FIRST_DELAY_S:g} s, then 1, 2, 4 ... at most {restarts.LONGEST_DELAY_S:g} s"),
    ("docs/running.md", f"lived for {restarts.WELL_AFTER_S:g} s is well"),
    ("docs/running.md", f"{ports.BLOCK_PORTS} consecutive ports between {ports.FIRST_PORT} and {ports.LAST_PORT}"),
    (
        "docs/tensorrt-llm.md",
        f"at `group` ({pods.PORTS['group']}), the ranks' from `ranks` on ({pods.PORTS['ranks']}, two",
    ),
    ("docs/tensorrt-llm.md", f"whose engine's port nobody has open for {agent.DEAD_HEALTH_S:g} s ends the worker"),
    ("docs/numerics.md", f"{resolve.BF16_GAP_NATS:g} nats, and {resolve.FLOAT32_GAP_NATS:g} nats"),
    ("ARCHITECTURE.md", f"own nothing for {server.IDLE_EXIT_S:g} s"),
    ("ARCHITECTURE.md", f"its guard starts it anew after {guard.RESTART_DELAY_S:g} s"),
    ("ARCHITECTURE.md", f"the agent ends it after {agent.DEAD_HEALTH_S:g} s at the latest"),
    ("ARCHITECTURE.md", f"a long prompt ({plan.LONG_PROMPT_TOKENS_MAX} tokens, or half of the context)"),
    ("README.md", f"`limits.attempts_max` ({Limits().attempts_max})"),
    ("CHANGELOG.md", f"{resolve.CPU_PROGRESS_DELAY_US:,} µs on a CPU"),
]


@pytest.mark.parametrize(("page", "words"), TOLD, ids=[re.sub(r"\W+", "-", words) for _, words in TOLD])
def test_the_page_says_what_the_code_does(page: str, words: str):
    assert words in (ROOT / page).read_text("utf-8")
