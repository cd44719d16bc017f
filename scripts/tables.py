"""Renders tables from records, without training.

    python scripts/tables.py [--table=lenet5_mnist] [--scale=short] [--records=results]

Reads <records>/<table>/<scale>/, writes <records>/<table>/<scale>.md and .png and
prints the table. Without --table or --scale: all of which there are records. A --table
that has none yet is printed, its rows as not run, and nothing is written. With --check
it writes nothing and fails if the Markdown in place is not what the records give; of
all committed records, that is every page of results/ and the README.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.records import RecordError
from experiments.tables import outcomes, pages, reading, terminal
from experiments.tables.specs import TableError

TABLE = flags.DEFINE_string("table", "", "Table by name; empty: all with records.")
SCALE = flags.DEFINE_string("scale", "", "Scale by name; empty: all with records.")
RECORDS = cli.define_path("records", "results", "Folder of the records.")
CHECK = flags.DEFINE_bool("check", False, "Compare with the Markdown in place.")


def main(argv: list[str]) -> int:
    try:
        if argv[1:]:
            raise TableError(f"unexpected arguments: {' '.join(argv[1:])}")
        tables = reading.select(TABLE.value, SCALE.value)
    except TableError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        found = outcomes.all_of(tables, SCALE.value, Path(RECORDS.value))
        if not found and TABLE.value:
            terminal.not_run(tables[0], SCALE.value, Path(RECORDS.value))
            return 0
        if not found:
            wanted = f"<table>/{SCALE.value or '<scale>'}"
            raise RecordError(f"no records in {RECORDS.value}/{wanted}")
        committed = Path(RECORDS.value).resolve() == pages.RESULTS
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
