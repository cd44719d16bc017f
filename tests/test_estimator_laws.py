"""Laws of the estimators that share one draw: flipout and antithetic pairs; and the
covariance between pixels of a convolution, which all but LRT have.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimator_cases import CONV, CONV_W, CONV_X
from jax import random
from node_table import DENSE, FACTORIES, node

from vnets import ops
from vnets.estimators import (
    antithetic,
    flipout,
    lrt,
    per_example_sampling,
    weight_sampling,
)
from vnets.nodes import dropout, gaussian, is_noisy, variance

MIRRORED = (flipout, antithetic)
DRAWS = 2000
CASES = {
    "dense": (ops.DENSE, (2, 3), (3, 4)),
    "sequence": (ops.DENSE, (2, 2, 3), (3, 4)),  # one weight for both positions
    "conv": (CONV, CONV_X, CONV_W),
}


@functools.cache
def compiled(estimator, op):
    """Many draws [n, B, ..., O] of a pre-activation."""
    draw = functools.partial(estimator, op)
    return jax.jit(jax.vmap(draw, in_axes=(None, None, 0)))


def draws_of(estimator, case, make, x=None, seed=0):
    op, x_shape, w_shape = CASES[case]
    q = make(random.key(0), w_shape)
    if x is None:
        x = random.normal(random.key(1), x_shape)
    keys = random.split(random.key(seed), DRAWS)
    return op, q, x, np.asarray(compiled(estimator, op)(q, x, keys))


def linear(op, x, w):
    return op.lower(op.apply(op.lift(x), w))


@pytest.mark.parametrize("case", ["sequence", "conv"])
@pytest.mark.parametrize("estimator", MIRRORED)
def test_one_draw_with_signs_has_the_moments_of_the_node(
    case, estimator, assert_moments
):
    for make in (gaussian(-1.0), variance("sign")):
        op, q, x, draws = draws_of(estimator, case, make)
        mean, var = q.moments()
        mean = jnp.zeros(q.shape, jnp.float32) if mean is None else mean
        assert_moments(draws, linear(op, x, mean), linear(op, jnp.square(x), var))


@pytest.mark.parametrize("estimator", MIRRORED)
def test_signs_under_dropout_agree_with_weight_sampling(estimator, assert_same_moments):
    make = dropout(0.3, gaussian(-1.0), per="example")
    *_, expected = draws_of(weight_sampling, "dense", make)
    *_, draws = draws_of(estimator, "dense", make, seed=1)
    assert_same_moments(expected, draws)


@pytest.mark.parametrize("case", ["dense", "conv"])
def test_two_equal_examples(case):
    """Antithetic noises are opposite, those of flipout uncorrelated, not independent.

    With one input and one output unit a flip of signs leaves the size of the noise: the
    squares of the two examples are then equal.
    """
    op, x_shape, _ = CASES[case]
    x = jnp.ones(x_shape, jnp.float32)
    _, q, _, pairs = draws_of(antithetic, case, gaussian(0.0), x)
    mean = np.asarray(linear(op, x, q.mean))
    np.testing.assert_allclose(
        pairs[:, 0] - mean[0], mean[1] - pairs[:, 1], rtol=1e-4, atol=1e-4
    )
    many = jnp.ones((5, *x_shape[1:]), jnp.float32)  # the noise turns at each
    draws = compiled(antithetic, op)(q, many, random.split(random.key(0), 2))
    noise = np.asarray(draws) - mean[:1]
    np.testing.assert_allclose(noise[:, 1:], -noise[:, :-1], rtol=1e-4, atol=1e-4)
    *_, flipped = draws_of(flipout, case, gaussian(0.0), x)
    first, second = flipped.reshape(DRAWS, 2, -1)[:, :, 0].T
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(DRAWS)
    node = variance()(random.key(0), (1, 1))
    one = flipout(ops.DENSE, node, jnp.ones((8, 1), jnp.float32), random.key(3))
    np.testing.assert_allclose(jnp.square(one), jnp.square(one[:1]) * jnp.ones((8, 1)))
    assert len(np.unique(np.sign(one))) == 2


@pytest.mark.parametrize("case", ["dense", "conv"])
@pytest.mark.parametrize("estimator", MIRRORED)
def test_an_example_does_not_see_the_rest_of_its_batch(case, estimator):
    op, x_shape, w_shape = CASES[case]
    q, x = gaussian(-1.0)(random.key(0), w_shape), random.normal(random.key(1), x_shape)
    many = jnp.concatenate([x, 10 * x, -x])
    draw = jax.jit(functools.partial(estimator, op))
    np.testing.assert_allclose(
        draw(q, many, random.key(1))[: len(x)],
        draw(q, x, random.key(1)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "estimator", [lrt, weight_sampling, per_example_sampling, *MIRRORED]
)
def test_pixels_are_correlated_as_under_weight_sampling_by_all_but_lrt(
    estimator, assert_mean
):
    """Cov(y_p, y_q) = sum_k x_(p+k) x_(q+k) var_k for each two pixels; 0 for LRT."""
    op, q, x, draws = draws_of(estimator, "conv", gaussian(-1.0), seed=5)
    noise = draws - np.asarray(linear(op, x, q.mean))
    example, channel = 0, 1
    noise = noise[:, example, ..., channel].reshape(DRAWS, -1)
    # Each output is linear in the kernel: its gradient holds the patch that it sees.
    patches = jax.jacobian(lambda w: linear(op, x, w)[example, ..., channel])(q.mean)
    patches = np.asarray(patches).reshape(noise.shape[1], -1)
    expected = (patches * np.exp(np.asarray(q.log_var)).ravel()) @ patches.T
    if estimator is lrt:
        expected = np.diag(np.diag(expected))
    assert_mean(noise[:, :, None] * noise[:, None, :], expected)


NOISY = [name for name in sorted(FACTORIES) if is_noisy(node(name))]


@pytest.mark.parametrize("name", NOISY)
def test_estimators_agree_at_every_node(name, assert_moments, assert_same_moments):
    """Or refuse its noise; of weights alone, the variance is x^2 Var w."""
    q, x = node(name), random.normal(random.key(1), (2, *DENSE[:1]))
    weight = q.bare
    fitting = {"weight": weight_sampling, "example": per_example_sampling}
    fitting |= {"flipout": flipout, "antithetic": antithetic}
    if not weight.noisy or weight.noise == "normal":
        fitting["lrt"] = lrt
    else:
        message = f"not '{weight.noise}'.*weight_sampling.*per_example_sampling"
        with pytest.raises(ValueError, match=message):
            lrt(ops.DENSE, q, x, random.key(0))

    @jax.jit
    def draws(key):
        keys = {
            n: random.split(random.fold_in(key, i), DRAWS)
            for i, n in enumerate(fitting)
        }
        return {
            n: jax.vmap(functools.partial(estimate, ops.DENSE, q, x))(keys[n])
            for n, estimate in fitting.items()
        }

    found = draws(random.key(2))
    mean, var = (jnp.zeros(DENSE) if m is None else m for m in q.moments())
    for values in found.values():
        assert_same_moments(found["weight"], values)
        if weight is q:
            assert_moments(values, x @ mean, jnp.square(x) @ var)
