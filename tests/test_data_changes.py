"""Laws of the changed data sets: what is redrawn, what stays; a seed names the data."""

import dataclasses
import math

import numpy as np
import pytest

from vnets import data

SEED = 74632


@pytest.fixture(scope="module")
def digits():
    return data.load("digits_8x8", validation=200)


def test_small_digits_are_the_same_split_in_their_own_size():
    small, large = data.load("digits_8x8"), data.load("digits")
    for split in ("train", "test"):
        one, other = getattr(small, split), getattr(large, split)
        np.testing.assert_array_equal(one.target, other.target)
        assert one.inputs.shape == (len(other), 8, 8, 1)
    grey = np.unique(small.train.inputs)
    np.testing.assert_array_equal(grey, np.rint(np.arange(17) * 255 / 16))
    assert "8x8" in small.source


def test_fewer_images_are_stratified_and_fixed(digits):
    few = data.with_fewer_images(digits, 100)
    again = data.with_fewer_images(digits, 100)
    np.testing.assert_array_equal(few.train.inputs, again.train.inputs)
    share = np.bincount(digits.train.target) * 100 / len(digits.train)
    assert np.abs(np.bincount(few.train.target) - share).max() < 1
    assert few.test is digits.test
    assert few.checksum["train"] != digits.checksum["train"]
    assert few.source.endswith("100 training images")
    for images in (0, len(digits.train) + 1):
        with pytest.raises(data.DataError, match=rf"train_images.*not {images}"):
            data.with_fewer_images(digits, images)


def test_random_labels_are_uniform_fixed_and_of_the_training_images_only(digits):
    changed, again, other = (
        data.with_random_labels(digits, seed) for seed in (SEED, SEED, SEED + 1)
    )
    assert changed.train.target.dtype == np.int32
    np.testing.assert_array_equal(changed.train.target, again.train.target)
    assert np.any(changed.train.target != other.train.target)
    assert changed.train.inputs is digits.train.inputs
    assert changed.checksum["train"] != digits.checksum["train"]
    for split in ("validation", "test"):
        assert getattr(changed, split) is getattr(digits, split)
        assert changed.checksum[split] == digits.checksum[split]
    assert str(SEED) in changed.source
    # A label agrees with the true one as often as chance: binomial, within 5 errors.
    n = len(changed.train)
    agree = np.mean(changed.train.target == digits.train.target)
    assert abs(agree - 0.1) < 5 * math.sqrt(0.1 * 0.9 / n)
    counts = np.bincount(changed.train.target, minlength=10)
    assert len(counts) == 10
    assert np.all(np.abs(counts / n - 0.1) < 5 * math.sqrt(0.1 * 0.9 / n))


def test_noise_features_are_appended_to_all_splits(digits):
    changed = data.with_noise_features(digits, 50, seed=0)
    parts = [getattr(changed, s).inputs for s in ("train", "validation", "test")]
    for before, after in zip(
        (digits.train, digits.validation, digits.test), parts, strict=True
    ):
        assert after.shape == (len(before), 1, 64 + 50, 1)
        assert after.dtype == np.uint8
        pixels = after[:, 0, :64, 0].reshape(before.inputs.shape)
        np.testing.assert_array_equal(pixels, before.inputs)
    noise = [part[:, 0, 64:, 0] for part in parts]
    assert not np.array_equal(noise[0][:100], noise[1][:100])
    x = np.concatenate(noise).astype(np.float64).ravel() / 255
    # Symmetric around 1/2; the quartiles of the normal are not reached by clipping.
    assert abs(x.mean() - 0.5) < 5 * x.std() / math.sqrt(len(x))
    inside = np.mean(np.abs(x - 0.5) < 0.6745 * 5 / 16)
    rounding = 2 * 0.5 / 255 / (5 / 16)  # of a density below 1, in all two ends
    assert abs(inside - 0.5) < 5 * 0.5 / math.sqrt(len(x)) + rounding
    assert changed.source.endswith("50 noise features, seed 0")
    with pytest.raises(data.DataError, match="at least 1"):
        data.with_noise_features(digits, 0, seed=0)


