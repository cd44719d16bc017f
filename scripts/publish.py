"""Copies finished records from runs/ to results/, where they are committed.

    python scripts/publish.py --table=lenet5_mnist --scale=short [--replace]

A record is refused if its code is in no commit, if its run failed, if it is damaged, or
if it is no row of the table; each refusal is printed with its reason (and the exit
status is 1). Then: python scripts/tables.py.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli, records
from experiments.config_files import scale_folder, split_run
from experiments.tables import reading
from experiments.tables.specs import TableError

TABLE = flags.DEFINE_string("table", None, "Table by name.", required=True)
SCALE = cli.define_scale(None, "Scale by name.", required=True)
RUNS = cli.define_path("runs", "runs", "Folder of what was trained here.")
RESULTS = cli.define_path("results", "results", "Folder of what is committed.")
REPLACE = flags.DEFINE_bool("replace", False, "Replace records that are in place.")


def main(argv: list[str]) -> int:
    try:
        if argv[1:]:
            raise TableError(f"unexpected arguments: {' '.join(argv[1:])}")
        table = reading.find(TABLE.value, SCALE.value)
    except TableError as error:
        print(error, file=sys.stderr)
        return 2
    runs = [row.run for row in table.rows_at(SCALE.value)]
    folders = {scale_folder(Path(RUNS.value), run, SCALE.value) for run in runs}
    variants = {split_run(run) for run in runs}
    paths = [
        path
        for folder in sorted(folders)
        for path in records.find(folder)
        if (folder.parent.name, path.relative_to(folder).parts[0]) in variants
    ]
    if not paths:
        names = ", ".join(map(str, sorted(folders)))
        print(f"no records of this table in {names}", file=sys.stderr)
        return 1
    done = records.publish(paths, RESULTS.value, runs=runs, replace=REPLACE.value)
    for path in done.written:
        print(f"written    {path}")
    for path in done.unchanged:
        print(f"in place   {path}")
    for path, reason in done.refused.items():
        print(f"refused    {path}: {reason}", file=sys.stderr)
    return 1 if done.refused else 0


if __name__ == "__main__":
    cli.run(main)
