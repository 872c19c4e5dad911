"""The picture of a simulation: latencies, queues and workers over time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pulumi_tandem.cli.picture import blank, require_picture_name, save
from pulumi_tandem.declare import Objectives
from pulumi_tandem.simulate import Outcome, Window

COLOURS = {"prefill": "#0b6e99", "decode": "#c4561f", "serve": "#5b8c2a", "door": "#666666"}


def draw_timeline(outcome: Outcome, objectives: Objectives | None, path: Path) -> None:
    """Writes the picture.

    Raises PictureError where matplotlib is missing, or the file's name is of no known kind.
    """
    require_picture_name(path)
    figure = blank(11, 9)
    ttft, tpot, queue, busy = figure.subplots(4, 1, sharex=True)
    _latency(ttft, outcome, lambda window: window.ttft_p95_s, objectives and objectives.ttft_ms)
    ttft.set_ylabel("TTFT p95, ms")
    _latency(tpot, outcome, lambda window: window.tpot_p95_s, objectives and objectives.tpot_ms)
    tpot.set_ylabel("TPOT p95, ms")
    at_s = [window.look.at_s for window in outcome.windows]
    queue.plot(at_s, [each.look.waiting_at_door for each in outcome.windows], color=COLOURS["door"], label="front door")
    for number, pool in enumerate(outcome.pools):
        looks = [window.look.pools[number] for window in outcome.windows]
        queue.plot(at_s, [look.waiting for look in looks], color=COLOURS[pool.name], label=pool.name)
        busy.plot(at_s, [100 * look.busy for look in looks], color=COLOURS[pool.name], label=f"{pool.name} computes")
        shares = [100 * look.kv_share for look in looks]
        busy.plot(at_s, shares, color=COLOURS[pool.name], linestyle=":", label=f"{pool.name}: KV memory taken")
    queue.set_ylabel("requests waiting")
    busy.set_ylabel("% of ready workers")
    busy.set_ylim(0, 105)
    busy.set_xlabel("simulated time, s")
    for panel in (queue, busy):
        panel.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for panel in (ttft, tpot, queue, busy):
        panel.grid(alpha=0.25)
    save(figure, path)


def _latency(panel: Any, outcome: Outcome, of: Callable[[Window], float], limit_ms: float | None) -> None:
    shown: Sequence[Window] = [window for window in outcome.windows if window.requests]
    panel.step([each.start_s for each in shown], [1e3 * of(each) for each in shown], where="post", color="#222222")
    if limit_ms:
        panel.axhline(limit_ms, color="#b3261e", linestyle="--", linewidth=1)
    panel.set_ylim(bottom=0)
