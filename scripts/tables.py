"""Renders tables from records, without training.

    python scripts/tables.py [--table=lenet5_mnist] [--scale=short] [--records=results]

Reads <records>/<table>/<scale>/, writes <records>/<table>/<scale>.md and .png and
prints the table. Without --table or --scale: all of which there are records. A --table
that has none yet is printed, its rows as not run, and nothing is written. With --check
it writes nothing and fails if the Markdown in place is not what the records give.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli, readme, render, show, table_specs, tables
from vnets import results

TABLE = flags.DEFINE_string("table", "", "Table by name; empty: all with records.")
SCALE = flags.DEFINE_string("scale", "", "Scale by name; empty: all with records.")
RECORDS = cli.define_path("records", "results", "Folder of the records.")
CHECK = flags.DEFINE_bool("check", False, "Compare with the Markdown in place.")


def main(argv: list[str]) -> int:
    try:
        if argv[1:]:
            raise table_specs.TableError(f"unexpected arguments: {' '.join(argv[1:])}")
        specs = table_specs.select(TABLE.value, SCALE.value)
    except table_specs.TableError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        outcomes = tables.outcomes(specs, SCALE.value, Path(RECORDS.value))
        if not outcomes and TABLE.value:
            show.not_run(specs[0], SCALE.value, Path(RECORDS.value))
            return 0
        if not outcomes:
            wanted = f"<table>/{SCALE.value or '<scale>'}"
            raise results.RecordError(f"no records in {RECORDS.value}/{wanted}")
        act = _check if CHECK.value else show.show
        shown = [act(*item) for item in outcomes]
        if Path(RECORDS.value).resolve() == readme.RESULTS and not CHECK.value:
            readme.update(tables.outcomes(table_specs.select(), "", readme.RESULTS))
    except ValueError as error:  # RecordError, TableError
        print(error, file=sys.stderr)
        return 1
    return 0 if all(shown) else 1


def _check(folder: Path, outcome: tables.Outcome) -> bool:
    path = folder.with_suffix(".md")
    agrees = path.exists() and path.read_text("utf-8") == render.markdown(outcome)
    state = "agrees" if agrees else "does not agree"
    print(f"{path} {state} with the records in {folder}")
    return agrees


if __name__ == "__main__":
    cli.run(main)
