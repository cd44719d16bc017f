"""Laws of Laplace's posterior: exact where all is linear and normal."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util, random
from scipy import stats

from vnets import edits, laplace
from vnets.data import Split
from vnets.likelihoods import Categorical, Gaussian
from vnets.nets import MLP
from vnets.nodes import gaussian
from vnets.predictor import Member, Predictor, as_is

N, STD, PRECISION = 30, 0.3, 2.0
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4)).astype(np.float32)
DESIGN = np.concatenate([np.ones((N, 1)), X], 1)  # a bias comes first, by name
Y = (DESIGN @ RNG.normal(size=(5, 1)) + STD * RNG.normal(size=(N, 1))).astype("f4")
HESSIAN = DESIGN.T @ DESIGN / STD**2
LIKELIHOOD = Gaussian(std=STD)
OPTIONS = {"likelihood": LIKELIHOOD, "prepare": as_is, "batch_size": 16}


def linear_net(precision=PRECISION):
    """A linear net at its most likely weights, and its exact posterior covariance."""
    model = MLP((), 1)
    params = model.init({"params": random.key(0)}, X[:1])["params"]
    cov = np.linalg.inv(HESSIAN + precision * np.eye(5))
    best = cov @ DESIGN.T @ Y / STD**2
    _, shaped = flatten_util.ravel_pytree(params)
    return model, {"params": shaped(jnp.asarray(best.ravel(), jnp.float32))}, cov


def fitted(kind=laplace.full, precision=PRECISION):
    model, variables, cov = linear_net(precision)
    return model, kind(model, variables, Split(X, Y), **OPTIONS), cov


def test_it_is_exact_for_a_linear_normal_model():
    model, found, cov = fitted()
    shown = found.vectors @ np.diag(1 / (found.curvature + PRECISION)) @ found.vectors.T
    np.testing.assert_allclose(shown, cov, rtol=1e-4, atol=1e-8)
    marginal = STD**2 * np.eye(N) + DESIGN @ DESIGN.T / PRECISION
    exact = stats.multivariate_normal.logpdf(Y[:, 0], np.zeros(N), marginal)
    assert found.evidence(PRECISION) == pytest.approx(exact, rel=1e-4)

    net = Member(model, found.posterior(PRECISION))
    draws = Predictor(net, draw=edits.draw, samples=4000, link=as_is)(
        jnp.asarray(X[:3]), random.key(0)
    )
    var = np.einsum("np,pq,nq->n", DESIGN[:3], cov, DESIGN[:3])
    np.testing.assert_allclose(draws.var(0)[:, 0], var, rtol=0.12)


def test_the_diagonal_is_that_of_the_whole():
    found = fitted(laplace.diagonal)[1]
    np.testing.assert_allclose(found.curvature, np.diag(HESSIAN), rtol=1e-4)


def test_evidence_chooses_the_prior_of_a_fixed_point():
    """MacKay: at the best precision it is gamma / |w|^2, gamma the weights in use."""
    _, found, _ = fitted()
    best = found.best_precision()
    gamma = np.sum(found.curvature / (found.curvature + best))
    assert best == pytest.approx(gamma / np.sum(found.weights**2), rel=1e-3)


def small_net():
    model = MLP((6,), 3, activation="tanh")
    params = model.init({"params": random.key(3)}, X[:1])["params"]
    label = RNG.integers(0, 3, N).astype(np.int32)
    return model, {"params": params}, Split(X, label)


def test_the_last_layer_against_a_dense_hessian():
    """There the Gauss-Newton matrix is the Hessian itself."""
    model, variables, split = small_net()
    own = variables["params"]["dense2"]
    flat, shaped = flatten_util.ravel_pytree(own)

    def nll(flat):
        given = {**variables["params"], "dense2": shaped(flat)}
        logits = model.apply({"params": given}, jnp.asarray(X))
        return jnp.sum(Categorical().nll(logits, jnp.asarray(split.target)))

    found = laplace.full(model, variables, split, where="dense2", prepare=as_is)
    ours = found.vectors @ np.diag(found.curvature) @ found.vectors.T
    np.testing.assert_allclose(ours, jax.hessian(nll)(flat), atol=1e-4)
    assert found.log_likelihood == pytest.approx(-float(nll(flat)), rel=1e-5)


def test_linearized_is_the_net_and_its_slope():
    model, variables, split = small_net()
    found = laplace.full(model, variables, split, prepare=as_is)
    posterior = found.posterior(10.0)
    net = laplace.Linearized(model)
    given, key = net.around(posterior), random.key(1)
    x = jnp.asarray(X[:4])
    plain = model.apply(variables, x)
    calm = Predictor(Member(net, given), edits.mean_only, link=as_is)(x, key)
    np.testing.assert_allclose(calm[0], plain, atol=1e-6)

    drawn = edits.draw(posterior["params"], key)
    centre = edits.mean_only(posterior["params"])
    near = jax.tree.map(lambda a, b: a + 1e-3 * (b - a), centre, drawn)
    slope = (model.apply({"params": near}, x) - plain) / 1e-3
    ours, _ = net.apply({**given, "params": drawn}, x)
    np.testing.assert_allclose(ours - plain, slope, atol=0.02)
    many = Predictor(Member(net, given), draw=edits.draw, samples=3)
    assert many(x, key).shape == (3, 4, 3)


FORMS = (laplace.full, laplace.diagonal, laplace.factored)


@pytest.mark.parametrize("kind", FORMS)
def test_what_does_not_count_has_no_curvature(kind):
    """A mask leaves the examples that it names; of parts, too, where they are all."""
    _, variables, _ = linear_net()
    model, few = MLP((), 1), np.arange(N) < 20
    odd = np.where(few[:, None], Y, np.nan)
    mask = few.astype(np.float32)[:, None]
    found = kind(model, variables, Split(X, odd, mask), **OPTIONS)
    expected = kind(model, variables, Split(X[few], Y[few]), **OPTIONS)
    np.testing.assert_allclose(found.curvature, expected.curvature, rtol=1e-4)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-5)
    best = found.best_precision()
    assert best == pytest.approx(expected.best_precision(), rel=1e-3)


@pytest.mark.parametrize("kind", FORMS)
def test_the_mean_of_parts_has_the_curvature_of_their_sum(kind):
    """An example of T numbers says T times as much as one of them."""
    model = MLP((), 3)
    params = model.init({"params": random.key(0)}, X[:1])["params"]
    split = Split(X, np.tile(Y, (1, 3)))
    by_sum, by_mean = (
        kind(
            *(model, {"params": params}, split),
            **{**OPTIONS, "likelihood": Gaussian(std=STD, parts=parts)},
        )
        for parts in ("sum", "mean")
    )
    np.testing.assert_array_equal(by_sum.curvature, by_mean.curvature)
    assert by_sum.log_likelihood == by_mean.log_likelihood


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": np.full(N, 3)}, "class 3 is outside 0 to 2"),
        ({"target": None}, "examples with targets"),
        ({"inputs": X[:0], "target": np.zeros(0, int)}, "examples with targets"),
        ({"batch_size": 0}, "in batches of 1 at least"),
    ],
)
def test_what_has_no_curvature_is_refused(kind, change, words):
    model, variables, split = small_net()
    size = change.get("batch_size", 10)
    given = {k: v for k, v in change.items() if k != "batch_size"}
    split = dataclasses.replace(split, **given)
    with pytest.raises(ValueError, match=words):
        kind(model, variables, split, prepare=as_is, batch_size=size)


def test_an_evidence_that_is_no_number_chooses_nothing():
    found = fitted()[1]
    broken = dataclasses.replace(found, log_likelihood=np.nan)
    with pytest.raises(ValueError, match="no number"):
        broken.best_precision()


def test_noise_and_size_are_refused(monkeypatch):
    model = MLP((6,), 3, posteriors={"dense2": gaussian()})
    rngs = {"params": random.key(0), "noise": random.key(1)}
    noisy = {"params": model.init(rngs, X[:1])["params"]}
    split = small_net()[2]
    with pytest.raises(ValueError, match="around points"):
        laplace.full(model, noisy, split, where="dense2", prepare=as_is)
    monkeypatch.setattr(laplace, "LARGEST", 10)
    with pytest.raises(ValueError, match="too large"):
        laplace.full(*small_net(), prepare=as_is)
