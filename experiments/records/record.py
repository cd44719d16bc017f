"""Records: what one training run was and what it measured, as a small JSON file.

A record says which configuration ran, on which data, with which code, on what machine,
and what came out, so that every table and figure is generated and none is typed by
hand. The file carries a checksum over its canonical JSON (sorted keys, no spaces):
`read` refuses a file that was cut, altered or written by another schema.

JSON has no NaN or infinity. Such a number is written as the string "nan", "inf" or
"-inf", and `read` turns it back into a float inside `evals` and `history`.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.records import versions
from experiments.records.canonical import decoded, dumps, plain, sha256, shortened
from experiments.records.schema import Record, RecordError, require_fields
from vnets import files


def build(
    *,
    run: str,
    scale: str,
    seed: int,
    config: Mapping[str, Any],
    dataset: Mapping[str, Any],
    environment: Mapping[str, Any],
    wall_seconds: Mapping[str, float],
    evals: Mapping[str, Mapping[str, float]],
    history: Iterable[Mapping[str, Any]] = (),
    curves: Mapping[str, Mapping[str, Any]] | None = None,
    nets: Mapping[str, Mapping[str, Any]] | None = None,
    failed: str | None = None,
    notes: Iterable[str] = (),
) -> Record:
    """Returns the record of one run, in plain JSON types.

    Args:
      run: "configs/<file>.py:<variant>".
      scale: the name of the scale, such as "short".
      seed: the seed of the run.
      config: the resolved configuration without seed and workdir, so that the seeds of
        a row share one `config_hash`.
      dataset: name, source, checksum and size of each split.
      environment: what `environment()` returned when the run started.
      wall_seconds: total, compile, train, evaluate.
      evals: for each evaluation its metrics (accuracy as a fraction) and `samples`.
      history: one mapping an epoch; its floats keep six significant digits.
      curves: {curve: {axis: numbers}} for figures; six significant digits are kept.
      nets: the trained nets that it started from, by run and seed, with the hash of
        their config, the commit and the checksum of their record.
      failed: why the run stopped, for a run that did not reach its end.
      notes: what happened on the way, such as a damaged checkpoint that was given up.

    Raises:
      RecordError: a value has no JSON form, or `run` names no variant.
    """
    path, _, variant = run.partition(":")
    if not path or not variant:
        raise RecordError(f"run must be '<config file>:<variant>', got {run!r}")
    record = {
        "schema": versions.CURRENT,
        "run": run,
        "variant": variant,
        "scale": scale,
        "seed": seed,
        "config": config,
        "config_hash": config_hash(config),
        "dataset": dataset,
        **environment,
        "wall_seconds": wall_seconds,
        "evals": evals,
        "history": [shortened(plain(entry, "history")) for entry in history],
        "status": "done" if failed is None else {"failed": failed},
    }
    if curves:
        record["curves"] = shortened(plain(curves, "curves"))
    if nets:
        record["nets"] = nets
    if notes := list(notes):
        record["notes"] = notes
    record = plain(record, "record")
    require_fields(record, run)
    return record


def config_hash(config: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of the canonical JSON of `config`, in all versions of a
    record the same; see `versions.identity`."""
    return sha256(versions.identity(plain(config, "config")))


def write(path: str | os.PathLike, record: Record) -> Path:
    """Writes `record` with its checksum to `path`, whole or not at all.

    Raises:
      RecordError: the record lacks a field. FileError: the file system refuses (no
        permission, disk full); whatever stood at `path` before is still there.
    """
    path = Path(path)
    record = plain({k: v for k, v in record.items() if k != "checksum"}, str(path))
    require_fields(record, path)
    files.write_text(path, _layout({**record, "checksum": sha256(record)}))
    return path


def read(path: str | os.PathLike) -> Record:
    """Returns the record at `path` after verifying it.

    Raises:
      RecordError: the file is missing, not JSON (for example truncated), of another
        schema, lacks a field, or does not match its checksum.
    """
    try:
        record = json.loads(files.read_text(path))
        checksum = record.pop("checksum", None) if isinstance(record, dict) else None
        actual = sha256(record)  # inside the try: a literal NaN is no JSON either
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise RecordError(f"{path} is not JSON (truncated?): {error}") from error
    if not isinstance(record, dict):
        raise RecordError(f"{path} is not a record: a JSON object is expected")
    if record.get("schema") not in versions.READABLE:
        known = ", ".join(map(str, versions.READABLE))
        raise RecordError(
            f"{path} has schema {record.get('schema')!r}; this code reads {known}"
        )
    if checksum != actual:
        raise RecordError(
            f"{path} was altered: its checksum does not match its content"
        )
    require_fields(record, path)
    for field in ("evals", "history", "curves"):
        if field in record:
            record[field] = decoded(record[field])
    return {**record, "checksum": checksum}


def _layout(record: Record) -> str:
    """Returns JSON with a line for each field and each epoch: small, and diffs read."""
    history = ",\n  ".join(dumps(entry) for entry in record["history"])
    lines = [
        f' "{name}": ' + (f"[{history}]" if name == "history" else dumps(value))
        for name, value in record.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"
