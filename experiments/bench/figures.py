"""Figures of benchmarks: the times of all cases, or curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import style

LOOKS = {"vnets": (style.colour(0), "o"), "torch": (style.colour(1), "s")}
MARKERS = ("o", "s", "^", "D")
FAR = 20  # times the shortest: from here on the axis is logarithmic
OF = {"lenet5": "times", "vgg": "times", "resnet50": "times", "ensembles": "curves"}


def save(report: Mapping[str, Any], title: str, path: Path) -> None:
    """Draws a report of `OF` as a PNG, whole or not at all."""
    import matplotlib

    with matplotlib.rc_context(style.STYLE):
        draw = {"times": times, "curves": curves}[OF[report["name"]]]
        style.write_figure(draw(report, title), path)


def _axes(height: float, title: str):
    figure, [axes] = style.panels(1, 1, (7.5, height), 160)
    axes.set_title(title, loc="left", fontsize=9)
    return figure, axes


def times(report: Mapping[str, Any], title: str):
    """Median, quartiles and shortest time of each case."""
    cases = report["cases"]
    figure, axes = _axes(1.5 + 0.27 * len(cases), title)
    longest = max(case["q3"] for case in cases.values())
    far = longest > FAR * min(case["min"] for case in cases.values())
    for row, (name, case) in enumerate(cases.items()):
        colour, marker = LOOKS.get(name.split()[0], ("#222222", "o"))
        axes.plot([case["q1"], case["q3"]], [row, row], color=colour, linewidth=2)
        axes.plot(case["median"], row, marker, color=colour)
        axes.plot(case["min"], row, "|", color=colour, markersize=11)
        axes.annotate(
            np.format_float_positional(case["median"], 3, fractional=False, trim="-"),
            (max(case["q3"], case["median"]), row),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(cases)), list(cases))
    axes.set_ylim(len(cases) - 0.5, -0.5)
    if far:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
    axes.set_xlim(None if far else 0, (1.6 if far else 1.12) * longest)
    axes.set_xlabel(
        f"{report['unit']}{', logarithmic' * far}: median and quartiles; tick: "
        f"shortest of {report['rounds']} rounds"
    )
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def curves(report: Mapping[str, Any], title: str):
    """Each column of the overview against the number in the names of its rows."""
    rows = {int(name.split("=")[1]): row for name, row in report["overview"].items()}
    figure, axes = _axes(4.0, title)
    names = dict.fromkeys(name for row in rows.values() for name in row)
    for number, name in enumerate(names):
        points = [(count, row[name]) for count, row in rows.items() if name in row]
        marker = MARKERS[number % len(MARKERS)]
        look = style.of(number) | {"marker": marker, "markersize": 5}
        axes.plot(*zip(*points, strict=True), label=name, **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(rows), [str(count) for count in rows])
    axes.minorticks_off()
    axes.set_xlabel("draws S")
    axes.set_ylabel(f"{report['unit']}, both logarithmic")
    axes.legend(frameon=False)
    return figure


def _plain_ticks(axis) -> None:
    """Labels 1, 2 and 5 of each decade of a logarithmic axis as they are."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
