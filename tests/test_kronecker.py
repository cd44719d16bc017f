"""Laws of Kronecker-factored curvature: where it is exact, and what is nearest."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util, random
from scipy import stats

from vnets import edits, kronecker, laplace, nodes
from vnets.data import Split
from vnets.kronecker import Factors
from vnets.likelihoods import Gaussian
from vnets.nets import MLP
from vnets.predictor import Member, Predictor, as_is

N, STD, PRECISION = 30, 0.3, 2.0
RNG = np.random.default_rng(1)
X = RNG.normal(size=(N, 4)).astype(np.float32)
DESIGN = np.concatenate([X, np.ones((N, 1))], 1)  # a bias is the last row
Y = (DESIGN @ RNG.normal(size=(5, 2)) + STD * RNG.normal(size=(N, 2))).astype("f4")
OPTIONS = {"prepare": as_is, "batch_size": 16}
NORMAL = Gaussian(std=STD, parts="sum")


def dense(factors):
    """A Kronecker product as a matrix, of the weights row by row."""
    return np.kron(*(np.asarray(x, np.float64) for x in (factors.rows, factors.cols)))


def linear_net(precision=PRECISION, parts=slice(None)):
    """At its most likely weights; and the exact covariance, of each output alike."""
    model = MLP((), 2)
    cov = np.linalg.inv(DESIGN.T @ DESIGN / STD**2 + precision * np.eye(5))
    best = (cov @ DESIGN.T @ Y / STD**2).astype(np.float32)
    return model, {"params": {"dense1": {"kernel": best[:-1], "bias": best[-1]}}}, cov


def fitted(precision=PRECISION):
    model, variables, cov = linear_net(precision)
    options = {**OPTIONS, "likelihood": NORMAL}
    return model, laplace.factored(model, variables, Split(X, Y), **options), cov


def test_the_evidence_of_a_linear_normal_model_is_exact():
    """There the curvature of pre-activations is the same for all examples."""
    found = fitted()[1]
    marginal = STD**2 * np.eye(N) + DESIGN @ DESIGN.T / PRECISION
    law = stats.multivariate_normal(np.zeros(N), marginal)
    exact = sum(law.logpdf(column) for column in Y.T.astype(np.float64))
    assert found.evidence(PRECISION) == pytest.approx(exact, rel=1e-4)
    whole = laplace.full(*linear_net()[:2], Split(X, Y), **OPTIONS, likelihood=NORMAL)
    np.testing.assert_allclose(
        np.sort(found.curvature), whole.curvature, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("precision", [1e-4, PRECISION])
def test_the_posterior_is_damped_and_exact_without_a_prior(precision):
    """Its rows are those of A + root of precision, and it is never wider."""
    _, found, cov = fitted(precision)
    layer = found.posterior(precision)["params"]["dense1"]
    kernel, bias = layer["kernel"], layer["bias"]
    rows = np.concatenate([kernel.row_factor, bias.row_factor]).astype(np.float64)
    rows, cols = (x @ x.T for x in (rows, np.asarray(kernel.col_factor, np.float64)))
    damping = precision**0.5
    row_curvature = DESIGN.T @ DESIGN / N**0.5 + damping * np.eye(5)
    np.testing.assert_allclose(np.linalg.inv(rows), row_curvature, rtol=1e-3, atol=1e-3)
    of_outputs = (N**0.5 / STD**2 + damping) * np.eye(2)
    np.testing.assert_allclose(np.linalg.inv(cols), of_outputs, rtol=1e-3, atol=1e-2)
    gap = np.kron(cov, np.eye(2)) - np.kron(rows, cols)
    assert np.linalg.eigvalsh(gap)[0] >= -1e-7
    share = np.abs(gap).max() / np.abs(cov).max()
    assert (share < 0.01) == (precision < 1e-3)


def test_draws_of_weights_and_biases_predict_with_one_variance():
    model, found, _ = fitted(1e-4)
    member = Member(model, found.posterior(1e-4))
    draws = Predictor(member, draw=edits.draw, samples=4000, link=as_is)(
        jnp.asarray(X[:3]), random.key(0)
    )
    cov = np.linalg.inv(DESIGN.T @ DESIGN / STD**2)
    var = np.einsum("np,pq,nq->n", DESIGN[:3], cov, DESIGN[:3])
    np.testing.assert_allclose(draws.var(0), np.stack([var] * 2, 1), rtol=0.12)


def small_net(activation="tanh"):
    model = MLP((6,), 3, activation=activation)
    params = model.init({"params": random.key(3)}, X[:1])["params"]
    return model, {"params": params}, RNG.integers(0, 3, N).astype(np.int32)


@pytest.mark.parametrize("layer", ["dense1", "dense2"])
@pytest.mark.parametrize("copies", [1, 3])
def test_one_example_has_the_curvature_of_a_dense_gauss_newton_matrix(layer, copies):
    """However often it comes; eigenvectors are those of the whole, too."""
    model, variables, label = small_net()
    x, target = (jnp.stack([a[0]] * copies) for a in (X, label))
    found, outputs = kronecker.measured(model, variables, x, target, where=layer)
    np.testing.assert_allclose(outputs, model.apply(variables, x), rtol=1e-6)
    one = dense(found[layer].times(1 / copies))

    def logits(flat):
        kernel, bias = flat[:-1], flat[-1]
        own = {**variables["params"], layer: {"kernel": kernel, "bias": bias}}
        return model.apply({"params": own}, x[:1])[0]

    w = kronecker.matrices(variables["params"])[layer]
    jacobian = jax.jacobian(logits)(w).reshape(3, -1)
    p = np.asarray(jax.nn.softmax(outputs[0]))
    exact = copies * jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
    np.testing.assert_allclose(one, exact, rtol=1e-3, atol=1e-6 * copies)


def test_examples_that_do_not_count_change_nothing():
    model, variables, label = small_net()
    counts = jnp.arange(10) < 6
    run = kronecker.measured
    some, _ = run(model, variables, X[:10], label[:10], weights=1.0 * counts)
    few, _ = run(model, variables, X[:6], label[:6])
    near = {"rtol": 1e-5, "atol": 1e-6}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **near), some, few)
    split = Split(X, label)  # 16 + 14: a batch that is not full
    found = laplace.factored(model, variables, split, **OPTIONS)
    whole, _ = run(model, variables, X, label)
    for layer, (rows, cols) in found.factors.items():
        for own, exact in ((rows, whole[layer].rows), (cols, whole[layer].cols)):
            values, vectors = own
            shown = N**0.5 * vectors @ np.diag(values) @ vectors.T
            np.testing.assert_allclose(shown, exact, rtol=1e-3, atol=1e-4)


def curvature(seed, rank=9):
    parts = (random.normal(random.key(seed + n), (n, rank)) for n in (4, 3))
    return Factors(*(x @ x.T for x in parts))


def test_the_nearest_product_is_that_of_the_first_singular_pair():
    one, other = curvature(0), curvature(10).times(3.0)
    both = [np.outer(np.ravel(a.rows), np.ravel(a.cols)) for a in (one, other)]
    u, s, v = np.linalg.svd(np.float64(sum(both)))
    best = s[0] * np.outer(u[:, 0], v[0])
    found = kronecker.nearest(one, other)
    shown = np.outer(np.ravel(found.rows), np.ravel(found.cols))
    np.testing.assert_allclose(shown, best, rtol=1e-3, atol=1e-3 * s[0])
    for part in (found.rows, found.cols):
        assert np.linalg.eigvalsh(part)[0] > 0
    again = kronecker.nearest(other, one)
    np.testing.assert_allclose(dense(again), dense(found), rtol=1e-3, atol=1e-3)


def test_what_is_alike_is_added_exactly():
    one, other = curvature(0), curvature(10)
    nothing = one.times(0.0)
    for a, b in (
        (one, Factors(one.rows * 2, other.cols)),
        (one, Factors(other.rows, one.cols)),
        (one, nothing),
        (nothing, one),
        (nothing, nothing),
    ):
        found = dense(kronecker.nearest(a, b))
        np.testing.assert_allclose(found, dense(a) + dense(b), rtol=1e-4, atol=1e-3)


PARTS = [(X[n : n + 10], Y[n : n + 10]) for n in (0, 10, 20)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[:4])
def test_factored_laplace_in_turn_is_bayes_at_once(order):
    """With inputs that vary together, where no diagonal is exact."""
    model, variables, cov = linear_net()
    params = variables["params"]
    anchor = kronecker.start(params, PRECISION**-0.5)
    flat, shaped = flatten_util.ravel_pytree(params)

    @jax.jit
    def learned(anchor, x, y):
        def cost(flat):
            own = shaped(flat)
            nll = jnp.sum(NORMAL.nll(model.apply({"params": own}, x), y))
            return nll + kronecker.pull(own, anchor)

        zero = jnp.zeros_like(flat)  # quadratic: one step of Newton's
        best = shaped(-jnp.linalg.solve(jax.hessian(cost)(zero), jax.grad(cost)(zero)))
        given = {"likelihood": NORMAL}
        found, _ = kronecker.measured(model, {"params": best}, x, y, **given)
        found = {k: one.times(1 / len(x)) for k, one in found.items()}
        return kronecker.laplace(anchor, best, found)

    for number in order:
        anchor = learned(anchor, *map(jnp.asarray, PARTS[number]))
    [held] = anchor.values()
    exact = np.concatenate([params["dense1"]["kernel"], params["dense1"]["bias"][None]])
    np.testing.assert_allclose(held.mean, exact, rtol=1e-3, atol=1e-3)
    own = np.kron(np.linalg.inv(cov), np.eye(2))
    np.testing.assert_allclose(dense(held.precision), own, rtol=1e-3, atol=0.05)


def test_what_has_no_factors_is_refused():
    model, variables, label = small_net()
    params = variables["params"]
    noisy = {"a": {"kernel": nodes.gaussian()(random.key(0), (2, 2))}}
    image = {"conv1": {"kernel": jnp.zeros((3, 3, 1, 2))}}
    for given, where, words in (
        (noisy, None, "around points"),
        (image, None, "no weight or bias of a dense"),
        (params, "*/bias", "no dense kernel"),
        (params, "dense9", "dense9"),
    ):
        with pytest.raises(ValueError, match=words):
            kronecker.matrices(given, where)
    more = {"params": {**params, "dense7": params["dense1"]}}
    with pytest.raises(ValueError, match=r"calls no layers \['dense7'\]"):
        kronecker.measured(model, more, X, label)
    with pytest.raises(ValueError, match="must be positive, not 0"):
        kronecker.start(params, 0)
