"""Draws the figures in `benchmarks/results` for the documentation.

    python benchmarks/plots.py       # writes docs/benchmarks/*.svg; extra `docs` has matplotlib

The gray of lines and letters is readable on a white and on a dark page.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
OUT = HERE.parent / "docs/benchmarks"
GRAY, COLORS = "#8a8a8a", ("#9a9a9a", "#2e86c1", "#d68910", "#28a15c")

matplotlib.rcParams.update(
    {
        "svg.hashsalt": "orpheus",  # the same figures give the same file
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.edgecolor": GRAY,
        "axes.labelcolor": GRAY,
        "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
        "axes.spines.right": False,
        "axes.spines.top": False,
        "grid.color": GRAY,
        "grid.alpha": 0.3,
        "legend.labelcolor": GRAY,
        "text.color": GRAY,
        "xtick.color": GRAY,
        "ytick.color": GRAY,
    }
)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "results" / f"{name}.json").read_text("utf-8"))
    return found


def codec(axes: Axes) -> None:
    rows = read("codec")["rows"]
    bars(
        axes,
        [str(row["streams"]) for row in rows],
        {
            "sliding window of 28 tokens": [row["a_peers"] for row in rows],
            "ours": [row["b_ours"] for row in rows],
            "whole utterance at once": [row["c_one_shot"] for row in rows],
        },
    )
    axes.set_xlabel("streams")
    axes.set_ylabel("ms of one core a frame (85.3 ms)")
    axes.axhline(85.3, color=GRAY, linewidth=1, linestyle="--")


def vllm_head(axes: Axes) -> None:
    variants = read("vllm_head")["variants"]
    names = {"whole": "whole head", "restricted": "restricted head", "compact": "compact sampler"}
    streams = list(variants["whole"]["production"])
    bars(
        axes,
        streams,
        {
            label: [variants[name]["production"][s]["engine_cpu_ms_per_id"] for s in streams]
            for name, label in names.items()
        },
    )
    axes.set_yscale("log")
    axes.set_xlabel("streams")
    axes.set_ylabel("ms of processor time a token")


def gpu_listeners(axes: Axes) -> None:
    listeners = read("gpu_capacity")["listeners"]
    counts = [int(count) for count in listeners]
    axes.plot(counts, [at["first_ms_p50"] for at in listeners.values()], "o-", label="median")
    axes.plot(counts, [at["first_ms_p95"] for at in listeners.values()], "o-", label="95 of 100")
    for count, at in zip(counts, listeners.values(), strict=True):
        gaps = f"{at['with_underruns']:.0%} with a gap" if at["with_underruns"] else "no gap"
        axes.annotate(gaps, (count, 12), ha="center", fontsize=8)
    axes.set_xlabel("listeners who begin together")
    axes.set_ylabel("first sound, ms")
    axes.set_ylim(0)
    axes.set_xlim(8, 104)
    above(axes)


def roofline(axes: Axes) -> None:
    rows = read("roofline")["rows"]
    cards = list(dict.fromkeys(row["gpu"] for row in rows))
    kinds = {"bf16, whole head": ("bf16", "whole"), "fp8, restricted head": ("fp8", "restricted")}
    bars(
        axes,
        cards,
        {
            label: [
                next(
                    (
                        row["real_time_streams"]
                        for row in rows
                        if (row["gpu"], row["weights"], row["head"]) == (card, *kind)
                    ),
                    0,
                )
                for card in cards
            ]
            for label, kind in kinds.items()
        },
    )
    axes.set_ylabel("streams in real time (calculated)")
    axes.tick_params(axis="x", rotation=30)


def load(goodput: Axes, first: Axes) -> None:
    rows = read("load")["rates"]
    rates = [row["rate"] for row in rows]
    for axes, series in (
        (goodput, {"offered": "offered", "no gap over 100 ms": "goodput"}),
        (first, {"median": "first_p50_ms", "95 of 100": "first_p95_ms"}),
    ):
        for label, name in series.items():
            means, halves = zip(*(row[name] for row in rows), strict=True)
            axes.errorbar(rates, means, yerr=halves, marker="o", label=label, capsize=3)
        axes.set_xlabel("turns offered a second")
        axes.set_ylim(0)
        axes.grid(axis="y")
        above(axes)
    goodput.set_ylabel("turns a second")
    first.set_ylabel("audible first sound, ms")


def bars(axes: Axes, groups: list[str], series: dict[str, list[float]]) -> None:
    """Groups of bars, each with its figure."""
    width = 0.8 / len(series)
    for place, (label, values) in enumerate(series.items()):
        at = [group + (place - (len(series) - 1) / 2) * width for group in range(len(groups))]
        drawn = axes.bar(at, values, width * 0.92, label=label)
        axes.bar_label(drawn, [figure_of(value) for value in values], fontsize=8, color=GRAY)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.margins(y=0.12)
    above(axes)


def above(axes: Axes) -> None:
    """Put the legend above the axes, where it covers no line."""
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def figure_of(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


PLOTS: dict[str, Callable[..., None]] = {
    plot.__name__: plot for plot in (codec, vllm_head, gpu_listeners, roofline, load)
}
"""By the name of the file; each takes as many axes as it draws side by side."""


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, draw in PLOTS.items():
        panels = len(inspect.signature(draw).parameters)
        figure = Figure(figsize=(9 if panels > 1 else 7.5, 3.6), layout="constrained")
        draw(*figure.subplots(1, panels, squeeze=False)[0])
        figure.savefig(OUT / f"{name}.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
