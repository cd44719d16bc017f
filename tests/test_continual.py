"""Laws of tasks in turn: Bayes' rule in parts is Bayes' rule at once."""

import itertools

import jax
import jax.numpy as jnp
import node_table
import numpy as np
import optax
import pytest
from flax import linen
from jax import flatten_util, random
from scipy.linalg import hadamard

from vnets import continual, data, estimators, layers, nets, nodes, optimizers, priors
from vnets.likelihoods import Categorical, Gaussian, Likelihood
from vnets.loss import Prediction, forward
from vnets.sources import InTurn

P, STD, SCALE = 4, 0.5, 1.5
RNG = np.random.default_rng(0)
# Columns of each part are orthogonal, so that independent weights stay independent.
PARTS = [
    (
        np.asarray(hadamard(P) * s, np.float32),
        RNG.normal(size=P).astype(np.float32),
    )
    for s in (0.5, 1.0, 2.0)
]
ORDERS = list(itertools.permutations(range(3)))
PARAMS = {"dense1": {"kernel": nodes.point()(random.key(0), (P, 1))}}


def batch_posterior(parts=PARTS):
    """Mean and variance of each weight, in closed form."""
    x = np.concatenate([one for one, _ in parts]).astype(np.float64)
    y = np.concatenate([one for _, one in parts])
    precision = np.diag(x.T @ x) / STD**2 + 1 / SCALE**2
    return x.T @ y / STD**2 / precision, 1 / precision


def assert_posterior(anchor, rtol=1e-5):
    node = anchor["dense1"]["kernel"]
    mean, var = batch_posterior()
    np.testing.assert_allclose(node.mean[:, 0], mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(np.exp(node.log_var)[:, 0], var, rtol=rtol)


class Linear(linen.Module):
    @linen.compact
    def __call__(self, x, mode=layers.TEST):
        return layers.Dense(1, use_bias=False, name="dense1")(x, mode)[:, 0]


def outputs(params, x):
    return Linear().apply({"params": params}, x)


def curvature(params, part):
    x, y = map(jnp.asarray, part)
    return continual.gauss_newton(Linear(), Gaussian(STD), params, x, y)


@pytest.mark.parametrize("order", ORDERS)
def test_laplace_in_turn_is_bayes_at_once(order):
    """Each task ends at its most likely weights under what the last has left."""
    anchor = continual.start(PARAMS, SCALE)
    for part in (PARTS[number] for number in order):
        x, y = map(jnp.asarray, part)

        def cost(params, x=x, y=y, anchor=anchor):
            nll = jnp.sum(Gaussian(STD).nll(outputs(params, x), y))
            return nll + continual.pull(params, anchor)

        flat, shaped = flatten_util.ravel_pytree(PARAMS)
        of_flat = lambda w, cost=cost, shaped=shaped: cost(shaped(w))  # noqa: E731
        step = jnp.linalg.solve(jax.hessian(of_flat)(flat), jax.grad(of_flat)(flat))
        best = shaped(flat - step)  # quadratic: one step of Newton's
        anchor = continual.laplace(anchor, best, curvature(best, part))
    assert_posterior(anchor)


@pytest.mark.parametrize("order", ORDERS[:3])
def test_variational_inference_in_turn_is_bayes_at_once(order):
    """By optimization of E log p - KL, with the posterior as the next prior."""
    first = {"dense1": {"kernel": nodes.gaussian(2.0)(random.key(1), (P, 1))}}
    anchor = continual.start(first, SCALE)
    flat, shaped = flatten_util.ravel_pytree(first)

    @jax.jit
    def learned(anchor, x, y):
        def cost(flat):
            params = shaped(flat)
            mean, var = params["dense1"]["kernel"].moments()
            rest = jnp.square(x) @ var / (2 * STD**2)  # E of the square, less that
            nll = Gaussian(STD).nll((x @ mean)[:, 0], y) + rest[:, 0]
            return jnp.sum(nll) + priors.kl(params, priors.of_tree(anchor))

        def newton(_, flat):
            return flat - jnp.linalg.solve(
                jax.hessian(cost)(flat), jax.grad(cost)(flat)
            )

        return shaped(jax.lax.fori_loop(0, 20, newton, flat))

    for number in order:
        found = learned(anchor, *map(jnp.asarray, PARTS[number]))
        anchor = continual.posterior(found)
    assert_posterior(anchor, rtol=1e-4)


def test_the_kl_between_normals_is_the_mean_of_the_sampled(assert_mean):
    keys = random.split(random.key(0), 4)
    q = nodes.Additive(*random.normal(keys[0], (2, 3, 2)))
    p = nodes.Additive(*random.normal(keys[1], (2, 3, 2)))
    closed = priors.kl({"a": q}, priors.of_tree({"a": p}))
    draws = jax.vmap(lambda key: priors.kl({"a": q}, priors.Sampled(p.log_prob), key))(
        random.split(keys[2], 4000)
    )
    assert_mean(draws, float(closed))
    assert float(priors.kl({"a": q}, priors.of_tree({"a": q}))) == pytest.approx(
        0, abs=1e-5
    )


def test_ewc_is_the_sum_of_its_penalties():
    """One quadratic has the gradient and, up to a constant, the value of several."""
    left = [{"a": nodes.Point(random.normal(random.key(n), (3, 2)))} for n in range(3)]
    bent = [jax.tree.map(jnp.square, one) for one in reversed(left)]
    anchor = continual.start(left[0])
    for params, curvature in zip(left, bent, strict=True):
        anchor = continual.ewc(anchor, params, curvature)

    def apart(params):
        each = (
            0.5 * jnp.sum(f["a"].mean * jnp.square(params["a"].mean - w["a"].mean))
            for w, f in zip(left, bent, strict=True)
        )
        return sum(each)

    def gap(seed):
        params = {"a": nodes.Point(random.normal(random.key(seed), (3, 2)))}
        return float(apart(params) - continual.pull(params, anchor))

    assert gap(7) == pytest.approx(gap(8), rel=1e-4)


def classifier():
    model = nets.MLP((4,), 3)
    x = random.normal(random.key(0), (6, 5))
    params = model.init({"params": random.key(1)}, x)["params"]
    return model, params, x


def test_scores_at_sampled_classes_are_gauss_newton_on_average(assert_mean):
    """Whose diagonal is that of the whole matrix."""
    model, params, x = classifier()
    label = jnp.zeros(len(x), jnp.int32)
    exact = continual.gauss_newton(model, Categorical(), params, x, label)
    draws = jax.jit(
        jax.vmap(lambda key: continual.squared_scores(model, params, x, key))
    )(random.split(random.key(2), 2000))
    for each, mean in zip(jax.tree.leaves(draws), jax.tree.leaves(exact), strict=True):
        assert_mean(each, mean)

    flat, shaped = flatten_util.ravel_pytree(params)

    def logits(flat, x):
        return model.apply({"params": shaped(flat)}, x[None])[0]

    jacobian = jax.vmap(jax.jacobian(logits), (None, 0))(flat, x)
    p = jax.nn.softmax(model.apply({"params": params}, x))
    hessian = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None]
    whole = jnp.einsum("bkp,bkl,blp->p", jacobian, hessian, jacobian)
    found, _ = flatten_util.ravel_pytree(exact)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-6)


