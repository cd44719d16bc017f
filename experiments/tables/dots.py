"""A table as a figure: every seed, mean and spread, beside the published numbers.

Networks that guess at 10 % and networks at 99.2 or 99.4 % share one table. Where both
occur, the upper end is shown a second time, enlarged.
"""

import dataclasses
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import style
from experiments.style import colour, write_figure
from experiments.tables.outcomes import Outcome, RowResult
from experiments.tables.words import cell_text, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*")  # say again what colours say
PAPER_COLOUR = "#222222"
# Published numbers are carets whose tip is the number: filled inside an outline where
# two versions agree.
PAPER_SIZES = (4.5, 8.0, 11.0)
CHANCE_STYLE: Any = {"color": "#777777", "linewidth": 1, "linestyle": (0, (4, 3))}
FULL_FROM = 50.0  # of the largest number, in %: the axis goes to 100
ZOOM_FROM = 90.0
RATIOS = (1.0, 1.5)
WIDTH, LETTERS = 9.0, 12  # inches, and letters of a title to the inch
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
}


@dataclasses.dataclass(frozen=True)
class Span:
    """The part of the axis that a panel shows."""

    low: float
    high: float
    title: str


def save(outcome: Outcome, path: Path) -> None:
    """Writes the figure as a PNG; rows without a number of it are left to the table."""
    import matplotlib

    names = [column.name for column in outcome.table.plain]
    some = [
        measured
        for measured in outcome.rows
        if measured.failed or any(measured.cells[name].values for name in names)
    ]
    outcome = dataclasses.replace(outcome, rows=some or outcome.rows)
    spans = _spans(outcome)
    with matplotlib.rc_context(STYLE):
        lines = max(3, len(outcome.table.plain))
        size = (WIDTH, 1.6 + 0.28 * lines * len(outcome.rows))
        count, ratios = len(spans), RATIOS[: len(spans)]
        figure, panels = style.panels(
            count, count, size, 160, sharey=True, width_ratios=ratios
        )
        for axes, span in zip(panels, spans, strict=True):
            _panel(axes, outcome, span)
        panels[0].set_yticks(
            range(len(outcome.rows)), [_row_label(m) for m in outcome.rows]
        )
        _write_numbers(panels[-1], outcome)
        panels[0].set_ylim(len(outcome.rows) - 0.5, -0.5)
        told = textwrap.wrap(summary(outcome), int(WIDTH * LETTERS))
        title = "\n".join([outcome.table.title, *told])
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        handles = _legend_handles(outcome)
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=math.ceil(len(handles) / 2),
            frameon=False,
        )
        write_figure(figure, path)


def _panel(axes: "Axes", outcome: Outcome, span: Span) -> None:
    table = outcome.table
    for i, measured in enumerate(outcome.rows):
        if i % 2 == 0:
            axes.axhspan(i - 0.5, i + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
        for j, column in enumerate(table.plain):
            _marks(axes, measured, column.name, j, _height(i, j, outcome), outcome)
    if span.low <= table.chance <= span.high:
        axes.axvline(table.chance, zorder=1, **CHANCE_STYLE)
    axes.set_xlim(span.low, span.high)
    unit = f" ({table.unit})" if table.unit else ""
    axes.set_xlabel(f"{table.metric}{unit}{span.title}")
    axes.grid(axis="x", color="#d8d8d8", linewidth=0.6)
    axes.tick_params(axis="y", length=0)


def _marks(
    axes: "Axes", measured: RowResult, column: str, j: int, y: float, outcome: Outcome
) -> None:
    cell = measured.cells[column]
    own = colour(j)
    for k, version in enumerate(outcome.table.published):
        gap = measured.gaps.get(version.name, {}).get(column)
        if gap is not None:
            axes.plot(gap.published, y - 0.07, **_paper_style(k))
    if cell.mean is None:
        return
    axes.errorbar(
        cell.mean,
        y,
        xerr=cell.std,
        color=own,
        marker=MARKERS[j % len(MARKERS)],
        markersize=5,
        capsize=3,
        linewidth=1.2,
        zorder=3,
    )
    below = [y + 0.1] * len(cell.values)
    axes.plot(cell.values, below, ".", color=own, markersize=3.5, alpha=0.8)


def _write_numbers(axes: "Axes", outcome: Outcome) -> None:
    """Writes the measured numbers at the right edge of the last panel."""
    edge = axes.get_yaxis_transform()
    axes.text(1.02, -0.55, "mean ± std", transform=edge, va="bottom", fontsize=8)
    for i, measured in enumerate(outcome.rows):
        for j, column in enumerate(outcome.table.plain):
            axes.text(
                1.02,
                _height(i, j, outcome),
                cell_text(measured, column),
                transform=edge,
                color=colour(j) if measured.records else "#777777",
                va="center",
                fontsize=8,
            )


def _height(i: int, j: int, outcome: Outcome) -> float:
    count = len(outcome.table.plain)
    return i + (j - (count - 1) / 2) * 0.87 / max(3, count)


def _paper_style(k: int) -> dict:
    from matplotlib.markers import CARETDOWN

    return {
        "marker": CARETDOWN,
        "markersize": PAPER_SIZES[k % len(PAPER_SIZES)],
        "markerfacecolor": "none" if k else PAPER_COLOUR,
        "markeredgecolor": PAPER_COLOUR,
        "markeredgewidth": 0.9,
        "linestyle": "none",
        "zorder": 2,
    }


def _legend_handles(outcome: Outcome) -> list:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=colour(j),
            marker=MARKERS[j % len(MARKERS)],
            linestyle="-",
            label=c.label,
        )
        for j, c in enumerate(outcome.table.plain)
    ]
    handles.append(
        Line2D([], [], color="#555555", marker=".", linestyle="none", label="one seed")
    )
    judged = any(c.name in outcome.scale.judged for c in outcome.table.plain)
    context = "" if judged else " (context)"
    handles += [
        Line2D([], [], label=version.label + context, **_paper_style(k))
        for k, version in enumerate(outcome.table.published)
    ]
    if not math.isnan(outcome.table.chance):
        handles.append(Line2D([], [], label="chance", **CHANCE_STYLE))
    return handles


def _spans(outcome: Outcome) -> list[Span]:
    shown = {column.name for column in outcome.table.plain}
    measured = [v for m in outcome.rows for key in shown for v in m.cells[key].values]
    published = [
        gap.published
        for one in outcome.rows
        for gaps in one.gaps.values()
        for key, gap in gaps.items()
        if key in shown
    ]
    numbers = [number for number in measured + published if math.isfinite(number)]
    if outcome.table.unit != "%":
        return [_around(numbers or [0.0, 1.0], "")]
    upper = [number for number in numbers if number >= ZOOM_FROM]
    most = max(numbers, default=100.0)  # errors leave most of 100 % empty
    whole = Span(0.0, 1.15 * most if 0 < most < FULL_FROM else 101.5, "")
    if not upper or max(measured, default=0.0) < ZOOM_FROM:
        return [whole]  # nothing of ours is there to be enlarged
    enlarged = _around(upper, ", upper end enlarged")
    return [enlarged] if len(upper) == len(numbers) else [whole, enlarged]


def _around(numbers: list[float], title: str) -> Span:
    spread = max(numbers) - min(numbers)
    # Around a single number as much as has ticks of few digits.
    margin = 0.08 * (spread + 0.1) if spread else 0.005 * abs(numbers[0]) or 0.1
    return Span(min(numbers) - margin, max(numbers) + margin, title)


def _row_label(measured: RowResult) -> str:
    label = measured.row.label.replace(", ", ",\n", 1)
    return f"{label}\n({len(measured.failed)} failed)" if measured.failed else label
