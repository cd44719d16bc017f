"""Runs of yours as further rows of a table, beside ours and the published numbers."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.config_files import split_run
from experiments.records import Record, RecordError, find, read
from experiments.tables.outcomes import Outcome, aggregate, collect
from experiments.tables.specs import Row, Table, TableError

Runs = dict[Path, Record]


def runs(places: Iterable[str]) -> Runs:
    """The records of some places: each a record's file, or a folder that has some.

    Raises:
      RecordError: a place without a record, or a record that is damaged.
    """
    found: Runs = {}
    for place in map(Path, places):
        files = [place] if place.is_file() else find(place)
        if not files:
            raise RecordError(f"{place} has no record: neither it nor a folder in it")
        found |= {path: read(path) for path in files}
    return found


def choose(tables: Sequence[Table], given: Runs) -> list[Table]:
    """Those of some tables that have a row of the same config file as a run.

    Raises:
      TableError: there is none.
    """
    stems = {split_run(record["run"])[0] for record in given.values()}
    chosen = [
        table for table in tables if stems & {split_run(r.run)[0] for r in table.row}
    ]
    if not chosen:
        raise TableError(
            f"no table has a row of {', '.join(sorted(stems))}; give --table, one of "
            f"{', '.join(table.name for table in tables)}"
        )
    return chosen


def beside(table: Table, scale: str, folder: Path, given: Runs) -> Outcome:
    """A table's outcome at a scale, with a row more for each configuration of `given`.

    A column that a run has no number for stays empty, and a run without any is left
    out. What was trained at another scale is shown, too, and its row says so.

    Args:
      table: whose columns and rows are shown.
      scale: one of the table's.
      folder: of the records of its own rows.
      given: the runs to compare.

    Raises:
      TableError: an unknown scale; a seed of a configuration twice; no run has a number
        of the table.
    """
    ours = aggregate(table, scale, collect(table, scale, folder))
    groups: dict[str, Runs] = {}
    for path, record in given.items():
        key = f"{record['run']} {record['config_hash']}"
        groups.setdefault(key, {})[path] = record
    rows, records = [], {}
    for key, group in groups.items():
        first = next(iter(group.values()))
        run = f"compared:{key}"
        label = f"{first['variant']}, yours"
        if any(row.label == label for row in rows):
            label += f" ({first['config_hash'][:6]})"
        rows.append(Row(key, label, run, note=_note(group)))
        same = {"run": run, "scale": scale}
        records |= {path: {**record, **same} for path, record in group.items()}
    only = dataclasses.replace(
        table,
        row=rows,
        claim=[],
        scale={scale: dataclasses.replace(table.scale[scale], rows=[])},
    )
    theirs = aggregate(only, scale, records)
    shown = [
        measured
        for measured in theirs.rows
        if measured.failed or any(cell.values for cell in measured.cells.values())
    ]
    if not shown:
        raise TableError(
            f"none of the runs has a number of table {table.name}, whose columns are "
            f"{', '.join(column.name for column in table.column)}"
        )
    return dataclasses.replace(ours, rows=[*ours.rows, *shown])


def all_of(
    tables: Sequence[Table], scale: str, folder: Path, given: Runs
) -> list[Outcome]:
    """`beside` of each table at a scale ("": at those of the runs).

    Raises:
      TableError: no table has such a scale; see `beside`.
    """
    scales = {scale} if scale else {record["scale"] for record in given.values()}
    shown = [
        beside(table, name, folder, given)
        for table in tables
        for name in table.scale
        if name in scales
    ]
    if not shown:
        known = "; ".join(f"{one.name}: {', '.join(one.scale)}" for one in tables)
        raise TableError(
            f"no table has scale {', '.join(sorted(scales))}; give --scale, of {known}"
        )
    return shown


def _note(group: Runs) -> str:
    record = next(iter(group.values()))
    at = f"{record['run']} at scale {record['scale']}"
    return f"{at}, from {', '.join(str(path.parent) for path in group)}"
