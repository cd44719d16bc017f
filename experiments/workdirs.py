"""The folder of a run: which config it is of, its record, and what to do with others.

A run marks its folder with its config before anything else (`claim`), and leaves its
record there at the end; a config that changed since makes both stale. Of several
processes that want the same run one holds it at a time (`held`).
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import records
from experiments.config_files import load_config
from experiments.spec import ConfigError
from vnets import checkpoint, files, monitor, parallel

RECORD, CONFIG = "record.json", "config.json"
SUMS = f"*/*/{checkpoint.SUMS}"  # of each checkpoint: the last, the best
WRITTEN = (RECORD, CONFIG, monitor.METRICS, SUMS)  # by way of a temporary file
NON_FINITE = {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}  # of JSON, plain
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system without them


def plain_config(config) -> dict[str, Any]:
    """The config without its seed, as plain JSON types.

    A run that starts from other nets depends on their configs too: `net_configs` has
    the hash of each.
    """
    plain = config.to_dict()
    plain.pop("seed", None)
    runs = sorted({spec["run"] for spec in plain.get("nets", {}).values()})
    if runs:
        plain["net_configs"] = {
            run: records.config_hash(plain_config(load_config(f"{run},{config.scale}")))
            for run in runs
        }
    return json.loads(json.dumps(plain), parse_constant=NON_FINITE.__getitem__)


def read_config(folder: Path | str) -> ConfigDict:
    """The config that a folder is marked with.

    Raises:
      ConfigError: the folder holds no run; RecordError: its file is damaged.
    """
    path = Path(folder) / CONFIG
    if not _there(path):
        raise ConfigError(f"{folder} is no workdir of a run: it has no {CONFIG}")
    held = _marked(path)["config"]
    held.pop("net_configs", None)  # `plain_config` adds it
    return ConfigDict({**_unplain(held), "seed": 0})


def _there(path: Path) -> bool:
    """Whether anything of this name is there; RecordError if that cannot be seen."""
    try:
        return path.exists()
    except OSError as error:
        raise records.RecordError(f"cannot read {path}: {error.strerror}") from error


def _marked(path: Path) -> dict[str, Any]:
    """What `claim` wrote: config and environment."""
    try:
        held = json.loads(files.read_text(path))
        return {name: held[name] for name in ("config", "environment")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise records.RecordError(f"{path} is damaged: {error}") from error


def _unplain(value) -> Any:
    """Undoes what `plain_config` did to types: tuples, numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _unplain(one) for name, one in value.items()}
    if isinstance(value, list):
        return tuple(map(_unplain, value))
    return float(value) if value in NON_FINITE.values() else value


def claim(folder: Path, plain: dict) -> dict:
    """Marks a workdir with the config and the environment that a run starts in.

    Returns:
      The environment of the first start, which a resumed run keeps. Of several
      processes the first marks the folder, and all get what it returns or raises.

    Raises:
      ConfigError: the folder holds a run of another config, naming what differs.
      RecordError: the mark is damaged; FileError: it cannot be written.
    """
    return parallel.once(lambda: _claim(folder, plain))


def _claim(folder: Path, plain: dict) -> dict:
    path = folder / CONFIG
    if _there(path):
        held = _marked(path)
        if not _same(held["config"], plain):
            old, new = records.identity(held["config"]), records.identity(plain)
            differing = ", ".join(_differences(old, new))
            raise ConfigError(
                f"workdir {folder} holds a run of another config (it differs in "
                f"{differing}); choose another workdir or remove that one"
            )
        return held["environment"]
    checkpoint.check_workdir(folder, ())
    environment = records.environment()
    content = {"config": plain, "environment": environment}
    files.write_text(path, json.dumps(content, indent=1))
    return environment


def _same(a: Any, b: dict) -> bool:
    """Whether a config of a mark is this one, whichever version of records wrote it."""
    return isinstance(a, dict) and records.identity(a) == records.identity(b)


def _differences(a: Mapping, b: Mapping, prefix: str = "") -> list[str]:
    names = []
    for key in sorted(set(a) | set(b)):
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            names += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            names.append(f"{prefix}{key}")
    return names


@contextlib.contextmanager
def held(folders: Iterable[Path]) -> Iterator[None]:
    """Holds workdirs alone, after whoever holds one of them now.

    By `flock` on a file beside each, `.<name>.lock`, which stays: it moves with no
    workdir, and nobody can delete it between another's opening and locking it. The
    kernel lets go of it when its process ends, however it ends, so no lock is ever
    stale. It holds between the nodes of a cluster on NFS since Linux 2.6.12 (there a
    node that dies lets go when the server's lease is over, in minutes), GPFS, and
    Lustre mounted with `flock`; with Lustre's `localflock`, and on BeeGFS unless it is
    told to, only within a node. Where there are no locks at all, that is said on stderr
    and nothing is held.

    All are taken in the order of their names, so that two who want some of the same
    cannot wait for one another. Of processes that were joined the first holds for all.

    Raises:
      WorkdirError: the lock's file cannot be written.
    """
    if not parallel.is_first():
        yield
        return
    with contextlib.ExitStack() as stack:
        # Resolved: a folder under two names, by a link, is one folder.
        for folder in sorted({Path(folder).resolve() for folder in folders}):
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                path = folder.with_name(f".{folder.name}.lock")
                file = stack.enter_context(open(path, "a+", opener=files.unlinked))
            except OSError as error:
                raise checkpoint.WorkdirError(
                    f"cannot hold workdir {folder}: {error}"
                ) from error
            _lock(file, folder)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            _clean(folder)
        yield


def _clean(folder: Path) -> None:
    """Removes what a killed process began to write into a workdir that is held.

    Raises:
      WorkdirError: it cannot be removed.
    """
    for written in map(Path, WRITTEN):
        for path in folder.glob(str(written.with_name(f".{written.name}.*.tmp"))):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise checkpoint.WorkdirError(
                    f"cannot remove {path}: {error.strerror}"
                ) from error


def _lock(file, folder: Path) -> None:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read() or "another process"
            print(f"{folder}: waiting for {who}, which runs it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(
            f"{folder}: no locks on this file system ({error.strerror}); see to it "
            "that no other process runs the same",
            file=sys.stderr,
            flush=True,
        )


def held_record(folder: Path, config) -> records.Record | None:
    """The folder's record if it is of this config, be it of a failed run.

    Of several processes the first looks, so that all go the same way.

    Raises:
      RecordError: a record that is damaged.
    """
    return parallel.once(lambda: _held_record(Path(folder), config))


def _held_record(folder: Path, config) -> records.Record | None:
    path = folder / RECORD
    if not _there(path):
        return None
    record = records.read(path)
    same = record["config_hash"] == records.config_hash(plain_config(config))
    return record if same else None


def other_config(folder: Path, config) -> dict[str, Any] | None:
    """The config that a folder is marked with, if it is another one."""
    path = Path(folder) / CONFIG
    if not _there(path):
        return None
    marked = _marked(path)["config"]
    return None if _same(marked, plain_config(config)) else marked


def set_aside(folder: Path, config, stale: Path) -> Path | None:
    """Moves a workdir of another config out of the way; nothing is deleted."""
    return parallel.once(lambda: _set_aside(Path(folder), config, stale))


def _set_aside(folder: Path, config, stale: Path) -> Path | None:
    other = other_config(folder, config)
    if other is None:
        return None
    name = "-".join((*folder.parts[-4:], records.config_hash(other)[:8]))
    target = stale / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target = target.with_name(f"{target.name}-{os.getpid()}-{time.time_ns()}")
    shutil.move(folder, target)
    return target
