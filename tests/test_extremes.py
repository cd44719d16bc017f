"""Laws of nodes, priors and likelihoods where numbers are large, small or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from node_table import DENSE, node

from vnets import priors
from vnets.nodes import TruncatedLogNormal
from vnets.priors import fitted

LOW, HIGH = -20.0, 0.0


def truncated(*pairs):
    return TruncatedLogNormal(*jnp.asarray(pairs, jnp.float32).T)


RULES = {
    "moments": lambda q: q.moments(),
    "log_alpha": lambda q: q.shared_log_alpha(),
    "kl": lambda q: q.kl(),
    "draws": lambda q: q.sample(random.key(0), (9,)),
    "density": lambda q: q.log_prob(jnp.full(q.shape, 0.1, jnp.float32)),
}


@pytest.mark.parametrize("rule", RULES)
def test_beyond_the_bounds_of_the_authors_is_at_them(rule):
    """log sigma counts as in [-20, 5], mu as in [low, high + 5], to the bit."""
    beyond = truncated((-27.0, 0.0), (9.0, -1.0), (-1.0, 7.5), (-3.0, -22.5))
    bound = truncated((LOW, 0.0), (HIGH + 5, -1.0), (-1.0, 5.0), (-3.0, -20.0))
    found = jax.jit(RULES[rule])
    jax.tree.map(np.testing.assert_array_equal, found(beyond), found(bound))


def test_a_truncated_density_integrates_to_one():
    """Of log scales, over [low, high], with the mode within it, above and below."""
    units = truncated((-1.0, -1.0), (0.5, -1.0), (3.0, 0.5), (-6.0, 1.0), (-20.0, 2.0))
    grid = jnp.linspace(LOW, HIGH, 20_001, dtype=jnp.float32)
    values = jnp.broadcast_to(jnp.exp(grid)[:, None], (len(grid), *units.shape))
    log_p = jax.jit(jax.vmap(units.log_prob))(values)
    p = np.exp(np.asarray(log_p + grid[:, None], np.float64))  # of the logarithm
    np.testing.assert_allclose(np.trapezoid(p, grid, axis=0), 1, rtol=1e-3)
    mean = np.trapezoid(p * np.exp(grid)[:, None], grid, axis=0)
    np.testing.assert_allclose(units.moments()[0], mean, rtol=2e-3)


WITH_SCALE = ("standard_normal", "student_t", "group_ard", *fitted.PRIORS)


@pytest.mark.parametrize("name", WITH_SCALE)
def test_a_weight_without_variance_costs_much_but_not_everything(name):
    """The logarithm of a zero variance is held where floats end, at -85 or so."""
    one = node("gaussian-normal")
    value = jax.jit(jax.value_and_grad(priors.PRIORS[name]()))
    (silent, slope), (quiet, _), (loud, _) = (
        value(one.replace(log_var=jnp.full(DENSE, log_var, jnp.float32)))
        for log_var in (-jnp.inf, -84.0, -80.0)
    )
    assert every(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
    assert float(quiet - loud) / one.mean.size == pytest.approx(2.0, rel=0.1)
    assert 0 < float(silent - quiet) / one.mean.size < 1.0
