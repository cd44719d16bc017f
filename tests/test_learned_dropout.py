"""Laws of learned binary dropout: its masks, its KL, and the gradients of its rate."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import gradients, nodes, priors
from vnets import learned_dropout as learned
from vnets.edits import mean_only
from vnets.likelihoods import Categorical
from vnets.loss import ModelState, forward, neg_elbo
from vnets.nets import MLP
from vnets.nodes import AdaptiveDropout, point
from vnets.priors import kl, log_uniform

UNITS, BATCH_SIZE, DRAWS = 3, 4, 20_000
NET = MLP((), 3, posteriors={"dense1": nodes.adaptive_binary_dropout(0.4)})
BATCH = {
    "input": 2 * random.normal(random.key(1), (BATCH_SIZE, UNITS)),
    "target": jnp.arange(BATCH_SIZE, dtype=jnp.int32) % 3,
}
STATE = ModelState(jnp.int32(0), {})
PRIOR = priors.bernoulli()


@functools.cache
def params():
    rngs = {"params": random.key(0), "noise": random.key(0)}
    made = NET.init(rngs, BATCH["input"])["params"]
    rates = jnp.asarray([-1.0, 0.5, 0.0], jnp.float32)
    return with_scale(made, dataclasses.replace(scale_of(made), log_alpha=rates))


def scale_of(tree):
    return tree["dense1"]["kernel"].scale


def with_scale(tree, scale):
    kernel = dataclasses.replace(tree["dense1"]["kernel"], scale=scale)
    return {"dense1": {**tree["dense1"], "kernel": kernel}}


def loss(gradient, beta=0.0, net=NET, state=STATE):
    predict = forward(net, rate_gradient=gradient)
    made = neg_elbo(predict, Categorical(), PRIOR, 1, lambda _: beta)
    return lambda tree, key: made(tree, state, BATCH, key)[0]


@functools.cache
def exact():
    """The gradient of the expected nll, over all masks of all examples."""

    def expected(tree):
        log_alpha = scale_of(tree).log_alpha
        total = 0.0
        for mask in itertools.product((0.0, 1.0), repeat=UNITS):
            mask = jnp.asarray(mask)
            p = jnp.prod(jnp.where(mask > 0, 1, jnp.exp(log_alpha)))
            p /= jnp.prod(1 + jnp.exp(log_alpha))
            values = jnp.tile(mask * (1 + jnp.exp(log_alpha)), (BATCH_SIZE, 1))
            drawn = with_scale(tree, nodes.Drawn(values))
            logits = NET.apply({"params": drawn}, BATCH["input"], rngs=noise(0))
            total += p * jnp.mean(Categorical().nll(logits, BATCH["target"]))
        return total

    return jax.jit(jax.grad(expected))(params())


def noise(seed):
    return {"noise": random.key(seed)}


@functools.cache
def drawn_gradients(name, argument):
    """Gradients of the loss, one of each draw: of log alpha [n, I], mean [n, I, O]."""
    one = jax.grad(loss(learned.GRADIENTS[name](argument)))
    keys = random.split(random.key(2), DRAWS)
    found = jax.jit(jax.vmap(one, (None, 0)))(params(), keys)["dense1"]["kernel"]
    return np.asarray(found.scale.log_alpha), np.asarray(found.weight.mean)


def errors(draws, truth):
    """The bias of a mean of draws, and its standard error."""
    return draws.mean(0) - truth, draws.std(0, ddof=1) / np.sqrt(len(draws))


@pytest.mark.parametrize("baseline", gradients.BASELINES)
def test_the_score_function_averages_to_the_exact_gradient(baseline):
    node = exact()["dense1"]["kernel"]
    truths = node.scale.log_alpha, node.weight.mean
    draws = drawn_gradients("score_function", baseline)
    for found, truth in zip(draws, truths, strict=True):
        bias, error = errors(found, np.asarray(truth))
        assert np.all(np.abs(bias) < 5 * error)
        # A gradient of zero would be noticed.
        assert np.any(np.abs(truth) > 10 * error)


def test_the_baseline_lowers_the_variance():
    with_others, without = (
        drawn_gradients("score_function", baseline)[0].var(0)
        for baseline in gradients.BASELINES
    )
    assert np.all(with_others < without)


def test_the_bias_of_concrete_masks_falls_with_the_temperature():
    truth = np.asarray(exact()["dense1"]["kernel"].scale.log_alpha)
    warm, cold = (errors(drawn_gradients("concrete", t)[0], truth) for t in (1.0, 0.1))
    assert np.any(np.abs(warm[0]) > 10 * warm[1])
    assert np.linalg.norm(cold[0]) < 0.3 * np.linalg.norm(warm[0])
    # Cold masks jump: what they save in bias they pay in variance.
    assert np.all(cold[1] > warm[1])


def test_masks_are_binary_in_tests_and_the_limit_of_concrete_ones():
    node = scale_of(params())
    key, p = random.key(3), jax.nn.sigmoid(node.log_alpha)
    values = np.asarray(node.sample(key, (500,)))
    kept = values * (1 - np.asarray(p))
    np.testing.assert_allclose(kept, kept.round(), atol=1e-6)
    assert 0 < kept.mean() < 1
    cold = dataclasses.replace(node, temperature=1e-4).sample(key, (500,))
    # Margins are logistic, of density 1/4 at most: 1500 hold some 0.4 below 5e-4.
    assert np.mean(np.abs(cold - values) > 1e-2) < 0.01


def test_mean_only_is_the_net_without_dropout():
    edited = mean_only(params())
    weight = params()["dense1"]["kernel"].weight
    np.testing.assert_allclose(edited["dense1"]["kernel"].mean, weight.mean, rtol=1e-6)


def test_the_loss_has_the_value_of_the_masks_that_were_drawn():
    value = loss(learned.score_function())(params(), random.key(0))
    other = loss(learned.score_function("none"))(params(), random.key(0))
    assert float(value) == float(other) > 0


@pytest.mark.parametrize("alpha", ["unit", "layer"])
def test_the_kl_is_that_of_coins(alpha):
    node = nodes.adaptive_binary_dropout(0.2, alpha)(random.key(0), (5, 7)).scale
    p, prior = 0.2, 0.5
    each = p * np.log(p / prior) + (1 - p) * np.log((1 - p) / (1 - prior))
    assert float(PRIOR(node)) == pytest.approx(5 * each, rel=1e-5)
    assert float(priors.bernoulli(0.2)(node)) == pytest.approx(0, abs=1e-5)
    # With the weights' flat prior it is the KL of the tree, and of its fixed limit 0.
    tree = {"a": {"kernel": nodes.adaptive_binary_dropout(0.2)(random.key(0), (5, 7))}}
    assert float(kl(tree, PRIOR)) == pytest.approx(5 * each, rel=1e-5)
    far = dataclasses.replace(node, log_alpha=jnp.full_like(node.log_alpha, 60.0))
    gradient = jax.grad(lambda q: PRIOR(q))(far).log_alpha
    assert np.all(np.isfinite(gradient))
    assert float(PRIOR(far)) == pytest.approx(5 * np.log(2), rel=1e-5)


def test_refusals_say_what_is_missing():
    key = random.key(0)
    with pytest.raises(ValueError, match="rate_gradient"):
        loss(None)(params(), key)
    plain = MLP((), 3, posteriors={"dense1": point()})
    rngs = {"params": key}
    tree = plain.init(rngs, BATCH["input"])["params"]
    for make in learned.GRADIENTS.values():
        with pytest.raises(ValueError, match="no layer has binary dropout"):
            loss(make(), net=plain)(tree, key)
    normal = ModelState(jnp.int32(0), {"batch_stats": {}})
    with pytest.raises(ValueError, match="batch normalization"):
        loss(learned.score_function(), state=normal)(params(), key)
    latent = forward(NET, rate_gradient=learned.score_function(), latent=True)
    with pytest.raises(ValueError, match="knows nothing of the KL of latent"):
        latent(params(), ModelState(jnp.int32(0), {}), BATCH, key)
    with pytest.raises(ValueError, match="2 examples"):
        learned.score_function()(params(), 1, key)
    kernel = dataclasses.replace(params()["dense1"]["kernel"], per="batch")
    with pytest.raises(ValueError, match="share their masks"):
        learned.score_function()({"a": {"kernel": kernel}}, 4, key)
    with pytest.raises(ValueError, match='per="example"'):
        nodes.Drawn(jnp.ones((4, 3), jnp.float32)).sample(key, (4, 2, 2))
    with pytest.raises(ValueError, match="others"):
        learned.score_function("mean")
    with pytest.raises(ValueError, match="positive"):
        learned.concrete(0.0)
    with pytest.raises(ValueError, match="one sample"):
        forward(NET, samples=2, rate_gradient=learned.concrete())
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        priors.bernoulli(1.0)
    with pytest.raises(TypeError, match="binary noise"):
        log_uniform(scale_of(params()))
    gaussian = AdaptiveDropout(jnp.zeros((1,), jnp.float32), 3, 9)
    with pytest.raises(TypeError, match="bernoulli does not fit a AdaptiveDropout"):
        PRIOR(gaussian)
