"""Records as rows of plain columns, for a data frame of your own choice.

from experiments import records
records.load("results").groupby("variant")["ens/accuracy"].mean()
"""

import os
from typing import TYPE_CHECKING, Any

from experiments.config_files import flat
from experiments.records.folders import collect
from experiments.records.schema import Record
from vnets import extras

if TYPE_CHECKING:
    import pandas


def load(folder: str | os.PathLike = "results") -> "pandas.DataFrame":
    """The records below a folder as a pandas data frame, one row each (`rows`).

    Raises:
      RecordError: a record that is damaged; MissingExtra: pandas is not installed.
    """
    return extras.need("pandas").DataFrame(rows(folder))


def rows(folder: str | os.PathLike = "results") -> list[dict[str, Any]]:
    """The records below a folder as flat mappings.

    Columns are run, variant, scale, seed, status ("done", or why it failed), path,
    commit, device and seconds; "EVALUATION/METRIC" for each number that was measured;
    and "config.FIELD" for each field of the configuration, "config.GROUP.FIELD" within
    a group.

    Raises:
      RecordError: a record that is damaged.
    """
    return [_row(str(path), record) for path, record in sorted(collect(folder).items())]


def _row(path: str, record: Record) -> dict[str, Any]:
    status = record["status"]
    row = {name: record[name] for name in ("run", "variant", "scale", "seed")}
    row |= {
        "status": status if isinstance(status, str) else status["failed"],
        "path": path,
        "commit": record["git"]["commit"],
        "device": record["device"]["kind"],
        "seconds": record["wall_seconds"]["total"],
    }
    for evaluation, measured in record["evals"].items():
        row |= {f"{evaluation}/{name}": value for name, value in measured.items()}
    config = flat(record["config"], "config")
    return row | {name: value for name, value in config if value != {}}
