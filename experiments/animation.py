"""The probes of a run as an animated figure: lines that grow with the epochs."""

import math
from pathlib import Path

from experiments import records, style
from vnets import monitor
from vnets.evaluate import standard_evals

CLOCK = ("epoch", "seconds", "probe_seconds")
# Lines that share a panel: its label and the names, or how they begin.
PANELS = (
    ("return of an episode", ("return", "det")),
    ("accuracy", ("accuracy", *standard_evals(), "cut", "gap")),
    ("nats", ("elbo", "data_term", "kl")),
    ("nats per example", ("loss", "nll", "entropy")),
    ("nats per unit and draw", ("mean_information", "variance_information")),
    ("log alpha", ("log_alpha/",)),
    ("fraction of zeros", ("sparsity", "sparsity/")),
    ("units left", ("units/",)),
    ("width of the band", ("width_inside", "width_outside")),
)


def history(source: Path) -> list[dict]:
    """The rows of a run that have probes.

    Args:
      source: a workdir with metrics.jsonl, or a record.

    Raises:
      RecordError: there is nothing of the kind, or it was not probed.
    """
    path = source / monitor.METRICS if source.is_dir() else source
    if not path.exists():
        raise records.RecordError(f"no run at {source}: {path} is not there")
    rows = monitor.read(path) if source.is_dir() else records.read(path)["history"]
    _check_rows(path, rows)
    probed = [row for row in rows if "probe_seconds" in row]
    if not probed:
        raise records.RecordError(f"{path} has no probes (see config.probe)")
    return probed


def _check_rows(path: Path, rows: list) -> None:
    """Refuses what is no history of a run: rows of numbers, each with its epoch."""
    for number, row in enumerate(rows, start=1):
        good = isinstance(row, dict) and "epoch" in row
        if not (good and all(isinstance(one, int | float) for one in row.values())):
            raise records.RecordError(f"{path}: row {number} is no row of a run")


def panels(rows: list[dict]) -> list[tuple[str, list[str]]]:
    """Label and names of the lines of each panel: all that the rows measured.

    What is in every row is drawn; lines of one unit share a panel (`PANELS`), any other
    has its own.
    """
    measured = [name for name in rows[0] if all(name in row for row in rows)]
    left = [name for name in measured if name not in CLOCK]
    found = []
    for label, kinds in PANELS:
        if kinds[0] == "return" and "return" not in left:
            continue  # a classifier's det is an accuracy
        names = [
            name
            for name in left
            if name in kinds or any(k[-1] == "/" and name.startswith(k) for k in kinds)
        ]
        found += [(label, names)] if names else []
        left = [name for name in left if name not in names]
    return found + [(name, [name]) for name in left]


def save(
    rows: list[dict], path: Path, *, title: str = "", frames_per_second: float = 4.0
) -> None:
    """Writes a GIF.

    Args:
      rows: of `history`.
      path: of the GIF.
      title: above the figure.
      frames_per_second: a frame is an epoch that was probed; the last one stays longer.
    """
    import matplotlib

    shown = panels(rows)
    columns = 1 if len(shown) < 3 else 2
    count = -(-len(shown) // columns)
    epochs = [row["epoch"] for row in rows]
    with matplotlib.rc_context(style.STYLE):
        size = (7.0 * columns, 2.9 * count)
        figure, grid = style.panels(len(shown), columns, size, 100)
        lines = []
        for axes, (label, names) in zip(grid, shown, strict=False):
            values = [row[name] for row in rows for name in names]
            finite = [value for value in values if math.isfinite(value)] or [0.0]
            margin = 0.05 * (max(finite) - min(finite)) or 0.01
            axes.set_ylim(min(finite) - margin, max(finite) + margin)
            axes.set_xlim(min(epochs) - 0.2, max(epochs) + 0.2)
            axes.set_ylabel(label)
            axes.set_xlabel("epoch")
            for number, name in enumerate(names):
                entry = name.rpartition("/")[2]
                [line] = axes.plot([], [], label=entry, **style.of(number))
                lines.append((line, name))
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)

        def draw(frame: int):
            upto = rows[: min(frame, len(rows) - 1) + 1]
            for line, name in lines:
                line.set_data(epochs[: len(upto)], [row[name] for row in upto])
            figure.suptitle(f"{title}  epoch {upto[-1]['epoch']}", fontsize=9)
            return [line for line, _ in lines]

        draw(0)
        style.write_animation(figure, draw, len(rows), path, frames_per_second)
