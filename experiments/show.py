"""A table for the eyes: on the terminal, as Markdown and as a figure."""

from pathlib import Path

from experiments import figures, render, table_figure
from experiments.tables import Outcome
from vnets import results

WIDTH = 180  # columns, where the output is no terminal


def show(folder: Path, outcome: Outcome) -> bool:
    """Prints a table, writes <folder>.md and its figures and prints their paths.

    Returns:
      True.
    """
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # a log has room
        console = Console(width=WIDTH)
    render.terminal(outcome, console)
    text = folder.with_suffix(".md")
    results.write_text(text, render.markdown(outcome))
    if outcome.table.plain:
        table_figure.save(outcome, folder.with_suffix(".png"))
    for figure in outcome.table.figure:
        if figures.has_data(figure, outcome):
            figures.save(
                figure, outcome, text.with_name(f"{folder.name}-{figure.name}.png")
            )
    written = [str(text), *(str(text.with_name(n)) for _, n in render.images(outcome))]
    print(f"\nWritten: {', '.join(written)}\n")
    return True
