"""The table and the picture of a run."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.serving.load import Load, Sample, Way

WAYS: tuple[Way, ...] = ("aggregated", "disaggregated")
COLOURS: dict[Way, str] = {"aggregated": "#b5541c", "disaggregated": "#1c5fb5"}
TICKS_MS = (20, 50, 100, 200, 500, 1000, 2000, 5000)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _of(samples: list[Sample], load: str, way: Way) -> list[Sample]:
    return [s for s in samples if s.load == load and s.way == way]


def gaps_ms(samples: list[Sample], load: str, way: Way) -> list[float]:
    """Every gap between two tokens of every repetition, in milliseconds."""
    return [gap * 1e3 for s in _of(samples, load, way) for gap in s.gaps_s]


def table(samples: list[Sample], loads: Sequence[Load]) -> Table:
    """One row a load and way; repetitions are taken together, tokens/s is their median."""
    out = Table(title="The same two engines, the same requests")
    out.add_column("load", no_wrap=True)
    out.add_column("way", no_wrap=True)
    for name in ("TTFT p50, s", "ITL p50, ms", "ITL p95, ms", "ITL p99, ms", "tokens/s"):
        out.add_column(name, justify="right", no_wrap=True)
    for load in loads:
        for way in WAYS:
            some = _of(samples, load.name, way)
            gaps = gaps_ms(samples, load.name, way)
            out.add_row(
                f"{load.name}: {load.at_once} at once"
                if way == WAYS[0]
                else f"{some[0].prompt_tokens} in, {load.output_tokens} out",
                way,
                f"{statistics.median(t for s in some for t in s.ttft_s):.2f}",
                *(f"{quantile(gaps, share):,.0f}" for share in (0.5, 0.95, 0.99)),
                f"{statistics.median(s.tokens / s.seconds for s in some):.1f}",
            )
    return out


def as_json(samples: list[Sample], loads: Sequence[Load]) -> list[dict[str, Any]]:
    """Every repetition by itself."""
    return [
        {
            "load": s.load,
            "way": s.way,
            "at_once": load.at_once,
            "prompt_tokens": s.prompt_tokens,
            "output_tokens": load.output_tokens,
            "ttft_p50_s": statistics.median(s.ttft_s),
            "itl_p50_ms": quantile(s.gaps_s, 0.5) * 1e3,
            "itl_p95_ms": quantile(s.gaps_s, 0.95) * 1e3,
            "itl_p99_ms": quantile(s.gaps_s, 0.99) * 1e3,
            "tokens_per_s": s.tokens / s.seconds,
        }
        for load in loads
        for s in samples
        if s.load == load.name
    ]


def draw(samples: list[Sample], load: Load, path: Path, footnote: str) -> None:
    """The share of gaps longer than a given time, both ways, under one load; SVG or PNG by the path's suffix."""
    import matplotlib as mpl  # noqa: PLC0415 - a second to load, and only the picture needs it

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "tandem"
    mpl.rcParams["font.size"] = 11
    figure, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")
    for way in WAYS:
        gaps = sorted(gaps_ms(samples, load.name, way))
        shares = [100 * (1 - i / len(gaps)) for i in range(len(gaps))]
        p99 = quantile(gaps, 0.99)
        axes.step(gaps, shares, where="post", color=COLOURS[way], linewidth=2.2, label=f"{way}: p99 {p99:,.0f} ms")
        axes.plot([p99], [1.0], "o", color=COLOURS[way], markersize=8)
    axes.axhline(1.0, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.1, 110)
    axes.set_xticks(TICKS_MS)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    everything = [gap for way in WAYS for gap in gaps_ms(samples, load.name, way)]
    axes.set_xlim(TICKS_MS[0] / 2, max(everything) * 1.2)  # shorter gaps are tokens that came in one piece
    axes.set_xlabel("gap between two tokens of a stream, ms")
    axes.set_ylabel("share of gaps that are longer")
    prompt = _of(samples, load.name, "disaggregated")[0].prompt_tokens
    about = f"{load.at_once} streams at once, {prompt} tokens in, {load.output_tokens} out; the same two engines"
    axes.set_title(about, loc="left", fontsize=12)
    axes.grid(visible=True, which="major", color="#e5e5e5", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.supxlabel(footnote, fontsize=8, color="#666666")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150, facecolor="white")
    plt.close(figure)
