"""Laws of gradient estimators: means and variances that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import gradients

DRAWS, AIM = 40_000, 0.45


def loss(x):
    return (x - AIM) ** 2


def logit(theta):
    return float(np.log(theta / (1 - theta)))


def exact(theta):
    """d/dlogit E[(b - t)^2]."""
    return (1 - 2 * AIM) * theta * (1 - theta)


def of_bits(estimate, theta):
    """The gradient of each of many draws."""
    grad = jax.grad(lambda logit, key: loss(estimate(logit, key)))
    keys = random.split(random.key(0), DRAWS)
    return np.asarray(jax.vmap(grad, (None, 0))(logit(theta), keys), np.float64)


def by_score(baseline, draws):
    """The gradient by several draws at once, many times."""

    def total(logit, key):
        bits = random.bernoulli(key, jax.nn.sigmoid(logit), (draws,)).astype(float)
        log_p = gradients.log_bernoulli(jnp.broadcast_to(logit, bits.shape), bits)
        return jnp.mean(gradients.score(loss(bits), log_p, baseline))

    def run(theta):
        keys = random.split(random.key(1), DRAWS // draws)
        grad = jax.vmap(jax.grad(total), (None, 0))(logit(theta), keys)
        return np.asarray(grad, np.float64)

    return run


def close(found, mean):
    assert abs(found.mean() - mean) < 5 * found.std() / len(found) ** 0.5 + 1e-7


@pytest.mark.parametrize("theta", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(("baseline", "draws"), [("none", 1), ("others", 5)])
def test_the_score_is_unbiased(theta, baseline, draws):
    close(by_score(baseline, draws)(theta), exact(theta))


def test_a_baseline_lessens_the_variance():
    alone, beside = (by_score(b, 5)(0.25).var() for b in ("none", "others"))
    assert beside < alone / 3


def test_the_score_keeps_values_and_the_gradient_of_f():
    bits = jnp.asarray([0.0, 1.0, 1.0])
    log_p = jnp.log(jnp.asarray([0.3, 0.7, 0.7]))

    def total(scale):
        return jnp.sum(gradients.score(scale * bits, log_p))

    np.testing.assert_array_equal(gradients.score(bits, log_p), bits)
    assert jax.grad(total)(2.0) == 2.0


@pytest.mark.parametrize("theta", [0.25, 0.5, 0.75])
def test_straight_through_is_biased_as_it_must_be(theta):
    """Its mean 2 (theta - t) theta (1 - theta) points away from 0 below t."""
    found = of_bits(gradients.straight_through, theta)
    close(found, 2 * (theta - AIM) * theta * (1 - theta))


def test_concrete_trades_bias_for_variance():
    found = [
        of_bits(lambda logit, key, t=t: gradients.concrete(logit, key, t), 0.75)
        for t in (1.0, 0.5, 0.1)
    ]
    bias = [abs(each.mean() - exact(0.75)) for each in found]
    assert bias[1] > bias[2]
    assert found[0].var() < found[1].var() < found[2].var()


def test_pathwise_has_the_known_moments():
    """f = (z - a)^2 with z ~ N(1, 1/4) and a = 0: 2 in the mean, of variance 4 s^2."""
    grad = jax.grad(lambda mean, key: gradients.pathwise(mean, 0.5, key) ** 2)
    keys = random.split(random.key(2), DRAWS)
    found = np.asarray(jax.vmap(grad, (None, 0))(1.0, keys), np.float64)
    close(found, 2.0)
    assert found.var() == pytest.approx(1.0, rel=0.05)


def test_the_curvature_gives_the_gradient_of_a_deviation():
    """E[sin z] = sin(mean) exp(-std^2 / 2); and of a parabola all draws agree."""
    mean, std = 1.0, 0.5
    both = jax.grad(
        lambda mean, std, key: gradients.price(jnp.sin, mean, std, key), (0, 1)
    )
    keys = random.split(random.key(3), DRAWS)
    by_mean, by_std = (
        np.asarray(found, np.float64)
        for found in jax.vmap(both, (None, None, 0))(mean, std, keys)
    )
    close(by_mean, np.cos(mean) * np.exp(-(std**2) / 2))
    close(by_std, -std * np.sin(mean) * np.exp(-(std**2) / 2))
    parabola = jax.grad(
        lambda std, key: gradients.price(lambda z: 3 * loss(z), mean, std, key)
    )
    found = jax.vmap(parabola, (None, 0))(std, keys[:100])
    np.testing.assert_allclose(found, 6 * std, rtol=1e-6)


def test_a_draw_by_the_curvature_is_that_of_pathwise_and_keeps_the_gradient_of_f():
    key, mean, std = random.key(4), jnp.arange(3.0), jnp.asarray([0.1, 1.0, 2.0])
    z = gradients.pathwise(mean, std, key)

    def total(scale):
        return jnp.sum(gradients.price(lambda z: scale * z**3, mean, std, key))

    assert float(total(1.0)) == pytest.approx(float(jnp.sum(z**3)), rel=1e-6)
    assert float(jax.grad(total)(2.0)) == pytest.approx(float(jnp.sum(z**3)), rel=1e-6)


def test_what_gives_no_gradient_is_refused():
    one = jnp.zeros(1)
    with pytest.raises(ValueError, match="2 draws"):
        gradients.score(one, one)
    two = jnp.zeros(2)
    with pytest.raises(ValueError, match=r"\[S\] each, not \(2,\) and \(2, 1\)"):
        gradients.score(two, two[:, None])
    with pytest.raises(ValueError, match="'none', 'others'"):
        gradients.score(one, one, "mean")
    with pytest.raises(ValueError, match="positive"):
        gradients.concrete(one, random.key(0), 0.0)