def test_curvature_is_of_dense_layers():
    params = {"conv1": {"kernel": jnp.ones((2, 2, 1, 1))}}
    given = params, jnp.ones((1, 2, 2, 1)), jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match=r"conv1/kernel.*no weight or bias of a dense"):
        continual.gauss_newton(None, Categorical(), *given)


class Expected(Likelihood):
    """The mean of log p of a normal number over the weights: outputs have mean and
    variance."""

    parts = "mean"

    def log_p(self, outputs, target):
        rest = outputs[..., 1] / (2 * STD**2)
        return -Gaussian(STD).nll(outputs[..., 0], target) - rest

    def shown(self, outputs, target, mask=None):
        return {}


def moments_of(params, state, batch, key):
    x = batch["input"]
    mean, var = params["dense1"]["kernel"].moments()
    outputs = jnp.concatenate([x @ mean, jnp.square(x) @ var], -1)
    return Prediction(outputs[None], {})


def test_a_copy_that_has_seen_the_coreset_has_the_posterior_of_both():
    """What is masked is none of it, however many there are."""
    mean, var = batch_posterior(PARTS[:2])
    column = [jnp.asarray(a, jnp.float32)[:, None] for a in (mean, np.log(var))]
    params = {"dense1": {"kernel": nodes.Additive(*column)}}
    x, y = map(jnp.asarray, PARTS[2])
    twice = {"input": jnp.tile(x, (2, 1)), "target": jnp.tile(y, 2)}
    twice["mask"] = jnp.repeat(jnp.array([1.0, 0.0]), len(x))
    for batch in ({"input": x, "target": y}, twice):
        found = continual.rehearsed(
            *(moments_of, Expected(), params, batch, random.key(0)),
            updates=2000,
            learning_rate=3e-3,
        )
        assert_posterior(found, rtol=1e-2)


