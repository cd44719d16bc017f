"""A table for the eyes: on the terminal, as Markdown and as a figure."""

from pathlib import Path

from experiments import figures, render, table_figure
from experiments.tables import Outcome
from vnets import results

WIDTH = 180  # columns, where the output is no terminal


def thresholds(choice, tolerance: float) -> None:
    """Prints a `thresholds.Choice`: the curve, and the layers where it was cut."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"Noise off, on {choice.images}; unpruned {choice.unpruned:.4f}")
    layers = [layer.name for layer in choice.layers]
    names = ("threshold", "accuracy", "weights left", "compression", *layers)
    table = Table(*names, title="Accuracy, and the sparsity of each layer (%)")
    for row in choice.rows:
        sparsity = (f"{100 * row[f'sparsity/{name}']:.1f}" for name in layers)
        table.add_row(
            f"{row['threshold']:g}",
            f"{row['accuracy']:.4f}",
            f"{row['nonzero']}",
            f"{row['compression']:.1f}",
            *sparsity,
            style="bold" if row is choice.chosen else None,
        )
    console.print(table)
    if choice.chosen is None:
        console.print(f"No threshold costs at most {tolerance:g} of accuracy.")
    else:
        console.print(
            f"Chosen: {choice.chosen['threshold']:g}, the lowest that costs at most "
            f"{tolerance:g} of accuracy."
        )


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
