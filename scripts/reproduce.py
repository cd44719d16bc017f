"""Reproduces a table: trains what this machine has no record of, then shows it.

    python scripts/reproduce.py [--table=lenet5_mnist] [--scale=quick] [--seeds=3] \
        [--rows=variance,dropout] [--minutes=30]

With an empty table (`--table=`) it reproduces all of them; with `--minutes` it begins
no further one when these are over, and names those that it left out.

Runs lie in RUNS/CONFIG/SCALE/VARIANT/seed<k>, where tables share them. Interrupted, it
goes on where it was (SIGTERM and Ctrl-C save first, and it exits with 75); a run of a
config that has changed since is moved to RUNS/stale and trained anew.
"""

import math
import signal
import sys
import time
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.ranges import COUNT, NOT_NEGATIVE

TABLE = flags.DEFINE_string(
    "table", "lenet5_mnist", "Table, of configs/tables; all of them if empty."
)
SCALE = cli.define_scale("quick", "Scale, of those the table knows.")
SEEDS = cli.define_number("seeds", 3, "Seeds 0, 1, ... of each row.", COUNT)
ROWS = flags.DEFINE_list("rows", [], "Rows to train; all by default.")
MINUTES = cli.define_number(
    "minutes", None, "Begin no table after so many; all by default.", NOT_NEGATIVE
)
RUNS = cli.define_path("runs", "runs", "Folder of this machine's runs.")


def main(argv: list[str]) -> int:
    from experiments import reproduce
    from experiments.preemption import Preemption
    from experiments.tables import outcomes, reading, specs, terminal

    cli.no_arguments(argv)
    tables = reading.select(TABLE.value, SCALE.value)
    tables = [table for table in tables if SCALE.value in table.scale]
    known = [row.name for table in tables for row in table.rows_at(SCALE.value)]
    for name in ROWS.value:
        specs.choice(name, known, f"row at scale {SCALE.value}")
    home, took = Path(RUNS.value), {}
    end = math.inf if MINUTES.value is None else 60 * MINUTES.value
    for table in tables:
        if sum(took.values()) >= end:
            break
        began = time.monotonic()
        with Preemption(signal.SIGTERM, signal.SIGINT) as stop:
            records = reproduce.train_missing(
                table, SCALE.value, range(SEEDS.value), home, ROWS.value, stop
            )
        outcome = outcomes.aggregate(table, SCALE.value, records)
        terminal.show(home / table.name / SCALE.value, outcome)
        reproduce.forget_programs()
        took[table.name] = time.monotonic() - began
    each = ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items())
    print(f"Seconds: {each}; in all {sum(took.values()):.0f}")
    left = [table.name for table in tables if table.name not in took]
    if left:
        print(f"Left out, as {MINUTES.value:g} minutes are over: {', '.join(left)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
