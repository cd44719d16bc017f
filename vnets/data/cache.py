"""Decoded data sets on disk: one folder of .npy files with a manifest of checksums.

Decoding PNG records takes tens of seconds, reading arrays a fraction of one. A folder
CACHE_DIR/NAME/KEY is written once, whole, and never changed; KEY names the TFDS
directory it was decoded from. Everything is verified at every load.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import pathlib
import shutil
import time
import uuid

import numpy as np

from vnets import files
from vnets.data.types import Arrays, DataError

FORMAT = 1  # of the manifest and the files beside it
MANIFEST = "manifest.json"
PARTIAL = ".partial-"  # a folder that is being filled, and locked by who does
MINUTE = 60.0  # seconds that it may have to be locked

logger = logging.getLogger(__name__)


def write(folder: pathlib.Path, data: Arrays) -> None:
    """Writes `data` as `folder`, at once or not at all; failing to only warns.

    Of two processes that write the same folder the first wins; both wrote the same.
    """
    partial = folder.parent / f"{PARTIAL}{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        with _locked(partial):
            _fill(partial, data)
            partial.rename(folder)
    except OSError as error:
        if not folder.is_dir():
            logger.warning(
                "%s could not be cached (%s): it is decoded again at the next load. "
                "Set VNETS_CACHE_DIR to a writable directory.",
                folder,
                error,
            )
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path):
    """Locks a folder until the process ends or is done; yields whether that worked.

    It does not where another process holds it, or where there are no locks.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        held = False
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        yield held
    finally:
        os.close(handle)


def _clean(folder: pathlib.Path) -> None:
    """Removes what killed processes left unfinished in a data set's folder."""
    for partial in folder.glob(f"{PARTIAL}*"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime < MINUTE:
                continue
            with _locked(partial) as mine:
                if mine:
                    shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: pathlib.Path, data: Arrays) -> None:
    entries = {}
    for name, array in data.arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        entries[name] = {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": data.sha256[name],
        }
    manifest = {
        "format": FORMAT,
        "source": data.source,
        "tensorflow_datasets": importlib.metadata.version("tensorflow-datasets"),
        "arrays": entries,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def read(folder: pathlib.Path) -> Arrays:
    """Reads and verifies a cached data set.

    Raises:
      DataError: a file is missing or damaged; the message names it.
      OSError: it cannot be read.
    """
    _clean(folder.parent)
    manifest = _read_manifest(folder)
    entries = manifest["arrays"]
    data = Arrays(
        {name: _read_array(folder / f"{name}.npy") for name in entries},
        source=manifest["source"],
    )
    for name, entry in entries.items():
        array = data.arrays[name]
        found = (list(array.shape), str(array.dtype), data.sha256[name])
        if found != (entry["shape"], entry["dtype"], entry["sha256"]):
            raise _damaged(folder / f"{name}.npy", "it does not match its checksum")
    return data


def find(folder: pathlib.Path) -> pathlib.Path | None:
    """Gives the cached version of the data set whose versions `folder` holds, if any.

    Raises:
      DataError: there are several with different contents, and so no saying which.
    """
    found = sorted(path.parent for path in folder.glob(f"[!.]*/{MANIFEST}"))
    contents = {json.dumps(_read_manifest(path)["arrays"]) for path in found}
    if len(contents) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"{folder} holds several versions of the data set ({names}), and there is "
            "no TFDS directory to say which one is meant. Delete all but one of them, "
            "or set TFDS_DATA_DIR."
        )
    return found[-1] if found else None


def _read_manifest(folder: pathlib.Path) -> dict:
    path = folder / MANIFEST
    try:
        manifest = json.loads(files.read_text(path))
        complete = manifest["format"] == FORMAT and manifest["source"]
        complete = complete and manifest["arrays"]
        complete = complete and all(
            {"shape", "dtype", "sha256"} <= entry.keys()
            for entry in manifest["arrays"].values()
        )
    except PermissionError:  # not damaged
        raise
    except Exception as error:  # damaged text fails in as many ways as there are bytes
        raise _damaged(path, repr(error)) from error
    if not complete:
        raise _damaged(path, f"it is not a manifest of format {FORMAT}")
    return manifest


def _read_array(path: pathlib.Path) -> np.ndarray:
    try:
        files.require_file(path)
        return np.load(path, allow_pickle=False)
    except PermissionError:
        raise
    except Exception as error:  # as above: a damaged header may raise anything
        raise _damaged(path, repr(error)) from error


def _damaged(path: pathlib.Path, reason: str) -> DataError:
    return DataError(
        f"The cached file {path} is damaged: {reason}.\n"
        f"Delete the folder {path.parent}{os.sep}: the data set is then decoded again "
        "from its TFDS directory."
    )
