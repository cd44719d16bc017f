"""The numbers of a row in one column, from the records of its seeds."""

import dataclasses
import itertools
import math
import statistics
from pathlib import Path

from experiments.records import Record
from experiments.tables.specs import Column, Row, Table, TableError


@dataclasses.dataclass(frozen=True)
class Cell:
    """The values of the seeds; std is the sample's (n - 1), None for fewer than two."""

    values: list[float]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        # Not statistics.stdev: its exact fractions refuse a NaN.
        if len(self.values) < 2:
            return None
        mean = statistics.fmean(self.values)
        squares = math.fsum((value - mean) ** 2 for value in self.values)
        return math.sqrt(squares / (len(self.values) - 1))


def fill(
    table: Table, column: Column, row: Row, records: dict[Path, Record], owed: bool
) -> Cell:
    """A column's values by seed; empty where it says nothing of the row.

    That is where the row is `without` it, or where none of its records has the number
    and it is not `owed`.

    Raises:
      TableError: a record has no number that is owed, or that others of the row have.
    """
    if column.name in row.without:
        return Cell([])
    values = {path: _value(table, column, record) for path, record in records.items()}
    known = [value for value in values.values() if value is not None]
    if len(known) < len(values) and (known or owed):
        path = next(path for path, value in values.items() if value is None)
        raise TableError(f"{path} {_lacking(table, column, records[path])}")
    return Cell(known)


def _value(table: Table, column: Column, record: Record) -> float | None:
    if column.history:
        return _summary(column, record)
    value = record["evals"].get(column.eval, {}).get(column.metric or table.metric)
    if not isinstance(value, int | float):
        return None
    return (table.factor if column.plain else column.factor) * float(value)


def _lacking(table: Table, column: Column, record: Record) -> str:
    if column.history:
        return f"has no {column.history} in its history"
    return (
        f"has no number {column.metric or table.metric} of evaluation {column.eval}; "
        f"its evaluations are {', '.join(record['evals']) or 'none'}"
    )


def _summary(column: Column, record: Record) -> float | None:
    """The number that a column makes of what a run's probes measured."""
    probes = [probe for probe in record["history"] if column.history in probe]
    if not probes:
        return None
    values = [probe[column.history] for probe in probes]
    if column.summary == "epochs_to":
        reached = [p["epoch"] for p in probes if p[column.history] >= column.level]
        return column.factor * min(reached, default=math.inf)
    if column.summary == "last":
        return column.factor * values[-1]
    best = itertools.accumulate(values, max)
    return column.factor * max(b - v for b, v in zip(best, values, strict=True))
