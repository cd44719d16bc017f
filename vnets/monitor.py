"""What a run tells while it goes: metrics.jsonl, TensorBoard, and that it goes on."""

import collections
import contextlib
import datetime
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vnets import extras, files, parallel

METRICS = "metrics.jsonl"
NOTES = "notes.log"  # what the record of a run is to tell besides
SILENCE = 30.0  # seconds after which a line is due, where there is no terminal
BEAT = 0.5  # seconds between looks at how far the device is

logger = logging.getLogger(__name__)


class Log:
    """One run's rows, one per epoch, in memory and, with a folder, on disk."""

    def __init__(self, folder: Path | None, rows: Sequence[dict], tensorboard: bool):
        """Opens a log that continues after these rows, of all epochs until now.

        The file is replaced by one that holds them: rows of later epochs, from before a
        kill, will come again. Of several processes the first writes.
        """
        self.rows = list(rows)
        self._file = self._board = None
        parallel.barrier()  # all have read
        if folder is None or not parallel.is_first():
            return
        path = Path(folder) / METRICS
        lines = (json.dumps(row) + "\n" for row in self.rows)
        files.write_text(path, "".join(lines))
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            extras.need("tensorboardX")
            from tensorboardX import SummaryWriter

            last = self.rows[-1]["epoch"] if self.rows else 0
            self._board = SummaryWriter(str(folder), purge_step=last + 1)

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


def read(path: Path, epochs: int | None = None) -> list[dict]:
    """Rows of a metrics.jsonl; a last line cut by a kill is left out.

    Args:
      path: of the file.
      epochs: how many to read; later rows may be anything. None reads all.

    Raises:
      FileError: it cannot be read, has a line that is no row, or lacks an epoch.
    """
    try:
        lines = files.read_text(path).splitlines(keepends=True)[:epochs]
    except (OSError, UnicodeDecodeError) as error:
        raise files.FileError(f"cannot read {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            epoch = row["epoch"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise files.FileError(
                f"{path} is damaged: line {number} is no row of an epoch"
            ) from error
        if epoch != number:
            raise files.FileError(
                f"{path} is damaged: line {number} is of epoch {epoch!r}"
            )
        rows.append(row)
    return rows


def note(folder: Path, text: str) -> None:
    """Says something in the log, and keeps it for the record of a workdir's run."""
    if parallel.is_first():
        logger.warning("%s: %s", folder, text)
        with (Path(folder) / NOTES).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def notes(folder: Path) -> list[str]:
    """All that was noted of a workdir's run."""
    path = Path(folder) / NOTES
    return files.read_text(path).splitlines() if path.exists() else []


class Work:
    """Something that takes a while, of which no more is known than since when."""

    total, step = 0, 0  # steps in all (0: not counted), and those that are done
    told = False  # whether its begin and its end are told, however short it is

    def __init__(self, title: str):
        """Begins now.

        Args:
          title: what is running.
        """
        self.title, self._began = title, time.monotonic()

    def look(self) -> None:
        """Counts what was done meanwhile."""

    def facts(self) -> str:
        """How far it is, in a line."""
        return f"{_clock(time.monotonic() - self._began)} gone"


