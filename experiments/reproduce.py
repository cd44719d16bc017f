"""Trains the rows of a table that have no record yet."""

from collections.abc import Collection, Sequence
from pathlib import Path

from experiments import core, workdirs
from experiments.config_files import load_config, run_folder
from experiments.table_specs import Table
from vnets.results import Record


def train_missing(
    table: Table,
    scale: str,
    seeds: Sequence[int],
    home: Path,
    rows: Collection[str] = (),
) -> dict[Path, Record]:
    """Runs whatever of a table has no record, row by row.

    Args:
      table: what to reproduce.
      scale: one of the table's.
      seeds: of each row; the first of them where row or scale cap their number.
      home: folder of this machine's runs; see `config_files.run_folder`.
      rows: names of the rows to train; all if empty. Others are shown as they stand.

    Returns:
      The records there are then, by path.

    Raises:
      ConfigError, DataError, WorkdirError, RecordError: see `core.run`.
    """
    records, cap = {}, table.scale[scale].seeds
    for row in table.rows_at(scale):
        config = load_config(f"{row.run},{scale}")

        def folder(seed: int, run=row.run) -> Path:
            return run_folder(home, run, scale, seed)

        wanted = seeds[: min(filter(None, (row.seeds, cap)), default=None)]
        missing = [s for s in wanted if workdirs.held_record(folder(s), config) is None]
        if missing and (not rows or row.name in rows):
            for seed in missing:
                moved = workdirs.set_aside(folder(seed), config, Path(home) / "stale")
                if moved:
                    print(f"{folder(seed)} is of another config: moved to {moved}")
            names = ", ".join(map(str, missing))
            print(f"{row.label}: running seeds {names} ...", flush=True)
            core.run(config, row.run, folder, missing, home=home)
        for seed in wanted:
            record = workdirs.held_record(folder(seed), config)
            if record is not None:
                records[folder(seed) / workdirs.RECORD] = record
    return records
