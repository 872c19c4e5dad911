"""Predicted against measured, of every held-out row."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.estimator.predict import Prediction
from benchmarks.estimator.rows import Row

COLOURS = {"vllm": "#1f6fb4", "tensorrt-llm": "#5a9e3a", "sglang": "#d1762b"}
TITLES = {"tpot_ms": "time per output token, ms", "ttft_ms": "time to first token, ms"}


def draw_picture(found: Sequence[tuple[Row, Prediction]], path: Path) -> None:
    """Writes the picture, PNG or SVG by the file's suffix."""
    import matplotlib as mpl  # noqa: PLC0415 - a second to load, and only the picture needs it

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    mpl.rcParams.update({"svg.hashsalt": "tandem", "svg.fonttype": "none", "font.size": 11})
    figure, both = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained")
    for axes, (quantity, title) in zip(both, TITLES.items(), strict=True):
        counted = [(row, said) for row, said in found if quantity == "tpot_ms" or row.ttft_counts]
        for engine, colour in COLOURS.items():
            own = [each for each in counted if each[0].engine == engine]
            measured = [getattr(row, quantity) for row, _ in own]
            predicted = [getattr(said, quantity).mid for _, said in own]
            # Seven hundred points as shapes would make the file ten times as large.
            axes.plot(measured, predicted, ".", markersize=4, alpha=0.6, color=colour, label=engine, rasterized=True)
        ends = [min(getattr(row, quantity) for row, _ in counted), max(getattr(row, quantity) for row, _ in counted)]
        axes.plot(ends, ends, color="#999999", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(f"{title}; {len(counted)} rows", loc="left", fontsize=12)
        axes.set_xlabel("measured")
        axes.set_ylabel("predicted")
        axes.grid(visible=True, which="major", color="#e5e5e5", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    both[0].legend(frameon=False, loc="upper left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110, facecolor="white")
    plt.close(figure)
