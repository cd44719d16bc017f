"""Trains the rows of a table that have no record yet."""

import importlib.util
from collections.abc import Collection, Sequence
from pathlib import Path

from experiments import core
from experiments.table_specs import Table
from vnets.results import Record

ROOT = Path(__file__).resolve().parents[1]


def load_config(which: str):
    """The config of "configs/<file>.py:<variant>[,<scale>]"."""
    file, _, variant = which.partition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


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
      seeds: of each row.
      home: folder of this table and scale; a run lies in <row>/seed<k> of it.
      rows: names of the rows to train; all if empty. Others are shown as they stand.

    Returns:
      The records there are then, by path.

    Raises:
      ConfigError, DataError, WorkdirError, RecordError: see `core.run`.
    """
    records = {}
    for row in table.row:
        config = load_config(f"{row.run},{scale}")

        def folder(seed: int, row=row) -> Path:
            return home / row.name / f"seed{seed}"

        missing = [s for s in seeds if core.held_record(folder(s), config) is None]
        if missing and (not rows or row.name in rows):
            for seed in missing:
                stale = home.parents[1] / "stale" / home.parent.name / home.name
                moved = core.set_aside(folder(seed), config, stale / row.name)
                if moved:
                    print(f"{folder(seed)} is of another config: moved to {moved}")
            names = ", ".join(map(str, missing))
            print(f"{row.label}: training seeds {names} ...", flush=True)
            core.run(config, row.run, folder, missing)
        for seed in seeds:
            record = core.held_record(folder(seed), config)
            if record is not None:
                records[folder(seed) / core.RECORD] = record
    return records
