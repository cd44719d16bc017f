"""Laws of bits back for weights: all comes back, and the labels cost the ELBO."""

import functools
import math
import re
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpy.random import default_rng
from scipy.special import log_softmax, softmax

from vnets import nodes, priors, tree, weight_code
from vnets.weight_code import HEAD, WeightCode

N, D, K = 500, 20, 5
W = D * K
X = default_rng(0).normal(size=(N, D))
LABELS = log_softmax(X @ default_rng(1).normal(size=(D, K)), axis=1).argmax(1)
LN_2 = math.log(2)
NOISY = nodes.gaussian(log_var=-6.0)


def log_p(w):
    return log_softmax(X @ w.reshape(D, K), axis=1)


def fit(labels, rate=2e-3):
    return descend(np.asarray(labels, np.int64).tobytes(), rate)


@functools.cache
def descend(labels, rate, steps=300):
    """Gradient descent to the mode, and the curvature there."""
    labels = np.frombuffer(labels, np.int64)
    w = np.zeros((D, K))
    for _ in range(steps):
        w -= rate * (X.T @ (softmax(X @ w, axis=1) - np.eye(K)[labels]) + w)
    p = softmax(X @ w, axis=1)
    return w.ravel(), (1 + np.square(X).T @ (p * (1 - p))).ravel() ** -0.5


def normal(values):
    return -0.5 * (np.square(values) + math.log(2 * math.pi))


MEAN, STD = fit(LABELS)


def price(weights):
    """-ELBO of one draw, bits."""
    z = (weights - MEAN) / STD
    log_q = -0.5 * np.square(z) - np.log(STD) - 0.5 * math.log(2 * math.pi)
    nll = -log_p(weights)[np.arange(N), LABELS].sum()
    return (nll + (log_q - normal(weights)).sum()) / LN_2


def grown(message, payload):
    return 8 * (len(message) - HEAD.size - len(payload))


@pytest.fixture(scope="module")
def code():
    return WeightCode(W, fit, log_p, normal)


PAYLOADS = {
    "random": default_rng(2).bytes(1000),
    "one byte more": default_rng(3).bytes(1001),
    "zeros": bytes(700),
    "text": b"the price of a weight. " * 40,
    "ones": b"\xff" * 999,
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_all_comes_back_bit_for_bit_at_the_price_of_the_draw(code, name):
    payload = PAYLOADS[name]
    message = code.push(LABELS, payload)
    found = code.pop(message)
    assert found.payload == payload
    np.testing.assert_array_equal(found.labels, LABELS)
    assert np.abs((found.weights - MEAN) / STD).max() < 5.5
    expected = price(found.weights)
    assert abs(grown(message, payload) - expected) < 0.01 * expected + 64
    assert code.pop(code.push(LABELS, payload)).weights.tobytes() == (
        found.weights.tobytes()
    )


def test_the_weights_are_draws_of_the_posterior_and_cost_the_elbo(code):
    rng, costs, draws = default_rng(4), [], []
    for _ in range(40):
        payload = rng.bytes(600)
        message = code.push(LABELS, payload)
        costs.append(grown(message, payload))
        draws.append((code.pop(message).weights - MEAN) / STD)
    z = np.concatenate(draws)
    assert abs(z.mean()) < 5 / len(z) ** 0.5
    assert abs(np.square(z).mean() - 1) < 5 * (2 / len(z)) ** 0.5
    w = MEAN + STD * rng.standard_normal((2000, W))
    exact = np.array([price(one) for one in w])
    error = np.std(costs) / len(costs) ** 0.5 + exact.std() / len(exact) ** 0.5
    assert abs(np.mean(costs) - exact.mean()) < 0.01 * exact.mean() + 32 + 5 * error
    # It pays: labels alone cost log2 K, and no weights need be known.
    assert np.mean(costs) < 0.8 * N * math.log2(K)


def test_bits_of_the_weights_come_back(code):
    """Without them the message would hold each weight at its precision, whole."""
    payload = PAYLOADS["random"]
    weights = code.pop(code.push(LABELS, payload)).weights
    step = 2.0 ** math.floor(math.log2(STD.min() / weight_code.STEPS))
    nll = -log_p(weights)[np.arange(N), LABELS].sum() / LN_2
    whole = nll - (normal(weights) / LN_2 + math.log2(step)).sum()
    assert grown(code.push(LABELS, payload), payload) < whole - 4 * W


def test_any_density_may_be_the_prior():
    for prior in (priors.laplace(0.5), priors.horseshoe(0.1), priors.scale_mixture()):
        code = WeightCode(W, fit, log_p, lambda v, p=prior: p.log_prob(jnp.asarray(v)))
        found = code.pop(code.push(LABELS, PAYLOADS["random"]))
        assert found.payload == PAYLOADS["random"]
        np.testing.assert_array_equal(found.labels, LABELS)


def test_a_weight_is_never_drawn_far_from_its_mean_beside_much_wider_ones():
    """The coder's least probability adds up over the window of a weight."""
    size, rng = 4000, default_rng(5)
    std = np.where(np.arange(size) < 200, 1.0, 2e-3)
    code = WeightCode(
        size,
        lambda labels: (np.zeros(size), std),
        lambda w: np.log(np.full((1, 2), 0.5)),
        normal,
    )
    for _ in range(5):
        found = code.pop(code.push(np.zeros(1, int), rng.bytes(9000)))
        assert np.abs(found.weights / std).max() < 7


def test_damage_is_noticed(code):
    payload, rng = PAYLOADS["random"], default_rng(6)
    message = code.push(LABELS, payload)
    for place in rng.integers(0, len(message), 60):
        damaged = bytearray(message)
        damaged[place] ^= int(rng.integers(1, 256))
        with pytest.raises(ValueError, match="damaged"):
            code.pop(bytes(damaged))
    for part in (b"", message[:-4], message[4:], message + bytes(4)):
        with pytest.raises(ValueError, match=r"damaged|no message"):
            code.pop(part)


def known(labels):
    """A fit that does not look at the labels, so that only the checksum does."""
    return MEAN, STD


RECEIVERS = {
    "fit": WeightCode(W, functools.partial(fit, rate=2.1e-3), log_p, normal),
    "net": WeightCode(W, known, lambda w: log_p(1.01 * w), normal),
    "prior": WeightCode(W, known, log_p, lambda v: normal(1.01 * v)),
}


@pytest.mark.parametrize("name", RECEIVERS)
def test_a_receiver_who_is_not_as_the_sender_is_told(name):
    sender = WeightCode(W, fit if name == "fit" else known, log_p, normal)
    message = sender.push(LABELS, PAYLOADS["random"])
    assert sender.pop(message).payload == PAYLOADS["random"]
    with pytest.raises(ValueError, match="not the sender's"):
        RECEIVERS[name].pop(message)


def test_a_reach_that_no_sender_has_is_damage(code):
    message = code.push(LABELS, PAYLOADS["random"])
    rest = message[4 : HEAD.size - 1] + b"\xff" + message[HEAD.size :]
    with pytest.raises(ValueError, match="damaged"):
        code.pop(struct.pack("<I", zlib.crc32(rest)) + rest)


def test_a_short_payload_is_refused_and_told_what_it_needs(code):
    with pytest.raises(ValueError, match="bits are needed") as caught:
        code.push(LABELS, b"short")
    [needed] = map(int, re.findall(r"(\d+) bits are needed", str(caught.value)))
    assert needed == code.bits_needed(LABELS)
    size = math.ceil(needed / 8)
    for seed in range(20):
        payload = default_rng(seed).bytes(size)
        assert code.pop(code.push(LABELS, payload)).payload == payload
    with pytest.raises(ValueError, match="bits are needed"):
        code.push(LABELS, bytes(size - 1))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (0.0, np.where(np.arange(W) == 3, 0.0, 0.1), "bits that come back"),
        (np.nan, 0.1, "finite"),
        (0.0, np.where(np.arange(W) == 3, 1e-5, 1.0), "do not fit one grid"),
        (1e4, 1e-2, "do not fit one grid"),
    ],
)
def test_posteriors_that_cannot_be_coded_are_refused(mean, std, words):
    def fitted(labels):
        return np.broadcast_to(mean, W), np.broadcast_to(std, W)

    with pytest.raises(ValueError, match=words):
        WeightCode(W, fitted, log_p, normal).push(LABELS, bytes(10_000))


