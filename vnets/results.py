"""Records: what one training run was and what it measured, as a small JSON file.

A record says which configuration ran, on which data, with which code, on what machine,
and what came out, so that every table and figure is generated and none is typed by
hand. The file carries a checksum over its canonical JSON (sorted keys, no spaces):
`read` refuses a file that was cut, altered or written by another schema.

JSON has no NaN or infinity. Such a number is written as the string "nan", "inf" or
"-inf", and `read` turns it back into a float inside `evals` and `history`.
"""

import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from vnets import files

Record = dict[str, Any]

SCHEMA = 1
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
HISTORY_DIGITS = 6
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "vnets")
# What decides a run. Results, tests and prose may change without making a run dirty.
CODE = ("vnets", "experiments", "configs", "scripts", "pyproject.toml")
# A checkpoint folder holds JSON files of its own, so records are known by their names.
RECORD_NAME = re.compile(r"record\.json|[^.].*-seed\d+\.json")
NON_FINITE = ("nan", "inf", "-inf")


class RecordError(ValueError):
    """A record that cannot be trusted, or could not be written; names its file."""


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
        "schema": SCHEMA,
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
        "history": [_shorten(_plain(entry, "history")) for entry in history],
        "status": "done" if failed is None else {"failed": failed},
    }
    if curves:
        record["curves"] = _shorten(_plain(curves, "curves"))
    if nets:
        record["nets"] = nets
    if notes := list(notes):
        record["notes"] = notes
    record = _plain(record, "record")
    _require_fields(record, run)
    return record


def config_hash(config: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of the canonical JSON of `config`."""
    return _sha256(_plain(config, "config"))


def write(path: str | os.PathLike, record: Record) -> Path:
    """Writes `record` with its checksum to `path`, whole or not at all.

    Raises:
      RecordError: the record lacks a field, or the file system refuses (no permission,
        disk full); whatever stood at `path` before is still there.
    """
    path = Path(path)
    record = _plain({k: v for k, v in record.items() if k != "checksum"}, str(path))
    _require_fields(record, path)
    write_text(path, _layout({**record, "checksum": _sha256(record)}))
    return path


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces the file at `path` atomically, or raises RecordError naming it."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}") from error


def read_text(path: str | os.PathLike) -> str:
    """The text of a regular file; a FIFO, which may wait for ever, is refused.

    Raises:
      OSError: it is none, or cannot be read; UnicodeDecodeError: it is no UTF-8.
    """
    require_file(path)
    return Path(path).read_text(encoding="utf-8")


def require_file(path: str | os.PathLike) -> None:
    """Refuses what is there and is no regular file, such as a FIFO.

    Raises:
      OSError: it is none.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read(path: str | os.PathLike) -> Record:
    """Returns the record at `path` after verifying it.

    Raises:
      RecordError: the file is missing, not JSON (for example truncated), of another
        schema, lacks a field, or does not match its checksum.
    """
    try:
        record = json.loads(read_text(path))
        checksum = record.pop("checksum", None) if isinstance(record, dict) else None
        actual = _sha256(record)  # inside the try: a literal NaN is no JSON either
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise RecordError(f"{path} is not JSON (truncated?): {error}") from error
    if not isinstance(record, dict):
        raise RecordError(f"{path} is not a record: a JSON object is expected")
    if record.get("schema") != SCHEMA:
        raise RecordError(
            f"{path} has schema {record.get('schema')!r}; this code reads {SCHEMA}"
        )
    if checksum != actual:
        raise RecordError(
            f"{path} was altered: its checksum does not match its content"
        )
    _require_fields(record, path)
    for field in ("evals", "history", "curves"):
        if field in record:
            record[field] = _decode(record[field])
    return {**record, "checksum": checksum}


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
            target = Path(results_dir) / config_file(record) / record["scale"] / name
            if _in_place(target, record, replace):
                done.unchanged.append(target)
            else:
                done.written.append(write(target, record))
        except RecordError as error:
            done.refused[path] = str(error)
    return done


def config_file(record: Record) -> str:
    """The name of the config file that a record's run is of, without ".py"."""
    return Path(record["run"].partition(":")[0]).stem


def environment(root: str | os.PathLike | None = None) -> dict[str, dict[str, Any]]:
    """Returns the `git`, `versions` and `device` parts of a record.

    Call it when a run starts: by its end the files on disk may be others than the ones
    that ran. `root` is the top of the repository, by default the folder with `vnets`.
    """
    root = Path(__file__).resolve().parents[1] if root is None else Path(root).resolve()
    return {"git": _git_state(root), "versions": _versions(), "device": _device()}


def _git_state(root: Path) -> dict[str, Any]:
    """Returns commit and dirty; outside a checkout no commit can vouch for the code."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # A copy of vnets installed inside some other repository is not that repository.
    if top is None or Path(top).resolve() != root:
        return {"commit": None, "dirty": True}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE)
    return {"commit": commit, "dirty": commit is None or changes != ""}


def _git(root: Path, *arguments: str) -> str | None:
    # Without the optional lock a status cannot get in the way of a commit being made.
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env=variables,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
            versions[package] = None
    return versions


def _device() -> dict[str, Any]:
    import jax  # here, since reading records must not start an accelerator

    devices = jax.devices()
    kind = devices[0].device_kind
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "platform": devices[0].platform,
        "kind": (_cpu_model() or kind) if devices[0].platform == "cpu" else kind,
        "count": len(devices),
        "threads": len(affinity(0)) if affinity else os.cpu_count(),
    }


def _cpu_model() -> str | None:
    """Returns the processor's name where Linux tells it; JAX calls every one "cpu"."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def _require_fields(record: Record, where: object) -> None:
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
        files.part("config file", config_file(record))
        files.part("variant", record["variant"])
        files.part("scale", record["scale"])
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from error
    if record["seed"] < 0:
        raise RecordError(f"{where}: a seed is at least 0, not {record['seed']}")
    if record["run"].partition(":")[2] != record["variant"]:
        raise RecordError(f"{where}: {record['run']} is not of {record['variant']}")
    for name, keys in KEYS.items():
        if absent := sorted(keys - record[name].keys()):
            raise RecordError(f"{where}: {name} lacks {absent}")
    status = record["status"]
    if status != "done" and not (
        isinstance(status, dict) and set(status) == {"failed"}
    ):
        raise RecordError(f"{where}: status is 'done' or {{'failed': why}}: {status!r}")


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


def _plain(value: Any, where: str) -> Any:
    """Returns `value` in JSON types; raises RecordError naming what has none."""
    if hasattr(value, "to_dict"):  # an ml_collections.ConfigDict is no Mapping
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if getattr(value, "shape", None) == ():  # a NumPy or JAX scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RecordError(f"{where} has no JSON form: {type(value).__name__} {value!r}")


def _shorten(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shorten(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten(item) for item in value]
    return float(f"{value:.{HISTORY_DIGITS}g}") if isinstance(value, float) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return float(value) if value in NON_FINITE else value


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(value: Any) -> str:
    return hashlib.sha256(_dumps(value).encode()).hexdigest()


def _layout(record: Record) -> str:
    """Returns JSON with a line for each field and each epoch: small, and diffs read."""
    history = ",\n  ".join(_dumps(entry) for entry in record["history"])
    lines = [
        f' "{name}": ' + (f"[{history}]" if name == "history" else _dumps(value))
        for name, value in record.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"
