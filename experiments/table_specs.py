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
KINDS = ("lines", "history", "history_lines", "points", "band", "rows")
SUMMARIES = ("epochs_to", "largest_fall", "last")
PARTS = ("variance networks", "variational dropout", "sparse and smaller nets")


class TableError(ValueError):
    """A table's file, or the records given for it, cannot be used; says which."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the runs are; tolerances by column, where the paper is comparable.

    `tolerance` is in the column's unit, `relative` a fraction of the published number;
    a column has one of the two. `wide` says why one exceeds half of the spread of the
    published rows, `changed` when and why one was changed after the runs. `rows` names
    those that this scale has (all, if empty), `seeds` caps how many of each are run;
    `reading` says in words what came out.
    """

    name: str
    text: str
    tolerance: dict[str, float] = dataclasses.field(default_factory=dict)
    relative: dict[str, float] = dataclasses.field(default_factory=dict)
    wide: dict[str, str] = dataclasses.field(default_factory=dict)
    changed: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: list[str] = dataclasses.field(default_factory=list)
    seeds: int = 0
    reading: str = ""

    @property
    def judged(self) -> list[str]:
        """The columns that have a tolerance."""
        return [*self.tolerance, *self.relative]


@dataclasses.dataclass(frozen=True)
class Column:
    """A metric of an evaluation of the records, or a summary of their history.

    `name` is what the rest of the file calls it (its `eval`, if empty). A column with
    its own `metric`, or a `history`, has its own `factor`, `unit` and `digits`, too.

    `history` names what the probes measured, `summary` the number made of it:
    `epochs_to` a `level` (in the history's own unit; never reached: infinity), the
    `largest_fall` below what an earlier probe had reached, or the `last`.
    """

    label: str
    eval: str = ""
    name: str = ""
    metric: str = ""
    history: str = ""
    summary: str = ""
    level: float = math.nan
    factor: float = 1.0
    unit: str = ""
    digits: int = 2

    @property
    def key(self) -> str:
        return self.name or self.eval

    @property
    def plain(self) -> bool:
        """Whether it shows the table's own metric."""
        return not (self.metric or self.history)


