"""Laws of the projections applied after each update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets.nodes import (
    Gaussian,
    Multiplicative,
    Scaled,
    gaussian,
    log_alpha,
    multiplicative,
    variance,
)
from vnets.projections import (
    at_most_one,
    chain,
    clip_log_alpha,
    drop_idle_means,
    nothing,
)


@pytest.fixture
def params():
    key, shape = random.key(0), (3, 4)
    vd = multiplicative(0.0, "weight")(key, shape)
    wild = vd.replace(
        log_alpha=jnp.linspace(-30, 30, 12, dtype=jnp.float32).reshape(shape)
    )
    scale = Multiplicative(jnp.ones(3, jnp.float32), jnp.full((1,), 50.0, jnp.float32))
    return {
        "vd": {"kernel": wild, "bias": jnp.full((4,), 99.0, jnp.float32)},
        "scaled": {"kernel": Scaled(scale, wild)},
        "gaussian": {"kernel": gaussian(40.0)(key, shape)},
        "variance": {"kernel": variance()(key, shape)},
    }


def log_alphas(params):
    return [
        params["vd"]["kernel"].log_alpha,
        params["scaled"]["kernel"].scale.log_alpha,
        params["scaled"]["kernel"].weight.log_alpha,
    ]


def test_clips_every_log_alpha_and_nothing_else(params):
    clipped = jax.jit(clip_log_alpha(-20, 20))(params)
    for before, after in zip(log_alphas(params), log_alphas(clipped), strict=True):
        np.testing.assert_array_equal(after, np.clip(before, -20, 20))
        assert not np.array_equal(after, before)
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
    assert jax.tree.structure(clipped) == jax.tree.structure(params)
    changed = sum(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(clipped), strict=True)
    )
    assert changed == 3


def test_log_alpha_of_additive_noise_is_clipped_by_its_variance(params):
    mean = jnp.asarray([[1.0, 0.1, 1e-3]], jnp.float32)
    log_var = jnp.asarray([[-20.0, 1.0, 1.0]], jnp.float32)
    node = Gaussian(mean, log_var)  # log alpha is -20, 5.6, 14.8
    params["additive"] = {"kernel": Scaled(params["scaled"]["kernel"].scale, node)}
    clipped = jax.jit(clip_log_alpha(-8, 8, additive=True))(params)
    weight = clipped["additive"]["kernel"].weight
    np.testing.assert_array_equal(weight.mean, mean)
    before = np.asarray(log_alpha(node))
    np.testing.assert_allclose(
        log_alpha(weight), np.clip(before, -8, 8), rtol=1e-5, atol=1e-4
    )
    assert float(weight.log_var[0, 1]) == 1.0
    alone = clip_log_alpha(-8, 8)(params)["additive"]["kernel"].weight
    np.testing.assert_array_equal(alone.log_var, log_var)


def test_a_pruned_weight_stays_pruned_under_a_clip():
    node = Gaussian(
        jnp.zeros((1, 2), jnp.float32), jnp.asarray([[-jnp.inf, 9.0]], jnp.float32)
    )
    clipped = clip_log_alpha(high=8.0, additive=True)({"a": {"kernel": node}})
    log_var = np.asarray(clipped["a"]["kernel"].log_var)
    assert np.isneginf(log_var[0, 0])
    assert 8.0 - 37.0 < log_var[0, 1] < 9.0


def test_at_most_one_bounds_alpha_from_above_only(params):
    for before, after in zip(
        log_alphas(params), log_alphas(at_most_one(params)), strict=True
    ):
        np.testing.assert_array_equal(after, np.minimum(before, 0))


def test_without_bounds_it_is_the_identity(params):
    jax.tree.map(np.testing.assert_array_equal, clip_log_alpha()(params), params)


@pytest.mark.parametrize(("low", "high"), [(1, -1), (0, 0), (float("nan"), 1)])
def test_bounds_out_of_order_are_refused(low, high):
    with pytest.raises(ValueError, match=r"low .* must be below high"):
        clip_log_alpha(low, high)


def test_a_chain_applies_from_left_to_right_and_passes_the_step(params):
    seen = []

    def note(name):
        return lambda params, step: seen.append((name, step)) or params

    both = chain(note("first"), clip_log_alpha(-1, 1), note("second"))(params, 7)
    assert seen == [("first", 7), ("second", 7)]
    clipped = clip_log_alpha(-1, 1)(params)
    jax.tree.map(np.testing.assert_array_equal, both, clipped)
    assert nothing(params, 3) is params


def test_idle_means_are_dropped_and_their_variances_stay(params):
    mean = jnp.asarray([[1.0, 0.1, -0.1, 0.0]], jnp.float32)
    node = Gaussian(mean, jnp.zeros((1, 4), jnp.float32))
    # log alpha is -2 log |mean|: 0, 4.6, 4.6, and above any threshold.
    params |= {"additive": {"kernel": Scaled(params["scaled"]["kernel"].scale, node)}}
    dropped = jax.jit(drop_idle_means(3.0))(params)
    weight = dropped["additive"]["kernel"].weight
    np.testing.assert_array_equal(weight.mean, [[1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(weight.log_var, node.log_var)
    assert not np.any(dropped["gaussian"]["kernel"].mean)  # log sigma^2 is 40
    for layer in ("vd", "scaled", "variance"):
        jax.tree.map(np.testing.assert_array_equal, dropped[layer], params[layer])
    kept = drop_idle_means(5.0)(params)["additive"]["kernel"].weight
    np.testing.assert_array_equal(kept.mean, mean)
