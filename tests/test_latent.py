"""Laws of latent variables: linear models, whose bounds are known, and quadrature."""

import functools
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
from vnets.likelihoods import Bernoulli, Categorical, Gaussian
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


def test_estimates_by_several_numbers_of_draws_are_of_the_first_ones(
    curved, monkeypatch
):
    """Each as if there were no more, within the same chunks."""
    net, x, *_ = curved
    monkeypatch.setattr(latent, "AT_ONCE", 100 * len(x))
    counts = (10, 100, 250, 1000)

    @functools.partial(jax.jit, static_argnums=0)
    def naive(samples):
        return latent.log_mean_by_prior(net, Bernoulli(), x, random.key(0), samples)

    found = naive(counts)
    assert found.shape == (4, len(x))
    for several, n in zip(found[1:], counts[1:], strict=True):
        np.testing.assert_allclose(several, naive(n), rtol=1e-5)
    assert not np.allclose(found[0], found[3])


BITS = jnp.asarray([[0.0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])


def of_latents(latents, x=BITS, size=2):
    """A small net of these latent variables, and its parameters."""
    model = latent.Autoencoder(
        Affine(size * latents.outputs), Affine(3), size, True, latents
    )
    keys = {"params": random.key(5), "noise": random.key(0)}
    params = jax.tree.map(lambda w: 1.5 * w + 0.1, model.init(keys, x)["params"])
    return model, params


def by_enumeration(model, params):
    """log p(x, z) and log q(z | x) of all z of two bits, [4, B]."""
    net = Member(model, {"params": params})
    q = latent.posterior(net, BITS, random.key(0))
    joint, log_q = [], []
    for z in itertools.product((0.0, 1.0), repeat=2):
        z = jnp.broadcast_to(jnp.asarray(z), (4, 2))
        nll = Bernoulli().nll(latent.decode(net, z, random.key(0)), BITS)
        joint.append(-nll - 2 * np.log(2))
        log_q.append(model.latents.log_q(q, z))
    return jnp.stack(joint), jnp.stack(log_q)


def exact_loss(model, params):
    """The negative ELBO of bits, without a draw."""
    joint, log_q = by_enumeration(model, params)
    return -jnp.mean(jnp.sum(jnp.exp(log_q) * (joint - log_q), 0))


def test_bits_have_the_bounds_that_enumeration_finds():
    model, params = of_latents(latent.Bits())
    joint, log_q = by_enumeration(model, params)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_q), 0), 1, rtol=1e-5)
    log_p, net = jax.nn.logsumexp(joint, 0), Member(model, {"params": params})
    found = latent.log_weights(net, Bernoulli(), BITS, random.key(1), 20_000)
    elbo = jnp.sum(jnp.exp(log_q) * (joint - log_q), 0)
    np.testing.assert_allclose(jnp.mean(found, 0), elbo, atol=0.03)
    np.testing.assert_allclose(latent.log_mean(found), log_p, atol=0.03)
    by_prior = latent.log_mean_by_prior(net, Bernoulli(), BITS, random.key(2), 20_000)
    np.testing.assert_allclose(by_prior, log_p, atol=0.03)
    q = latent.posterior(net, BITS, random.key(0))
    kl = jnp.sum(jnp.exp(log_q) * (log_q + 2 * np.log(2)), 0)
    np.testing.assert_allclose(model.latents.kl(q), kl, atol=1e-5)


def gradients_of(model, params, draws=4000):
    """The gradient of the loss by many draws, one vector each."""
    loss = neg_elbo(forward(model, latent=True), Bernoulli(), priors.log_uniform, 4)
    state = ModelState(jnp.int32(0), {})

    @jax.jit
    def run(keys):
        grad = jax.grad(lambda p, key: loss(p, state, {"input": BITS}, key)[0])
        found = jax.vmap(grad, (None, 0))(params, keys)
        return jnp.concatenate(
            [leaf.reshape(draws, -1) for leaf in jax.tree.leaves(found)], 1
        )

    return np.asarray(run(random.split(random.key(3), draws)), np.float64)


def errors(found, mean):
    """By how many standard errors each number differs."""
    return (found.mean(0) - mean) / (found.std(0) / len(found) ** 0.5 + 1e-6)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_the_score_function_of_bits_is_unbiased_and_straight_through_is_not():
    model, params = of_latents(latent.Bits())
    exact = flat(jax.grad(lambda p: exact_loss(model, p))(params))
    assert np.abs(errors(gradients_of(model, params), exact)).max() < 5
    biased = model.clone(latents=latent.Bits("straight_through"))
    assert np.abs(errors(gradients_of(biased, params), exact)).max() > 10


def test_both_gradients_of_numbers_agree_and_the_score_varies_more():
    model, params = of_latents(latent.Normal())
    score = model.clone(latents=latent.Normal("score"))
    one, other = gradients_of(model, params), gradients_of(score, params)
    spread = np.sqrt((one.var(0) + other.var(0)) / len(one)) + 1e-6
    assert (np.abs(one.mean(0) - other.mean(0)) / spread).max() < 5
    assert other.var(0).sum() > 3 * one.var(0).sum()


