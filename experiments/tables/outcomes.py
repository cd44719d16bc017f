"""What was measured beside what was published, from records alone.

`aggregate` sets the records of one scale against a table of configs/tables. Every
number is in the table's unit.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.config_files import scale_folder
from experiments.records import Record, folders
from experiments.tables.cells import Cell, fill
from experiments.tables.specs import Claim, Row, Scale, Table, TableError, choice

# A tolerance of 0.3 must hold for 99.3 against 99.6 whatever binary makes of them.
DIGITS = 9


@dataclasses.dataclass(frozen=True)
class Gap:
    """A published number, measured minus published, and whether it is within the
    tolerance; None where there is nothing measured or nothing to compare. `relative` if
    the tolerance is a fraction of the published number."""

    published: float
    difference: float | None
    within: bool | None
    relative: bool = False


@dataclasses.dataclass(frozen=True)
class RowResult:
    """A row with its finished records (by seed), cells by column, gaps[version][column]
    and the reasons of the seeds that failed."""

    row: Row
    records: list[Record]
    cells: dict[str, Cell]
    gaps: dict[str, dict[str, Gap]]
    failed: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim made at this scale; `value` and `holds` are None if not measured.

    `seeds` is how many the value is a mean over, the fewer where it compares two.
    """

    claim: Claim
    kind: str
    bound: float
    value: float | None
    holds: bool | None
    seeds: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A table at one scale, filled from records."""

    table: Table
    scale: Scale
    rows: list[RowResult]
    verdicts: list[Verdict]

    def ran(self) -> "Outcome":
        """The same of the rows with a record or a failure."""
        rows = [one for one in self.rows if one.records or one.failed]
        return dataclasses.replace(self, rows=rows)


def aggregate(table: Table, scale: str, records: dict[Path, Record]) -> Outcome:
    """Returns `table` filled from those of `records` that have a row's run and `scale`;
    configs are shared between tables, so there may be others.

    Raises:
      TableError: unknown scale; a seed of a row twice; records of one row with
        different configurations; a finished record without a column's number, though
        others of its row have it, or it was published or is claimed of the row.
    """
    choice(scale, table.scale, f"scale of table {table.name}")
    shown = table.rows_at(scale)
    runs = {row.run: {} for row in shown}
    for path, record in sorted(records.items()):
        if record["scale"] == scale and record["run"] in runs:
            runs[record["run"]][path] = record
    names = {row.name for row in shown}
    claims = [
        claim
        for claim in table.claim
        if scale in claim.bound[1] and {claim.row, claim.other or claim.row} <= names
    ]
    rows = [
        _measure(table, table.scale[scale], row, runs[row.run], _owed(row, claims))
        for row in shown
    ]
    cells = {measured.row.name: measured.cells for measured in rows}
    verdicts = [_judge(claim, scale, cells) for claim in claims]
    return Outcome(table, table.scale[scale], rows, verdicts)


def all_of(
    tables: Iterable[Table], scale: str, folder: Path
) -> list[tuple[Path, Outcome]]:
    """Returns the outcome of each table and scale ("": every one) that has records,
    with <folder>/<table>/<scale>, where it is shown; not all tables have all scales."""
    found = []
    for table in tables:
        for name in table.scale:
            records = collect(table, name, folder) if scale in ("", name) else {}
            if records:
                home = folder / table.name / name
                found.append((home, aggregate(table, name, records)))
    return found


def collect(table: Table, scale: str, folder: Path) -> dict[Path, Record]:
    """Returns the records of a table's rows below a folder of runs or of results."""
    runs = {row.run for row in table.rows_at(scale)}
    homes = dict.fromkeys(scale_folder(folder, run, scale) for run in sorted(runs))
    records = {}
    for home in homes:
        records |= folders.collect(home)
    return {path: r for path, r in records.items() if r["run"] in runs}


def _owed(row: Row, claims: list[Claim]) -> set[str]:
    """The columns that were published or are claimed of a row: it must have them."""
    owed = {column for numbers in row.paper.values() for column in numbers}
    owed |= {claim.column for claim in claims if claim.row == row.name}
    return owed | {
        claim.other_column or claim.column
        for claim in claims
        if (claim.other or claim.row) == row.name
    }


def _measure(
    table: Table, scale: Scale, row: Row, records: dict[Path, Record], owed: set[str]
) -> RowResult:
    _require_one_row(row, records)
    done = {path: r for path, r in records.items() if r["status"] == "done"}
    failed = {
        record["seed"]: record["status"]["failed"]
        for path, record in records.items()
        if path not in done
    }
    done = dict(sorted(done.items(), key=lambda item: item[1]["seed"]))
    cells = {
        column.name: fill(table, column, row, done, column.name in owed)
        for column in table.column
    }
    gaps = {
        version: {
            column: _gap(cells[column].mean, number, scale, column)
            for column, number in numbers.items()
        }
        for version, numbers in row.paper.items()
    }
    return RowResult(
        row, list(done.values()), cells, gaps, dict(sorted(failed.items()))
    )


def _require_one_row(row: Row, records: dict[Path, Record]) -> None:
    """Seeds of a row differ in nothing but the seed, and each counts once."""
    configs = _group(records, "config_hash")
    if len(configs) > 1:
        files = "; ".join(", ".join(group) for group in configs.values())
        raise TableError(f"row {row.name} mixes different configurations: {files}")
    for seed, group in _group(records, "seed").items():
        if len(group) > 1:
            raise TableError(f"row {row.name} has seed {seed} twice: {group}")


def _group(records: dict[Path, Record], key: str) -> dict[Any, list[str]]:
    groups: dict[Any, list[str]] = {}
    for path, record in records.items():
        groups.setdefault(record[key], []).append(str(path))
    return groups


def _gap(mean: float | None, published: float, scale: Scale, column: str) -> Gap:
    if mean is None:
        return Gap(published, None, None)
    difference = round(mean - published, DIGITS)
    if column in scale.relative:
        bound = round(scale.relative[column] * abs(published), DIGITS)
        return Gap(published, difference, abs(difference) <= bound, relative=True)
    tolerance = scale.tolerance.get(column)
    within = None if tolerance is None else abs(difference) <= tolerance
    return Gap(published, difference, within)


def _judge(claim: Claim, scale: str, cells: dict[str, dict[str, Cell]]) -> Verdict:
    kind, bounds = claim.bound
    bound = bounds[scale]
    cell = cells[claim.row][claim.column]
    value, seeds = cell.mean, len(cell.values)
    if (claim.other or claim.other_column) and value is not None:
        row, column = claim.other or claim.row, claim.other_column or claim.column
        other = cells[row][column]
        seeds = min(seeds, len(other.values))
        value = None if other.mean is None else value - other.mean
    if value is None:
        return Verdict(claim, kind, bound, None, None, 0)
    value = round(value, DIGITS)
    holds = {
        "at_most": value <= bound,
        "at_least": value >= bound,
        "within": abs(value) <= bound,
    }
    return Verdict(claim, kind, bound, value, holds[kind], seeds)
