"""Laws of Bayes by Backprop: the KL's shares, its drawn gradients, what is removed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from experiments import core, kl_gradients, removal
from experiments.config_files import load_config
from experiments.spec import ConfigError
from vnets import estimators, layers, nodes, priors
from vnets.likelihoods import Categorical
from vnets.loss import ModelState, forward, halving, neg_elbo
from vnets.nets import MLP


@pytest.mark.parametrize("batches", [1, 2, 7, 391])
def test_shares_halve_and_their_mean_is_one(batches):
    """pi_i = 2^(M - i) / (2^M - 1), in every epoch alike; no M overflows."""
    share = halving(batches)
    values = np.asarray(jax.vmap(share)(jnp.arange(2 * batches, dtype=jnp.int32)))
    np.testing.assert_allclose(values[:batches].sum() / batches, 1.0, rtol=1e-6)
    np.testing.assert_array_equal(values[:batches], values[batches:])
    i = np.arange(1, batches + 1)
    exact = [2.0 ** -float(n) / (1 - 2.0 ** -float(batches)) for n in i]
    np.testing.assert_allclose(values[:batches] / batches, exact, rtol=1e-5, atol=1e-37)
    with pytest.raises(ValueError, match="at least 1 batch, not 0"):
        halving(0)


@pytest.mark.parametrize("prior", [priors.standard_normal(1.0), priors.scale_mixture()])
def test_an_epoch_adds_up_to_the_whole_bound(prior):
    """sum_i (pi_i KL + NLL_i) is KL + NLL, at one draw of the weights for all."""
    net = MLP((4,), 3, posteriors={"dense1": nodes.gaussian(-3.0)})
    x, key = random.normal(random.key(0), (12, 5)), random.key(3)
    params = net.init({"params": random.key(1), "noise": key}, x)["params"]
    target = jnp.arange(12, dtype=jnp.int32) % 3
    run = forward(net, layers.Mode(estimators.weight_sampling, norm="batch"))

    def total(beta, size):
        loss = neg_elbo(run, Categorical(), prior, 12, beta)
        found = 0.0
        for step in range(12 // size):
            rows = slice(step * size, (step + 1) * size)
            batch = {"input": x[rows], "target": target[rows]}
            state = ModelState(jnp.int32(step), {})
            found += size * float(loss(params, state, batch, key)[0])
        return found

    whole = total(1.0, 12)
    assert total(halving(4), 3) == pytest.approx(whole, rel=1e-5)
    assert total(1.0, 3) == pytest.approx(whole, rel=1e-5)


NODE = nodes.Additive(
    jnp.asarray([[0.3, -1.2], [0.0, 2.0]], jnp.float32),
    jnp.asarray([[-3.0, 0.0], [-1.0, 0.5]], jnp.float32),
)


@pytest.mark.parametrize("way", kl_gradients.WAYS)
def test_gradients_of_a_drawn_kl_vary_as_their_formulas_say(way):
    """And their mean is that of the closed form, of which they are the errors."""
    draws = 20_000
    mean, square = jax.jit(kl_gradients.errors, static_argnums=(2, 3))(
        NODE, random.key(0), way, draws
    )
    sigma, mu = jnp.exp(0.5 * NODE.log_var), NODE.mean
    if way == "sampled":
        expected = {"mean": sigma**2, "log_var": sigma**2 * (mu**2 + 2 * sigma**2) / 4}
    else:
        gap = sigma - 1 / sigma  # of w - eps / sigma
        expected = {"mean": gap**2, "log_var": sigma**2 * (mu**2 + 2 * gap**2) / 4}
    for kind, var in expected.items():
        assert np.all(np.abs(mean[kind]) <= 5 * np.sqrt(var / draws) + 1e-5)
        np.testing.assert_allclose(square[kind], var, rtol=0.2, atol=1e-6)


def test_without_the_score_nothing_varies_where_the_posterior_is_the_prior():
    zero = jnp.zeros((3, 2), jnp.float32)
    prior = nodes.Additive(zero, zero)
    squares = {
        way: kl_gradients.errors(prior, random.key(0), way, 100)[1]
        for way in kl_gradients.WAYS
    }
    for kind in kl_gradients.KINDS:
        np.testing.assert_allclose(squares["path"][kind], 0.0, atol=1e-10)
        assert np.all(np.asarray(squares["sampled"][kind]) > 0.1)


def test_the_histogram_is_of_decibels():
    """Signals of 11, 1.1 and 0: 20.8 dB, 0.8 dB and the lowest bin."""
    mean = jnp.asarray([[11.0, 1.1, 0.0, 1.1]], jnp.float32)
    node = nodes.Additive(mean, jnp.zeros_like(mean))
    found = removal.histogram({"dense1": {"kernel": node}})
    shares = dict(zip(found["decibel"], found["share"], strict=True))
    filled = {middle: share for middle, share in shares.items() if share}
    assert filled == {found["decibel"][0]: 0.25, 1.0: 0.5, 21.0: 0.25}


@pytest.mark.parametrize(
    ("variant", "field", "value", "words"),
    [
        ("sgd", "removed", (0.5,), ["evals.removed", "noise of its own"]),
        ("mixture", "removed", (1.0,), ["evals.removed", "not 1"]),
        ("dropout", "kl_draws", 10, ["evals.kl_draws", "gaussian"]),
        ("gaussian", "kl_draws", 1, ["evals.kl_draws", "at least 2"]),
    ],
)
def test_what_cannot_be_measured_is_refused(variant, field, value, words):
    config = load_config(f"configs/bayes_by_backprop.py:{variant},quick")
    config.measures = ("removal", "kl_gradients")
    with config.unlocked(), config.ignore_type():
        config.evals[field] = value
    with pytest.raises(ConfigError) as caught:
        core.build(config)
    assert every(word in str(caught.value) for word in words)


def test_the_config_shares_the_kl_out():
    config = load_config("configs/bayes_by_backprop.py:mixture_halving,quick")
    config.kl_shares = "thirds"
    with pytest.raises(ConfigError, match=r"kl_shares.*even.*halving"):
        core.build(config)