@dataclasses.dataclass(frozen=True)
class Published:
    """A published version of the numbers and how it is known.

    `columns` and `rows` name the place of each number in the source: by our column and
    by our row, what the source calls them.
    """

    name: str
    label: str
    source: str
    tag: str
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """A run and its published numbers, paper[version][column].

    `seeds` caps how many are run (an ablation, a costly row); `without` names columns
    that the row cannot have. Rows of one `series` are a line of a figure of kind
    "rows", each at its place `x`; or, where the place is measured, a point for each
    seed, at the value of `x_column`.
    """

    name: str
    label: str
    run: str
    paper: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    note: str = ""
    seeds: int = 0
    without: list[str] = dataclasses.field(default_factory=list)
    series: str = ""
    x: float = math.nan
    x_column: str = ""

    @property
    def placed(self) -> bool:
        """True if figures of kind "rows" have a place for it."""
        return bool(self.series) and bool(self.x_column) == math.isnan(self.x)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A bound, by scale, on a row's mean, or on what it exceeds another mean by: that
    of the row `other`, of the column `other_column`, or of both.

    Bounds are set before any run that the table shows; where a result was known
    already, `after` says which. `changed` says when and why the claim or its bound was
    edited after its runs, and what it was; `recipe`, which miss the recipe of its run
    was changed after, the bound being the same.
    """

    text: str
    row: str
    column: str
    other: str = ""
    other_column: str = ""
    at_most: dict[str, float] = dataclasses.field(default_factory=dict)
    at_least: dict[str, float] = dataclasses.field(default_factory=dict)
    within: dict[str, float] = dataclasses.field(default_factory=dict)
    after: str = ""
    changed: str = ""
    recipe: str = ""

    @property
    def bound(self) -> tuple[str, dict[str, float]]:
        """The kind of the bound and its value by scale."""
        return next((k, getattr(self, k)) for k in BOUNDS if getattr(self, k))


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure drawn from the records; `experiments.figures` has the kinds.

    `curve` is one of the records' (none: their history), `x` and `y` are its axes,
    `rows` limits it to some rows, `mark` is a place on the axis x to point out,
    `y_range` are the ends of the axis y. `less` and `dots` are for bands.
    """

    name: str
    title: str
    kind: str
    x: str = "epoch"
    y: list[str] = dataclasses.field(default_factory=list)
    curve: str = ""
    by: str = ""
    x_label: str = ""
    y_label: str = ""
    labels: list[str] = dataclasses.field(default_factory=list)
    rows: list[str] = dataclasses.field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    mark: float = math.nan
    y_range: list[float] = dataclasses.field(default_factory=list)
    less: str = ""
    dots: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table's file, validated. `chance` is in the table's unit.

    `asks` is its question and `part` the chapter it belongs to. `factor` and `unit`
    hold for the columns without a metric of their own. The README shows the numbers of
    a `main` table, of others the claims.
    """

    name: str
    title: str
    asks: str
    part: str
    metric: str
    scale: dict[str, Scale]
    column: list[Column]
    row: list[Row]
    published: list[Published] = dataclasses.field(default_factory=list)
    claim: list[Claim] = dataclasses.field(default_factory=list)
    figure: list[Figure] = dataclasses.field(default_factory=list)
    factor: float = 1.0
    unit: str = ""
    chance: float = math.nan
    main: bool = False

    def rows_at(self, scale: str) -> list[Row]:
        """The rows of a scale."""
        wanted = self.scale[scale].rows
        return [row for row in self.row if not wanted or row.name in wanted]

    @property
    def plain(self) -> list[Column]:
        """The columns of the table's own metric."""
        return [column for column in self.column if column.plain]


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
    parts = {
        "column": Column,
        "published": Published,
        "row": Row,
        "claim": Claim,
        "figure": Figure,
    }
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
    columns = [column.key for column in table.column]
    versions = [version.name for version in table.published]
    runs = [row.run for row in table.row]
    for what, given in (("row", rows), ("column", columns), ("run", runs)):
        if len(set(given)) < len(given):
            raise TableError(f"a {what} stands twice: {', '.join(given)}")
    choice(table.part, PARTS, "part")
    for column in table.column:
        _check_column(column)
    for scale in table.scale.values():
        _check_tolerances(scale, columns, table.row)
        for row in scale.rows:
            choice(row, rows, f"row of scale {scale.name}")
    for figure in table.figure:
        _check_figure(figure, rows)
        if figure.kind == "rows":
            _check_rows_figure(figure, table, columns)
    for version in table.published:
        choice(version.tag, TAGS, f"tag of published {version.name}")
        for row in version.rows:
            choice(row, rows, f"row in published {version.name}")
        for column in version.columns:
            choice(column, columns, f"column in published {version.name}")
    for row in table.row:
        path, _, variant = row.run.partition(":")
        if not (path.endswith(".py") and variant):
            raise TableError(f"row {row.name}: run = '<config>.py:<variant>'")
        for column in row.without:
            choice(column, columns, f"column that row {row.name} is without")
        for version, numbers in row.paper.items():
            choice(version, versions, f"published version in row {row.name}")
            for column in numbers:
                choice(column, columns, f"column in row {row.name}, paper.{version}")
    for i, claim in enumerate(table.claim, 1):
        _check_claim(claim, f"claim {i}", rows, columns, table)


