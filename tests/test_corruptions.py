"""Laws of corrupted pictures: what each kind does to means and variances."""

import numpy as np
import pytest

from vnets.data import DataError
from vnets.data.corruptions import CORRUPTIONS, STRENGTHS, corrupted, weights

GREY = np.full((6, 20, 20, 3), 128, np.uint8)


def pictures(low=90, high=150):
    rng = np.random.default_rng(0)
    return rng.integers(low, high, (6, 20, 20, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_strength_0_is_the_picture_and_more_is_further(kind):
    images = pictures()
    np.testing.assert_array_equal(corrupted(images, kind, 0), images)
    gaps = [
        np.abs(corrupted(images, kind, s).astype(float) - images).mean()
        for s in STRENGTHS
    ]
    assert gaps[0] > 0
    assert np.all(np.diff(gaps) > 0)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_seed_names_it_and_the_input_stays(kind):
    images = pictures()
    kept = images.copy()
    one, again = (corrupted(images, kind, 3, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(images, kept)
    assert one.dtype == np.uint8
    other = corrupted(images, kind, 3, seed=2)
    assert np.array_equal(one, other) == (kind not in ("noise", "impulses"))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_noise_has_its_variance(strength):
    found = corrupted(GREY, "noise", strength) - 128.0
    std = 255 * 0.04 * strength
    count = found.size
    assert abs(found.mean()) < 5 * std / count**0.5
    # Rounding adds 1/12 of a grey level squared.
    expected = std**2 + 1 / 12
    assert found.var() == pytest.approx(expected, rel=5 * (2 / count) ** 0.5)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_impulses_hit_their_share_of_pixels_in_all_channels(strength):
    found = corrupted(GREY, "impulses", strength)
    assert set(np.unique(found)) <= {0, 128, 255}
    assert np.all(found == found[..., :1])
    pixels, share = found[..., 0].size, 0.02 * strength
    hit = (found[..., 0] != 128).mean()
    assert abs(hit - share) < 5 * (share / pixels) ** 0.5
    white = (found[..., 0] == 255).sum() / max((found[..., 0] != 128).sum(), 1)
    assert abs(white - 0.5) < 2.5 / (share * pixels) ** 0.5


def test_brightness_adds_and_white_stays_white():
    found = corrupted(GREY, "brightness", 4)
    np.testing.assert_array_equal(found, round(128 + 255 * 0.24))
    white = np.full((1, 2, 2, 1), 255, np.uint8)
    np.testing.assert_array_equal(corrupted(white, "brightness", 5), 255)


def test_contrast_keeps_the_mean_of_a_picture_and_takes_from_its_deviations():
    images = pictures()
    found = corrupted(images, "contrast", 5).astype(float)
    axes = (1, 2, 3)
    np.testing.assert_allclose(found.mean(axes), images.mean(axes), atol=0.1)
    np.testing.assert_allclose(found.std(axes), 0.15 * images.std(axes), rtol=0.03)


def test_a_blur_keeps_what_is_flat_and_averages_what_is_not():
    np.testing.assert_array_equal(corrupted(GREY, "blur", 5), GREY)
    images = pictures()
    found = corrupted(images, "blur", 5).astype(float)
    np.testing.assert_allclose(found.mean((1, 2)), images.mean((1, 2)), atol=0.1)
    inner = found[:, 4:-4, 4:-4].var()
    share = np.sum(weights(5) ** 2) ** 2  # of the variance of independent pixels
    assert inner == pytest.approx(share * images.var() + 1 / 12, rel=0.2)
    spot = np.zeros((1, 9, 9, 1), np.uint8)
    spot[0, 4, 4] = 255
    window = np.outer(weights(3), weights(3))
    seen = corrupted(spot, "blur", 3)[0, :, :, 0]
    np.testing.assert_allclose(seen, 255 * window, atol=0.51)


def test_what_is_no_picture_is_refused():
    with pytest.raises(DataError, match="uint8"):
        corrupted(GREY / 255, "blur", 1)
    with pytest.raises(DataError, match="strength"):
        corrupted(GREY, "blur", 6)
    with pytest.raises(DataError, match="choose from"):
        corrupted(GREY, "fog", 1)
