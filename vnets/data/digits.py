"""The 1,797 handwritten digits that come with scikit-learn: real data, no network.

8x8 images of 17 grey levels (the test part of the UCI optical recognition data set,
Alpaydin and Kaynak 1998), brought to the size and range of MNIST. scikit-learn has no
train and test split; ours is fixed: 360 stratified test images.
"""

import numpy as np

from vnets.data.splits import stratified
from vnets.data.types import Arrays, Places

SIDE = 28
TEST_SIZE = 360  # 20 %
TEST_SEED = 1797  # another seed would be another data set
GREY_MAX = 16


def read(name: str, places: Places, download: bool) -> Arrays:
    """Gives train [1437, 28, 28, 1] and test [360, 28, 28, 1], uint8, with labels."""
    del name, places, download  # the package has them
    from sklearn.datasets import load_digits

    small, label = (np.asarray(part) for part in load_digits(return_X_y=True))
    image = _resize(small.reshape(-1, 8, 8))
    in_test = np.zeros(len(label), bool)
    in_test[stratified(label, TEST_SIZE, TEST_SEED)] = True
    return Arrays(
        {
            "train_image": image[~in_test],
            "train_label": label[~in_test].astype(np.int32),
            "test_image": image[in_test],
            "test_label": label[in_test].astype(np.int32),
        },
        source="scikit-learn load_digits, resized to 28x28",
    )


def _resize(small: np.ndarray) -> np.ndarray:
    """Scales grey levels [N, 8, 8] of 0..16 to uint8 [N, 28, 28, 1], bilinearly."""
    from PIL import Image

    grey = np.rint(small * (255 / GREY_MAX)).astype(np.uint8)
    bilinear = Image.Resampling.BILINEAR
    large = [Image.fromarray(g).resize((SIDE, SIDE), bilinear) for g in grey]
    return np.stack([np.asarray(image) for image in large])[..., None]
