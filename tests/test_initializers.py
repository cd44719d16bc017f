"""Laws of how weights start: what a layer makes of its inputs at first."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets.initializers import dirac, whitening
from vnets.nodes import fan_in_uniform
from vnets.ops import conv

KEY = random.key(0)


@pytest.mark.parametrize("outputs", [2, 3, 5])
def test_dirac_hands_the_inputs_on(outputs):
    kernel = dirac(fan_in_uniform)(KEY, (3, 3, 3, outputs))
    x = random.normal(KEY, (2, 6, 5, 3))
    op = conv((6, 5), (3, 3), (3, outputs))
    y = op.lower(op.apply(op.lift(x), kernel))
    same = min(3, outputs)
    np.testing.assert_allclose(y[..., :same], x[..., :same], atol=1e-6)
    rest = fan_in_uniform(KEY, (3, 3, 3, outputs))
    np.testing.assert_array_equal(kernel[..., same:], rest[..., same:])


def test_whitened_patches_are_uncorrelated_and_of_unit_size():
    """Second moments of the first half of the filters: value / (value + eps) each."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(200, 9, 9, 2)).cumsum(1).cumsum(2) / 5
    kernel = whitening(smooth, eps=1e-6)(KEY, (2, 2, 2, 16))
    patches = np.lib.stride_tricks.sliding_window_view(smooth, (2, 2), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 8)
    seen = patches @ np.asarray(kernel, np.float64).reshape(8, 16)
    moments = seen.T @ seen / len(seen)
    np.testing.assert_allclose(moments[:8, :8], np.eye(8), atol=1e-3)
    np.testing.assert_allclose(seen[:, 8:], -seen[:, :8], atol=1e-6)
    sizes = np.linalg.norm(np.asarray(kernel)[..., :8].reshape(8, 8), axis=0)
    assert (np.diff(sizes) > -1e-6).all()  # the largest eigenvalue comes first


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"dirac starts a kernel \[kh, kw, I, O\]"):
        dirac(fan_in_uniform)(KEY, (3, 4))
    images = np.zeros((2, 8, 8, 3))
    with pytest.raises(ValueError, match="24 filters of 3 channels, not 16 of 3"):
        whitening(images)(KEY, (2, 2, 3, 16))
    with pytest.raises(ValueError, match="24 filters of 3 channels, not 24 of 1"):
        whitening(images)(KEY, (2, 2, 1, 24))
    assert jnp.all(jnp.isfinite(whitening(images)(KEY, (2, 2, 3, 24))))
