"""Renders tables from records, without training.

    python scripts/tables.py [--table=lenet5_mnist] [--scale=short] [--records=results]

Reads <records>/<table>/<scale>/, writes <records>/<table>/<scale>.md and .png (and
.csv, if the page lacks columns) and prints the table. Without --table or --scale: all
of which there are records. A --table that has none yet is printed, its rows as not run,
and nothing is written. With --check it writes nothing and fails if the text in place is
not what the records give; of all committed records, that is every page of results/ and
the README.

    python scripts/tables.py [--table=NAME] --compare RUN [RUN ...]
    python scripts/tables.py --format=csv|latex|markdown
    python scripts/tables.py --tables=my/tables --records=my/records

--compare prints runs of yours (workdirs, folders of them, or records) as further rows,
at their own scale unless one is given. --format prints the numbers alone. Both write
nothing. --tables is a folder of tables as in configs/tables, wherever it lies.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.records import RecordError
from experiments.tables import compare, formats, outcomes, pages, reading, terminal
from experiments.tables.specs import TableError

TABLE = flags.DEFINE_string("table", "", "Table by name; empty: all with records.")
SCALE = flags.DEFINE_string("scale", "", "Scale by name; empty: all with records.")
RECORDS = cli.define_path("records", "results", "Folder of the records.")
CHECK = flags.DEFINE_bool("check", False, "Compare with the Markdown in place.")
COMPARE = flags.DEFINE_string("compare", None, "RUN, more of them behind it.")
FORMAT = flags.DEFINE_enum("format", None, list(formats.FORMATS), "Numbers alone, as.")
TABLES = cli.define_path("tables", str(reading.SPECS), "Folder of the tables.")


def main(argv: list[str]) -> int:
    try:
        if argv[1:] and not COMPARE.value:
            raise TableError(f"unexpected arguments: {' '.join(argv[1:])}")
        if CHECK.value and (COMPARE.value or FORMAT.value):
            raise TableError("--check compares files: without --compare and --format")
        specs = Path(TABLES.value)
        tables = reading.select(TABLE.value, SCALE.value, specs)
    except TableError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if COMPARE.value:
            runs = compare.runs([COMPARE.value, *argv[1:]])
            tables = tables if TABLE.value else compare.choose(tables, runs)
            shown = compare.all_of(tables, SCALE.value, Path(RECORDS.value), runs)
            return formats.show(shown, FORMAT.value)
        found = outcomes.all_of(tables, SCALE.value, Path(RECORDS.value))
        if found and FORMAT.value:
            return formats.show([outcome for _, outcome in found], FORMAT.value)
        if not found and TABLE.value:
            terminal.not_run(tables[0], SCALE.value, Path(RECORDS.value))
            return 0
        if not found:
            wanted = f"<table>/{SCALE.value or '<scale>'}"
            raise RecordError(f"no records in {RECORDS.value}/{wanted}")
        committed = Path(RECORDS.value).resolve() == pages.RESULTS
        committed = committed and specs.resolve() == reading.SPECS
        if CHECK.value:
            everything = committed and not (TABLE.value or SCALE.value)
            made = pages.pages if everything else pages.table_pages
            return _check(made(found))
        for item in found:
            terminal.show(*item)
        if committed:
            pages.update(outcomes.all_of(reading.select(), "", pages.RESULTS))
    except ValueError as error:  # FileError, TableError
        print(error, file=sys.stderr)
        return 1
    return 0


def _check(pages: dict[Path, str]) -> int:
    """The exit status: 0 if each page stands in its place as the records have it."""
    wrong = 0
    for path, text in pages.items():
        agrees = path.exists() and path.read_bytes() == text.encode()
        print(f"{path} {'agrees' if agrees else 'does not agree'} with the records")
        wrong += not agrees
    return 1 if wrong else 0


if __name__ == "__main__":
    cli.run(main)
