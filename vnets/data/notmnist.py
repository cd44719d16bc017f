"""notMNIST: glyphs of the letters A to J in the form of MNIST (Bulatov 2011).

It serves as data from outside of MNIST's distribution, so only a test set is read:
DATA_DIR/notmnist/test.npz with `image` uint8 [N, 28, 28] and `label` [N], 0 for A to 9
for J. TFDS has no builder of it, so it is not downloaded either.
"""

import pathlib
import zipfile

import numpy as np

from vnets.data.types import Arrays, DataError, Places

FILE = "test.npz"
SHAPE = (28, 28)


def read(name: str, places: Places, download: bool) -> Arrays:
    """Gives test [N, 28, 28, 1], uint8, with labels.

    Raises:
      DataError: the file is not there, damaged, or holds something else.
    """
    del download  # there is nowhere to get it from
    path = places.data_dir / name / FILE
    if not path.exists():
        raise DataError(_missing(name, path))
    try:
        with np.load(path, allow_pickle=False) as file:
            image, label = file["image"], file["label"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unfit(path, repr(error)) from error
    if image.dtype != np.uint8 or image.shape != (len(image), *SHAPE):
        raise _unfit(path, f"its images are {image.dtype} {image.shape}")
    if label.dtype.kind not in "iu" or label.shape != image.shape[:1]:
        raise _unfit(path, f"its labels are {label.dtype} {label.shape}")
    return Arrays(
        {"test_image": image[..., None], "test_label": label.astype(np.int32)},
        source="notMNIST, a file of arrays",
    )


def _missing(name: str, path: pathlib.Path) -> str:
    return (
        f"{name} is not on this machine. Looked for\n"
        f"  {path}\n"
        "TFDS has no builder of it and it is not downloaded. To get it, do one of\n"
        "  write that file yourself, from the images of notMNIST_small by Yaroslav "
        "Bulatov:\n"
        "  `numpy.savez(path, image=..., label=...)`, image uint8 [N, 28, 28], label "
        "[N], 0 for A to 9 for J\n"
        f"  set TFDS_DATA_DIR to a directory that holds {name}/{FILE}\n"
        '  use another data set of that shape, such as "fashion_mnist" or "kmnist"'
    )


def _unfit(path: pathlib.Path, reason: str) -> DataError:
    return DataError(
        f"{path} is damaged or not what it should be: {reason}.\n"
        "It must hold `image`, uint8 [N, 28, 28], and `label`, integers [N]."
    )
