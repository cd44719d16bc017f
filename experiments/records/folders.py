"""Records in folders: found, collected, and published where they are committed."""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from experiments.config_files import scale_folder
from experiments.records.record import read, write
from experiments.records.schema import Record, RecordError
from vnets.files import FileError

# A checkpoint folder holds JSON files of its own, so records are known by their names.
RECORD_NAME = re.compile(r"record\.json|[^.].*-seed\d+\.json")


def find(folder: str | os.PathLike) -> list[Path]:
    """Returns, sorted, the files below `folder` that are records by their names:
    `record.json` (as trained) or `<variant>-seed<k>.json` (as published)."""
    files = Path(folder).rglob("*.json")
    return sorted(path for path in files if RECORD_NAME.fullmatch(path.name))


def collect(folder: str | os.PathLike) -> dict[Path, Record]:
    """Returns every record below `folder` by its path; a damaged one raises."""
    return {path: read(path) for path in find(folder)}


@dataclasses.dataclass
class Publication:
    """What `publish` did: files written, files already in place, refusals by path."""

    written: list[Path] = dataclasses.field(default_factory=list)
    unchanged: list[Path] = dataclasses.field(default_factory=list)
    refused: dict[Path, str] = dataclasses.field(default_factory=dict)


def publish(
    paths: Iterable[str | os.PathLike],
    results_dir: str | os.PathLike,
    *,
    runs: Collection[str] | None = None,
    replace: bool = False,
) -> Publication:
    """Copies records to results_dir/<config file>/<scale>/<variant>-seed<k>.json.

    Refused, with the reason, are records that fail verification, did not finish, come
    from code that no commit holds, belong to none of `runs` (where given), or would
    take the place of a different record, unless `replace`.
    """
    done = Publication()
    for path in map(Path, paths):
        try:
            record = read(path)
            _require_publishable(record, runs)
            name = f"{record['variant']}-seed{record['seed']}.json"
            target = scale_folder(results_dir, record["run"], record["scale"]) / name
            if _in_place(target, record, replace):
                done.unchanged.append(target)
            else:
                done.written.append(write(target, record))
        except FileError as error:  # RecordError, or it could not be written
            done.refused[path] = str(error)
    return done


def _require_publishable(record: Record, runs: Collection[str] | None) -> None:
    if record["status"] != "done":
        raise RecordError(f"it did not finish: {record['status']['failed']}")
    if record["git"].get("commit") is None:
        raise RecordError("it was trained outside a git checkout: no commit to name")
    if record["git"].get("dirty", True):
        raise RecordError("it was trained with uncommitted changes (git.dirty)")
    if runs is not None and record["run"] not in runs:
        raise RecordError(
            f"{record['run']} is no row; rows are {', '.join(sorted(runs))}"
        )


def _in_place(target: Path, record: Record, replace: bool) -> bool:
    """Tells whether `record` is at `target`; refuses to lose a different one."""
    if not target.exists():
        return False
    try:
        same = read(target)["checksum"] == record["checksum"]
    except RecordError:  # a damaged record counts as different
        same = False
    if not same and not replace:
        raise RecordError(f"a different record is in place at {target}; replace it?")
    return same
