"""Data sets changed on purpose: fewer images, no greys, no meaning, pixels moved about.

Each change is drawn once from the raw bits of PCG64, which stay the same in every
version of NumPy, so a seed names a data set. `source` says what was changed and the
checksums are those of the changed data.
"""

import dataclasses
import math

import numpy as np

from vnets.data.splits import stratified
from vnets.data.types import DataError, Dataset, Split, split_sum

SUBSET_SEED = 74  # which images are kept, and never to change
PIXEL_MAX = 255
# Of the digits' noise features in the code of Molchanov et al. 2016: N(0, 5^2) beside
# pixels of 0..16 whose mean has been taken off.
NOISE_STD = 5 / 16


def with_fewer_images(dataset: Dataset, images: int) -> Dataset:
    """Keeps so many training images, each class in its share; the same in every run.

    Raises:
      DataError: more than there are, or none.
    """
    if not 1 <= images <= len(dataset.train):
        raise DataError(
            f"train_images must be 1 to {len(dataset.train)} for {dataset.name}, "
            f"not {images}"
        )
    kept = dataset.train.take(stratified(dataset.train.target, images, SUBSET_SEED))
    return _changed(dataset, {"train": kept}, f"{images} training images")


def with_random_labels(dataset: Dataset, seed: int) -> Dataset:
    """Redraws every training label uniformly; images and the other labels stay.

    Args:
      dataset: its validation and test labels stay true.
      seed: of the draws. The authors' code takes 74632 (with another generator).

    Raises:
      DataError: no classes, one for each example.
    """
    train = dataset.train
    if not dataset.classes or np.shape(train.target) != (len(train),):
        raise DataError(f"{dataset.name} has no labels, one for each example")
    bits = np.random.PCG64(seed).random_raw(len(train))
    label = (bits % dataset.classes).astype(np.int32)
    changed = {"train": dataclasses.replace(train, target=label)}
    return _changed(dataset, changed, f"training labels redrawn, seed {seed}")


def with_noise_features(dataset: Dataset, features: int, seed: int) -> Dataset:
    """Appends noise to the pixels: [N, H, W, C] -> [N, 1, H W C + features, 1].

    The noise is normal of standard deviation `NOISE_STD` around 1/2 in units of the
    greatest pixel value, rounded and clipped to the range of pixels (a tenth of it is).

    Args:
      dataset: every split gets noise of its own.
      features: how many.
      seed: of the draws.

    Raises:
      DataError: less than one feature, or what are no pictures.
    """
    _check_pictures(dataset.train.inputs)
    if features < 1:
        raise DataError(f"noise_features must be at least 1, not {features}")

    def widened(split: Split, number: int) -> Split:
        drawn = normal([seed, number], (len(split), features))
        noise = np.rint(PIXEL_MAX * (0.5 + NOISE_STD * drawn)).clip(0, PIXEL_MAX)
        pixels = split.inputs.reshape(len(split), -1)
        both = np.concatenate([pixels, noise.astype(np.uint8)], axis=1)
        return dataclasses.replace(split, inputs=both[:, None, :, None])

    changed = {
        name: widened(split, number)
        for number, (name, split) in enumerate(_splits(dataset).items())
    }
    return _changed(dataset, changed, f"{features} noise features, seed {seed}")