def _check_tolerances(scale: Scale, columns: list[str], rows: list[Row]) -> None:
    for column in scale.judged:
        choice(column, columns, f"column in the tolerance of scale {scale.name}")
    for column in scale.tolerance.keys() & scale.relative.keys():
        raise TableError(
            f"scale {scale.name}: {column} has a tolerance and a relative one; give one"
        )
    for column in (*scale.wide, *scale.changed):
        choice(column, scale.judged, f"column with a tolerance of scale {scale.name}")
    for row in rows:
        for numbers in row.paper.values():
            for column in scale.relative.keys() & numbers.keys():
                if numbers[column] <= 0:
                    raise TableError(
                        f"scale {scale.name}: {column} of row {row.name} was published "
                        f"as {numbers[column]:g}, which cannot have a relative "
                        "tolerance; give tolerance"
                    )


def _check_figure(figure: Figure, rows: list[str]) -> None:
    choice(figure.kind, KINDS, f"kind of figure {figure.name}")
    for row in figure.rows:
        choice(row, rows, f"row of figure {figure.name}")
    if not figure.y or (figure.labels and len(figure.labels) != len(figure.y)):
        raise TableError(f"figure {figure.name}: y, and labels as many or none")
    for y, label in zip(figure.y, figure.labels, strict=False):
        if "*" in y and "*" not in label:  # else all that match would have one name
            raise TableError(f"figure {figure.name}: the label of {y!r} needs a *")
    if figure.kind == "band" and len(figure.y) < 3:
        raise TableError(f"figure {figure.name}: y of a band: middle, lower, upper")
    if (figure.less or figure.dots) and figure.kind != "band":
        raise TableError(f"figure {figure.name}: less and dots are for a band")
    if figure.less:
        choice(figure.less, figure.y, f"less of figure {figure.name}")
    if figure.y_range and (
        len(figure.y_range) != 2 or figure.y_range[0] >= figure.y_range[1]
    ):
        raise TableError(f"figure {figure.name}: y_range = [lower end, upper end]")


def _check_rows_figure(figure: Figure, table: Table, columns: list[str]) -> None:
    for y in figure.y:
        choice(y, columns, f"column in figure {figure.name}")
    for row in table.row:
        if row.name in figure.rows and not row.placed:
            raise TableError(
                f"figure {figure.name}: row {row.name} needs series and x, or x_column"
            )
        if row.x_column:
            choice(row.x_column, columns, f"x_column of row {row.name}")
    if not any(row.placed for row in table.row):
        raise TableError(f"figure {figure.name}: no row has a series and x")


def _check_column(column: Column) -> None:
    if bool(column.eval) == bool(column.history) or not column.key:
        raise TableError(
            f"column {column.label!r}: give an eval, or a history with a name"
        )
    if column.history:
        choice(column.summary, SUMMARIES, f"summary of column {column.key}")
    if column.metric if column.history else column.summary:
        raise TableError(
            f"column {column.key}: a metric is of an eval, a summary of a history"
        )
    if math.isnan(column.level) == (column.summary == "epochs_to"):
        raise TableError(
            f"column {column.key}: epochs_to has a level, others have none"
        )


def _check_claim(
    claim: Claim, where: str, rows: list[str], columns: list[str], table: Table
) -> None:
    choice(claim.row, rows, f"row of {where}")
    choice(claim.column, columns, f"column of {where}")
    kinds = [kind for kind in BOUNDS if getattr(claim, kind)]
    if len(kinds) != 1:
        raise TableError(f"{where}: give one of {', '.join(BOUNDS)}, not {kinds}")
    if kinds == ["within"] and not (claim.other or claim.other_column):
        raise TableError(f"{where}: within needs other, a row, or other_column")
    if claim.other:
        choice(claim.other, rows, f"other of {where}")
    if claim.other_column:
        choice(claim.other_column, columns, f"other_column of {where}")
    for scale in claim.bound[1]:
        choice(scale, table.scale, f"scale of {where}")


def choice(name: str, valid: Iterable[str], what: str) -> None:
    """Raises TableError, naming the valid choices, unless `name` is one of them."""
    valid = list(valid)
    if name not in valid:
        raise TableError(f"unknown {what}: {name!r}; valid: {', '.join(valid)}")
