"""The 1,797 handwritten digits of scikit-learn's load_digits: real data, no network.

8x8 images of 17 grey levels (the test part of the UCI optical recognition data set,
Alpaydin and Kaynak 1998, CC BY 4.0; digits.npz has them), brought to the range of
MNIST, and as "digits" to its size too; "digits_8x8" keeps theirs. scikit-learn has no
train and test split; ours is fixed: 360 stratified test images, the same in both.
"""

import functools
from pathlib import Path

import numpy as np

from vnets.data.splits import stratified
from vnets.data.types import Arrays, Places

SIDES = {"digits": 28, "digits_8x8": 8}
TEST_SIZE = 360  # 20 %
TEST_SEED = 1797  # another seed would be another data set
GREY_MAX = 16
FRACTION_BITS = 22  # of an interpolation weight, as in Pillow


def read(name: str, places: Places, download: bool) -> Arrays:
    """Gives train [1437, H, W, 1] and test [360, H, W, 1], uint8, with labels.

    The arrays are shared by all calls and read-only.
    """
    del places, download  # the package has them
    return _read(name)


@functools.cache
def _read(name: str) -> Arrays:
    with np.load(Path(__file__).with_name("digits.npz")) as held:
        small, label = held["image"], held["label"]
    side = SIDES[name]
    image = _resize(small, side)
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
    """Scales grey levels [N, 8, 8] of 0..16 to uint8 [N, side, side, 1], bilinearly.

    Bit for bit as Pillow does it: in whole numbers, along rows and then along columns.
    """
    grey = np.rint(small * (255 / GREY_MAX)).astype(np.int64)
    size = grey.shape[-1]
    place = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
    weight = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size)))
    weight = np.rint(weight * 2**FRACTION_BITS).astype(np.int64)
    half = 2 ** (FRACTION_BITS - 1)
    rows = (grey @ weight.T + half) >> FRACTION_BITS
    return ((weight @ rows + half) >> FRACTION_BITS).astype(np.uint8)[..., None]
