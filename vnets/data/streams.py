"""Data sets that fit no memory: encoded pictures, decoded when a batch is asked for.

They are TFDS directories of array_record files with the features of imagenet2012: an
encoded "image" of any size and a "label". TFDS reads a record by its number, Grain
does so ahead of the training, in threads or in processes of its own. What a batch is
depends on the seed, the epoch and its number alone: not on how many do the reading, on
how many processes share the training, or on where a run was resumed.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from vnets import extras
from vnets.data import pictures, records, shapes
from vnets.data.types import DataError, Dataset, Places, Split

SPLITS = {"train": "train", "test": "validation"}  # ours, and what TFDS calls it
NAMES = ("imagenet2012", shapes.NAME)
IMAGE_SIZE = 224
WORKERS = "VNETS_DATA_WORKERS"  # processes that decode; threads of this one, if 0
HASHED_WHOLE = 2**24  # bytes of a split's files, at most
AHEAD = 2  # batches made ahead by each thread or process
THREADS = 8  # at most
Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """The pictures of a split, cut to squares as they are read.

    Attributes:
      folder: the prepared TFDS directory.
      split: as TFDS calls it.
      size: edge of the squares, in pixels.
      count: N.
    """

    folder: pathlib.Path
    split: str
    size: int
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image, [H, W, C]."""
        return (self.size, self.size, 3)

    def take(self, index: np.ndarray) -> Split:
        """Central cuts of the pictures at `index` [M], in that order, in memory.

        Raises:
          IndexError: a number that no picture has.
        """
        wrong = [int(number) for number in index if not 0 <= number < self.count]
        if wrong:
            raise IndexError(f"there are {self.count} pictures, none at {wrong}")
        cuts = [self._tested(int(number)) for number in index]
        images = np.asarray([cut["image"] for cut in cuts], np.uint8)
        labels = np.asarray([cut["label"] for cut in cuts], np.int32)
        return Split(images.reshape(-1, *self.shape), labels)

    def training_batches(
        self, batch_size: int, seed: int, epoch: int, rows: slice, first: int = 0
    ) -> Iterator[Batch]:
        """Random cuts in a random order; what is beyond the last whole batch is left.

        Args:
          batch_size: B.
          seed: of order and cuts, both new in each
          epoch: from 0 on.
          rows: of each batch, that are wanted here.
          first: number of the batch to begin with.

        Yields:
          "image" uint8 [rows, H, W, C] and "label" int32 [rows].
        """
        order = _permutation(seed, epoch, self.count)
        numbers = _Numbers(order, batch_size, rows, first, self.count // batch_size)
        return self._batches(numbers, functools.partial(self._trained, seed, epoch))

    def test_batches(
        self, batch_size: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Central cuts of all pictures in order; the last batch is filled up.

        Yields:
          "image" uint8 [rows, H, W, C], "label" int32 [rows], and "inside", bool
          [rows]: False where there is no picture any more.
        """
        steps = -(-self.count // batch_size)
        order = np.full(steps * batch_size, -1)
        order[: self.count] = np.arange(self.count)
        numbers = _Numbers(order, batch_size, rows, 0, steps)
        return self._batches(numbers, self._tested)

    def _trained(self, seed: int, epoch: int, number: int) -> dict[str, Any]:
        picture, label = self._read(number)
        draws = pictures.uniform(seed, epoch, number)
        image = pictures.random_cut(picture, self.size, draws)
        return {"image": image, "label": label}

    def _tested(self, number: int) -> dict[str, Any]:
        if number < 0:
            nothing = np.zeros(self.shape, np.uint8)
            return {"image": nothing, "label": np.int32(0), "inside": np.bool_(False)}
        picture, label = self._read(number)
        image = pictures.central_cut(picture, self.size)
        return {"image": image, "label": label, "inside": np.bool_(True)}

    def _read(self, number: int):
        """The picture with a number, and its label."""
        try:
            record = _opened(self.folder, self.split)[number]
            return pictures.decode(record["image"]), np.int32(record["label"])
        except Exception as error:  # array_record, TFDS and Pillow each raise their own
            raise DataError(
                f"picture {number} of the {self.split} split in {self.folder} cannot "
                f"be read: {type(error).__name__}: {error}"
            ) from error

    def _batches(self, numbers: "_Numbers", read) -> Iterator[Batch]:
        """What Grain makes of `read` at these numbers, a batch at a time."""
        grain = extras.need("grain")
        workers = _workers()
        threads = 1 if workers else min(THREADS, os.cpu_count() or 1)
        # Batches are made before Grain deals them out, so that their order and what is
        # in them does not depend on how many make them.
        made = grain.MapDataset.source(numbers).map(read).batch(numbers.width)
        ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD)
        batches = made.to_iter_dataset(ahead)
        if workers:
            _mark_flags_as_parsed()
            processes = grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=AHEAD
            )
            batches = batches.mp_prefetch(processes)
        for batch in batches:  # shared memory, if it is of another process
            yield {k: np.array(v) for k, v in batch.items()} if workers else batch


class _Numbers:
    """The numbers of the records that some rows of each batch have, one by one.

    Args:
      order: of all records, at least `steps` batches of them.
      batch_size: B.
      rows: of each batch.
      first: number of the batch to begin with.
      steps: batches in all.
    """

    def __init__(
        self, order: np.ndarray, batch_size: int, rows: slice, first: int, steps: int
    ):
        start, stop, _ = rows.indices(batch_size)
        whole = order[: steps * batch_size].reshape(steps, batch_size)
        self.width = stop - start
        self._numbers = whole[first:, start:stop].ravel()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> int:
        return int(self._numbers[index])


def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """An order of all records; by raw bits, the same in every version of NumPy."""
    bits = np.random.PCG64([seed, epoch]).random_raw(count)
    return np.argsort(bits, kind="stable")


def _mark_flags_as_parsed() -> None:
    """Lets Grain start processes outside of an absl program, where none parses flags.

    Grain has absl loaded; this library has no flags and does not import it.
    """
    sys.modules["absl.flags"].FLAGS.mark_as_parsed()


def _workers() -> int:
    """How many processes decode: it is a matter of the machine, and of no result."""
    text = os.environ.get(WORKERS) or "0"
    if not text.isdecimal():
        raise DataError(
            f"{WORKERS} must be a number of processes, 0 for threads, not {text!r}"
        )
    return int(text)


@functools.lru_cache(maxsize=8)
def _opened(folder: pathlib.Path, split: str) -> Any:
    """The records of a split; each process opens its own."""
    import tensorflow_datasets as tfds

    skip = {"image": tfds.decode.SkipDecoding()}
    builder: Any = tfds.builder_from_directory(folder)
    return builder.as_data_source(split, decoders=skip)


def load(
    name: str,
    places: Places,
    image_size: int | None,
    download: bool,
) -> Dataset:
    """A data set whose splits are streams; see `loading.load`."""
    size = IMAGE_SIZE if image_size is None else image_size
    if size < 1:
        raise DataError(f"image_size must be at least 1 pixel, not {size}")
    for package in ("grain", *records.READERS):
        extras.need(package)
    folder = records.locate(name, places.data_dir)
    if folder is None and name == shapes.NAME and download:
        folder = shapes.prepare(places.data_dir)
    if folder is None:
        raise DataError(_missing(name, places))
    try:
        counts, classes = _facts(folder)
    except Exception as error:  # as above
        raise DataError(
            f"{name}: {folder} is damaged or incomplete: {error}; prepare it again"
        ) from error
    splits = {
        ours: Stream(folder, theirs, size, counts[theirs])
        for ours, theirs in SPLITS.items()
    }
    sums = {ours: _checksum(folder, theirs) for ours, theirs in SPLITS.items()}
    return Dataset(
        name,
        splits["train"],
        None,
        splits["test"],
        classes,
        sums,
        f"TFDS {name}:{folder.name}, cut to {size}x{size}",
    )


def _facts(folder: pathlib.Path) -> tuple[dict[str, int], int]:
    """How many records each split has, and how many classes there are."""
    import tensorflow_datasets as tfds

    info: Any = tfds.builder_from_directory(folder).info
    counts = {}
    for split in SPLITS.values():
        records.check_count(info.splits[split])
        counts[split] = info.splits[split].num_examples
    return counts, info.features["label"].num_classes


def _checksum(folder: pathlib.Path, split: str) -> str:
    """The SHA-256 (hex) of a split's pictures and labels, in order, if they are few.

    Of many it is that of their files' fingerprint: TFDS writes the fields of a record
    in any order, so the same pictures prepared twice are other files.
    """
    files = f"*-{split}.array_record-*"
    if sum(path.stat().st_size for path in folder.glob(files)) > HASHED_WHOLE:
        return records.fingerprint(folder, files)
    held = _opened(folder, split)
    sha256 = hashlib.sha256()
    for number in range(len(held)):
        record = held[number]
        sha256.update(f"{record['label']} {len(record['image'])} ".encode())
        sha256.update(record["image"])
    return sha256.hexdigest()


def _missing(name: str, places: Places) -> str:
    folder = places.data_dir / name
    if name == shapes.NAME:
        return (
            f"{name} is not in {folder}; "
            "`python scripts/fetch_data.py generated_shapes` generates it"
        )
    return (
        f"{name} is not in {folder} as a TFDS data set of array_record files. It "
        "cannot be downloaded without an account at image-net.org: fetch "
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar there, and on a machine "
        "with TensorFlow run `tfds build imagenet2012 --file_format=array_record "
        f"--manual_dir=DIR_OF_THE_TARS --data_dir={places.data_dir}`"
    )
