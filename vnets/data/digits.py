"""The 1,797 handwritten digits that come with scikit-learn: real data, no network.

8x8 images of 17 grey levels (the test part of the UCI optical recognition data set,
Alpaydin and Kaynak 1998), brought to the range of MNIST, and as "digits" to its size
too; "digits_8x8" keeps theirs. scikit-learn has no train and test split; ours is fixed:
360 stratified test images, the same in both.
"""

import functools

import numpy as np

from vnets.data.splits import stratified
from vnets.data.types import Arrays, Places

SIDES = {"digits": 28, "digits_8x8": 8}
TEST_SIZE = 360  # 20 %
TEST_SEED = 1797  # another seed would be another data set
GREY_MAX = 16


def read(name: str, places: Places, download: bool) -> Arrays:
    """Gives train [1437, H, W, 1] and test [360, H, W, 1], uint8, with labels.

    The arrays are shared by all calls and read-only.
    """
    del places, download  # the package has them
    return _read(name)


@functools.cache
def _read(name: str) -> Arrays:
    from sklearn.datasets import load_digits

    small, label = (np.asarray(part) for part in load_digits(return_X_y=True))
    side = SIDES[name]
    image = _resize(small.reshape(-1, 8, 8), side)
    in_test = np.zeros(len(label), bool)
    in_test[stratified(label, TEST_SIZE, TEST_SEED)] = True
    arrays = {
        "train_image": image[~in_test],
        "train_label": label[~in_test].astype(np.int32),
        "test_image": image[in_test],
        "test_label": label[in_test].astype(np.int32),
    }
    for array in arrays.values():
        array.flags.writeable = False
    return Arrays(arrays, source=f"scikit-learn load_digits, {_form(side)}")


def _form(side: int) -> str:
    return "8x8" if side == 8 else f"resized to {side}x{side}"


def _resize(small: np.ndarray, side: int) -> np.ndarray:
    """Scales grey levels [N, 8, 8] of 0..16 to uint8 [N, side, side, 1], bilinearly."""
    from PIL import Image

    grey = np.rint(small * (255 / GREY_MAX)).astype(np.uint8)
    bilinear = Image.Resampling.BILINEAR
    large = [Image.fromarray(g).resize((side, side), bilinear) for g in grey]
    return np.stack([np.asarray(image) for image in large])[..., None]
