"""Table specifications: rows, columns and published numbers, from configs/tables.

A TOML file there says which run stands in which row, which evaluation in which column,
what was published and where, and, before any run, the tolerances and the claims.
Numbers are in the table's unit: a record's number times `factor`.
"""

import dataclasses
import math
import tomllib
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPECS = Path(__file__).resolve().parents[1] / "configs" / "tables"
# How a published number is known. Numbers from memory have no tag and no place here.
TAGS = {
    "C": "the authors' code",
    "S": "the authors' slides, poster or README",
    "P": "the paper",
    "R": "a third party's re-implementation or review",
    "F": "a figure, by eye",
}
BOUNDS = ("at_most", "at_least", "within")


class TableError(ValueError):
    """A table's file, or the records given for it, cannot be used; says which."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the runs are; tolerances by column, where the paper is comparable."""

    name: str
    text: str
    tolerance: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """An evaluation of the records."""

    eval: str
    label: str


@dataclasses.dataclass(frozen=True)
class Published:
    """A published version of the numbers and how it is known."""

    name: str
    label: str
    source: str
    tag: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A run and its published numbers, paper[version][column]."""

    name: str
    label: str
    run: str
    paper: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A bound, by scale, on a row's mean or on its distance to the row `other`."""

    text: str
    row: str
    column: str
    other: str = ""
    at_most: dict[str, float] = dataclasses.field(default_factory=dict)
    at_least: dict[str, float] = dataclasses.field(default_factory=dict)
    within: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def bound(self) -> tuple[str, dict[str, float]]:
        """The kind of the bound and its value by scale."""
        return next((k, getattr(self, k)) for k in BOUNDS if getattr(self, k))


@dataclasses.dataclass(frozen=True)
class Table:
    """A table's file, validated. `chance` is in the table's unit."""

    name: str
    title: str
    metric: str
    scale: dict[str, Scale]
    column: list[Column]
    published: list[Published]
    row: list[Row]
    claim: list[Claim] = dataclasses.field(default_factory=list)
    factor: float = 1.0
    unit: str = ""
    chance: float = math.nan


def names(folder: Path = SPECS) -> list[str]:
    """Returns the names of all tables."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def find(name: str, scale: str = "", folder: Path = SPECS) -> Table:
    """Returns the table `name`, which must know `scale` where one is given."""
    choice(name, names(folder), "table")
    table = load(folder / f"{name}.toml")
    if scale:
        choice(scale, table.scale, f"scale of table {name}")
    return table


def select(name: str = "", scale: str = "", folder: Path = SPECS) -> list[Table]:
    """Returns the table `name`, or all; `scale`, where given, must be known to one."""
    if name:
        return [find(name, scale, folder)]
    tables = [find(stem, folder=folder) for stem in names(folder)]
    if scale:
        choice(scale, dict.fromkeys(s for t in tables for s in t.scale), "scale")
    return tables


def load(path: Path) -> Table:
    """Returns the table at `path`.

    Raises:
      TableError: not TOML, an unknown or missing key, a value of a wrong type, or a
        name (row, column, scale, published version, tag) that is not there.
    """
    try:
        entry = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: {error}") from error
    try:
        table = _read_table(path.stem, entry)
        _check(table)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    return table


def _read_table(name: str, entry: dict[str, Any]) -> Table:
    parts = {"column": Column, "published": Published, "row": Row, "claim": Claim}
    scales = entry.get("scale")
    if not isinstance(scales, dict):
        raise TableError("[scale.<name>] is missing")
    read = dict(entry, name=name)
    read["scale"] = {
        key: _build(Scale, {"name": key, **_mapping(value, key)}, f"scale.{key}")
        for key, value in scales.items()
    }
    for key, kind in parts.items():
        if not isinstance(entry.get(key, []), list):
            raise TableError(f"{key} must be written [[{key}]]")
        if key in entry:
            read[key] = [
                _build(kind, _mapping(item, key), f"{key} {i + 1}")
                for i, item in enumerate(entry[key])
            ]
    return _build(Table, read, "table")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TableError(f"{where} must be a table, not {value!r}")
    return value


def _build(kind: type, entry: dict[str, Any], where: str) -> Any:
    """Returns the dataclass `kind` from `entry`, refusing unknown and missing keys."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in entry.items():
        choice(key, fields, f"key of {where}")
        if not _conforms(value, fields[key].type):
            raise TableError(f"{where}: {key} = {value!r} must be {fields[key].type}")
    nothing = dataclasses.MISSING
    for name, field in fields.items():
        required = field.default is nothing and field.default_factory is nothing
        if required and name not in entry:
            raise TableError(f"{where}: {name} is missing")
    return kind(**entry)


def _conforms(value: Any, kind: Any) -> bool:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(
            _conforms(item, arguments[1]) for item in value.values()
        )
    if typing.get_origin(kind) is list:
        return all(_conforms(item, arguments[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _check(table: Table) -> None:
    """Holds every name in the file to what it names."""
    rows = [row.name for row in table.row]
    columns = [column.eval for column in table.column]
    versions = [version.name for version in table.published]
    runs = [row.run for row in table.row]
    for what, given in (("row", rows), ("column", columns), ("run", runs)):
        if len(set(given)) < len(given):
            raise TableError(f"a {what} stands twice: {', '.join(given)}")
    for scale in table.scale.values():
        for column in scale.tolerance:
            choice(column, columns, f"column in the tolerance of scale {scale.name}")
    for version in table.published:
        choice(version.tag, TAGS, f"tag of published {version.name}")
    for row in table.row:
        path, _, variant = row.run.partition(":")
        if not (path.endswith(".py") and variant):
            raise TableError(f"row {row.name}: run = '<config>.py:<variant>'")
        for version, numbers in row.paper.items():
            choice(version, versions, f"published version in row {row.name}")
            for column in numbers:
                choice(column, columns, f"column in row {row.name}, paper.{version}")
    for i, claim in enumerate(table.claim, 1):
        _check_claim(claim, f"claim {i}", rows, columns, table)


def _check_claim(
    claim: Claim, where: str, rows: list[str], columns: list[str], table: Table
) -> None:
    choice(claim.row, rows, f"row of {where}")
    choice(claim.column, columns, f"column of {where}")
    kinds = [kind for kind in BOUNDS if getattr(claim, kind)]
    if len(kinds) != 1:
        raise TableError(f"{where}: give one of {', '.join(BOUNDS)}, not {kinds}")
    if (kinds == ["within"]) != bool(claim.other):
        raise TableError(f"{where}: within and other, a row, go together")
    if claim.other:
        choice(claim.other, rows, f"other of {where}")
    for scale in claim.bound[1]:
        choice(scale, table.scale, f"scale of {where}")


def choice(name: str, valid: Iterable[str], what: str) -> None:
    """Raises TableError, naming the valid choices, unless `name` is one of them."""
    valid = list(valid)
    if name not in valid:
        raise TableError(f"unknown {what}: {name!r}; valid: {', '.join(valid)}")
