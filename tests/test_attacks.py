"""Attacks against closed forms, foolbox, and the laws of noisy gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random

from vnets import attacks, nets, nodes
from vnets.layers import TEST

B, D = 64, 20
EPSILON, STEP, UPDATES = 0.1, 0.03, 5


@pytest.fixture(scope="module")
def problem():
    """Images of which many touch 0 or 1, and a linear model of two classes."""
    rng = np.random.default_rng(0)
    x = np.clip(rng.uniform(-0.1, 1.1, (B, D)), 0, 1).astype(np.float32)
    w = rng.standard_normal(D).astype(np.float32)
    label = rng.integers(0, 2, B).astype(np.int32)
    return jnp.asarray(x), jnp.asarray(w), jnp.asarray(label)


def linear(w, bias=0.0):
    """Logits (m / 2, -m / 2) with margin m = x w + bias; one draw, no noise."""

    def log_p(x, key):
        del key
        margin = x @ w + bias
        return jax.nn.log_softmax(jnp.stack([margin / 2, -margin / 2], -1))[None]

    return log_p


def closed_form(x, w, label, radius):
    """Each pixel moves by the radius or to the edge of [0, 1], against its weight."""
    away = np.where(np.asarray(label) == 0, -1, 1)[:, None] * np.sign(w)[None]
    return np.clip(np.asarray(x) + radius * away, 0, 1)


def test_fgsm_on_a_linear_model_is_the_closed_form(problem):
    x, w, label = problem
    image = attacks.fgsm(linear(w), x, label, EPSILON, random.key(0))
    np.testing.assert_allclose(image, closed_form(x, w, label, EPSILON), atol=1e-6)


def test_every_update_on_a_linear_model_is_the_closed_form(problem):
    """After t updates the radius is min(t step, epsilon); success is a wrong margin."""
    x, w, label = problem
    bias = -float(jnp.mean(x @ w))  # so that both classes occur
    log_p = linear(w, bias)
    label = jnp.argmax(log_p(x, None)[0], -1)  # as predicted: all are right before
    done = attacks.iterated(
        log_p,
        x,
        label,
        epsilon=EPSILON,
        step=STEP,
        updates=UPDATES,
        key=random.key(0),
    )
    radius = [min(t * STEP, EPSILON) for t in range(UPDATES + 1)]
    moved = np.stack([closed_form(x, w, label, r) for r in radius])
    np.testing.assert_allclose(done.image, moved[-1], atol=1e-6)
    margin = moved.astype(np.float64) @ np.asarray(w, np.float64) + bias
    assert np.abs(margin).min() > 1e-5  # no tie for rounding to decide
    wrong = (margin < 0) == (np.asarray(label) == 0)[None]
    everything = jnp.ones(B, bool)
    rate = attacks.success_rate(done.log_p, label, everything)
    np.testing.assert_allclose(rate, wrong.mean(1), rtol=1e-6)
    assert rate[0] == 0.0
    assert 0.2 < rate[-1] < 1.0
    predicted = jax.nn.log_sigmoid(jnp.asarray(margin, jnp.float32))
    np.testing.assert_allclose(done.log_p[..., 0], predicted, rtol=1e-4, atol=1e-5)


def noisy_linear(w, std, draws):
    """Linear, not normalized: the gradient of -log_p(0) is -(w + std * mean of eps)."""

    def log_p(x, key):
        eps = random.normal(key, (draws, *x.shape), x.dtype)
        margin = jnp.sum(x[None] * (w[None, None] + std * eps), -1)
        return jnp.stack([margin, -margin], -1)

    return log_p


@pytest.mark.parametrize("draws", [1, 9])
def test_more_draws_find_the_gradients_sign(draws, assert_mean):
    """P(right sign) = Phi(|w| sqrt(S) / std) for a gradient averaged over S draws."""
    w = jnp.linspace(-1.0, 1.0, 8, dtype=jnp.float32)
    x = jnp.full((4000, 8), 0.5, jnp.float32)
    label = jnp.zeros(4000, jnp.int32)
    sign = attacks.gradient_sign(
        noisy_linear(w, 2.0, draws), x, label, random.key(draws)
    )
    right = sign == -jnp.sign(w)[None]
    expected = jax.scipy.stats.norm.cdf(jnp.abs(w) * np.sqrt(draws) / 2.0)
    assert_mean(right, expected)


def test_draws_are_fresh_at_every_update(assert_moments):
    """Pure noise makes a random walk: its variance is T steps^2, not (T steps)^2."""
    x = jnp.full((500, 8), 0.5, jnp.float32)
    done = attacks.iterated(
        noisy_linear(jnp.zeros(8, jnp.float32), 1.0, 1),
        x,
        jnp.zeros(500, jnp.int32),
        epsilon=0.5,
        step=0.01,
        updates=9,
        key=random.key(0),
    )
    steps = (np.asarray(done.image) - 0.5) / 0.01
    assert_moments(steps.ravel(), 0.0, 9.0)


def test_the_judge_has_draws_of_its_own(problem):
    """It draws anew after each update, and the attack does not know of it."""
    x, w, label = problem

    def judge(x, key):
        return random.normal(key, (3, len(x), 2), x.dtype)

    settings = {"epsilon": EPSILON, "step": STEP, "updates": 3, "key": random.key(1)}
    log_p = noisy_linear(w, 1.0, 2)
    alone = attacks.iterated(log_p, x, label, **settings)
    judged = attacks.iterated(log_p, x, label, judge=judge, **settings)
    np.testing.assert_array_equal(alone.image, judged.image)
    assert len(np.unique(judged.log_p)) == judged.log_p.size == 4 * B * 2


def test_the_judge_never_repeats_the_attacks_draws():
    """Of equal draws, the move and the judge's margin would always have one sign."""
    x = jnp.full((400, 2), 0.5, jnp.float32)

    def eps(x, key):
        return -random.normal(key, x.shape, x.dtype)[None]

    done = attacks.iterated(
        lambda x, key: x[None] * eps(x, key),
        x,
        jnp.ones(400, jnp.int32),
        epsilon=0.5,
        step=0.1,
        updates=1,
        key=random.key(0),
        judge=eps,
    )
    moved_against = np.asarray(done.image)[:, 1] < 0.5
    agree = np.mean(moved_against == (np.asarray(done.log_p[1, :, 1]) > 0))
    assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(400)