CHANGES = {
    "noise features": lambda d: data.with_noise_features(d, 5, seed=0),
    "binary": data.with_binary_pixels,
    "permuted": lambda d: data.with_permuted_pixels(d, 2),
    "copies": lambda d: data.noisy_copies(d.train.inputs, 1, 0.1, shift=1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_pixels_are_those_of_pictures(name, digits):
    """Numbers from 0 to 1 would be black, and noise beside them enormous."""
    train = data.Split(digits.train.inputs / 255, digits.train.target)
    for other in (dataclasses.replace(digits, train=train), data.load("diabetes")):
        with pytest.raises(data.DataError, match="pictures are uint8"):
            CHANGES[name](other)


def test_labels_are_redrawn_where_there_are_some():
    with pytest.raises(data.DataError, match="no labels"):
        data.with_random_labels(data.load("diabetes"), 0)


def test_what_does_not_count_does_not_count_when_changed(digits):
    mask = (np.arange(len(digits.train)) % 2).astype(np.float32)
    soft = np.eye(10, dtype=np.float32)[digits.train.target]
    masked = dataclasses.replace(digits.train, mask=mask)
    held = dataclasses.replace(digits, train=masked)
    for change in (
        CHANGES["noise features"],
        data.with_binary_pixels,
        lambda d: data.with_random_labels(d, 0),
    ):
        np.testing.assert_array_equal(change(held).train.mask, mask)
    held = dataclasses.replace(digits, train=data.Split(masked.inputs, soft, mask))
    found = data.with_permuted_pixels(held, 2).train
    np.testing.assert_array_equal(found.mask, np.tile(mask, 2))
    np.testing.assert_array_equal(found.target, np.concatenate([soft, soft]))


def test_binary_pixels_are_black_or_white(digits):
    changed = data.with_binary_pixels(digits)
    for name in ("train", "validation", "test"):
        grey, binary = getattr(digits, name).inputs, getattr(changed, name).inputs
        np.testing.assert_array_equal(binary, np.where(grey > 127, 255, 0))
    assert changed.checksum["train"] != digits.checksum["train"]
    assert changed.source.endswith("pixels black or white")


def test_permuted_pixels_are_the_same_pixels_elsewhere(digits):
    """Task 0 as it was; the others in one order for all images and splits."""
    found = data.with_permuted_pixels(digits, 3)
    for name in ("train", "validation", "test"):
        plain, split = getattr(digits, name), getattr(found, name)
        n = len(plain)
        np.testing.assert_array_equal(split.target, np.tile(plain.target, 3))
        flat = split.inputs.reshape(3, n, -1)
        np.testing.assert_array_equal(flat[0], plain.inputs.reshape(n, -1))
        np.testing.assert_array_equal(np.sort(flat[1], -1), np.sort(flat[0], -1))
        assert np.any(flat[1] != flat[0])
        assert np.any(flat[1] != flat[2])
    train = found.train.inputs.reshape(3, len(digits.train), -1)
    test = found.test.inputs.reshape(3, len(digits.test), -1)
    # The values of a pixel in all images tell where it was.
    place = {tuple(column): at for at, column in enumerate(train[0].T.tolist())}
    order = [place[tuple(column)] for column in train[1].T.tolist()]
    seen = np.flatnonzero(train[0].any(0))  # pixels that are always 0 are alike
    seen = np.isin(order, seen)
    np.testing.assert_array_equal(test[0][:, order][:, seen], test[1][:, seen])
    with pytest.raises(data.DataError, match="at least 1, not 0"):
        data.with_permuted_pixels(digits, 0)


def test_split_classes_are_tasks_of_equal_size(digits):
    """Each image is of its task; training images are the first of theirs."""
    found = data.with_split_classes(digits, 5)
    counts = np.bincount(digits.train.target // 2)
    assert len(found.train) == 5 * counts.min() < len(digits.train)
    tasks = found.train.target.reshape(5, -1) // 2
    np.testing.assert_array_equal(tasks, np.arange(5)[:, None] * np.ones_like(tasks))
    first = digits.train.inputs[digits.train.target // 2 == 1][: counts.min()]
    np.testing.assert_array_equal(np.split(found.train.inputs, 5)[1], first)
    for name in ("validation", "test"):
        plain, split = getattr(digits, name), getattr(found, name)
        order = np.argsort(plain.target // 2, kind="stable")
        np.testing.assert_array_equal(split.inputs, plain.inputs[order])
        np.testing.assert_array_equal(split.target, plain.target[order])
    for tasks in (0, 3):
        with pytest.raises(data.DataError, match="10 classes are not"):
            data.with_split_classes(digits, tasks)


def test_noisy_copies_stand_behind_the_images(digits):
    images = digits.train.inputs
    found = data.noisy_copies(images, 2, 0.1)
    assert found.dtype == np.uint8
    first, one, two = found.reshape(3, *images.shape)
    np.testing.assert_array_equal(first, images)
    inner = (images > 100) & (images < 155)  # clipped nowhere
    for copy in (one, two):
        noise = (copy.astype(float) - images)[inner] / 255
        assert noise.std() == pytest.approx(0.1, rel=0.02)
        assert abs(noise.mean()) < 4 * 0.1 / inner.sum() ** 0.5
    assert np.any(one != two)
    np.testing.assert_array_equal(data.noisy_copies(images, 0, 0.0), images)
    for wrong in ((1, 0), (-1, 0.1), (1, -0.1)):
        with pytest.raises(data.DataError, match="shift above 0, not"):
            data.noisy_copies(images, *wrong)


def test_copies_are_moved_each_to_a_place_of_its_own(digits):
    images = digits.train.inputs[:200]
    _, *copies = data.noisy_copies(images, 2, 0.0, shift=1).reshape(3, *images.shape)
    black = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(black, images.shape[1:3], (1, 2))
    each = np.moveaxis(windows, 3, -1).reshape(200, 9, *images.shape[1:]).swapaxes(0, 1)
    met = [np.all(each == copy, (2, 3, 4)) for copy in copies]  # [9, N]
    for one in met:
        assert np.all(np.any(one, 0))
        assert np.all(np.any(one, 1))  # every place by some image
    assert np.any(met[0] != met[1])
