"""A table for the eyes: on the terminal, and written as Markdown and figures."""

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.tables import dots, figures, render, words
from experiments.tables.outcomes import Outcome, aggregate
from experiments.tables.render import Grid
from experiments.tables.specs import Table as Spec
from vnets import files

if TYPE_CHECKING:
    from rich.console import Console

UNWRAPPED = 18  # characters of a field that a terminal must keep on one line
HEADER = 12  # characters of a line that a terminal's header may take at least
WIDTH = 180  # columns, where the output is no terminal
STYLES = {"yes": "green", "no": "bold red"}
STYLES |= {words.FAILED: "bold red", words.NOT_RUN: "dim"}


def show(folder: Path, outcome: Outcome) -> None:
    """Prints a table, writes <folder>.md and its figures and prints their paths."""
    terminal(outcome, console())
    texts = render.written(folder, outcome)
    for path, text in texts.items():
        files.write_text(path, text)
    if outcome.table.plain:
        dots.save(outcome, folder.with_suffix(".png"))
    for figure in outcome.table.figure:
        if figures.has_data(figure, outcome):
            figures.save(
                figure, outcome, folder.with_name(f"{folder.name}-{figure.name}.png")
            )
    drawn = [folder.with_name(name) for _, name in render.images(outcome)]
    print(f"\nWritten: {', '.join(map(str, [*texts, *drawn]))}\n")


def not_run(table: Spec, scale: str, folder: Path) -> None:
    """Prints a table that has no record yet, as it stands at a scale ("": at each)."""
    for name in [scale] if scale else table.scale:
        terminal(aggregate(table, name, {}), console())
        print()
    print(f"{table.name} has no records in {folder} yet: nothing is written")


def console():
    """Of this terminal; a log has room."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def terminal(outcome: Outcome, console: "Console") -> None:
    """Prints the table; readable from a width of 100 columns."""
    from rich.box import HORIZONTALS
    from rich.table import Table
    from rich.text import Text

    console.print(Text(words.heading(outcome), style="bold"))
    console.print(
        Text(f"{words.summary(outcome)} {outcome.scale.text}\n{words.legend(outcome)}")
    )
    for grid in render.grids(outcome):
        console.print(Text(f"\n{grid.title}", style="bold"))
        if grid.text:
            console.print(Text(grid.text))
        for panel in panels(grid, console.width):
            shown = Table(box=HORIZONTALS, pad_edge=False, collapse_padding=True)
            for name, fields in zip(panel.header, panel.columns(), strict=True):
                shown.add_column(
                    Text(_header(name, fields)),
                    overflow="fold",
                    no_wrap=_short(fields),
                    min_width=_least(name, fields),
                )
            starts = [line[0] != "" for line in panel.lines]
            grouped = not all(starts)
            for line, new_next in zip(panel.lines, [*starts[1:], False], strict=True):
                shown.add_row(*map(_styled, line), end_section=grouped and new_next)
            console.print(shown)
    for note in words.notes(outcome):
        console.print(Text(f"- {note}"))


def panels(grid: Grid, width: int) -> Iterator[Grid]:
    """What of a grid fits side by side; each part repeats what its lines are about."""
    gap = 2  # characters between columns
    least = [
        gap + _least(name, fields)
        for name, fields in zip(grid.header, grid.columns(), strict=True)
    ]
    names = list(range(grid.names))
    room = width - sum(least[i] for i in names)
    part: list[int] = []
    for i in range(grid.names, len(least)):
        if part and sum(least[j] for j in part) + least[i] > room:
            yield grid.part(names + part)
            part = []
        part.append(i)
    yield grid.part(names + part)


def _short(fields: Iterable[str]) -> bool:
    """True if no field of a column may be broken over lines."""
    return max(map(len, fields)) <= UNWRAPPED


def _header(name: str, fields: Iterable[str]) -> str:
    """A column's name, broken into lines where its fields are short."""
    if not _short(fields):
        return name
    width = max(HEADER, *map(len, fields))
    return "\n".join(textwrap.wrap(name, width, break_long_words=False))


def _least(name: str, fields: Iterable[str]) -> int:
    """The fewest characters that a column can be read with."""
    if _short(fields):
        lines = _header(name, fields).split("\n")
        return max(map(len, (*fields, *lines)))
    return min(UNWRAPPED, max(len(word) for one in fields for word in one.split()))


def _styled(text: str):
    """Colours a verdict: a field that is one, or ends in one before its bracket."""
    from rich.text import Text

    verdict = text.removesuffix(")").rpartition(", ")[2]
    return Text(text, style=STYLES.get(verdict, ""))
