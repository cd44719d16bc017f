"""Figures of a table's records, by the kinds that a table's file can name.

    lines          a curve of the records: a panel for each y, a line for each row
    history_lines  the same over the epochs of training
    history        a panel for each row, a line for each y (a pattern like
                   "log_alpha/*" stands for all that match, and its label has the star
                   in the same place, "-kl" is the negated kl); with a curve, that in
                   place of the epochs. Panels share their axis y
    points         a panel for each row and seed, y[0] against x, coloured by `by`
    band           a panel for each row (its first seed): y is the middle, the lower and
                   the upper edge, and more lines if there are more; `less` names the
                   one that is taken from all of them, without which what varies little
                   beside it is not seen; `dots` names a curve of the records with x and
                   y, such as the data. Panels share their axis y
    pictures       a panel for each row (its first seed): x and y are the white of the
                   pixels of a square picture, row by row
    rows           a panel for each column y: a line for each series of rows, each row
                   at its own x; hollow marks are the published numbers. Where all
                   rows that ran are at one x there is none: the table has the numbers

Lines are means over the seeds, with a band of one sample standard deviation.
"""

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from experiments import style
from experiments.style import write_figure
from experiments.tables import panels
from experiments.tables.outcomes import Outcome
from experiments.tables.specs import Figure

WIDTH, HEIGHT, COLUMNS = 3.6, 2.9, 4  # of a panel; panels in a row, at most
LEAST_WIDTH = 5.4  # of a figure, which a README shows at half of a page's width
DPI = 130
LETTERS = 11  # of a title to the inch
LEGEND_WIDTH, LEGEND_LETTERS = 1.2, 13.5  # of an entry, at least; letters to the inch
LEGEND_LINE = 0.2  # of height; two lines have room anyway
PANEL_LETTERS = 14  # of a panel's title to the inch: beyond, it runs into the next one


def has_data(figure: Figure, outcome: Outcome) -> bool:
    """True if a record holds what the figure shows: of rows, two places or more."""
    if figure.kind == "rows":
        shown = panels.placed(figure, outcome)
        ran = [m for m in shown if any(m.cells[y].values for y in figure.y)]
        return len({place for m in ran for place in panels.places(m)}) > 1
    return any(
        panels.series(figure, record, y)
        for measured in panels.rows(figure, outcome)
        for record in measured.records
        for y in figure.y
    )


def save(figure: Figure, outcome: Outcome, path: Path) -> None:
    """Writes the figure as a PNG."""
    import matplotlib

    shown = panels.OF[figure.kind](figure, outcome)
    rows = math.ceil(len(shown) / COLUMNS)
    columns = math.ceil(len(shown) / rows)  # so that no row has one panel alone
    width, height = max(LEAST_WIDTH, columns * WIDTH), rows * HEIGHT + 0.9
    with matplotlib.rc_context(style.STYLE):
        shared = figure.kind in ("history", "band")
        size = width, height
        canvas, grid = style.panels(len(shown), columns, size, DPI, sharey=shared)
        for axes, (title, draw) in zip(grid, shown, strict=False):
            draw(axes)
            letters = int(width / columns * PANEL_LETTERS)
            axes.set_title(_wrapped(title, letters), fontsize=9)
            _dress(axes, figure)
        handles = _handles(grid[: len(shown)])
        if handles:
            longest = max(map(len, handles)) / LEGEND_LETTERS + 0.6
            entries = max(1, int(width / max(LEGEND_WIDTH, longest)))
            lines = math.ceil(len(handles) / entries)
            canvas.set_figheight(height + LEGEND_LINE * max(0, lines - 2))
            canvas.legend(
                handles.values(),
                handles.keys(),
                loc="outside lower center",
                ncols=math.ceil(len(handles) / lines),
                frameon=False,
            )
        lines = textwrap.wrap(figure.title, int(width * LETTERS))
        canvas.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)
        write_figure(canvas, path)


def _dress(axes, figure: Figure) -> None:
    """Labels and scales of a panel that is drawn."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(figure.x_label or figure.x)
    axes.set_ylabel(figure.y_label)
    if figure.kind != "rows" and _counts(axes):
        whole = MaxNLocator(integer=True, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(whole)
    if not math.isnan(figure.mark):
        axes.axvline(figure.mark, color="#888888", lw=0.9, ls=(0, (2, 2)))
    if figure.log_x:
        axes.set_xscale("log")
    if figure.log_y:
        axes.set_yscale("log")
    if figure.y_range:
        axes.set_ylim(*figure.y_range)


def _counts(axes) -> bool:
    """True if all that is drawn lies at whole numbers: epochs, pixels, bits."""
    return all(np.all(np.mod(line.get_xdata(), 1) == 0) for line in axes.get_lines())


def _wrapped(title: str, letters: int) -> str:
    """In lines of so many letters; "n = 3" stays on one."""
    held = title.replace(" = ", "\u00a0=\u00a0")
    return textwrap.fill(held, letters).replace("\u00a0", " ")


def _handles(drawn) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for axes in drawn:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles
