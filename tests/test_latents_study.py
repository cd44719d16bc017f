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