def test_what_does_not_fit_is_refused(code):
    payload = PAYLOADS["random"]
    with pytest.raises(ValueError, match="1 weight"):
        WeightCode(0, fit, log_p, normal)
    with pytest.raises(ValueError, match=r"\[500\], whole numbers below 5"):
        WeightCode(W, lambda y: (MEAN, STD), log_p, normal).push(LABELS + 1, payload)
    with pytest.raises(ValueError, match=r"\[500\], whole numbers below 5"):
        WeightCode(W, lambda y: (MEAN, STD), log_p, normal).push(LABELS[1:], payload)
    with pytest.raises(ValueError, match=r"standard deviations \[99\]"):
        WeightCode(99, fit, log_p, normal).push(LABELS, payload)
    with pytest.raises(ValueError, match="none is NaN"):
        WeightCode(W, fit, lambda w: log_p(w) * np.nan, normal).push(LABELS, payload)
    pole = WeightCode(W, fit, log_p, lambda v: np.where(v == 0, np.inf, 0.0))
    with pytest.raises(ValueError, match="none is infinite"):
        pole.push(LABELS, payload)


def of_layer(**leaves):
    return {"dense1": leaves, "dense2": {"kernel": NOISY(random.key(2), (4, 3))}}


def test_weights_of_a_net_go_to_a_vector_and_back():
    kernel, bias = NOISY(random.key(0), (5, 4)), NOISY(random.key(1), (1, 4))
    params = of_layer(kernel=kernel, bias=bias)
    mean, std = weight_code.flat(params)
    assert mean.shape == std.shape == (5 * 4 + 4 + 4 * 3,)
    np.testing.assert_allclose(std, math.exp(-3.0), rtol=1e-6)
    points = weight_code.filled(params, mean)
    for (at, point), (_, node) in zip(
        tree.each(points), tree.each(params), strict=True
    ):
        assert not point.noisy
        np.testing.assert_array_equal(point.mean, node.mean, err_msg=at.leaf)


@pytest.mark.parametrize(
    "bias",
    [
        jnp.zeros(4),
        nodes.point()(random.key(1), (1, 4)),
        nodes.variance(noise="sign")(random.key(1), (1, 4)),
    ],
)
def test_weights_without_normal_noise_are_refused_by_name(bias):
    params = of_layer(kernel=NOISY(random.key(0), (5, 4)), bias=bias)
    with pytest.raises(ValueError, match="'dense1/bias' is no normal posterior"):
        weight_code.flat(params)
