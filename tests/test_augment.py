"""Laws of crops and flips: what an image can become, how often, and for whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from vnets import data, sources
from vnets.augment import CropAndFlip

IMAGES = np.arange(1, 1 + 40 * 5 * 6 * 2).reshape(40, 5, 6, 2).astype(np.int32)


def variants(image, pad, flip):
    """Every image that a crop and a flip can make of one, as bytes."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    crops = [
        padded[top : top + height, left : left + width]
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    ]
    crops += [crop[:, ::-1] for crop in crops] if flip else []
    return [np.ascontiguousarray(crop).tobytes() for crop in crops]


def made(augment, images=IMAGES, seed=0):
    return np.asarray(jax.jit(augment)(images, random.key(seed)))


@pytest.mark.parametrize("per", ["example", "batch"])
@pytest.mark.parametrize("flip", [True, False])
def test_an_image_becomes_one_of_its_crops(per, flip):
    augmented = made(CropAndFlip(1, flip, per))
    assert (augmented.shape, augmented.dtype) == (IMAGES.shape, IMAGES.dtype)
    which = [
        variants(image, 1, flip).index(new.tobytes())
        for image, new in zip(IMAGES, augmented, strict=True)
    ]
    assert (len(set(which)) == 1) == (per == "batch")


@pytest.mark.parametrize("per", ["example", "batch"])
def test_all_crops_are_equally_likely(per):
    """Counts of 18 outcomes in 3,600 draws: the chi-square's 0.9999 quantile is 48."""
    augment = CropAndFlip(1, True, per)
    image = IMAGES[:1]
    if per == "example":
        seen = made(augment, np.repeat(image, 3600, axis=0))
    else:
        keys = random.split(random.key(0), 3600)
        seen = np.asarray(jax.vmap(augment, (None, 0))(jnp.asarray(image), keys))[:, 0]
    choices = variants(image[0], 1, True)
    counts = np.bincount([choices.index(one.tobytes()) for one in seen], minlength=18)
    assert np.sum((counts - 200) ** 2 / 200) < 48


def test_nothing_asked_is_nothing_done():
    for per in ("example", "batch"):
        np.testing.assert_array_equal(made(CropAndFlip(0, False, per)), IMAGES)


def test_a_source_augments_by_the_key_and_before_pixels_are_scaled():
    images = (IMAGES % 251).astype(np.uint8)
    split = data.Split(images, np.zeros(40, np.int32))
    augment = CropAndFlip(2)
    source = sources.Resident(split, 10, augment=augment)
    rows = jnp.arange(10)
    for seed in (0, 1):
        batch = source.batch(source.arrays, rows, random.key(seed))
        expected = made(augment, images[:10], seed).astype(np.float32) / 255
        np.testing.assert_allclose(batch["input"], expected, rtol=1e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="pad must be at least 0"):
        CropAndFlip(-1)
    with pytest.raises(ValueError, match=r"'image'; choose from.*batch.*example"):
        CropAndFlip(per="image")


def test_a_margin_reflects_what_is_beside_it():
    image = IMAGES[:1]
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)), mode="reflect")
    crops = {
        padded[top : top + 5, left : left + 6].tobytes()
        for top in range(3)
        for left in range(3)
    }
    augment = CropAndFlip(1, False, margin="reflect")
    seen = {one.tobytes() for one in made(augment, np.repeat(image, 200, axis=0))}
    assert seen == crops


def test_flips_that_alternate_show_both_sides_in_two_epochs():
    split = data.Split((IMAGES % 251).astype(np.uint8), np.arange(40) % 10)
    source = sources.Resident(
        split, 10, prepare=jnp.asarray, augment=CropAndFlip(0, "alternate")
    )
    sides = []
    for epoch in range(3):
        seen = {}
        for rows in next(source.chunks(random.key(3), epoch, 4)):
            batch = source.batch(source.arrays, rows, random.key(epoch))
            for row, image in zip(np.asarray(rows) % 40, batch["input"], strict=True):
                plain = np.array_equal(image, split.inputs[row])
                mirrored = np.array_equal(image, split.inputs[row][:, ::-1])
                assert plain != mirrored
                seen[int(row)] = mirrored
            np.testing.assert_array_equal(
                batch["target"], split.target[np.asarray(rows) % 40]
            )
        assert len(seen) == 40
        sides.append([seen[row] for row in range(40)])
    assert sides[0] == sides[2] != sides[1]
    assert every(a != b for a, b in zip(sides[0], sides[1], strict=True))
    assert 8 < sum(sides[0]) < 32  # half of 40, 4 deviations


def test_flips_that_alternate_need_to_be_told():
    with pytest.raises(ValueError, match="which images are mirrored is given if"):
        CropAndFlip(flip="alternate")(IMAGES, random.key(0))
    with pytest.raises(ValueError, match="which images are mirrored is given if"):
        CropAndFlip()(IMAGES, random.key(0), mirrored=jnp.zeros(40, bool))
    with pytest.raises(ValueError, match="not for a batch"):
        CropAndFlip(flip="alternate", per="batch")
    with pytest.raises(ValueError, match="flip must be one of"):
        CropAndFlip(flip="sometimes")
    with pytest.raises(ValueError, match="cannot be reflected 5 wide"):
        CropAndFlip(5, margin="reflect")(IMAGES, random.key(0))
