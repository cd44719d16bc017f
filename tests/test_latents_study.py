"""What is measured of autoencoders, by other means."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from experiments.studies import latents
from vnets.likelihoods import Bernoulli, Grey


def test_the_nearest_codes_vote(monkeypatch):
    monkeypatch.setattr(latents, "AT_ONCE", 7)  # does not divide what is asked
    draw = np.random.default_rng(0)
    classes, truth = draw.integers(0, 4, 300), draw.integers(0, 4, 50)
    known = draw.normal(size=(300, 2)) + classes[:, None]
    asked = draw.normal(size=(50, 2)) + truth[:, None]
    found = latents._nearest(known, classes, asked, truth, 5)
    assert found == KNeighborsClassifier(5).fit(known, classes).score(asked, truth)


def test_pictures_lie_row_by_row_in_equal_frames():
    """Narrow ones in the middle of squares."""
    white = np.stack([np.full(4 * 2, 0.1 * (1 + k)) for k in range(4)])
    found = np.asarray(latents._mosaic(white, (4, 2))).reshape(12, 12)
    for number, (row, column) in enumerate(np.ndindex(2, 2)):
        tile = found[6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
        np.testing.assert_array_equal(tile[1:5, 2:4], 10 * (number + 1))
        assert tile.sum() == 8 * 10 * (number + 1)


def test_half_a_pixel_is_far_and_another_class_may_be_nearer():
    """A single white pixel becomes four grey ones; the nearest is by all distances."""
    point = np.zeros((1, 5, 5), np.float32)
    point[0, 2, 2] = 1
    half, whole = (latents._moved(point, by) for by in latents.MOVES.values())
    assert half[0, 2:4, 2:4].tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert whole[0, 3, 3] == whole.sum() == half.sum() == 1
    assert latents._apart(point, half) == pytest.approx(0.75**2 + 3 * 0.25**2)
    assert latents._apart(point, whole) == 2
    draw = np.random.default_rng(0)
    known, asked = draw.normal(size=(40, 9)), draw.normal(size=(7, 9))
    classes, truth = draw.integers(0, 3, 40), draw.integers(0, 3, 7)
    found = latents._of_another_class(known, classes, asked, truth)
    for one, own, nearest in zip(asked, truth, found, strict=True):
        others = np.flatnonzero(classes != own)
        distance = np.linalg.norm(known[others] - one, axis=1)
        assert nearest == others[distance.argmin()]


def test_what_lost_ink_is_at_most_as_far_as_what_moved():
    x = np.round(np.random.default_rng(0).uniform(size=(6, 8, 8)))
    others = latents._moved(x, 0.5)
    erased = latents._erased(x, others)
    far = np.square(x - others).sum((1, 2))
    lost = np.square(x - erased).sum((1, 2))
    assert np.all((lost <= far) & (far < lost + 1))
    for one, left in zip(x, erased, strict=True):  # the last ink is what is left
        np.testing.assert_array_equal(one[one > 0][-int(left.sum()) :], left[left > 0])
        assert np.flatnonzero(left)[0] > np.flatnonzero(one)[0]


@pytest.mark.parametrize("grey", [False, True])
def test_pixels_alone_have_their_own_shares(grey):
    draw = np.random.default_rng(0)
    learn, test = draw.uniform(size=(200, 3)), draw.uniform(size=(20, 3))
    if not grey:
        learn, test = np.round(learn), np.round(test)
    share = (learn.sum(0) + 1) / 202
    wanted = stats.bernoulli.logpmf(test, share)
    if grey:
        wanted = stats.norm.logpdf(test, share, learn.std(0) + 1 / 255)
    kind = Grey() if grey else Bernoulli()
    found = latents._alone(kind, jnp.asarray(learn), jnp.asarray(test))
    assert found == pytest.approx(wanted.sum(1).mean(), rel=1e-4)