def test_the_loss_of_the_mean_and_the_mean_of_the_losses():
    """By hand on two draws; by Jensen the first is the smaller; equal for one draw."""
    p = jnp.asarray([[[0.9, 0.1]], [[0.1, 0.9]]], jnp.float32)  # [S, B, K]
    label = jnp.zeros(1, jnp.int32)
    mean = attacks.mean_cross_entropy(jnp.log(p), label)
    of_mean = attacks.cross_entropy_of_mean(jnp.log(p), label)
    np.testing.assert_allclose(mean, -0.5 * np.log(0.9 * 0.1), rtol=1e-6)
    np.testing.assert_allclose(of_mean, np.log(2), rtol=1e-6)
    for loss in attacks.LOSSES.values():
        one = loss(jnp.log(p[:1]), label)
        np.testing.assert_allclose(one, -np.log(0.9), rtol=1e-5)


def test_success_counts_only_what_was_right_before():
    log_p = jnp.log(jnp.asarray([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], jnp.float32))
    label = jnp.asarray([0, 0, 0], jnp.int32)
    counted = jnp.asarray([True, True, False])
    rate = attacks.success_rate(jnp.stack([log_p, log_p[::-1]]), label, counted)
    np.testing.assert_array_equal(rate, [0.5, 1.0])
    assert jnp.isnan(attacks.success_rate(log_p, label, jnp.zeros(3, bool)))


def test_what_is_no_number_was_neither_right_nor_attacked():
    log_p = jnp.log(jnp.asarray([[0.9, 0.1], [jnp.nan, 0.1]], jnp.float32))
    label = jnp.zeros(2, jnp.int32)
    np.testing.assert_array_equal(attacks.is_right(log_p, label), [True, False])
    first = jnp.asarray([True, False])
    assert jnp.isnan(attacks.success_rate(log_p, label, ~first))
    assert attacks.success_rate(log_p, label, first) == 0


def predictor(posterior, draws):
    """An MLP of 12 inputs whose first layer is noisy, and its predictor."""
    model = nets.MLP(widths=(16,), classes=3, posteriors={"dense1": posterior})
    x = jnp.zeros((1, 3, 4, 1), jnp.float32)
    variables = jax.jit(model.init)(
        {"params": random.key(0), "noise": random.key(1)}, x
    )

    def log_p(x, key):
        def one(key):
            return model.apply(variables, x, mode=TEST, rngs={"noise": key})

        return nn.log_softmax(jax.vmap(one)(random.split(key, draws)))

    return log_p


