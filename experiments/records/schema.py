"""What a record holds: its fields, their types, and what `read` and `write` refuse."""

from typing import Any

from experiments import config_files
from vnets import files

Record = dict[str, Any]

FIELDS = {
    "schema": int,
    "run": str,
    "variant": str,
    "scale": str,
    "seed": int,
    "config": dict,
    "config_hash": str,
    "dataset": dict,
    "git": dict,
    "versions": dict,
    "device": dict,
    "wall_seconds": dict,
    "evals": dict,
    "history": list,
    "status": (str, dict),
}
OPTIONAL = {"curves": dict, "nets": dict, "notes": list}
KEYS = {
    "dataset": {"name", "source", "checksum", "sizes"},
    "git": {"commit", "dirty"},
    "device": {"platform", "kind", "count", "threads"},
    "wall_seconds": {"total", "compile", "train", "evaluate"},
}


class RecordError(files.FileError):
    """A record that cannot be trusted, or could not be written; names its file."""


def require_fields(record: Record, where: object) -> None:
    missing = sorted(FIELDS.keys() - record.keys())
    unknown = sorted(record.keys() - FIELDS.keys() - OPTIONAL.keys())
    if missing or unknown:
        raise RecordError(f"{where}: fields missing {missing}, unknown {unknown}")
    for name, kind in (FIELDS | OPTIONAL).items():
        if name not in record:
            continue
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise RecordError(f"{where}: field {name} is {record[name]!r}")
    try:  # they become parts of paths
        variant = config_files.split_run(record["run"])[1]
        config_files.name("scale", record["scale"])
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from error
    if record["seed"] < 0:
        raise RecordError(f"{where}: a seed is at least 0, not {record['seed']}")
    if record["variant"] != variant:
        raise RecordError(f"{where}: {record['run']} is not of {record['variant']}")
    for name, keys in KEYS.items():
        if absent := sorted(keys - record[name].keys()):
            raise RecordError(f"{where}: {name} lacks {absent}")
    status = record["status"]
    if status != "done" and not (
        isinstance(status, dict) and set(status) == {"failed"}
    ):
        raise RecordError(f"{where}: status is 'done' or {{'failed': why}}: {status!r}")
