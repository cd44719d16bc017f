"""The probes of a run as an animated figure: lines that grow with the epochs."""

from pathlib import Path

from experiments.figures import COLOURS, DASHES, STYLE
from vnets import monitor, results
from vnets.evaluate import standard_evals

LOG_ALPHA = "log_alpha/"


def history(source: Path) -> list[dict]:
    """The rows of a run that have probes.

    Args:
      source: a workdir with metrics.jsonl, or a record.

    Raises:
      RecordError: there is nothing of the kind, or it was not probed.
    """
    path = source / monitor.METRICS if source.is_dir() else source
    if not path.exists():
        raise results.RecordError(f"no run at {source}: {path} is not there")
    rows = monitor.read(path) if source.is_dir() else results.read(path)["history"]
    probed = [row for row in rows if any(name in row for name in standard_evals())]
    if not probed:
        raise results.RecordError(f"{path} has no probes (see config.probe)")
    return probed


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
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.figure import Figure

    panels = [("accuracy", [name for name in standard_evals() if name in rows[0]])]
    alphas = sorted(name for name in rows[0] if name.startswith(LOG_ALPHA))
    panels += [("log alpha", alphas)] if alphas else []
    epochs = [row["epoch"] for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 2.9 * len(panels)), dpi=100, layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        lines = []
        for axes, (label, names) in zip(grid, panels, strict=True):
            values = [row[name] for row in rows for name in names]
            margin = 0.05 * (max(values) - min(values)) + 0.01
            axes.set_ylim(min(values) - margin, max(values) + margin)
            axes.set_xlim(min(epochs) - 0.2, max(epochs) + 0.2)
            axes.set_ylabel(label)
            for number, name in enumerate(names):
                colour = COLOURS[number % len(COLOURS)]
                style = DASHES[number % len(DASHES)]
                shown = name.removeprefix(LOG_ALPHA)
                [line] = axes.plot([], [], color=colour, ls=style, label=shown)
                lines.append((line, name))
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        grid[-1].set_xlabel("epoch")

        def draw(frame: int):
            upto = rows[: min(frame, len(rows) - 1) + 1]
            for line, name in lines:
                line.set_data(epochs[: len(upto)], [row[name] for row in upto])
            figure.suptitle(f"{title}\nepoch {upto[-1]['epoch']}", fontsize=9)
            return [line for line, _ in lines]

        pause = max(1, round(2 * frames_per_second))  # two seconds on the last frame
        count = len(rows) + pause
        animation = FuncAnimation(figure, draw, frames=count, cache_frame_data=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        animation.save(str(path), writer=PillowWriter(fps=frames_per_second))
