"""What a run tells while it goes: metrics.jsonl, TensorBoard and a progress display."""

import contextlib
import json
from pathlib import Path

from vnets import parallel

METRICS = "metrics.jsonl"


class Log:
    """One run's rows, one per epoch, in memory and, with a folder, on disk."""

    def __init__(self, folder: Path | None, epochs_done: int, tensorboard: bool):
        """Opens a log that continues after `epochs_done` epochs.

        Rows of later epochs, from before a kill, are dropped: they will come again.
        Of several processes all have the rows, and the first writes.
        """
        self.rows: list[dict] = []
        self._file = self._board = None
        if folder is None:
            return
        path = Path(folder) / METRICS
        if epochs_done and path.exists():
            self.rows = [row for row in read(path) if row["epoch"] <= epochs_done]
        parallel.barrier()  # all have read
        if not parallel.is_first():
            return
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def add(self, row: dict) -> None:
        """Appends the row of one epoch: {"epoch": int, name: float, ...}."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, row["epoch"])

    def close(self) -> None:
        """Closes the files; the rows stay."""
        for sink in (self._file, self._board):
            if sink is not None:
                sink.close()


def read(path: Path) -> list[dict]:
    """Rows of a metrics.jsonl; a last line cut by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


@contextlib.contextmanager
def progress(title: str, total: int, done: int = 0, enabled: bool = True):
    """A bar with the time left, on a terminal only; yields advance(text).

    Args:
      title: what is running.
      total: steps (here: epochs) in all.
      done: those behind it already.
      enabled: False shows nothing.
    """
    from rich import console, progress

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[text]}"),
        console=console.Console(stderr=True),
        disable=not enabled or not console.Console(stderr=True).is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=total, completed=done, text="")
        yield lambda text="": bar.update(task, advance=1, text=text)
