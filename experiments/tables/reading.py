"""Reads tables from configs/tables: NAME.toml, and the prose beside it in NAME.md.

The TOML has a line for each column, row, claim, scale, published version and figure. It
says which run stands in which row, which evaluation in which column, what was published
and where, and, before any run, the tolerances and the claims. What it may say is in
`experiments.tables.specs`; of what it leaves out, the name of a column is that of its
`eval`, the `run` of a row is the variant of its name. A published number stands as
paper.VERSION.COLUMN of its row, and paper.VERSION.at says where in the source the row
is.
"""

import dataclasses
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.tables import checks, prose, specs
from experiments.tables.specs import Table, TableError, choice

SPECS = Path(__file__).resolve().parents[2] / "configs" / "tables"
# key = [{...}, ...] with a line for each, and key.NAME = {...}.
LINES = {"column": specs.Column, "row": specs.Row, "claim": specs.Claim}
SECTIONS = {"scale": specs.Scale, "published": specs.Published, "figure": specs.Figure}
Entry = dict[str, Any]


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
        name (row, column, scale, published version, tag) that is not there; it names
        the file and the place in it.
    """
    try:
        entry = tomllib.loads(path.read_text(encoding="utf-8"))
        said = prose.read(path.with_suffix(".md"))
        table = _table(path.stem, entry, said)
        checks.check(table)
    except (OSError, ValueError) as error:  # TableError, TOMLDecodeError
        raise TableError(f"{path}: {error}") from error
    return table


def _table(name: str, entry: Entry, said: dict[tuple[str, str], Entry]) -> Table:
    parts: Entry = {}
    for kind in [kind for kind in LINES if kind in entry]:
        parts[kind] = list(_lines(name, kind, entry[kind], said))
    for kind in [kind for kind in SECTIONS if kind in entry]:
        made = {
            key: _build(SECTIONS[kind], _merged(value, kind, key, said), name=key)
            for key, value in _mapping(entry[kind], kind).items()
        }
        parts[kind] = made if kind == "scale" else list(made.values())
    plain = {key: value for key, value in entry.items() if key not in parts}
    table = _build(Table, plain, name=name, **parts)
    for kind, of in said:
        raise TableError(f"## {kind} {of}: there is no such {kind}")
    return table


def _lines(
    table: str, kind: str, lines: Any, said: dict[tuple[str, str], Entry]
) -> Iterator[Any]:
    """The columns, rows or claims of a table, with what their lines leave out."""
    if not isinstance(lines, list):
        raise TableError(f"{kind} must be a list of lines, {{...}} each")
    for i, line in enumerate(lines, 1):
        entry = _mapping(line, f"{kind} {i}")
        made: Entry = {}
        if kind == "column" and "eval" in entry:
            entry = {"name": entry["eval"], **entry}
        if kind == "row":
            name = entry.get("name")
            entry = {"run": f"configs/{table}.py:{name}", **entry}
            entry = _merged(entry, kind, name, said)
            made["paper"], made["places"] = _published(entry.pop("paper", {}), name)
        yield _build(LINES[kind], entry, f"{kind} {entry.get('name', i)}", **made)


def _published(paper: Any, row: Any) -> tuple[dict[str, Entry], dict[str, str]]:
    """A row's published numbers, and what the sources call it."""
    numbers, places = {}, {}
    for version, held in _mapping(paper, f"paper of row {row}").items():
        where = f"row {row}, paper.{version}"
        numbers[version] = dict(_mapping(held, where))
        if "at" in numbers[version]:
            places[version] = _typed(numbers[version].pop("at"), str, f"{where}: at")
        _typed(numbers[version], dict[str, float], where)
    return numbers, places


def _merged(
    value: Any, kind: str, name: Any, said: dict[tuple[str, str], Entry]
) -> Entry:
    """An entry with its prose, which it must not have itself."""
    entry = _mapping(value, f"{kind} {name}")
    prose = said.pop((kind, name), {})
    for key in entry.keys() & prose.keys():
        raise TableError(f"{kind} {name}: {key} stands in the TOML and the Markdown")
    return {**entry, **prose}


def _mapping(value: Any, where: str) -> Entry:
    if not isinstance(value, dict):
        raise TableError(f"{where} must be a table, not {value!r}")
    return value


def _build(kind: type, entry: Entry, where: str = "", **made: Any) -> Any:
    """Returns the dataclass `kind`, refusing unknown and missing keys of `entry`.

    Args:
      kind: Table or a part of it.
      entry: from the file.
      where: in the file it stands; by default the kind and the name of `made`.
      made: fields that are no keys of the file.
    """
    where = where or f"{kind.__name__.lower()} {made['name']}"
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key, value in entry.items():
        choice(key, [name for name in fields if name not in made], f"key of {where}")
        _typed(value, fields[key].type, f"{where}: {key}")
    nothing = dataclasses.MISSING
    for name, field in fields.items():
        required = field.default is nothing and field.default_factory is nothing
        if required and name not in entry and name not in made:
            raise TableError(f"{where}: {name} is missing")
    return kind(**entry, **made)


def _typed(value: Any, kind: Any, where: str) -> Any:
    if not _conforms(value, kind):
        raise TableError(f"{where} = {value!r} must be {kind}")
    return value


def _conforms(value: Any, kind: Any) -> bool:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(
            _conforms(item, arguments[1]) for item in value.values()
        )
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(
            _conforms(item, arguments[0]) for item in value
        )
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)
