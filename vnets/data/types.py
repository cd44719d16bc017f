"""What a data set is once loaded, and the error that every failure becomes."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

SPLITS = ("train", "test")  # as read; a validation split is taken from train later


class DataError(ValueError):
    """A data set cannot be had as asked; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 [N, H, W, C] with their classes int32 [N].

    Of your own data the labels may be those of positions, [N, T] or [N, H, W], with a
    mask of the same shape: 1 where a label counts, 0 where it does not.

    Several inputs are a tuple or a dict of arrays [N, ...] in their place.
    """

    image: Any
    label: np.ndarray
    mask: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, [H, W, C]."""
        return self.image.shape[1:]

    def take(self, index: np.ndarray) -> "Split":
        """Gives the images and labels at `index` [M], in that order."""
        mask = None if self.mask is None else self.mask[index]
        if isinstance(self.image, Mapping):
            image = {name: each[index] for name, each in self.image.items()}
        elif isinstance(self.image, tuple):
            image = tuple(each[index] for each in self.image)
        else:
            image = self.image[index]
        return Split(image, self.label[index], mask)


Images = Any  # a `Split`, or a `streams.Stream` where all images do not fit


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for use; `train` is empty where there is a test set only.

    `checksum` maps each split there is to the SHA-256 (hex) that stands for its
    pixels and labels, in order (see `checksum`; of a stream see `streams`): two runs
    with equal checksums saw the same data. `source` says where the data came from, free
    of machine paths.
    """

    name: str
    train: Images
    validation: Split | None
    test: Images
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
