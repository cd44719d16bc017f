"""What a data set is once loaded, and the error that every failure becomes."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

SPLITS = ("train", "test")  # as read; a validation split is taken from train later
RENAMED = {"image": "inputs", "label": "target"}


class DataError(ValueError):
    """A data set cannot be had as asked; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Inputs with their targets: pictures, tables, tokens, or several of them.

    Attributes:
      inputs: an array [N, ...] of any type, or a tuple or dict of arrays, themselves
        tuples or dicts perhaps: {"tokens": [N, T], "length": [N]}. Pictures of `load`
        are uint8 [N, H, W, C].
      target: classes [N], or of positions [N, T] or [N, H, W]; numbers or probabilities
        [N, ...]; or None, where the inputs are all there is to explain.
      mask: of the target's parts: 1 where one counts, 0 where it does not (see
        `in_length`), another number for its weight.
    """

    inputs: Any
    target: Any = None
    mask: Any = None

    def __len__(self) -> int:
        first = self.inputs
        while isinstance(first, Mapping | tuple):
            first = next(iter(first.values() if isinstance(first, Mapping) else first))
        return len(first)

    def __getattr__(self, name: str) -> Any:
        if name in RENAMED:  # for one release
            raise AttributeError(f"a split's {name} is called {RENAMED[name]}")
        raise AttributeError(f"a split has no {name}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input, [H, W, C] of a picture."""
        return self.inputs.shape[1:]

    def take(self, index: np.ndarray) -> "Split":
        """Gives the examples at `index` [M], in that order."""
        return Split(*(_at(part, index) for part in vars(self).values()))


def _at(part: Any, index: np.ndarray) -> Any:
    """The rows of an array, or of each in a tree; of nothing, nothing."""
    if isinstance(part, Mapping):
        return {name: _at(each, index) for name, each in part.items()}
    if isinstance(part, tuple):
        return tuple(_at(each, index) for each in part)
    return None if part is None else part[index]


def in_length(length: np.ndarray, positions: int) -> np.ndarray:
    """Which of T positions lie within each of N sequences, bool [N, T]: their mask.

    Args:
      length: of each sequence, int [N].
      positions: T; what a sequence does not fill is padding at its end.

    Raises:
      DataError: a length that is negative or above T.
    """
    length = np.asarray(length)
    if length.size and not 0 <= length.min() <= length.max() <= positions:
        found = f"{length.min()} to {length.max()}"
        raise DataError(f"lengths must be within 0 and {positions}, not {found}")
    return np.arange(positions) < length[:, None]


Examples = Any  # a `Split`, or a `streams.Stream` where all of it does not fit


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for use; `train` is empty where there is a test set only.

    `classes` is 0 where targets are numbers. `checksum` maps each split there is to the
    SHA-256 (hex) that stands for its inputs and targets, in order (see `checksum`; of a
    stream see `streams`): two runs with equal checksums saw the same data. `source`
    says where the data came from, free of machine paths.
    """

    name: str
    train: Examples
    validation: Split | None
    test: Examples
    classes: int
    checksum: dict[str, str]
    source: str


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """A data set as its source has it, with every kind of label.

    `arrays` holds "train_image", "train_label", "test_image", "test_label" and any
    further "{split}_{feature}", of the splits there are; `sha256` the digest of each.
    """

    arrays: Mapping[str, np.ndarray]
    source: str
    sha256: Mapping[str, str] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        sha256 = {key: digest(array) for key, array in self.arrays.items()}
        object.__setattr__(self, "sha256", sha256)


@dataclasses.dataclass(frozen=True)
class Places:
    """The directories in which data are looked for."""

    data_dir: pathlib.Path  # TFDS: prepared data sets
    cache_dir: pathlib.Path  # ours: decoded arrays

    @classmethod
    def resolve(
        cls,
        data_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> "Places":
        """Fills in $TFDS_DATA_DIR or ~/tensorflow_datasets, and $VNETS_CACHE_DIR or
        ~/.cache/vnets."""
        environ = os.environ.get
        data_dir = data_dir or environ("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        cache_dir = cache_dir or environ("VNETS_CACHE_DIR") or "~/.cache/vnets"
        return cls(
            pathlib.Path(data_dir).expanduser(), pathlib.Path(cache_dir).expanduser()
        )


def digest(array: np.ndarray) -> str:
    """Gives the SHA-256 (hex) of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def checksum(image_sha256: str, label_sha256: str) -> str:
    """Gives one SHA-256 for a split, out of those of its pixels and its labels.

    Digests are combined, not bytes, so that the digests which the cache is verified
    with serve here too: hashing CIFAR-10 once takes half a second.
    """
    return hashlib.sha256(f"{image_sha256} {label_sha256}".encode()).hexdigest()


def split_sum(split: Split) -> str:
    """Gives the `checksum` of a split whose inputs are an array, or a dict of them."""
    several = isinstance(split.inputs, Mapping)
    arrays = split.inputs.values() if several else [split.inputs]
    return checksum(" ".join(map(digest, arrays)), digest(split.target))