class Progress(Work):
    """How far a training is, and how long it will take from here.

    The thread that trains says what it does, another one shows it (`shown`). Chunks are
    handed to the device far ahead of what it computes, so each is asked whether it is
    ready: nobody waits for it. The rate leaves compiling out, and the time left counts
    the evaluations that are to come as long as the last one took.
    """

    told = True

    def __init__(
        self,
        title: str,
        epochs: int,
        steps: int,
        *,
        done: int = 0,
        probed: Callable[[int], bool] = lambda epoch: False,
        early: bool = False,
    ):
        """Begins now, before anything is compiled.

        Args:
          title: what is running.
          epochs: in all.
          steps: of an epoch.
          done: steps that lie behind it already.
          probed: whether the epoch of this number, from 1 on, ends in an evaluation.
          early: whether it may end before its last epoch.
        """
        super().__init__(title)
        self.epochs, self.steps, self.total = epochs, steps, epochs * steps
        self.step = done
        self.text = ""  # what came of the last epoch
        self._probed, self._early = probed, early
        self._stage, self._since = "starting", time.monotonic()
        self._evaluation: float | None = None  # seconds that the last one took
        self._sent: collections.deque = collections.deque()
        self._lock = threading.Lock()
        # Steps of this call, seconds they took until the last of them was ready, and
        # when that was.
        self._trained, self._seconds, self._ready = 0, 0.0, self._since

    @property
    def epoch(self) -> int:
        """Epochs that are behind it."""
        return self.step // self.steps

    @contextlib.contextmanager
    def during(self, stage: str):
        """Says what is being done inside: "compiling", "training", "evaluating", ..."""
        before = self._stage
        self._stage, self._since = stage, time.monotonic()
        self._ready = self._since
        try:
            yield
        finally:
            if stage == "evaluating":
                self._evaluation = time.monotonic() - self._since
            begun = "" if before == "starting" else before
            self._stage, self._since = begun, time.monotonic()

    def sent(self, steps: int, ready: Callable[[], bool]) -> None:
        """So many steps were handed to the device, which will have done them then."""
        self._sent.append((steps, ready))

    def settled(self) -> None:
        """All that was sent is done."""
        with self._lock:
            if self._sent:
                self._count(sum(steps for steps, _ in self._sent))
                self._sent.clear()
        self.text = ""  # it was that of the epoch before

    def look(self) -> None:
        """Counts what the device has done meanwhile."""
        with self._lock:
            steps = 0
            while self._sent and self._sent[0][1]():
                steps += self._sent.popleft()[0]
            if steps:
                self._count(steps)

    def _count(self, steps: int) -> None:
        now = time.monotonic()
        self._seconds += now - self._ready
        self._ready = now
        self._trained += steps
        self.step += steps

    @property
    def rate(self) -> float:
        """Steps of a second; 0 before there are any."""
        return self._trained / self._seconds if self._seconds > 0 else 0.0

    def left(self) -> tuple[str, float] | None:
        """Seconds that it will take from here; None before a step was trained.

        The word before them is "over" where an evaluation is to come, and none was yet,
        "at most" where it may end early.
        """
        if not self.rate:
            return None
        now, seconds = time.monotonic(), (self.total - self.step) / self.rate
        if self._stage == "training":
            seconds -= min(now - self._ready, seconds)
        begun = self._stage == "evaluating"
        epochs = range(self.epoch + (not begun), self.epochs + 1)
        evaluations = sum(map(self._probed, epochs))
        if evaluations and self._evaluation is None:
            return "over ", seconds
        if evaluations and self._evaluation is not None:
            seconds += evaluations * self._evaluation
            seconds -= min(now - self._since, self._evaluation) if begun else 0.0
        return "at most " if self._early else "", seconds

    def facts(self) -> str:
        """How far it is, in a line."""
        left = self.left()
        facts = (
            "" if self._stage == "training" else self._stage,
            f"epoch {self.epoch}/{self.epochs}",
            f"step {self.step}/{self.total}",
            f"{self.rate:.3g} steps/s" if self.rate else "",
            super().facts(),
            f"{left[0]}{_clock(left[1])} left" if left else "",
            self.text,
        )
        return ", ".join(fact for fact in facts if fact)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


@contextlib.contextmanager
def shown(work: Work, enabled: bool = True):
    """Shows on stderr that something goes on, until the end of the block.

    On a terminal this is a bar. Anywhere else (a file, CI, a notebook, SLURM) it is a
    line every 30 seconds, and one where a training begins and ends.

    Args:
      work: what goes on.
      enabled: False shows nothing.
    """
    from rich.console import Console

    if not enabled:
        yield
        return
    screen = Console(stderr=True)
    plain = screen.is_dumb_terminal or not screen.is_terminal
    with _lines(work) if plain else _bar(work, screen) as look:
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT):
                look()

        thread = threading.Thread(target=beat, name="monitor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def _lines(work: Work):
    """Yields what prints a line if one is due."""
    said = time.monotonic()

    def say() -> None:
        nonlocal said
        said = time.monotonic()
        print(f"{work.title}: {work.facts()}", file=sys.stderr, flush=True)

    def look() -> None:
        work.look()
        if time.monotonic() - said >= SILENCE:
            say()

    if work.told:
        say()
    yield look
    if work.told:
        say()


@contextlib.contextmanager
def _bar(work: Work, screen):
    """Yields what draws the bar anew, and below it what there is to say."""
    from rich import console, live, progress, text

    title = progress.TextColumn("{task.description}", markup=False)
    bar = progress.Progress(title, progress.BarColumn(), auto_refresh=False)
    task = bar.add_task(work.title, total=work.total or None)
    with live.Live(console=screen, auto_refresh=False, transient=True) as shown:

        def look() -> None:
            work.look()
            bar.update(task, completed=work.step)
            facts = text.Text(work.facts(), style="dim")
            shown.update(console.Group(bar, facts), refresh=True)

        look()
        yield look
