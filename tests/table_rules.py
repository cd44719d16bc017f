"""What a table owes its reader: places of published numbers, tolerances that can fail,
and bounds that stood before their runs or say that they did not."""

import dataclasses
import functools
import math
import re
import statistics
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.records import Record
from experiments.tables import outcomes
from experiments.tables.reading import SPECS
from experiments.tables.specs import Claim, Scale, Table


def without_place(table: Table) -> Iterator[str]:
    """Names each published number whose source does not say its row and column."""
    versions = {version.name: version for version in table.published}
    for row in table.row:
        for name, numbers in row.paper.items():
            for column in numbers:
                if name not in row.places or column not in versions[name].columns:
                    yield f"{table.name}: {row.name}, {name}, {column}"


def never_measured(table: Table, folder: Path) -> Iterator[str]:
    """Names each column of a table with records that none of them has.

    A row may lack a column; that all of them do is a misspelt name.
    """
    found = [row for _, o in outcomes.all_of([table], "", folder) for row in o.rows]
    for column in table.column if found else ():
        if not any(row.cells[column.name].values for row in found):
            yield f"{table.name}: {column.name}"


def spread(table: Table, scale: Scale, column: str) -> float | None:
    """The sample standard deviation of what was published for the rows of a scale.

    Of a column with a relative tolerance it is that of the logarithms. The least of the
    published versions counts; None where no version has two numbers.
    """
    found = []
    for version in table.published:
        papers = [row.paper.get(version.name, {}) for row in table.rows_at(scale.name)]
        values = [paper[column] for paper in papers if column in paper]
        if column in scale.relative:
            values = [math.log(value) for value in values]
        if len(values) > 1:
            found.append(statistics.stdev(values))
    return min(found, default=None)


def too_wide(table: Table) -> Iterator[str]:
    """Names each tolerance above half of the spread that does not say why.

    And each that says why but is not above it.
    """
    for scale in table.scale.values():
        logs = {key: math.log1p(value) for key, value in scale.relative.items()}
        for column, bound in (scale.tolerance | logs).items():
            rows = spread(table, scale, column)
            if (rows is not None and bound > rows / 2) != (column in scale.wide):
                yield (
                    f"{table.name}: {scale.name}, {column}: {bound:g}, "
                    f"the published spread is {rows or 0:.3g}"
                )


@dataclasses.dataclass(frozen=True)
class History:
    """The commits of a repository, `place` by their order from the first."""

    root: Path
    place: Mapping[str, int]

    @classmethod
    def read(cls, root: Path) -> "History":
        """Raises subprocess.CalledProcessError where there is no git repository."""
        lines = _git(root, "rev-list", "--reverse", "--topo-order", "HEAD").split()
        return cls(root, {commit: i for i, commit in enumerate(lines)})

    def table(self, name: str, commit: str) -> dict[str, Any]:
        """A table's file as it was at a commit; empty where there was none."""
        return _file(self.root, f"{SPECS.parent.name}/{SPECS.name}/{name}.toml", commit)


@functools.cache
def _file(root: Path, path: str, commit: str) -> dict[str, Any]:
    there = _git(root, "ls-tree", commit, path)
    return tomllib.loads(_git(root, "show", f"{commit}:{path}")) if there else {}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout


def edited(table: Table, scale: str, folder: Path, history: History) -> Iterator[str]:
    """Names what was edited after its records' commit and does not say so.

    A claim of two rows could be judged from the first record of the later one on, a
    tolerance from the first record of the scale on. `changed` says so, of a claim that
    is new since then `after` as well. Records of commits that are not in the history
    cannot be placed and do not count.
    """
    first: dict[str, str] = {}
    for record in outcomes.collect(table, scale, folder).values():
        _keep_first(first, record, history)
    if not first:
        return
    by_row = {row.name: first.get(row.run) for row in table.row}
    start = min(first.values(), key=history.place.__getitem__)
    yield from _edited_tolerances(table, scale, history.table(table.name, start))
    now = [dataclasses.asdict(claim) for claim in table.claim]
    for claim in table.claim:
        known = [by_row[claim.row], by_row[claim.other or claim.row]]
        if scale not in claim.bound[1] or None in known:
            continue
        commit = max((c for c in known if c), key=history.place.__getitem__)
        old = _bounds(claim, scale, history.table(table.name, commit).get("claim", []))
        new = claim.after and old <= _bounds(claim, scale, now)
        if claim.bound[1][scale] not in old and not (claim.changed or new):
            yield f"{table.name}: {scale}, claim {claim.text!r}, after {commit[:9]}"


def _keep_first(first: dict[str, str], record: Record, history: History) -> None:
    """Keeps the first commit of a run, by run."""
    run, commit = record["run"], record["git"]["commit"]
    if commit in history.place:
        known = first.get(run, commit)
        first[run] = min(known, commit, key=history.place.__getitem__)


def _edited_tolerances(table: Table, scale: str, then: dict) -> Iterator[str]:
    now, old = table.scale[scale], then.get("scale", {}).get(scale, {})
    for kind in ("tolerance", "relative"):
        for column, bound in getattr(now, kind).items():
            if old.get(kind, {}).get(column) != bound and column not in now.changed:
                yield f"{table.name}: {scale}, {kind} of {column}"


def _bounds(claim: Claim, scale: str, claims: list[dict]) -> set[float]:
    """The bounds of a claim's kind that others of its rows and columns have at a scale;
    their words may be others."""
    places = ("row", "column", "other", "other_column")
    return {
        other[claim.bound[0]][scale]
        for other in claims
        if all(other.get(place, "") == getattr(claim, place) for place in places)
        and scale in other.get(claim.bound[0], {})
    }


def undated(table: Table) -> Iterator[str]:
    """Names each note of a change that does not begin with its day, as 2026-11-29."""
    notes = {f"claim {c.text!r}": c.changed for c in table.claim if c.changed}
    for scale in table.scale.values():
        notes |= {f"{scale.name}, {key}": text for key, text in scale.changed.items()}
    for where, text in notes.items():
        if not re.match(r"\d{4}-\d\d-\d\d\b", text):
            yield f"{table.name}: {where}: {text!r}"
