"""The picture of a plan: what GPUs give at which speed, disaggregated and aggregated."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pulumi_tandem.plan import Option, Plan, Point, frontier, points

COLOURS = {"disaggregated": "#0b6e99", "aggregated": "#c4561f"}
SUFFIXES = (".png", ".svg")
SPEEDS = (("tpot_ms", "time per output token"), ("ttft_ms", "time to first token"))
BEYOND = 4.0
"""Times the objective at which the picture ends."""


class PictureError(Exception):
    """Why there is no picture, and what to do."""


def draw(plans: Sequence[Plan], path: Path) -> None:
    """Writes the picture of all plans, a row each.

    Raises PictureError where matplotlib is missing, or the file's name is of no known kind.
    """
    require_picture_name(path)
    save(_figure(plans), path)


def require_picture_name(path: Path) -> None:
    """Raises PictureError where the file's name is of no known kind."""
    if path.suffix.lower() not in SUFFIXES:
        raise PictureError(f"{path.name!r} is no picture's name; end it with {' or '.join(SUFFIXES)}")


def save(figure: Any, path: Path) -> None:
    """Writes a figure; the same one gives the same file."""
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=150)


def blank(width: float, height: float) -> Any:
    """An empty figure, in inches. Raises PictureError where matplotlib is missing."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - a second to load, and only the picture needs it
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        msg = "drawing needs matplotlib, which is not installed; pip install 'pulumi-tandem[plot]'"
        raise PictureError(msg) from None
    mpl.rcParams["svg.hashsalt"] = "tandem"  # the same figure gives the same file
    return Figure(figsize=(width, height), layout="constrained")


def svg(plans: Sequence[Plan]) -> str:
    """The picture as SVG text. Raises PictureError where matplotlib is missing."""
    text = StringIO()
    _figure(plans).savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _figure(plans: Sequence[Plan]) -> Any:
    figure = blank(11, 4.2 * len(plans))
    axes = figure.subplots(len(plans), len(SPEEDS), squeeze=False)
    for row, plan in zip(axes, plans, strict=True):
        found = points(plan.service)
        for panel, (speed, words) in zip(row, SPEEDS, strict=True):
            _panel(panel, plan, found, speed)
            panel.set_xlabel(f"{words}, ms")
        row[0].set_ylabel("output tokens/s per GPU")
        row[0].set_title(f"{plan.service.name}: {plan.service.model.name}", loc="left", fontsize=10)
        row[1].legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def _panel(panel: Any, plan: Plan, found: Sequence[Point], speed: str) -> None:
    assert plan.service.objectives
    limit_ms: float = getattr(plan.service.objectives, speed)
    for kind, colour in COLOURS.items():
        shown = [point for point in found if point.kind == kind and getattr(point, speed) <= BEYOND * limit_ms]
        best = frontier(shown, against=speed)
        panel.scatter(*_places(shown, speed), s=5, color=colour, alpha=0.15, linewidths=0)
        panel.plot(*_places(best, speed), color=colour, linewidth=1.6, label=f"{kind}, best shapes")
    for option in (plan.disaggregated, plan.aggregated):
        if option:
            time_ms = 1e3 * (option.tpot_s if speed == "tpot_ms" else option.ttft_s).mid
            per_gpu = option.output_tokens_per_s / option.gpus
            label = f"{_whole(option)} under this load"
            panel.plot([time_ms], [per_gpu], "o", color=COLOURS[option.kind], markersize=8, label=label)
    panel.axvline(limit_ms, color="#666666", linestyle="--", linewidth=1)
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.25)


def _places(shown: Sequence[Point], speed: str) -> tuple[list[float], list[float]]:
    return [getattr(point, speed) for point in shown], [point.tokens_per_s_gpu for point in shown]


def _whole(option: Option) -> str:
    return option.label.replace(" x ", "\N{MULTIPLICATION SIGN}")
