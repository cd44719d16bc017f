"""A trace of some steps of training, for a profiler."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

FOLDER = "profile"  # in the workdir

logger = logging.getLogger(__name__)


class Trace:
    """Writes what host and devices do in the steps from `first` to `end`, exclusive.

    Steps are compiled in chunks, so whole chunks are traced: all that have one of these
    steps. `<folder>/profile/` then has an .xplane.pb for XProf or TensorBoard and a
    .trace.json.gz for ui.perfetto.dev.
    """

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path | None, chunk: int, done: int
    ):
        """A trace of no steps, or without a folder, does nothing.

        Args:
          steps: first and end, of all steps of the run.
          folder: the workdir.
          chunk: steps that are compiled as one.
          done: steps that are behind the run when it starts or goes on.
        """
        self.first, self.end = steps or (0, 0)
        self.folder, self.chunk, self.running = folder, chunk, False
        if steps and done >= self.end:
            logger.warning(
                "profile %d:%d: nothing to trace, the run goes on from step %d",
                *(*steps, done),
            )

    @contextlib.contextmanager
    def around(self, step: int, metrics: list) -> Iterator[None]:
        """Around the call of a chunk: starts before it and stops after it, if due.

        Args:
          step: the first of the chunk.
          metrics: of the chunks so far, to which the call adds its own; the device has
            finished them when a trace starts or stops.
        """
        reached = step < self.end and step + self.chunk > self.first
        if self.folder is not None and reached and not self.running:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(str(self.folder / FOLDER))
            self.running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if self.running and step + self.chunk >= self.end:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes what was traced, if anything."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