@pytest.fixture(scope="module")
def images():
    x = np.random.default_rng(1).uniform(-0.2, 1.2, (16, 3, 4, 1)).clip(0, 1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(np.arange(16) % 3, jnp.int32)


@pytest.mark.parametrize(
    "posterior",
    [nodes.variance(), nodes.dropout(0.5), nodes.gaussian(-2.0)],
    ids=["variance", "dropout", "gaussian"],
)
def test_an_attack_through_noise_stays_in_the_ball_and_repeats(posterior, images):
    """One compiled attack for every radius; at radius 0 nothing moves."""
    x, label = images
    log_p = predictor(posterior, 2)

    @jax.jit
    def attack(epsilon, key):
        return attacks.iterated(
            log_p, x, label, epsilon=epsilon, step=0.05, updates=4, key=key
        )

    for epsilon in (0.0, 0.12, 1.0):
        image = np.asarray(attack(epsilon, random.key(0)).image)
        assert image.min() >= 0.0
        assert image.max() <= 1.0
        farthest = np.abs(image - np.asarray(x)).max()
        np.testing.assert_allclose(farthest, min(epsilon, 4 * 0.05), atol=1e-6)
    again = attack(1.0, random.key(0))
    np.testing.assert_array_equal(again.image, image)
    other = attack(1.0, random.key(1))
    assert np.any(np.asarray(other.image) != image)
    assert again.log_p.shape == (5, 16, 3)
    np.testing.assert_allclose(jnp.exp(again.log_p).sum(-1), 1.0, rtol=1e-5)
    assert attack._cache_size() == 1


def test_examples_are_attacked_one_by_one(images):
    """Neither the batch nor its order matters."""
    x, label = images
    log_p = predictor(nodes.point(), 1)

    def attack(x, label):
        return attacks.fgsm(log_p, x, label, 0.1, random.key(0))

    np.testing.assert_array_equal(attack(x, label)[::-2], attack(x[::-2], label[::-2]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epsilon": -0.1}, "epsilon is a number from 0 on, not -0.1"),
        ({"epsilon": jnp.full(16, 0.1)}, "epsilon is a number"),
        ({"step": jnp.nan}, "step is a number"),
        ({"x": 255.0}, r"in \[0, 1\], not from 255"),
    ],
)
def test_lengths_and_images_that_cannot_be_are_refused(changes, words, images):
    x, label = images
    given = {"epsilon": 0.1, "step": 0.1, **changes}
    x = jnp.full_like(x, given.pop("x")) if "x" in given else x
    log_p, key = predictor(nodes.point(), 1), random.key(0)
    with pytest.raises(ValueError, match=words):
        attacks.iterated(log_p, x, label, **given, updates=1, key=key)
    if "step" not in changes:
        with pytest.raises(ValueError, match=words):
            attacks.fgsm(log_p, x, label, given["epsilon"], key)


def test_no_updates_are_refused(images):
    with pytest.raises(ValueError, match="at least 1, not 0"):
        attacks.iterated(
            predictor(nodes.point(), 1),
            *images,
            epsilon=0.1,
            step=0.1,
            updates=0,
            key=random.key(0),
        )


def test_foolbox_finds_the_same_images(images):
    """FGSM and the basic iterative attack on a deterministic net."""
    import foolbox

    x, _ = images
    log_p = predictor(nodes.point(), 1)

    def logits(x):
        return log_p(x, random.key(0))[0]

    label = jnp.argmax(logits(x), -1).astype(jnp.int32)
    net = foolbox.models.JAXModel(logits, bounds=(0, 1), data_format="channels_last")
    iterative = foolbox.attacks.LinfBasicIterativeAttack(
        abs_stepsize=STEP, steps=UPDATES, random_start=False
    )
    _, theirs, fooled = iterative(net, x, label, epsilons=EPSILON)
    ours = attacks.iterated(
        log_p,
        x,
        label,
        epsilon=EPSILON,
        step=STEP,
        updates=UPDATES,
        key=random.key(0),
    )
    np.testing.assert_allclose(ours.image, theirs, atol=1e-6)
    wrong = ~attacks.is_right(ours.log_p[-1], label)
    np.testing.assert_array_equal(wrong, fooled)
    assert 0 < wrong.mean() < 1  # both outcomes occur
    _, theirs, _ = foolbox.attacks.LinfFastGradientAttack()(
        net, x, label, epsilons=EPSILON
    )
    ours = attacks.fgsm(log_p, x, label, EPSILON, random.key(0))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
