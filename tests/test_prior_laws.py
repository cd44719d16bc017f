"""Laws of priors over all nodes: numbers with gradients, closed forms, densities."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from node_table import DENSE, every_node, node
from scipy import stats

from vnets import edits, estimators, layers, nets, nodes, priors
from vnets.likelihoods import Categorical
from vnets.loss import ModelState, forward, neg_elbo
from vnets.priors import closed, fitted
from vnets.rng import stream

PARAMS = every_node()
HALF = jnp.arange(DENSE[0])[:, None] % 2 == 0


def fitting(prior):
    """The nodes that a prior has a KL of; the others are refused by name."""
    fit = {}
    for name, one in ((n, layer["kernel"]) for n, layer in PARAMS.items()):
        run = functools.partial(priors.kl, prior=prior, key=random.key(0))
        try:
            jax.eval_shape(run, {"a": {"kernel": one}})
        except TypeError as error:
            said = ("no density", *(type(part).__name__ for _, part in one.parts()))
            if not any(word in str(error) for word in said):
                raise
        else:
            fit[name] = one
    return fit


def pairs():
    """Every prior with all nodes; at once, those that are drawn with every fourth.

    A draw's KL is a node's density beside the prior's: no pair has a rule of its own.
    """
    for name in sorted(priors.PRIORS):
        drawn = isinstance(priors.PRIORS[name](), priors.Sampled)
        if drawn:
            yield pytest.param(name, 4, id=f"{name}-some")
        yield pytest.param(name, 1, id=name, marks=pytest.mark.slow if drawn else ())


@pytest.mark.parametrize(("name", "every_so_many"), list(pairs()))
def test_every_kl_is_a_number_with_finite_gradients(name, every_so_many):
    """A float32 scalar, 0 of what has no noise and of what was pruned, else not."""
    prior = priors.PRIORS[name]()
    fit = fitting(prior)
    assert {"point", "masked", "dropout-binary", "dropout-0"} <= set(fit)
    some = {*sorted(fit)[::every_so_many], *ZEROED} & set(fit)
    fit = {n: fit[n] for n in sorted(some)}
    assert any(one.parts() for one in fit.values()), name

    @jax.jit
    def values(fit):
        def divergence(one):
            return priors.kl({"a": {"kernel": one}}, prior, random.key(0))

        return {n: jax.value_and_grad(divergence)(one) for n, one in fit.items()}

    for n, (value, slope) in values(fit).items():
        assert (value.shape, value.dtype) == ((), jnp.float32)
        assert np.isfinite(value), n
        assert (value == 0) >= (not fit[n].parts()), n
        assert every(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope)), n
    nothing = {n: one.kept(HALF & ~HALF) for n, one in fit.items() if n in ZEROED}
    for n, (value, slope) in values(nothing).items():
        if name != "hierarchical_normal":  # which counts a hyperprior, too
            assert float(value) == pytest.approx(0, abs=1e-4), n
        assert every(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope)), n


ZEROED = ("gaussian-normal", "alpha-weight", "variance-normal")


@pytest.mark.parametrize("name", sorted({*closed.PRIORS, *fitted.PRIORS, "group_ard"}))
def test_weights_whose_squares_vanish_cost_a_number(name):
    """They are not pruned: mean and variance are too small for float32, but there."""
    faint = nodes.Additive(
        jnp.full(DENSE, 1e-20, jnp.float32), jnp.full(DENSE, -100.0, jnp.float32)
    )
    value, slope = jax.value_and_grad(priors.PRIORS[name]())(faint)
    assert np.isfinite(value)
    assert every(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("name", sorted({*closed.PRIORS, *fitted.PRIORS, "group_ard"}))
def test_the_kl_is_that_of_the_weights_that_are_left(name):
    """With a finite gradient, which for these weights is theirs alone."""
    prior, rows = priors.PRIORS[name](), np.asarray(HALF[:, 0])
    if name == "group_ard":
        prior = priors.group_ard("out")

    @jax.jit
    def values(one):
        return jax.value_and_grad(prior)(one)

    for whole in (
        node("gaussian-normal"),
        node("alpha-weight").replace(noise="normal"),
    ):
        value, slope = values(whole.kept(HALF))
        expected, expected_slope = values(whole.subset(rows))
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
        both = map(jax.tree.leaves, (slope, expected_slope))
        for got, want in zip(*both, strict=True):
            assert np.all(np.isfinite(got))
            np.testing.assert_allclose(got[rows], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(priors.PRIORS))
def test_a_prior_is_given_called_or_not_and_by_patterns(name):
    maker, key = getattr(priors, name), random.key(0)
    fit = fitting(priors.PRIORS[name]())
    one = next(one for one in fit.values() if one.parts())
    params = {"block": {"dense": {"kernel": one}}}
    ways = [maker(), maker, {"block/*": maker}, {"block/dense": maker()}]
    ways += [priors.WeightedPrior(maker, {"*": 1.0})]
    found = [float(priors.kl(params, way, key)) for way in ways]
    assert found == pytest.approx([found[0]] * len(found), rel=1e-6)
    with pytest.raises(ValueError, match=r"no prior for layer 'block/dense'.*'other'"):
        priors.kl(params, {"other": maker}, key)


@pytest.mark.parametrize(
    ("prior", "log_p", "names"),
    [
        (
            priors.standard_normal(0.7),
            lambda w: -0.5 * jnp.square(w / 0.7) - np.log(0.7 * (2 * np.pi) ** 0.5),
            ("gaussian-normal", "variance-normal", "alpha-layer", "dropout-gaussian"),
        ),
        (
            priors.student_t(3.0),
            lambda w: jax.scipy.stats.t.logpdf(w, 3.0),
            ("gaussian-normal", "variance-normal", "alpha-layer"),
        ),
        (
            priors.ScaledPrior(priors.truncated_log_uniform, priors.standard_normal),
            lambda w: -jnp.log(20.0 * w),
            ("structured",),
        ),
    ],
    ids=["normal", "student", "log-uniform"],
)
def test_closed_forms_are_the_mean_of_the_sampled(prior, log_p, names, assert_mean):
    density = priors.Sampled(log_p)
    tree_of = {name: {"kernel": node(name)} for name in names}
    keys = random.split(random.key(0), 2000)

    @jax.jit
    def sampled(key):
        return {n: priors.kl({n: layer}, density, key) for n, layer in tree_of.items()}

    for name, values in jax.vmap(sampled)(keys).items():
        closed = priors.kl({name: tree_of[name]}, prior)
        assert_mean(values, float(closed))


def test_the_kl_of_a_matrix_normal_is_the_mean_of_the_sampled(assert_mean):
    """From independent weights, from a scale, and from another matrix."""
    q = node("matrix-normal")
    keys = random.split(random.key(3), 3)
    other = nodes.MatrixNormal(
        *(q.mean + 1, random.normal(keys[0], (6, 6)), random.normal(keys[1], (5, 7)))
    )
    independent = nodes.Additive(q.mean - 1, random.normal(keys[2], DENSE))
    of_scale = priors.standard_normal(0.7)
    wide = nodes.ZeroMean(jnp.full(DENSE, 0.7))
    for prior, density in ((other,) * 2, (independent,) * 2, (of_scale, wide)):
        closed = float(priors.kl({"a": q}, prior))
        sampled = priors.Sampled(density.log_prob)
        draws = jax.vmap(lambda key, sampled=sampled: priors.kl({"a": q}, sampled, key))
        assert_mean(draws(random.split(random.key(0), 4000)), closed)
    assert float(priors.kl({"a": other}, other)) == pytest.approx(0, abs=1e-3)
    with pytest.raises(TypeError, match="MatrixNormal"):
        priors.kl({"a": q}, priors.log_uniform)


def test_a_sampled_kl_has_the_right_gradient(assert_mean):
    one, keys = node("gaussian-normal"), random.split(random.key(0), 4000)
    density = priors.Sampled(lambda w: -0.5 * jnp.square(w))

    def slope(kl):
        return lambda key: jax.grad(lambda q: kl({"a": q}, key))(one)

    drawn = jax.jit(jax.vmap(slope(lambda p, key: priors.kl(p, density, key))))(keys)
    closed = slope(lambda p, _: priors.kl(p, priors.standard_normal()))(None)
    for field in ("mean", "log_var"):
        assert_mean(getattr(drawn, field), getattr(closed, field))


def test_what_one_task_left_is_the_prior_of_the_next():
    """The KL from itself is 0, at every draw; from another it is positive."""
    names = ["gaussian-normal", "variance-normal", "alpha-layer"]
    params = every_node(names)
    before = priors.of_tree(params)
    assert float(priors.kl(params, before, random.key(0))) == pytest.approx(0, abs=1e-4)
    wider = edits.scale_noise(2.0)(params)
    assert float(priors.kl(wider, before, random.key(0))) > 1.0
    # Of normal nodes it is exact, and nothing is drawn.
    assert float(priors.kl(params, before)) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="needs a key"):
        priors.kl(params, priors.scale_mixture())


def test_one_normal_law_costs_what_the_formula_says_from_another():
    """ln(t / s) + (s^2 + (m - c)^2) / (2 t^2) - 1/2 for each weight."""
    params = {name: layer for name, layer in PARAMS.items() if normal_alone(layer)}
    assert len(params) >= 5
    for one in params.values():
        for other in params.values():
            (m, s2), (c, t2) = map(moments, (one["kernel"], other["kernel"]))
            each = 0.5 * (np.log(t2 / s2) + (s2 + (m - c) ** 2) / t2 - 1)
            found = priors.kl({"a": one}, priors.of_tree({"a": other}))
            np.testing.assert_allclose(found, each.sum(), rtol=1e-4, atol=1e-3)


def normal_alone(layer):
    """Whether a weight has normal noise, and its units none."""
    return layer["kernel"].is_normal


def moments(one):
    """In double precision."""
    mean, var = one.moments()
    return np.float64(0 if mean is None else mean), np.float64(var)


def test_normal_weights_without_noise_are_far_from_those_with_it():
    """On either side a variance of zero costs much, but is a number."""
    params = every_node(["gaussian-normal", "variance-normal", "alpha-layer"])
    silent = edits.scale_noise(0.0)(params)
    for one, prior in ((silent, params), (params, silent)):
        found = float(priors.kl(one, priors.of_tree(prior)))
        assert np.isfinite(found)
        assert found > 1000


def test_the_mixture_is_a_density():
    w = np.linspace(-8, 8, 400_001)
    made = priors.scale_mixture(0.3, 1.5, 0.1)
    p = np.exp(np.asarray(made.log_prob(jnp.asarray(w, jnp.float32)), np.float64))
    expected = 0.3 * stats.norm.pdf(w, 0, 1.5) + 0.7 * stats.norm.pdf(w, 0, 0.1)
    np.testing.assert_allclose(p, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("estimator", [estimators.weight_sampling, estimators.lrt])
def test_a_density_is_evaluated_at_the_draws_that_the_net_runs_with(estimator, samples):
    """Of one draw each for the batch; under LRT, which draws no weights, at its own."""
    net = nets.MLP((3,), 2, posteriors={"dense1": nodes.gaussian(-1.0)})
    x, key = random.normal(random.key(0), (4, 5)), random.key(7)
    params = net.init({"params": random.key(1), "noise": key}, x)["params"]
    prior, state = priors.scale_mixture(), ModelState(jnp.int32(0), {})
    mode = dataclasses.replace(layers.TRAIN, estimator=estimator)
    run = forward(net, mode, samples)
    loss = neg_elbo(run, Categorical(), prior, 10, average="losses")
    batch = {"input": x, "target": jnp.array([0, 1, 0, 1], jnp.int32)}
    _, (_, metrics) = jax.jit(loss)(params, state, batch, key)
    drawn = priors.shared_draws(params, prior, estimator, samples, key)
    assert (drawn is None) == (estimator is estimators.lrt)
    if drawn is None:
        expected = priors.kl(params, prior, stream(key, "kl"))
        np.testing.assert_allclose(metrics["kl"], expected, rtol=1e-5)
        return
    each = [jax.tree.map(lambda w, at=at: w[at], drawn) for at in range(samples)]
    kls = [priors.kl(params, prior, stream(key, "kl"), one) for one in each]
    assert len({float(kl) for kl in kls}) == samples
    np.testing.assert_allclose(metrics["kl"], np.mean(kls), rtol=1e-5)
    logits = [net.apply({"params": one}, x, mode) for one in each]
    nll = [jnp.mean(Categorical().nll(one, batch["target"])) for one in logits]
    np.testing.assert_allclose(metrics["nll"], np.mean(nll), rtol=1e-5)
