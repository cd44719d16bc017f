"""Prepared TFDS directories: finding one, telling it apart, decoding it.

A data set lies in DATA_DIR/NAME/VERSION as array_record files beside a
dataset_info.json. TFDS reads these without TensorFlow (Pillow or OpenCV decode the
images); records that TFDS wrote for TensorFlow (tfrecord) it does not.
"""

import hashlib
import pathlib
from typing import Any

import numpy as np

from vnets import extras
from vnets.data.types import SPLITS, Arrays, DataError

READERS = ("tensorflow_datasets", "array_record", "PIL")
BATCH = 1000  # records decoded at a time
EDGE_BYTES = 65536  # of each end of a record file, for its fingerprint


def locate(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """Gives the newest version of `name` prepared as array_record, or None."""
    infos = (data_dir / name).glob("[0-9]*/dataset_info.json")
    folders = [
        info.parent for info in infos if any(info.parent.glob("*.array_record-*"))
    ]
    return max(folders, key=_version, default=None)


def _version(folder: pathlib.Path) -> list[int]:
    return [int(part) for part in folder.name.split(".") if part.isdecimal()]


def key(folder: pathlib.Path) -> str:
    """Names the contents of a prepared directory: its version and a fingerprint.

    The fingerprint covers dataset_info.json and each record file's name, size, first
    and last 64 KiB. The last ones hold the index of all chunks, so another order of
    the images or other pixels show in it without reading whole files at every load.
    """
    return f"{folder.name}-{fingerprint(folder, '*.array_record-*')[:16]}"


def fingerprint(folder: pathlib.Path, pattern: str) -> str:
    """The SHA-256 (hex) of the record files that match, as `key` looks at them."""
    sha256 = hashlib.sha256((folder / "dataset_info.json").read_bytes())
    for path in sorted(folder.glob(pattern)):
        size = path.stat().st_size
        sha256.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            sha256.update(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            sha256.update(file.read())
    return sha256.hexdigest()


def decode(name: str, folder: pathlib.Path) -> Arrays:
    """Decodes every split of a prepared directory, with every kind of label.

    Raises:
      DataError: a record file is damaged, missing, or not as long as dataset_info.json
        says; the message names the data set, the split and the directory.
    """
    for package in READERS:
        extras.need(package)
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        try:
            columns = _decode_split(folder, split)
        except Exception as error:  # array_record, TFDS and Pillow each raise their own
            raise DataError(
                f"{name}: the {split} split cannot be read from its TFDS records in "
                f"{folder}, which are damaged or incomplete: {_first_line(error)}\n"
                "Delete that directory and prepare it again: "
                f"python scripts/fetch_data.py {name}"
            ) from error
        arrays |= {f"{split}_{feature}": array for feature, array in columns.items()}
    return Arrays(arrays, source=f"TFDS {name}:{folder.name}")


def _decode_split(folder: pathlib.Path, split: str) -> dict[str, np.ndarray]:
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(folder)
    check_count(builder.info.splits[split])
    columns = _allocate(builder.info.features, builder.info.splits[split].num_examples)
    records = builder.as_data_source(split)
    for start in range(0, len(records), BATCH):
        stop = min(start + BATCH, len(records))
        batch = records.__getitems__(list(range(start, stop)))
        for feature, column in columns.items():
            column[start:stop] = [record[feature] for record in batch]
    return columns


def _allocate(features: Any, count: int) -> dict[str, np.ndarray]:
    """Makes room for the image and every label; CIFAR's "id" is not kept."""
    labels = [feature for feature in features if feature.endswith("label")]
    columns: dict[str, np.ndarray] = {}
    columns |= {label: np.empty(count, np.int32) for label in labels}
    columns["image"] = np.empty((count, *features["image"].shape), np.uint8)
    return columns


def check_count(info: Any) -> None:
    """Compares TFDS's own count with what the files hold: it never does so itself."""
    from array_record.python.array_record_module import ArrayRecordReader

    held = 0
    for path in info.filepaths:
        reader = ArrayRecordReader(str(path))
        held += reader.num_records()
        reader.close()
    if held != info.num_examples:
        raise ValueError(
            f"dataset_info.json counts {info.num_examples} examples, "
            f"the record files hold {held}"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
