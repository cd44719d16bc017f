"""What each kind of figure draws: its panels, a title and a function of axes each.

One thing has one colour in all panels of a figure, whether or not each panel has it.
"""

import fnmatch
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from experiments import style
from experiments.tables.outcomes import Outcome, RowResult
from experiments.tables.specs import Figure

POINT_PANELS = 8
BAND = "#a9cfe8"
Panel = tuple[str, Callable[[Any], None]]


def rows(figure: Figure, outcome: Outcome) -> list[RowResult]:
    """The rows that a figure shows."""
    return [m for m in outcome.rows if not figure.rows or m.row.name in figure.rows]


def placed(figure: Figure, outcome: Outcome) -> list[RowResult]:
    """Those of them that have a place."""
    return [measured for measured in rows(figure, outcome) if measured.row.placed]


def places(measured: RowResult) -> list[float]:
    """Where a row that has a place lies; nowhere, as long as it was not run."""
    if not measured.records:
        return []
    if measured.row.x_column:
        return measured.cells[measured.row.x_column].values
    return [measured.row.x]


def series(figure: Figure, record: dict, y: str) -> list[tuple[float, float]]:
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


def _lines(figure: Figure, outcome: Outcome) -> list[Panel]:
    def panel(y: str) -> Callable[[Any], None]:
        def draw(axes) -> None:
            for number, measured in enumerate(rows(figure, outcome)):
                found = [series(figure, record, y) for record in measured.records]
                _line(axes, found, number, measured.row.label)

        return draw

    return [
        (_title(label, figure.y), panel(y))
        for y, label in zip(figure.y, _labels(figure), strict=True)
    ]


def _labels(figure: Figure) -> list[str]:
    """Words for each y: those of the table's file, or what the records call it."""
    called = ["*" if "*" in y else y.replace("_", " ") for y in figure.y]
    return figure.labels or called


def _title(label: str, among: list[str]) -> str:
    return label if len(among) > 1 else ""


def _history(figure: Figure, outcome: Outcome) -> list[Panel]:
    shown = rows(figure, outcome)
    records = [record for measured in shown for record in measured.records]
    lines = _keys(figure, records)

    def panel(measured: RowResult) -> Callable[[Any], None]:
        def draw(axes) -> None:
            for number, (key, label) in enumerate(lines.items()):
                found = [series(figure, record, key) for record in measured.records]
                if any(found):
                    _line(axes, found, number, label)
                else:  # the legend has it in its place
                    axes.plot([], [], lw=1.4, label=label, **style.of(number))

        return draw

    return [
        (f"{m.row.label} (n = {len(m.records)})", panel(m))
        for m in shown
        if any(series(figure, r, y) for r in m.records for y in figure.y)
    ]


def _keys(figure: Figure, records: list[dict]) -> dict[str, str]:
    """What some record has of the y, in their order, and the words for each.

    What the star of a pattern stands for takes the place of the star of its label.
    """
    found = {}
    for y, label in zip(figure.y, _labels(figure), strict=True):
        start, star, end = y.partition("*")
        for key in _matching(y, records):
            if any(series(figure, record, key) for record in records):
                part = key.removeprefix(start).removesuffix(end)
                found[key] = label.replace("*", part) if star else label
    return found


def _matching(pattern: str, records: list[dict]) -> list[str]:
    names = {name for record in records for row in record["history"] for name in row}
    return sorted(fnmatch.filter(names, pattern)) if "*" in pattern else [pattern]


def _points(figure: Figure, outcome: Outcome) -> list[Panel]:
    found = [
        (f"{measured.row.label}, seed {record['seed']}", _curve(figure, record))
        for measured in rows(figure, outcome)
        for record in measured.records
        if _curve(figure, record)
    ][:POINT_PANELS]
    groups = sorted({group for _, curve in found for group in curve[figure.by]})

    def panel(curve: dict) -> Callable[[Any], None]:
        def draw(axes) -> None:
            of = np.asarray(curve[figure.by])
            x, y = np.asarray(curve[figure.x]), np.asarray(curve[figure.y[0]])
            for number, group in enumerate(groups):
                dots: Any = {"ls": "none", "marker": "o", "color": style.colour(number)}
                axes.plot(x[of == group], y[of == group], ms=1.8, **dots)
                axes.plot([], [], ms=6, label=f"{figure.by} {group:g}", **dots)

        return draw

    return [(title, panel(curve)) for title, curve in found]


