"""The numbers of a table for elsewhere: CSV, LaTeX or Markdown, on the output alone."""

import csv
import io
from collections.abc import Iterable

from experiments.tables import render, terminal
from experiments.tables.outcomes import Outcome

CSV = ("row", "source", "column", "unit", "n", "mean", "std")
# Characters that mean something to LaTeX, and how they are written.
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "–": "--"}  # noqa: RUF001 (an en dash is a table's nothing)
)


def csv_text(outcome: Outcome) -> str:
    """A line for each number: of our rows with n and std, of published ones without."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV)
    columns = {column.name: column for column in outcome.table.column}
    units = {
        name: outcome.table.unit if column.plain else column.unit
        for name, column in columns.items()
    }
    for measured in outcome.rows:
        label = measured.row.label
        for name, cell in measured.cells.items():
            if cell.values:
                numbers = (len(cell.values), cell.mean, cell.std)
                row = (label, "ours", columns[name].label, units[name], *numbers)
                writer.writerow(row)
        for version, numbers in measured.row.paper.items():
            for name, number in numbers.items():
                row = (label, version, columns[name].label, units[name], "", number, "")
                writer.writerow(row)
    return text.getvalue()


def latex(outcome: Outcome) -> str:
    """The table of numbers as a LaTeX tabular; it needs the package booktabs."""
    grid = render.grids(outcome)[0]
    align = "l" * grid.names + "r" * (len(grid.header) - grid.names)
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _line(grid.header)]
    lines += [r"\midrule", *map(_line, grid.lines), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _line(fields: list[str]) -> str:
    return " & ".join(field.translate(LATEX) for field in fields) + r" \\"


def markdown(outcome: Outcome) -> str:
    """The table of numbers in Markdown."""
    return render.markdown_grid(render.grids(outcome)[0]) + "\n"


def show(outcomes: Iterable[Outcome], form: str | None) -> int:
    """Prints outcomes, whole (None) or their numbers alone; returns the exit status."""
    for outcome in outcomes:
        if form:
            print(FORMATS[form](outcome), end="")
        else:
            terminal.terminal(outcome, terminal.console())
    return 0


FORMATS = {"csv": csv_text, "latex": latex, "markdown": markdown}
