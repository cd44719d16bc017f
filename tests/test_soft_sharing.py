"""Laws of soft weight sharing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax import random

from vnets import overview
from vnets.nodes import Point
from vnets.priors import soft_sharing

OWN = soft_sharing.Mixture(
    jnp.asarray([-0.5, 0.4], jnp.float32),
    jnp.log(jnp.asarray([400.0, 100.0, 25.0], jnp.float32)),
    jnp.asarray([0.3, -0.2], jnp.float32),
)


def params(count=200):
    w = 0.5 * random.normal(random.key(0), (count, 3))
    layer = {"kernel": Point(w), "bias": jnp.full((3,), 7.0)}
    return {"dense1": layer, soft_sharing.NAME: OWN}


def reference(w):
    """log (proportion x density) by SciPy, [N, K + 1]."""
    share = (1 - soft_sharing.ZERO_SHARE) * scipy.special.softmax([0.3, -0.2])
    parts = ((soft_sharing.ZERO_SHARE, 0.0, 400), (share[0], -0.5, 100))
    parts = (*parts, (share[1], 0.4, 25))
    return np.stack(
        [np.log(p) + scipy.stats.norm.logpdf(w, m, v**-0.5) for p, m, v in parts], -1
    )


@pytest.mark.parametrize("count", [5, 20000])  # less and more than one block
def test_the_penalty_is_the_density_of_a_mixture(count):
    own = params(count)
    w = np.asarray(own["dense1"]["kernel"].mean, np.float64).ravel()
    hyper = sum(
        -scipy.stats.gamma.logpdf(v, shape, scale=1 / rate)
        for v, (shape, rate) in zip(
            np.exp(np.asarray(OWN.log_precision, np.float64)),
            [soft_sharing.ZERO_PRIOR] + 2 * [soft_sharing.OTHER_PRIOR],
            strict=True,
        )
    )
    constant = sum(
        shape * np.log(rate) - scipy.special.gammaln(shape)
        for shape, rate in [soft_sharing.ZERO_PRIOR] + 2 * [soft_sharing.OTHER_PRIOR]
    )
    expected = -scipy.special.logsumexp(reference(w), -1).sum() + hyper + constant
    found = soft_sharing.penalty(own)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    if count == 5:  # what fills up the block counts for nothing
        alone = -scipy.special.logsumexp(reference(w), -1).sum()
        np.testing.assert_allclose(found - OWN.hyper(), alone, rtol=1e-3, atol=0.1)


def test_a_mixture_starts_as_in_the_tutorial():
    """Means over where weights are, components a quarter wide, of equal shares."""
    made = soft_sharing.mixture()
    np.testing.assert_allclose(made.means, np.linspace(-0.6, 0.6, 16), atol=1e-6)
    stds = np.exp(-0.5 * np.asarray(made.log_precision))
    np.testing.assert_allclose(stds, np.full(17, 0.25), rtol=1e-6)
    np.testing.assert_array_equal(made.logits, np.zeros(16))


def test_each_weight_goes_to_the_component_most_responsible():
    own = params()
    shared = jax.jit(soft_sharing.share)(own)
    w = np.asarray(own["dense1"]["kernel"].mean)
    winner = reference(w.ravel()).argmax(-1).reshape(w.shape)
    expected = np.asarray([0.0, -0.5, 0.4], np.float32)[winner]
    np.testing.assert_array_equal(shared["dense1"]["kernel"].mean, expected)
    np.testing.assert_array_equal(shared["dense1"]["bias"], 7.0)
    zeros = np.mean(winner == 0)
    assert 0 < zeros < 1
    assert overview.sparsity(shared) == pytest.approx(zeros)


def test_sharing_twice_is_sharing_once():
    once = soft_sharing.share(params())
    twice = soft_sharing.share(once)
    jax.tree.map(np.testing.assert_array_equal, once, twice)


def test_the_gradient_pulls_a_weight_to_its_component():
    def at(w):
        own = {
            "a": {"kernel": Point(jnp.full((1, 1), w))},
            soft_sharing.NAME: OWN,
        }
        return soft_sharing.penalty(own)

    assert jax.grad(at)(0.38) < 0 < jax.grad(at)(0.42)
    assert jax.grad(at)(-0.01) < 0 < jax.grad(at)(0.01)


def test_a_mixture_starts_as_told():
    own = soft_sharing.mixture(5, reach=0.8, std=0.1)
    np.testing.assert_allclose(own.means, [-0.8, -0.4, 0, 0.4, 0.8], atol=1e-7)
    np.testing.assert_allclose(np.exp(-0.5 * own.log_precision), 0.1, rtol=1e-5)
    with pytest.raises(ValueError, match="at least 1 component"):
        soft_sharing.mixture(0)