def test_concrete_is_between_0_and_1_in_training_and_bits_in_tests():
    model, params = of_latents(latent.Bits("concrete", 0.5))
    q = latent.posterior(Member(model, {"params": params}), BITS, random.key(0))
    z = model.latents.drawn(q, random.key(1))
    assert ((z > 0) & (z < 1)).all()
    for draw in (model.latents.exact.drawn, lambda *x: model.latents.weighed(*x)[0]):
        assert np.isin(draw(q, random.key(1)), (0, 1)).all()


def test_no_information_is_worth_its_price_at_beta_1():
    """mean(nll) + mean(KL) >= H(Y), whatever the nets; below 1 some nets gain."""
    target = jnp.asarray([0, 1, 1, 2])
    entropy = float(-np.sum(np.asarray([0.25, 0.5, 0.25]) * np.log([0.25, 0.5, 0.25])))
    model, start = of_latents(latent.Normal())
    run, state = forward(model, latent=True), ModelState(jnp.int32(0), {})

    def mean_loss(params, beta):
        loss = neg_elbo(run, Categorical(), priors.log_uniform, 4, latent_beta=beta)
        batch = {"input": 2 * BITS, "target": target}
        keys = random.split(random.key(1), 500)
        return jnp.mean(jax.vmap(lambda k: loss(params, state, batch, k)[0])(keys))

    run_all = jax.jit(mean_loss, static_argnums=1)
    for seed in range(5):
        noise = random.normal(random.key(seed), (50,))
        params = jax.tree.map(
            lambda w, e=noise: w + e[: w.size].reshape(w.shape), start
        )
        values = [float(run_all(params, beta)) for beta in (0.0, 0.5, 1.0)]
        assert values[2] > entropy
        assert values[1] == pytest.approx((values[0] + values[2]) / 2, abs=1e-4)


def test_latents_that_cannot_be_are_refused(x):
    with pytest.raises(ValueError, match="'pathwise', 'score'"):
        latent.Normal("concrete")
    with pytest.raises(ValueError, match="straight_through"):
        latent.Bits("pathwise")
    for wrong in (("concrete",), ("score", 0.5)):
        with pytest.raises(ValueError, match="no other one has"):
            latent.Bits(*wrong)
    with pytest.raises(ValueError, match="positive"):
        latent.Bits("concrete", 0.0)
    with pytest.raises(ValueError, match="a code without noise is of Normal"):
        latent.Autoencoder(Affine(2), Affine(D), 2, False, latent.Bits())
    model, params = of_latents(latent.Bits())
    state = ModelState(jnp.int32(0), {})
    several = neg_elbo(
        forward(model, samples=2, latent=True), Bernoulli(), priors.log_uniform, 4
    )
    with pytest.raises(ValueError, match="of one sample"):
        several(params, state, {"input": BITS}, random.key(0))
    alone = neg_elbo(
        forward(Affine(3)), Bernoulli(), priors.log_uniform, 4, latent_beta=0.1
    )
    own, key = Affine(3).init(random.key(0), BITS)["params"], random.key(1)
    with pytest.raises(ValueError, match="there are none"):
        alone(own, state, {"input": BITS}, key)


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
    for samples in (0, 2.5, [3, 0]):
        with pytest.raises(ValueError, match="from 1 on"):
            latent.log_mean_by_prior(net, LIKELIHOOD, x, random.key(0), samples)
    of_pixels = Gaussian(NOISE, parts="mean")
    state, batch = ModelState(jnp.int32(0), {}), {"input": x}
    loss = neg_elbo(forward(linear(), latent=True), of_pixels, {}, len(x))
    for call in (
        lambda: latent.log_weights(net, of_pixels, x, random.key(0), 3),
        lambda: latent.log_mean_by_prior(net, of_pixels, x, random.key(0), 3),
        lambda: loss(net.variables["params"], state, batch, random.key(0)),
    ):
        with pytest.raises(ValueError, match='parts="sum"'):
            call()


def test_an_example_that_does_not_count_has_no_latent_kl(x):
    """The loss and its metrics are those of the examples that count."""
    params = principal(x)[0]
    loss = neg_elbo(forward(linear(), latent=True), LIKELIHOOD, {}, len(x))
    state, key = ModelState(jnp.int32(0), {}), random.key(0)
    mask = (jnp.arange(len(x)) < 3).astype(jnp.float32)[:, None]
    odd = jnp.where(mask > 0, x, 100.0)
    batch = {"input": odd, "target": odd, "mask": jnp.broadcast_to(mask, x.shape)}
    _, (_, found) = loss(params, state, batch, key)
    few = {"input": x[:3]}
    _, (_, expected) = loss(params, state, few, key)
    assert float(found["latent_kl"]) == pytest.approx(float(expected["latent_kl"]))