def _band(figure: Figure, outcome: Outcome) -> list[Panel]:
    middle, low, high, *more = figure.y
    labels = dict(zip(figure.y, _labels(figure), strict=True))
    edges = " to ".join(dict.fromkeys((labels[low], labels[high])))

    def panel(record: dict) -> Callable[[Any], None]:
        def draw(axes) -> None:
            curve = {k: np.asarray(v) for k, v in _curve(figure, record).items()}
            x, less = curve[figure.x], curve.get(figure.less, 0.0)
            low_edge, high_edge = curve[low] - less, curve[high] - less
            axes.fill_between(x, low_edge, high_edge, color=BAND, lw=0, label=edges)
            for number, name in enumerate((middle, *more)):
                look = {"lw": 1.3, "label": labels[name], **style.of(number)}
                axes.plot(x, curve[name] - less, **look)
            if figure.dots:
                dots = record["curves"][figure.dots]
                under = np.interp(dots["x"], x, np.broadcast_to(less, x.shape))
                look = {"color": "#222222", "ms": 2.6, "label": figure.dots}
                axes.plot(dots["x"], dots["y"] - under, "o", **look)

        return draw

    return _first_seeds(figure, outcome, panel)


def _pictures(figure: Figure, outcome: Outcome) -> list[Panel]:
    def panel(record: dict) -> Callable[[Any], None]:
        def draw(axes) -> None:
            white = np.asarray(_curve(figure, record)[figure.y[0]])
            edge = math.isqrt(len(white))
            # Ink is dark on paper; of grey pictures that would be a negative.
            grey = record["config"].get("pixels") == "grey"
            colours = "gray" if grey else "Blues"
            axes.imshow(white.reshape(edge, edge), cmap=colours)
            axes.set_axis_off()

        return draw

    return _first_seeds(figure, outcome, panel)


def _first_seeds(figure: Figure, outcome: Outcome, panel: Callable) -> list[Panel]:
    """A panel for each row that has the figure's curve, of its first seed."""
    return [
        (measured.row.label, panel(measured.records[0]))
        for measured in rows(figure, outcome)
        if measured.records and _curve(figure, measured.records[0])
    ]


def _by_row(figure: Figure, outcome: Outcome) -> list[Panel]:
    shown = placed(figure, outcome)
    names = list(dict.fromkeys(measured.row.series for measured in shown))

    def panel(y: str) -> Callable[[Any], None]:
        def draw(axes) -> None:
            if not figure.log_x and not any(m.row.x_column for m in shown):
                axes.set_xticks(sorted({m.row.x for m in shown}))
            for number, name in enumerate(names):
                of = [m for m in shown if m.row.series == name]
                colour = style.colour(number)
                fixed = [m for m in of if not m.row.x_column]
                found = [[(m.row.x, v)] for m in fixed for v in m.cells[y].values]
                _line(axes, found, number, name)
                for m in of:
                    if m.row.x_column and m.records:
                        at = places(m), m.cells[y].values
                        axes.plot(*at, "D", color=colour, ms=4, label=name)
                published = [
                    (measured.row.x, numbers[y])
                    for measured in fixed
                    for numbers in measured.row.paper.values()
                    if y in numbers
                ]
                look = {"color": colour, "mfc": "none", "ms": 5, "mew": 0.9}
                if published:  # else "o" alone would be plotted, as a category of y
                    axes.plot(*zip(*published, strict=True), "o", **look)

        return draw

    return [
        (_title(label, figure.y), panel(y))
        for y, label in zip(figure.y, _labels(figure), strict=True)
    ]


OF: dict[str, Callable[[Figure, Outcome], list[Panel]]] = {
    "lines": _lines,
    "history_lines": _lines,
    "history": _history,
    "points": _points,
    "band": _band,
    "pictures": _pictures,
    "rows": _by_row,
}


def _curve(figure: Figure, record: dict) -> dict[str, list[float]]:
    return record.get("curves", {}).get(figure.curve, {})


def _line(axes, found: Iterable[list], number: int, label: str) -> None:
    """Mean and spread of the series of several seeds, where they share x."""
    by_x: dict[float, list[float]] = {}
    for one in found:
        for x, y in one:
            by_x.setdefault(x, []).append(y)
    if not by_x:
        return
    x = sorted(by_x)
    mean = np.asarray([np.mean(by_x[v]) for v in x])
    std = np.asarray([np.std(by_x[v], ddof=1) if len(by_x[v]) > 1 else 0 for v in x])
    one = {"marker": "."} if len(x) == 1 else {}
    axes.plot(x, mean, lw=1.4, label=label, **style.of(number), **one)
    if std.any():
        colour = style.colour(number)
        axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.18, lw=0)
