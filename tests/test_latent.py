"""Laws of latent variables: linear models, whose bounds are known, and quadrature."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax, random
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from vnets import latent, priors
from vnets.layers import TEST
from vnets.likelihoods import Bernoulli, Gaussian
from vnets.loss import ModelState, forward, neg_elbo
from vnets.predictor import Member

N, D, Z, NOISE = 200, 6, 2, 0.4


class Affine(nn.Module):
    """x [B, I] -> [B, O], flattened first; the log variances are one for all x."""

    features: int
    constants: int = 0

    @nn.compact
    def __call__(self, x, mode=TEST):
        del mode
        y = nn.Dense(self.features)(x.reshape(len(x), -1))
        if not self.constants:
            return y
        logs = self.param("logs", nn.initializers.zeros, (self.constants,))
        return jnp.concatenate([y, jnp.broadcast_to(logs, (len(x), len(logs)))], -1)


def linear(sampled=True):
    return latent.Autoencoder(Affine(Z, Z), Affine(D), Z, sampled)


@pytest.fixture(scope="module")
def x():
    draw = np.random.default_rng(0)
    factors = draw.normal(size=(N, Z)) @ (draw.normal(size=(Z, D)) * [[2.0], [1.0]])
    return jnp.asarray(factors + NOISE * draw.normal(size=(N, D)) + 1.0, jnp.float32)


def principal(x):
    """Probabilistic PCA at its optimum, the noise as given (Tipping, Bishop 1999)."""
    centre = np.asarray(x, np.float64).mean(0)
    values, vectors = np.linalg.eigh(np.cov(np.asarray(x, np.float64).T, bias=True))
    values, vectors = values[::-1][:Z], vectors[:, ::-1][:, :Z]
    weight = vectors * np.sqrt(values - NOISE**2)
    inverse = 1 / (np.sum(weight**2, 0) + NOISE**2)  # of W'W + s^2 I, diagonal here
    density = multivariate_normal(centre, weight @ weight.T + NOISE**2 * np.eye(D))
    encoder = {
        "Dense_0": {"kernel": weight * inverse, "bias": -centre @ weight * inverse},
        "logs": np.log(NOISE**2 * inverse),
    }
    decoder = {"Dense_0": {"kernel": weight.T, "bias": centre}}
    params = {"encoder": encoder, "decoder": decoder}
    return jax.tree.map(jnp.float32, params), density.logpdf(np.asarray(x))


LIKELIHOOD = Gaussian(NOISE, parts="sum")


def test_a_linear_model_reaches_the_likelihood_of_probabilistic_pca(x):
    """There the posterior is exact: every draw has the weight p(x)."""
    params, log_p = principal(x)
    net = Member(linear(), {"params": params})
    weights = latent.log_weights(net, LIKELIHOOD, x, random.key(0), 3)
    np.testing.assert_allclose(weights, np.broadcast_to(log_p, (3, N)), atol=2e-3)
    np.testing.assert_allclose(latent.effective_samples(weights), 3.0, rtol=1e-3)


@pytest.mark.parametrize("place", ["decoder", "encoder"])
def test_it_is_below_that_everywhere_else(x, place):
    params, log_p = principal(x)
    for seed in range(3):
        noise = random.normal(random.key(seed), (50,))
        moved = jax.tree.map(
            lambda w, e=noise: w + 0.3 * e[: w.size].reshape(w.shape), params[place]
        )
        net = Member(linear(), {"params": {**params, place: moved}})
        weights = latent.log_weights(net, LIKELIHOOD, x, random.key(1), 50)
        assert jnp.mean(weights) < np.mean(log_p) - 0.05


def test_the_loss_is_the_bound(x):
    """`neg_elbo` and the mean of the weights are estimates of the same number."""
    params, log_p = principal(x)
    loss = neg_elbo(forward(linear(), latent=True), LIKELIHOOD, priors.log_uniform, N)
    state = ModelState(jnp.int32(0), {})
    values = [loss(params, state, {"input": x}, random.key(i))[0] for i in range(30)]
    assert np.mean(values) == pytest.approx(-np.mean(log_p), abs=0.02)


def test_a_linear_autoencoder_finds_the_principal_components(x):
    model, state = linear(sampled=False), ModelState(jnp.int32(0), {})
    loss = neg_elbo(forward(model, latent=True), LIKELIHOOD, priors.log_uniform, N)
    start = model.init(random.key(0), x)["params"]
    optimizer = optax.adam(optax.linear_schedule(3e-2, 0.0, 2000))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, memory = carry
            grads = jax.grad(lambda p: loss(p, state, {"input": x}, random.key(0))[0])
            updates, memory = optimizer.update(grads(params), memory)
            return (optax.apply_updates(params, updates), memory), None

        return lax.scan(step, (params, optimizer.init(params)), None, 2000)[0][0]

    net = Member(model, {"params": train(start)})
    code = latent.posterior(net, x, random.key(0)).mean
    error = jnp.sum(jnp.square(latent.decode(net, code, random.key(0)) - x), -1).mean()
    values, vectors = np.linalg.eigh(np.cov(np.asarray(x).T, bias=True))
    assert float(error) == pytest.approx(values[:-Z].sum(), rel=0.01)
    kernel = net.variables["params"]["decoder"]["Dense_0"]["kernel"]
    assert np.abs(kernel @ vectors[:, :-Z]).max() < 0.05 * np.abs(kernel).max()


@pytest.fixture(scope="module")
def curved():
    """A model of one latent variable, and log p(x) by quadrature."""
    model = latent.Autoencoder(Affine(2), Affine(3), 1)
    x = jnp.asarray([[0.0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])
    net = Member(
        model, model.init({"params": random.key(3), "noise": random.key(0)}, x)
    )
    z = np.linspace(-9, 9, 4001)
    logits = latent.decode(net, jnp.float32(z[:, None]), random.key(0))
    each = [np.broadcast_to(one, logits.shape) for one in x]
    log_p = jnp.stack([-Bernoulli().nll(logits, one) for one in each])
    joint = np.asarray(log_p, np.float64) + norm.logpdf(z)
    return net, x, z, joint, logsumexp(joint, axis=1) + np.log(z[1] - z[0])


def test_the_bound_and_what_it_lacks_make_log_p(curved):
    """ELBO + KL(q(z | x) || p(z | x)) = log p(x)."""
    net, x, z, joint, log_p = curved
    q = latent.posterior(net, x, random.key(0))
    log_q = norm.logpdf(z, q.mean, np.exp(0.5 * np.asarray(q.log_var)))
    lack = np.sum(np.exp(log_q) * (log_q - joint + log_p[:, None]), 1) * (z[1] - z[0])
    found = latent.log_weights(net, Bernoulli(), x, random.key(1), 20_000)
    np.testing.assert_allclose(jnp.mean(found, 0) + lack, log_p, atol=0.02)


def test_more_draws_bring_it_nearer(curved):
    net, x, _, _, log_p = curved
    weights = latent.log_weights(net, Bernoulli(), x, random.key(2), 20_000)
    bounds = [
        jnp.mean(latent.log_mean(weights.reshape(k, -1, 4)), 0) for k in (1, 5, 50)
    ]
    for less, more in itertools.pairwise(bounds):
        assert np.all(less < more + 1e-3)
    np.testing.assert_allclose(latent.log_mean(weights), log_p, atol=0.02)
    equal = latent.effective_samples(jnp.zeros((7, 2)))
    np.testing.assert_allclose(equal, 7.0, rtol=1e-6)


@pytest.mark.parametrize("at_once", [100_000, 400])
def test_draws_of_the_prior_find_it_too(curved, monkeypatch, at_once):
    net, x, _, _, log_p = curved
    monkeypatch.setattr(latent, "AT_ONCE", at_once)
    found = latent.log_mean_by_prior(net, Bernoulli(), x, random.key(0), 20_050)
    np.testing.assert_allclose(found, log_p, atol=0.05)


def test_what_has_no_bound_is_refused(x):
    net = Member(linear(False), {"params": principal(x)[0]})
    with pytest.raises(ValueError, match="no density"):
        latent.log_weights(net, LIKELIHOOD, x, random.key(0), 3)
    model = latent.Autoencoder(Affine(Z, Z), Affine(D), 3)
    with pytest.raises(ValueError, match=r"gives \[B, 6\]"):
        model.init({"params": random.key(0), "noise": random.key(0)}, x)
    net = Member(linear(), net.variables)
    with pytest.raises(ValueError, match="at least 1"):
        latent.log_weights(net, LIKELIHOOD, x, random.key(0), 0)
    with pytest.raises(ValueError, match="at least 1"):
        latent.log_mean_by_prior(net, LIKELIHOOD, x, random.key(0), 0)
