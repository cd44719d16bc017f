"""What a table is: its rows, columns, published numbers, claims and figures.

`experiments.tables.reading` makes them of the files in configs/tables. Numbers are in
the table's unit: a record's number times `factor`.
"""

import dataclasses
import math
from collections.abc import Iterable

# How a published number is known. Numbers from memory have no tag and no place here.
TAGS = {
    "C": "the authors' code",
    "S": "the authors' slides, poster or README",
    "P": "the paper",
    "R": "a third party's re-implementation or review",
    "F": "a figure, by eye",
}
BOUNDS = ("at_most", "at_least", "within")
KINDS = ("lines", "history", "history_lines", "points", "band", "pictures", "rows")
SHOWN = 6  # measured columns of a page: with a row's name and source, eight
SUMMARIES = ("epochs_to", "largest_fall", "last")
PARTS = ("variance networks", "variational dropout", "sparse and smaller nets")
PARTS += ("latent variables", "other Bayesian methods")


class TableError(ValueError):
    """A table's file, or the records given for it, cannot be used; says which."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the runs are; tolerances by column, where the paper is comparable.

    `tolerance` is in the column's unit, `relative` a fraction of the published number;
    a column has one of the two. `wide` says why one exceeds half of the spread of the
    published rows, `changed` when and why one was changed after the runs. `rows` names
    those that this scale has (all, if empty), `seeds` caps how many of each are run;
    `reading` says in words what came out; `shown` takes the place of the table's.
    """

    name: str
    text: str
    tolerance: dict[str, float] = dataclasses.field(default_factory=dict)
    relative: dict[str, float] = dataclasses.field(default_factory=dict)
    wide: dict[str, str] = dataclasses.field(default_factory=dict)
    changed: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: list[str] = dataclasses.field(default_factory=list)
    seeds: int = 0
    shown: list[str] = dataclasses.field(default_factory=list)
    reading: str = ""

    @property
    def judged(self) -> list[str]:
        """The columns that have a tolerance."""
        return [*self.tolerance, *self.relative]


@dataclasses.dataclass(frozen=True)
class Column:
    """A metric of an evaluation of the records, or a summary of their history.

    `name` is what the rest of the file calls it; a file may leave it out where it is
    that of the `eval`. A column with its own `metric`, or a `history`, has its own
    `factor`, `unit` and `digits`, too.

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
    def plain(self) -> bool:
        """Whether it shows the table's own metric."""
        return not (self.metric or self.history)


@dataclasses.dataclass(frozen=True)
class Published:
    """A published version of the numbers and how it is known.

    `columns` says, by our column, what the source calls it.
    """

    name: str
    label: str
    source: str
    tag: str
    columns: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """A run and its published numbers, paper[version][column].

    `run` is the variant of the row's name in the config file of the table's name, if
    the file says nothing else. `places` says, by version, what the source calls the
    row. `seeds` caps how many are run (an ablation, a costly row), `first_seed` is the
    first of them (fresh ones, of a claim that known ones suggested). `without` names
    columns whose number would say nothing of this row, though its records have it; of
    those that they do not have nothing need be said. Rows of one `series` are a line of
    a figure of kind "rows", each at its place `x`; or, where the place is measured, a
    point for each seed, at the value of `x_column`.
    """

    name: str
    label: str
    run: str
    paper: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    places: dict[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""
    seeds: int = 0
    first_seed: int = 0
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
    """A figure drawn from the records; `experiments.tables.figures` has the kinds.

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
    a `main` table, of others the claims. `shown` names the columns of the page, if the
    first `SHOWN` are not those that matter; a CSV beside the page has all of them.
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
    shown: list[str] = dataclasses.field(default_factory=list)

    def rows_at(self, scale: str) -> list[Row]:
        """The rows of a scale."""
        wanted = self.scale[scale].rows
        return [row for row in self.row if not wanted or row.name in wanted]

    def on_page(self, scale: str) -> list[Column]:
        """The columns that the page of a scale shows."""
        shown = self.scale[scale].shown or self.shown
        named = [column for column in self.column if column.name in shown]
        return named or self.column[:SHOWN]

    @property
    def plain(self) -> list[Column]:
        """The columns of the table's own metric."""
        return [column for column in self.column if column.plain]


def choice(name: str, valid: Iterable[str], what: str) -> None:
    """Raises TableError, naming the valid choices, unless `name` is one of them."""
    valid = list(valid)
    if name not in valid:
        raise TableError(f"unknown {what}: {name!r}; valid: {', '.join(valid)}")