@pytest.mark.parametrize("parts", ["mean", "sum"])
def test_a_coreset_weighs_the_same_whatever_stands_beside_it(parts):
    model = nets.MLP((), 1, posteriors={"dense1": nodes.gaussian(-2.0)})
    rngs = {"params": random.key(0), "noise": random.key(1)}
    params = model.init(rngs, jnp.zeros((1, 2)))["params"]
    predict = forward(model, layers.Mode(estimators.weight_sampling))
    likelihood = Gaussian(STD, parts=parts)
    x = random.normal(random.key(2), (4, 2))
    batch = {"input": x, "target": jnp.sum(x, 1, keepdims=True)}
    twice = jax.tree.map(lambda a: jnp.tile(a, (2, 1)), batch)
    twice["mask"] = (jnp.arange(8) < 4).astype(jnp.float32)[:, None]

    def copied(batch, updates=20):
        given = predict, likelihood, params, batch, random.key(3)
        return continual.rehearsed(*given, updates=updates)

    found, expected = map(jax.tree.leaves, (copied(twice), copied(batch)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    nothing = copied({**twice, "mask": jnp.zeros((8, 1))})
    for one, other in zip(*map(jax.tree.leaves, (nothing, params)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)  # Adam moves by rounding
    with pytest.raises(ValueError, match="at least 0, not -1"):
        copied(batch, -1)


def test_a_coreset_is_kept_from_every_task_in_shares():
    split = data.Split(np.arange(60)[:, None], np.tile(np.arange(5), 12))
    rest, kept = continual.coreset(split, 3, 10)
    both = np.concatenate([rest.inputs, kept.inputs])
    np.testing.assert_array_equal(np.sort(both, 0), split.inputs)
    np.testing.assert_array_equal(kept.inputs[:, 0] // 20, np.repeat(range(3), 10))
    np.testing.assert_array_equal(rest.inputs[:, 0] // 20, np.repeat(range(3), 10))
    for part in np.split(kept.target, 3):
        np.testing.assert_array_equal(np.bincount(part), [2] * 5)
    assert len({tuple(part % 20) for part in np.split(kept.inputs[:, 0], 3)}) == 3
    for tasks, size in ((7, 1), (3, 0), (3, 20)):
        with pytest.raises(ValueError, match="coreset of"):
            continual.coreset(split, tasks, size)


@pytest.mark.parametrize("name", {**node_table.FACTORIES, **node_table.TOGETHER})
def test_a_posterior_has_no_kl_from_the_prior_that_it_leaves(name):
    """Or it leaves none, and is told which nodes do."""
    node = node_table.node(name)
    if nodes.is_noisy(node) and not node.is_normal:
        with pytest.raises(TypeError, match=r"'a'.* gaussian, variance and multiplic"):
            continual.posterior({"a": {"kernel": node}})
        return
    params = {"a": {"kernel": node}}
    left = priors.of_tree(continual.posterior(params))
    assert float(priors.kl(params, left)) == pytest.approx(0, abs=1e-4)
    if not nodes.is_noisy(node):
        return
    elsewhere = {"a": {"kernel": node.times(2.0)}}  # another law
    assert float(priors.kl(elsewhere, left)) > 1
    pruned = {"a": {"kernel": node.kept(jnp.arange(5) > 0)}}  # a column of 6 weights
    left = priors.of_tree(continual.posterior(pruned))
    assert float(priors.kl(pruned, left)) == pytest.approx(0, abs=1e-4)


def test_what_has_no_anchor_is_refused():
    with pytest.raises(ValueError, match="must be positive, not 0"):
        continual.start(PARAMS, 0)
    odd = {"a": nodes.additive(noise="sign")(random.key(0), (2, 2))}
    with pytest.raises(TypeError, match="no prior of independent normal weights"):
        continual.posterior(odd)


def tasks(count=3, size=20):
    x = RNG.integers(0, 255, (count * size, 4)).astype(np.uint8)
    return data.Split(x, np.arange(count * size, dtype=np.int32))


def test_a_task_sees_its_own_examples_and_all_of_them():
    source = InTurn(tasks(), batch_size=10, tasks=3, epochs=2)
    assert (source.n, source.steps_per_epoch) == (20, 2)
    for epoch in range(6):
        rows = np.concatenate(list(source.chunks(random.key(0), epoch, 1))).ravel()
        first = 20 * (epoch // 2)
        assert sorted(rows) == list(range(first, first + 20))
        made = source.batch(source.arrays, jnp.asarray(rows), random.key(0))
        np.testing.assert_array_equal(made["target"], rows)
    with pytest.raises(ValueError, match="over in epoch 7"):
        next(source.chunks(random.key(0), 6, 1))
    with pytest.raises(ValueError, match="60 examples are not 7 tasks"):
        InTurn(tasks(), 10, 7, 1)


def test_an_optimizer_that_begins_anew_forgets():
    """Its updates are those of a new one, from there on, and its schedule's."""
    inner = optax.adam(lambda step: 0.1 / (step + 1))
    both = optimizers.restarted(inner, 3)
    params, gradients = jnp.ones(4), random.normal(random.key(0), (6, 4))

    def updates(optimizer, gradients):
        state, found = optimizer.init(params), []
        for one in gradients:
            update, state = optimizer.update(one, state, params)
            found.append(update)
        return jnp.stack(found)

    apart = [updates(inner, part) for part in (gradients[:3], gradients[3:])]
    np.testing.assert_allclose(updates(both, gradients), jnp.concatenate(apart))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        optimizers.restarted(inner, 0)
