"""Data sets in files of arrays, which one has to bring: DATA_DIR/NAME/SPLIT.npz.

Of any form: pictures, tables, tokens with their lengths. One that is to be had by such
files is a row of `loading.SOURCES` with a `Files`.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vnets.data.types import SPLITS, Arrays, DataError, Places


@dataclasses.dataclass(frozen=True)
class Files:
    """Reads the arrays of each split; nothing is downloaded.

    Attributes:
      source: what the data are, for a record.
      forms: array to its type and the shape of an example: {"image": (np.uint8, (28,
        28, 1)), "label": (np.int32, ())}. In a file a last axis of 1 may be missing,
        and integers may be of another size; all arrays are equally long.
      advice: how to get the files.
      splits: those there are.
    """

    source: str
    forms: Mapping[str, tuple[Any, tuple[int, ...]]]
    advice: str
    splits: tuple[str, ...] = SPLITS

    def __call__(self, name: str, places: Places, download: bool) -> Arrays:
        """Gives the arrays.

        Raises:
          DataError: a file is not there, damaged, or holds something else.
        """
        del download  # there is nowhere to get it from
        arrays = {}
        for split in self.splits:
            found = self._read(name, places.data_dir / name / f"{split}.npz")
            arrays |= {f"{split}_{array}": values for array, values in found.items()}
        return Arrays(arrays, source=self.source)

    def _read(self, name: str, path: pathlib.Path) -> dict[str, np.ndarray]:
        if not path.exists():
            raise DataError(
                f"{name} is not on this machine. Looked for\n  {path}\nIt is not "
                "downloaded. To get it, do one of\n  write that file yourself, "
                f"{self.advice}\n  set TFDS_DATA_DIR to a directory that holds "
                f"{name}/{path.name}"
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {array: file[array] for array in self.forms}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise self._unfit(path, repr(error)) from error
        count = len(next(iter(found.values())))
        return {
            array: self._formed(path, array, values, count)
            for array, values in found.items()
        }

    def _formed(self, path, array: str, values: np.ndarray, count: int) -> np.ndarray:
        kind, shape = self.forms[array]
        whole = values.dtype.kind in "iu" and kind is not np.uint8
        fits = values.dtype == kind or (whole and np.issubdtype(kind, np.integer))
        whole_shape: tuple[int, ...] = (count, *shape)
        shapes = [whole_shape]
        if shape[-1:] == (1,):
            shapes.append(whole_shape[:-1])
        if not fits or values.shape not in shapes:
            raise self._unfit(path, f"its {array}s are {values.dtype} {values.shape}")
        return values.astype(kind).reshape(whole_shape)

    def _unfit(self, path: pathlib.Path, reason: str) -> DataError:
        held = ", ".join(
            f"`{array}` {np.dtype(kind)} {['N', *shape]}".replace("'", "")
            for array, (kind, shape) in self.forms.items()
        )
        return DataError(
            f"{path} is damaged or not what it should be: {reason}.\n"
            f"It must hold {held}."
        )