def normal(seed: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 1) by Box and Muller from raw bits."""
    bits = np.random.PCG64(seed).random_raw(2 * math.prod(shape))
    u, v = (bits.reshape(2, *shape) + 0.5) / 2.0**64  # in (0, 1)
    return np.sqrt(-2 * np.log(u)) * np.cos(2 * math.pi * v)


def noisy_copies(
    images: np.ndarray, copies: int, deviation: float, seed: int = 0, shift: int = 0
) -> np.ndarray:
    """Images, and as many copies of each that are moved, or have noise on all pixels.

    Args:
      images: uint8 [N, H, W, C]; [N, ...] without a shift.
      copies: C, 0 for none.
      deviation: of the normal noise, for pixels in [0, 1]; what leaves it is clipped.
      seed: of the draws.
      shift: a copy is moved by -shift to shift pixels down and as many to the right;
        what comes in is black.

    Returns:
      uint8 [N (1 + C), ...]; the first N are the images.

    Raises:
      DataError: copies below 0, or such that are neither moved nor noisy; images that
        are not uint8, or not [N, H, W, C] where they move.
    """
    if images.dtype != np.uint8 or (shift and images.ndim != 4):
        _check_pictures(images)
    if min(copies, deviation, shift) < 0 or (copies and not (deviation or shift)):
        raise DataError(
            "copies are 0, or some with a deviation or a shift above 0, not "
            f"{copies}, {deviation} and {shift}"
        )
    found = [images]
    for number in range(copies):
        copy = _moved(images, shift, [seed, number, 1]) if shift else images
        if deviation:
            noise = PIXEL_MAX * deviation * normal([seed, number], images.shape)
            copy = np.rint(copy + noise).clip(0, PIXEL_MAX).astype(np.uint8)
        found.append(copy)
    return np.concatenate(found)


def _moved(images: np.ndarray, most: int, seed: list[int]) -> np.ndarray:
    """Each image [H, W, C] moved by up to so many pixels, black where none were."""
    _, height, width, _ = images.shape
    places = 2 * most + 1
    place = np.random.PCG64(seed).random_raw(len(images)) % places**2
    black = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    found = np.empty_like(images)
    for number in range(places**2):
        top, left = divmod(number, places)
        own = place == number
        found[own] = black[own, top : top + height, left : left + width]
    return found


def with_binary_pixels(dataset: Dataset) -> Dataset:
    """Black and white: pixels above half of the greatest value are that, others 0.

    A density of such pixels is one of what was seen; a Bernoulli density of grey ones
    is none.

    Raises:
      DataError: what are no pictures.
    """
    _check_pictures(dataset.train.inputs)

    def binary(split: Split) -> Split:
        white = split.inputs > PIXEL_MAX / 2
        return dataclasses.replace(split, inputs=PIXEL_MAX * white.astype(np.uint8))

    splits = {name: binary(split) for name, split in _splits(dataset).items()}
    return _changed(dataset, splits, "pixels black or white")


def with_standard_columns(dataset: Dataset) -> Dataset:
    """Columns of a table less their mean, over their standard deviation.

    Both are of the training split; a column that does not vary in it becomes 0.

    Raises:
      DataError: no table, float [N, I].
    """
    table = np.asarray(dataset.train.inputs, np.float64)
    if table.ndim != 2 or dataset.train.inputs.dtype != np.float32:
        raise DataError(f"{dataset.name} is no table of numbers; its columns stay")
    mean, std = table.mean(0), table.std(0)
    # Of one value the deviation may be its last digits.
    still = std <= 1e-6 * np.abs(mean)
    scale = np.where(still, 0.0, 1 / np.where(still, 1.0, std))

    def standard(split: Split) -> Split:
        inputs = ((split.inputs - mean) * scale).astype(np.float32)
        return dataclasses.replace(split, inputs=inputs)

    splits = {name: standard(split) for name, split in _splits(dataset).items()}
    return _changed(dataset, splits, "columns standardized")


def with_permuted_pixels(dataset: Dataset, tasks: int, seed: int = 0) -> Dataset:
    """Tasks one after another in each split: the images, then again in other orders.

    Task 0 has the pixels in their places; each further one has an order of its own, the
    same in all splits. Labels stay (Goodfellow et al. 2014).

    Args:
      dataset: of pictures.
      tasks: T; each split gets T times its examples.
      seed: of the orders.

    Raises:
      DataError: less than one task, or what are no pictures.
    """
    _check_pictures(dataset.train.inputs)
    if tasks < 1:
        raise DataError(f"tasks must be at least 1, not {tasks}")
    pixels = math.prod(dataset.train.shape)
    orders = [
        np.argsort(np.random.PCG64([seed, task]).random_raw(pixels))
        for task in range(1, tasks)
    ]

    def repeated(split: Split) -> Split:
        flat = split.inputs.reshape(len(split), -1)
        all_ = np.concatenate([flat, *(flat[:, order] for order in orders)])
        inputs = all_.reshape(-1, *split.shape)
        rest = (
            None if part is None else np.concatenate([part] * tasks)
            for part in (split.target, split.mask)
        )
        return Split(inputs, *rest)

    splits = {name: repeated(split) for name, split in _splits(dataset).items()}
    return _changed(dataset, splits, f"{tasks} orders of the pixels, seed {seed}")


def with_split_classes(dataset: Dataset, tasks: int) -> Dataset:
    """Tasks one after another in each split: the images of some classes, then of more.

    With 10 classes and 5 tasks the first has classes 0 and 1, the last 8 and 9. Labels
    stay. Each task keeps the first of its training images, as many as the smallest has.

    Args:
      dataset: with classes.
      tasks: T, which divides their number.

    Raises:
      DataError: classes that are not T times as many.
    """
    if tasks < 1 or not dataset.classes or dataset.classes % tasks:
        raise DataError(f"{dataset.classes} classes are not {tasks} tasks of as many")

    def in_turn(split: Split, most: int) -> Split:
        rows = [one[:most] for one in _of_tasks(split, dataset.classes // tasks, tasks)]
        return split.take(np.concatenate(rows))

    smallest = min(map(len, _of_tasks(dataset.train, dataset.classes // tasks, tasks)))
    splits = {
        name: in_turn(split, smallest if name == "train" else len(split))
        for name, split in _splits(dataset).items()
    }
    return _changed(
        dataset, splits, f"{tasks} tasks of classes, {smallest} images each"
    )


def _of_tasks(split: Split, classes: int, tasks: int) -> list[np.ndarray]:
    return [np.flatnonzero(split.target // classes == task) for task in range(tasks)]


def _check_pictures(images) -> None:
    if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4:
        told = type(images).__name__
        if isinstance(images, np.ndarray):
            told = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"pictures are uint8 [N, H, W, C], not {told}")


def _splits(dataset: Dataset) -> dict[str, Split]:
    splits = {"train": dataset.train, "test": dataset.test}
    if dataset.validation is not None:
        splits["validation"] = dataset.validation
    return splits


def _changed(dataset: Dataset, splits: dict[str, Split], what: str) -> Dataset:
    sums = {name: split_sum(split) for name, split in splits.items()}
    return dataclasses.replace(
        dataset,
        **splits,
        checksum=dataset.checksum | sums,
        source=f"{dataset.source}; {what}",
    )
