"""How figures look: one palette, one set of dashes, one frame."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vnets import files

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


def of(number: int) -> dict[str, Any]:
    """Colour and dashes of the line of this number."""
    return {"color": colour(number), "ls": DASHES[number % len(DASHES)]}


def colour(number: int) -> str:
    """The colour of what has this number."""
    return COLOURS[number % len(COLOURS)]


def panels(count: int, columns: int, size: tuple[float, float], dpi: int, **options):
    """A canvas, and so many axes in rows of `columns`; made and dressed under STYLE."""
    from matplotlib.figure import Figure  # not pyplot: no state is shared

    canvas = Figure(figsize=size, dpi=dpi, layout="constrained")
    rows = math.ceil(count / columns)
    axes = canvas.subplots(rows, columns, squeeze=False, **options).ravel()
    for empty in axes[count:]:
        empty.set_visible(False)
    return canvas, axes


def write_figure(figure, path: Path) -> None:
    """Writes a figure as a PNG, whole or not at all.

    Without the library's version in it, the same figure gives the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def write_animation(
    canvas, draw: Callable, frames: int, path: Path, frames_per_second: float
) -> None:
    """Writes a GIF, whole or not at all; `draw` has drawn a frame of the canvas.

    It is laid out once, and its last frame stays for two seconds.
    """
    from matplotlib.animation import FuncAnimation, PillowWriter

    for _ in range(2):  # titles, legends and panels move one another
        canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    frames += max(1, round(2 * frames_per_second))
    animation = FuncAnimation(canvas, draw, frames=frames, cache_frame_data=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # the writer takes a path alone
        made = Path(folder) / "animation.gif"
        animation.save(str(made), writer=PillowWriter(fps=frames_per_second))
        with files.replacing(path) as file:
            file.write(made.read_bytes())
