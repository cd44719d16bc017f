"""A table for the eyes: on the terminal, as Markdown and as a figure."""

from pathlib import Path

from experiments import render, table_figure
from experiments.tables import Outcome
from vnets import results


def show(folder: Path, outcome: Outcome) -> bool:
    """Prints a table, writes <folder>.md and <folder>.png and prints their paths.

    Returns:
      True.
    """
    from rich.console import Console

    render.terminal(outcome, Console())
    for path in outcome.unused:
        print(f"not used, no row of this table and scale: {path}")
    text, image = folder.with_suffix(".md"), folder.with_suffix(".png")
    results.write_text(text, render.markdown(outcome))
    table_figure.save(outcome, image)
    print(f"\nWritten: {text}, {image}\n")
    return True
