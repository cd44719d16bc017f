"""Trains the rows of a table that have no record yet."""

import gc
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import jax

from experiments import running, workdirs
from experiments.config_files import load_config, run_folder
from experiments.preemption import Preemption
from experiments.records import Record
from experiments.tables.specs import Row, Table
from vnets.ops import onednn


def wanted(
    table: Table, scale: str, seeds: Sequence[int]
) -> Iterator[tuple[Row, Sequence[int]]]:
    """The rows of a table at a scale; of the seeds the first, where there is a cap,
    counted from the row's own first one."""
    cap = table.scale[scale].seeds
    for row in table.rows_at(scale):
        capped = seeds[: min(filter(None, (row.seeds, cap)), default=None)]
        yield row, [row.first_seed + seed for seed in capped]


def train_missing(
    table: Table,
    scale: str,
    seeds: Sequence[int],
    home: Path,
    rows: Collection[str] = (),
    stop: Preemption | None = None,
) -> dict[Path, Record]:
    """Runs whatever of a table has no record, row by row.

    Args:
      table: what to reproduce.
      scale: one of the table's.
      seeds: of each row; the first of them where row or scale cap their number.
      home: folder of this machine's runs; see `config_files.run_folder`.
      rows: names of the rows to train; all if empty. Others are shown as they stand.
      stop: asks training to save and to stop.

    Returns:
      The records there are then, by path.

    Raises:
      ConfigError, DataError, WorkdirError, RecordError, Preempted: see `running.run`.
    """
    records = {}
    for row, row_seeds in wanted(table, scale, seeds):
        config = load_config(f"{row.run},{scale}")

        def folder(seed: int, run=row.run) -> Path:
            return run_folder(home, run, scale, seed)

        def held(seed: int, config=config, folder=folder) -> Record | None:
            return workdirs.held_record(folder(seed), config)

        missing = [seed for seed in row_seeds if held(seed) is None]
        if missing and (not rows or row.name in rows):
            names = ", ".join(map(str, missing))
            print(f"{row.label}: running seeds {names} ...", flush=True)
            stale = Path(home) / "stale"
            running.run(
                config, row.run, folder, missing, home=home, stale=stale, stop=stop
            )
        for seed in row_seeds:
            record = held(seed)
            if record is not None:
                records[folder(seed) / workdirs.RECORD] = record
    return records


def forget_programs() -> None:
    """Frees what was compiled, in this process.

    A compiled program holds mappings of memory. Linux limits how many a process may
    have (`vm.max_map_count`), and XLA crashes where none is left.
    """
    jax.clear_caches()
    onednn.forget()
    gc.collect()
