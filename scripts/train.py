"""Trains one config, tests it every way and writes its record.

    python scripts/train.py --config=configs/lenet5_mnist.py:variance,quick \
        --workdir=runs/mine [--config.epochs=2] [--config.seed=1] [--tensorboard] \
        [--profile=10:15]

Called again with the same workdir it goes on from the last checkpoint. SIGTERM or
Ctrl-C saves where it is and exits with 75, by which a scheduler requeues; again, it
ends at once. A net that the run starts from is taken from RUNS, or trained there.

Started several times it is one run by several processes: by `srun` or `mpirun` as it
is, by hand with

    --coordinator=HOST:PORT --processes=2 --process_id=0 (and 1, and so on)
"""

import signal
import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.ranges import INDEX, NOT_NEGATIVE

CONFIG = cli.define_config()
WORKDIR = cli.define_path("workdir", None, "Folder of this run.", required=True)
CHECKPOINT_SECONDS = cli.define_number(
    "checkpoint_seconds", 60.0, "Least time between checkpoints.", NOT_NEGATIVE
)
KEEP_EVERY = cli.define_number(
    "keep_every", 0, "Epochs between checkpoints kept for good.", INDEX
)
RUNS = cli.define_path("runs", "runs", "Folder of nets that a run starts from.")
JOIN = cli.define_cluster()
PROFILE = cli.define_steps("profile", "FIRST:END of the steps to trace, in chunks.")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard files.")


def main(argv: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from experiments import running, workdirs
    from experiments.preemption import Preemption
    from vnets import parallel

    cli.no_arguments(argv)
    JOIN()
    config, name = CONFIG.value, cli.run_name(CONFIG.value)
    workdir = Path(WORKDIR.value)
    with Preemption(signal.SIGTERM, signal.SIGINT) as stop:
        [record] = running.run(
            config,
            name,
            lambda _: workdir,
            [config.seed],
            home=Path(RUNS.value),
            stop=stop,
            checkpoint_seconds=CHECKPOINT_SECONDS.value,
            keep_every=KEEP_EVERY.value,
            tensorboard=TENSORBOARD.value,
            profile=PROFILE.value,
        ).values()
    if record["status"] != "done":
        print(record["status"]["failed"], file=sys.stderr)
        return 1
    if not parallel.is_first():
        return 0
    table = Table("evaluation", "metrics", title=f"On the {_split(config)} set")
    for name, values in record["evals"].items():
        numbers = (f"{metric} {number:.5g}" for metric, number in values.items())
        table.add_row(name, ", ".join(numbers))
    Console().print(table)
    print(f"Record: {workdir / workdirs.RECORD}")
    return 0


def _split(config) -> str:
    """What a run is evaluated on: images held out, unless they ended its training."""
    held_out = config.get("dataset", {}).get("validation", 0)
    return "validation" if held_out and "early_stopping" not in config else "test"


if __name__ == "__main__":
    cli.run(main)
