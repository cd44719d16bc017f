"""Figures of benchmarks: the times of all cases, or curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.style import write_figure

# Okabe and Ito's palette: told apart with any colour vision; markers say it again.
COLOURS = {"vnets": "#0072B2", "torch": "#D55E00"}
MARKERS = {"vnets": "o", "torch": "s"}
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
CURVE_MARKERS = ("o", "s", "^", "D")
FAR = 20  # times the shortest: from here on the axis is logarithmic


def save(report: Mapping[str, Any], title: str, path: Path) -> None:
    """Draws a report of `OF` as a PNG, whole or not at all."""
    figure = OF[report["name"]](report, title)
    write_figure(figure, path)


def _figure(height: float, title: str):
    from matplotlib.figure import Figure  # not pyplot: no state is shared

    figure = Figure(figsize=(7.5, height), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def times(report: Mapping[str, Any], title: str):
    """Median, quartiles and shortest time of each case."""
    cases = report["cases"]
    figure, axes = _figure(1.5 + 0.27 * len(cases), title)
    longest = max(case["q3"] for case in cases.values())
    far = longest > FAR * min(case["min"] for case in cases.values())
    for row, (name, case) in enumerate(cases.items()):
        library = name.split()[0]
        colour = COLOURS.get(library, "#222222")
        axes.plot([case["q1"], case["q3"]], [row, row], color=colour, linewidth=2)
        axes.plot(case["median"], row, MARKERS.get(library, "o"), color=colour)
        axes.plot(case["min"], row, "|", color=colour, markersize=11)
        axes.annotate(
            np.format_float_positional(case["median"], 3, fractional=False, trim="-"),
            (max(case["q3"], case["median"]), row),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(cases)), list(cases), fontsize=9)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    if far:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
        axes.set_xlim(right=1.6 * longest)
    else:
        axes.set_xlim(0, 1.12 * longest)
    axes.set_xlabel(
        f"{report['unit']}{', logarithmic' * far}: median and quartiles; tick: "
        f"shortest of {report['rounds']} rounds",
        fontsize=8,
    )
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def curves(report: Mapping[str, Any], title: str):
    """Each column of the overview against the number in the names of its rows."""
    rows = report["overview"]
    figure, axes = _figure(4.0, title)
    counts = [int(name.split("=")[1]) for name in rows]
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    for number, name in enumerate(names):
        points = [
            (count, row[name])
            for count, row in zip(counts, rows.values(), strict=True)
            if name in row
        ]
        style = {
            "color": CURVES[number % len(CURVES)],
            "marker": CURVE_MARKERS[number % len(CURVE_MARKERS)],
        }
        axes.plot(*zip(*points, strict=True), label=name, markersize=5, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("draws S", fontsize=8)
    axes.set_ylabel(f"{report['unit']}, both logarithmic", fontsize=8)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    return figure


OF = {"lenet5": times, "vgg": times, "resnet50": times, "ensembles": curves}


def _plain_ticks(axis) -> None:
    """Labels 1, 2 and 5 of each decade of a logarithmic axis as they are."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
