"""Figures of a table's records, by the kinds that a table's file can name.

    lines          a curve of the records: a panel for each y, a line for each row
    history_lines  the same over the epochs of training
    history        a panel for each row, a line for each y (a pattern like
                   "log_alpha/*" stands for all that match, "-kl" is the negated kl);
                   with a curve, that in place of the epochs. Panels share their axis y
    points         a panel for each row and seed, y[0] against x, coloured by `by`
    band           a panel for each row (its first seed): y is the middle, the lower and
                   the upper edge, and more lines if there are more
    rows           a panel for each column y: a line for each series of rows, each row
                   at its own x; hollow marks are the published numbers

Lines are means over the seeds, with a band of one sample standard deviation.
"""

import fnmatch
import math
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.table_specs import Figure
from experiments.tables import Measured, Outcome

# Okabe and Ito's palette: told apart with any colour vision; dashes say it again.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#222222",
    "#999933",
    "#882255",
    "#777777",
)
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-", "--", "-.", ":")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.6,
}
WIDTH, HEIGHT, COLUMNS = 3.6, 2.9, 4
LETTERS = 11  # of a title to the inch
LEGEND_WIDTH, LEGEND_LETTERS = 2.1, 13.5  # of an entry, at least; letters to the inch
LEGEND_LINE = 0.2  # of height; two lines have room anyway
PANEL_LETTERS = 14  # of a panel's title to the inch: beyond, it runs into the next one
POINT_PANELS = 8


def has_data(figure: Figure, outcome: Outcome) -> bool:
    """True if a record holds what the figure shows."""
    if figure.kind == "rows":
        return any(
            m.cells[y].values for m in _placed(figure, outcome) for y in figure.y
        )
    return any(
        _series(figure, record, y)
        for measured in _rows(figure, outcome)
        for record in measured.records
        for y in figure.y
    )


