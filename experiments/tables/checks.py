"""Whether what a table's file says fits together; see `experiments.tables.specs`."""

import math

from experiments.tables import specs
from experiments.tables.specs import Claim, Column, Figure, Table, TableError, choice


def check(table: Table) -> None:
    """Holds every name in a table's file to what it names.

    Raises:
      TableError: a name that is not there, or a rule of the parts that is broken.
    """
    rows = [row.name for row in table.row]
    columns = [column.name for column in table.column]
    versions = [version.name for version in table.published]
    runs = [row.run for row in table.row]
    for what, given in (("row", rows), ("column", columns), ("run", runs)):
        if len(set(given)) < len(given):
            raise TableError(f"a {what} stands twice: {', '.join(given)}")
    choice(table.part, specs.PARTS, "part")
    for column in table.column:
        _check_column(column)
    for shown in (table.shown, *(scale.shown for scale in table.scale.values())):
        for name in shown:
            choice(name, columns, "column in shown")
        if len(shown) > specs.SHOWN:
            raise TableError(f"shown has {len(shown)} columns; {specs.SHOWN} fit")
    for scale in table.scale.values():
        _check_tolerances(scale, columns, table.row)
        for row in scale.rows:
            choice(row, rows, f"row of scale {scale.name}")
    for figure in table.figure:
        _check_figure(figure, rows)
        if figure.kind == "rows":
            _check_rows_figure(figure, table, columns)
    for version in table.published:
        choice(version.tag, specs.TAGS, f"tag of published {version.name}")
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


def _check_tolerances(
    scale: specs.Scale, columns: list[str], rows: list[specs.Row]
) -> None:
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
    choice(figure.kind, specs.KINDS, f"kind of figure {figure.name}")
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
    if bool(column.eval) == bool(column.history) or not column.name:
        raise TableError(
            f"column {column.label!r}: give an eval, or a history with a name"
        )
    if column.history:
        choice(column.summary, specs.SUMMARIES, f"summary of column {column.name}")
    if column.metric if column.history else column.summary:
        raise TableError(
            f"column {column.name}: a metric is of an eval, a summary of a history"
        )
    if math.isnan(column.level) == (column.summary == "epochs_to"):
        raise TableError(
            f"column {column.name}: epochs_to has a level, others have none"
        )


def _check_claim(
    claim: Claim, where: str, rows: list[str], columns: list[str], table: Table
) -> None:
    choice(claim.row, rows, f"row of {where}")
    choice(claim.column, columns, f"column of {where}")
    kinds = [kind for kind in specs.BOUNDS if getattr(claim, kind)]
    if len(kinds) != 1:
        raise TableError(f"{where}: give one of {', '.join(specs.BOUNDS)}, not {kinds}")
    if kinds == ["within"] and not (claim.other or claim.other_column):
        raise TableError(f"{where}: within needs other, a row, or other_column")
    if claim.other:
        choice(claim.other, rows, f"other of {where}")
    if claim.other_column:
        choice(claim.other_column, columns, f"other_column of {where}")
    for scale in claim.bound[1]:
        choice(scale, table.scale, f"scale of {where}")
    for row, column in (
        (claim.row, claim.column),
        (claim.other or claim.row, claim.other_column or claim.column),
    ):
        if column in table.row[rows.index(row)].without:
            raise TableError(f"{where}: row {row} is without column {column}")