def save(figure: Figure, outcome: Outcome, path: Path) -> None:
    """Writes the figure as a PNG."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas  # not pyplot: no state is shared
    from matplotlib.ticker import MaxNLocator

    path.parent.mkdir(parents=True, exist_ok=True)
    panels = _PANELS[figure.kind](figure, outcome)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        size = (max(6.4, columns * WIDTH), rows * HEIGHT + 0.9)
        canvas = Canvas(figsize=size, dpi=130, layout="constrained")
        shared = figure.kind == "history"
        grid = canvas.subplots(rows, columns, squeeze=False, sharey=shared).ravel()
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, draw) in zip(grid, panels, strict=False):
            draw(axes)
            letters = int(size[0] / columns * PANEL_LETTERS)
            axes.set_title(_wrapped(title, letters), fontsize=9)
            axes.set_xlabel(figure.x_label or figure.x)
            axes.set_ylabel(figure.y_label)
            if figure.kind != "rows" and _counts(axes):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if not math.isnan(figure.mark):
                axes.axvline(figure.mark, color="#888888", lw=0.9, ls=(0, (2, 2)))
            if figure.log_x:
                axes.set_xscale("log")
            if figure.log_y:
                axes.set_yscale("log")
        handles = _handles(grid[: len(panels)])
        if handles:
            longest = max(map(len, handles)) / LEGEND_LETTERS + 0.6
            entries = max(1, int(size[0] / max(LEGEND_WIDTH, longest)))
            lines = math.ceil(len(handles) / entries)
            canvas.set_figheight(size[1] + LEGEND_LINE * max(0, lines - 2))
            canvas.legend(
                handles.values(),
                handles.keys(),
                loc="outside lower center",
                ncols=entries,
                frameon=False,
            )
        title = f"{figure.title} (scale {outcome.scale.name})"
        lines = textwrap.wrap(title, int(size[0] * LETTERS))
        canvas.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)
        # Without the library's version in it, the same records give the same bytes.
        canvas.savefig(path, metadata={"Software": None})


def _counts(axes) -> bool:
    """True if all that is drawn lies at whole numbers: epochs, pixels, bits."""
    return all(np.all(np.mod(line.get_xdata(), 1) == 0) for line in axes.get_lines())


def _wrapped(title: str, letters: int) -> str:
    """In lines of so many letters; "n = 3" stays on one."""
    held = title.replace(" = ", "\u00a0=\u00a0")
    return textwrap.fill(held, letters).replace("\u00a0", " ")


Panel = tuple[str, Callable[[Any], None]]


def _lines(figure: Figure, outcome: Outcome) -> list[Panel]:
    def panel(y: str) -> Callable[[Any], None]:
        def draw(axes) -> None:
            for number, measured in enumerate(_rows(figure, outcome)):
                found = [_series(figure, record, y) for record in measured.records]
                _line(axes, found, number, measured.row.label)

        return draw

    labels = figure.labels or figure.y
    return [
        (_title(label, figure.y), panel(y))
        for y, label in zip(figure.y, labels, strict=True)
    ]


def _title(label: str, among: list[str]) -> str:
    return label if len(among) > 1 else ""


def _history(figure: Figure, outcome: Outcome) -> list[Panel]:
    def panel(measured: Measured) -> Callable[[Any], None]:
        def draw(axes) -> None:
            number = 0
            for y, label in zip(figure.y, figure.labels or figure.y, strict=True):
                for key in _matching(y, measured.records):
                    found = [
                        _series(figure, record, key) for record in measured.records
                    ]
                    _line(axes, found, number, label if key == y else key)
                    number += 1

        return draw

    return [
        (f"{m.row.label} (n = {len(m.records)})", panel(m))
        for m in _rows(figure, outcome)
        if any(_series(figure, r, y) for r in m.records for y in figure.y)
    ]


def _matching(pattern: str, records: list[dict]) -> list[str]:
    names = {name for record in records for row in record["history"] for name in row}
    return sorted(fnmatch.filter(names, pattern)) if "*" in pattern else [pattern]


def _points(figure: Figure, outcome: Outcome) -> list[Panel]:
    def panel(curve: dict) -> Callable[[Any], None]:
        def draw(axes) -> None:
            groups = np.asarray(curve[figure.by])
            x, y = np.asarray(curve[figure.x]), np.asarray(curve[figure.y[0]])
            for number, group in enumerate(np.unique(groups)):
                where = groups == group
                colour = COLOURS[number % len(COLOURS)]
                label = f"{figure.by} {group:g}"
                axes.plot(x[where], y[where], ".", ms=2, color=colour, label=label)

        return draw

    found = [
        (f"{measured.row.label}, seed {record['seed']}", panel(_curve(figure, record)))
        for measured in _rows(figure, outcome)
        for record in measured.records
        if _curve(figure, record)
    ]
    return found[:POINT_PANELS]


def _band(figure: Figure, outcome: Outcome) -> list[Panel]:
    def panel(curve: dict) -> Callable[[Any], None]:
        def draw(axes) -> None:
            x = curve[figure.x]
            middle, low, high, *more = figure.y
            labels = figure.labels or figure.y
            edges = " to ".join(labels[figure.y.index(name)] for name in (low, high))
            style = {"color": "#a9cfe8", "lw": 0, "label": edges}
            axes.fill_between(x, curve[low], curve[high], **style)
            for number, name in enumerate((middle, *more)):
                label = labels[figure.y.index(name)]
                style = {"color": COLOURS[number], "ls": DASHES[number]}
                axes.plot(x, curve[name], lw=1.3, label=label, **style)

        return draw

    return [
        (measured.row.label, panel(_curve(figure, measured.records[0])))
        for measured in _rows(figure, outcome)
        if measured.records and _curve(figure, measured.records[0])
    ]


def _by_row(figure: Figure, outcome: Outcome) -> list[Panel]:
    placed = _placed(figure, outcome)
    names = list(dict.fromkeys(measured.row.series for measured in placed))

    def panel(y: str) -> Callable[[Any], None]:
        def draw(axes) -> None:
            if not figure.log_x and not any(m.row.x_column for m in placed):
                axes.set_xticks(sorted({m.row.x for m in placed}))
            for number, name in enumerate(names):
                rows = [m for m in placed if m.row.series == name]
                colour = COLOURS[number % len(COLOURS)]
                fixed = [m for m in rows if not m.row.x_column]
                found = [[(m.row.x, v)] for m in fixed for v in m.cells[y].values]
                _line(axes, found, number, name)
                for m in rows:
                    if m.row.x_column and m.records:
                        at = m.cells[m.row.x_column].values, m.cells[y].values
                        axes.plot(*at, "D", color=colour, ms=4, label=name)
                published = [
                    (measured.row.x, numbers[y])
                    for measured in fixed
                    for numbers in measured.row.paper.values()
                    if y in numbers
                ]
                style = {"color": colour, "mfc": "none", "ms": 5, "mew": 0.9}
                if published:  # else "o" alone would be plotted, as a category of y
                    axes.plot(*zip(*published, strict=True), "o", **style)

        return draw

    labels = figure.labels or figure.y
    return [
        (_title(label, figure.y), panel(y))
        for y, label in zip(figure.y, labels, strict=True)
    ]


def _placed(figure: Figure, outcome: Outcome) -> list[Measured]:
    """The rows that have a place."""
    return [measured for measured in _rows(figure, outcome) if measured.row.placed]


_PANELS: dict[str, Callable[[Figure, Outcome], list[Panel]]] = {
    "lines": _lines,
    "history_lines": _lines,
    "history": _history,
    "points": _points,
    "band": _band,
    "rows": _by_row,
}


def _rows(figure: Figure, outcome: Outcome) -> list[Measured]:
    return [m for m in outcome.rows if not figure.rows or m.row.name in figure.rows]


def _curve(figure: Figure, record: dict) -> dict[str, list[float]]:
    return record.get("curves", {}).get(figure.curve, {})


def _series(figure: Figure, record: dict, y: str) -> list[tuple[float, float]]:
    """(x, y) pairs of one record; empty if it has no such curve."""
    if figure.curve:
        curve = _curve(figure, record)
        if figure.x not in curve or y not in curve:
            return []
        return list(zip(curve[figure.x], curve[y], strict=True))
    sign = -1.0 if y.startswith("-") else 1.0
    names = _matching(y.removeprefix("-"), [record])
    return [
        (row[figure.x], sign * row[name])
        for row in record["history"]
        for name in names
        if figure.x in row and name in row
    ]


def _line(axes, found: Iterable[list], number: int, label: str) -> None:
    """Mean and spread of the series of several seeds, where they share x."""
    by_x: dict[float, list[float]] = {}
    for series in found:
        for x, y in series:
            by_x.setdefault(x, []).append(y)
    if not by_x:
        return
    x = sorted(by_x)
    mean = np.asarray([np.mean(by_x[v]) for v in x])
    std = np.asarray([np.std(by_x[v], ddof=1) if len(by_x[v]) > 1 else 0 for v in x])
    colour = COLOURS[number % len(COLOURS)]
    style = DASHES[number % len(DASHES)]
    one = {"marker": "."} if len(x) == 1 else {}
    axes.plot(x, mean, color=colour, ls=style, lw=1.4, label=label, **one)
    if std.any():
        axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.18, lw=0)


def _handles(panels) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles
