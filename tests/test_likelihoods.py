"""Laws of the likelihoods: densities, and metrics at any batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from scipy import stats
from sklearn import metrics as sk

from vnets import nodes
from vnets.likelihoods import (
    BINS,
    Bernoulli,
    Categorical,
    Gaussian,
    Grey,
    Heads,
    WithDeviation,
)
from vnets.loss import ModelState, Prediction, forward, neg_elbo
from vnets.nets import MLP
from vnets.nodes import gaussian
from vnets.priors import kl, standard_normal

N, K = 203, 5
SUMS = jax.jit(lambda p, y, w: Categorical().sums({"log_p": p}, {}, y, w))


@pytest.fixture(scope="module")
def predictions():
    log_p = jax.nn.log_softmax(3 * random.normal(random.key(0), (N, K)))
    labels = random.categorical(random.key(1), log_p / 2)
    return np.asarray(log_p), np.asarray(labels)


def computed(log_p, labels, batch=N):
    """Sums over padded batches, as evaluate makes them."""
    total = None
    for start in range(0, len(labels), batch):
        rows = np.arange(start, start + batch)
        inside = (rows < len(labels)).astype(np.float32)
        rows = np.minimum(rows, len(labels) - 1)
        part = SUMS(log_p[rows], labels[rows], inside)
        total = part if total is None else total + part
    return total.compute()


def plain_ece(p, labels, bins=BINS):
    """Guo et al. 2017: gap of mean confidence and accuracy, by share of the bin."""
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == labels
    total = 0.0
    for low, high in zip(
        np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True
    ):
        inside = (confidence >= low) & ((confidence < high) | (high == 1))
        if inside.any():
            gap = confidence[inside].mean() - correct[inside].mean()
            total += inside.mean() * abs(gap)
    return total


def test_values(predictions):
    log_p, labels = predictions
    p = np.exp(log_p.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    got = computed(log_p, labels)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(labels, p.argmax(1)))
    assert got["nll"] == pytest.approx(
        sk.log_loss(labels, p, labels=range(K)), rel=1e-5
    )
    brier = np.mean(np.sum((p - np.eye(K)[labels]) ** 2, axis=1))
    assert got["brier"] == pytest.approx(brier, rel=1e-5)
    assert got["ece"] == pytest.approx(plain_ece(p, labels), rel=1e-4)
    assert got["ece"] > 0.01  # there is something to measure
    assert every(type(value) is float for value in got.values())


@pytest.mark.parametrize("batch", [1, 7, 50, 202, 500])
def test_a_short_last_batch_is_exact(batch, predictions):
    whole, parts = computed(*predictions), computed(*predictions, batch=batch)
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5)


def test_a_sure_prediction_has_finite_scores():
    """log p = -inf off the label is a probability of zero, not a NaN."""
    log_p = np.full((4, 3), -np.inf, np.float32)
    log_p[:, 1] = 0.0
    got = computed(log_p, np.full(4, 1))
    assert got == {"accuracy": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0}
    wrong = computed(log_p, np.full(4, 0))
    assert wrong == {"accuracy": 0.0, "nll": np.inf, "brier": 2.0, "ece": 1.0}


def test_padding_counts_for_nothing_even_when_impossible():
    log_p = np.log(np.asarray([[0.5, 0.5], [1.0, 1e-45]], np.float32))
    log_p[1, 1] = -np.inf
    got = SUMS(
        jnp.asarray(log_p), jnp.asarray([0, 1]), jnp.asarray([1.0, 0.0])
    ).compute()
    assert got["nll"] == pytest.approx(np.log(2), rel=1e-6)


def test_perfect_calibration_has_no_error():
    p = np.tile(np.asarray([[0.75, 0.25]], np.float32), (8, 1))
    labels = np.asarray([0, 0, 0, 1] * 2)
    assert computed(np.log(p), labels)["ece"] == pytest.approx(0, abs=1e-6)


# Laws of every likelihood: (likelihood, outputs [B, T, ...], target [B, T]).
RNG = np.random.default_rng(2)
SHAPE = (9, 4)
YES = RNG.integers(0, 2, SHAPE)
HARD, NUMBERS = RNG.integers(0, K, SHAPE), RNG.normal(size=SHAPE).astype(np.float32)
SOFT = np.asarray(jax.nn.softmax(RNG.normal(size=(*SHAPE, K)).astype(np.float32)))
CASES = {
    "classes": (Categorical(), (K,), HARD),
    "classes-sum": (Categorical(parts="sum"), (K,), HARD),
    "soft": (Categorical(soft=True), (K,), SOFT),
    "labels": (Bernoulli(), (), YES),
    "labels-mean": (Bernoulli("mean"), (), YES),
    "known": (Gaussian(0.7), (), NUMBERS),
    "heteroscedastic": (Gaussian(), (2,), NUMBERS),
    "heteroscedastic-mean": (Gaussian(parts="mean"), (2,), NUMBERS),
}


@pytest.fixture(params=CASES)
def case(request):
    likelihood, last, target = CASES[request.param]
    outputs = random.normal(random.key(7), (*SHAPE, *last), jnp.float32)
    return likelihood, outputs, jnp.asarray(target)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_what_does_not_count_changes_nothing(case):
    """A masked sequence is the sequence: its loss, gradient and metrics."""
    likelihood, outputs, target = case
    length = np.asarray([4, 3, 1, 0, 2, 4, 4, 1, 3])
    mask = np.arange(4) < length[:, None]
    odd = np.nan if jnp.issubdtype(target.dtype, jnp.inexact) else -7
    garbage = jnp.where(mask.reshape(*SHAPE, *(1,) * (target.ndim - 2)), target, odd)

    def cost(outputs):
        return likelihood.cost(outputs, garbage, jnp.asarray(mask)).mean()

    value, grad = jax.value_and_grad(cost)(outputs)
    each = -np.asarray(likelihood.log_p(outputs, target))
    rows = mask.any(1)  # examples without a part count for nothing
    share = each[mask].sum() / (
        mask.sum() if likelihood.parts == "mean" else rows.sum()
    )
    assert float(value) == pytest.approx(share, rel=1e-5)
    assert np.all(np.isfinite(grad))
    assert np.all(np.asarray(grad)[~mask] == 0)
    nll = likelihood.nll(outputs, garbage, jnp.asarray(mask))
    close(nll.mean(), share)
    weights = mask.astype(np.float32)
    found = likelihood.metrics(outputs[None], target, jnp.asarray(weights))
    same = likelihood.metrics(outputs[None][:, rows], target[rows], weights[rows])
    assert found == pytest.approx(same, rel=1e-5)
    assert found["nll"] == pytest.approx(share, rel=1e-5)


def test_what_is_no_target_is_refused_or_makes_a_nan(case):
    """Not a cost of 0, on the host or under jit."""
    likelihood, outputs, target = case
    wrong = {
        "numbers": [np.nan, np.inf],
        "probabilities": [np.nan, -0.5, 1.5],
        "distributions": [np.nan, -0.5],
        "positions": [K, -1],
    }[likelihood.kind]
    for value in wrong:
        whole = likelihood.kind == "positions"
        broken = np.array(target, np.int32 if whole else np.float32)
        broken[(0,) * broken.ndim] = value
        with pytest.raises(ValueError, match=r"finite|from 0 to|outside|below 0"):
            likelihood.metrics(outputs[None], broken)
        if not whole:
            assert not np.isfinite(likelihood.nll(outputs, broken)[0])
    with pytest.raises(ValueError, match="give outputs"):
        likelihood.metrics(outputs, target)


def test_weights_count_examples_as_often(case):
    likelihood, outputs, target = case
    twice = np.ones(SHAPE, np.float32)
    twice[:3] = 2
    again = np.r_[:9, :3]
    found = likelihood.metrics(outputs[None], target, jnp.asarray(twice))
    listed = likelihood.metrics(outputs[None][:, again], target[again])
    assert found == pytest.approx(listed, rel=1e-5)


def test_metrics_are_sums_over_any_batches(case):
    likelihood, outputs, target = case
    ones = jnp.ones(SHAPE, jnp.float32)

    def sums(rows):
        logs, values = likelihood.draw(outputs[rows], target[rows])
        return likelihood.sums(logs, values, target[rows], ones[rows])

    whole = sums(slice(None)).compute()
    parts = sum((sums(slice(i, i + 2)) for i in range(2, 9, 2)), sums(slice(0, 2)))
    assert parts.compute() == pytest.approx(whole, rel=1e-5)
    assert whole["nll"] == pytest.approx(
        float(likelihood.nll(outputs, target).mean()), rel=1e-5
    )
    with pytest.raises(ValueError, match="weights"):
        likelihood.sums(*likelihood.draw(outputs, target), target, ones[:, :1])


def test_several_draws_are_tested_as_the_mean_of_their_distributions(case):
    likelihood, outputs, target = case
    draws = jnp.stack([outputs, outputs[::-1], 2 * outputs])
    p = np.exp([likelihood.log_p(draw, target) for draw in draws]).mean(0)
    if isinstance(likelihood, Categorical) and likelihood.soft:
        mean = np.log(np.mean([jax.nn.softmax(draw) for draw in draws], 0))
        p = np.exp((SOFT * mean).sum(-1))
    nll = -np.log(p)
    expected = nll.mean() if likelihood.parts == "mean" else nll.sum(1).mean()
    assert likelihood.metrics(draws, target)["nll"] == pytest.approx(expected, rel=1e-5)
    if isinstance(likelihood, Gaussian):
        with pytest.raises(ValueError, match='average="losses"'):
            likelihood.averaged(draws)
    else:
        close(likelihood.nll(likelihood.averaged(draws), target).mean(), expected)


@pytest.mark.parametrize(
    "make", [Categorical, Bernoulli, lambda: Gaussian(1.0), Gaussian, Grey]
)
def test_a_likelihood_is_a_density(make):
    """It sums to one over all targets, and their mean is its own: classes, yes and
    no, or a fine grid."""
    likelihood = make()
    if isinstance(likelihood, Gaussian):
        grid = jnp.linspace(-9, 9, 4001, dtype=jnp.float32)
        outputs = jnp.zeros(4001) + 0.5
        if likelihood.std is None:  # standard deviation e^0.2
            outputs = jnp.stack([outputs, jnp.full(4001, 0.2)], -1)
        if isinstance(likelihood, Grey):  # pixels of a picture, here of one
            grid = grid[:, None]
        each = np.exp(likelihood.log_p(outputs, grid)).ravel() * 18 / 4000
        expected = each @ np.ravel(grid)
    else:
        last = (4,) if isinstance(likelihood, Categorical) else ()
        outputs = jnp.broadcast_to(random.normal(random.key(0), last), (4, *last))
        classes = jnp.arange(4 if last else 2)
        each = np.exp(likelihood.log_p(outputs[: len(classes)], classes))
        expected = each if last else each[1:]
    assert each.sum() == pytest.approx(1, rel=1e-4)
    found = np.ravel(likelihood.mean(outputs[:1]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_yes_and_no_are_two_classes():
    logits = random.normal(random.key(0), SHAPE, jnp.float32)
    pairs = jnp.stack([jnp.zeros_like(logits), logits], -1)
    yes = jnp.asarray(YES)
    found = Bernoulli("mean").metrics(logits[None], yes)
    assert found == pytest.approx(Categorical().metrics(pairs[None], yes), rel=1e-5)
    close(Bernoulli("mean").nll(logits, yes), Categorical().nll(pairs, yes))


def test_soft_targets_are_classes_where_they_are_sure():
    logits = random.normal(random.key(0), (*SHAPE, K), jnp.float32)
    hot = jax.nn.one_hot(HARD, K)
    for smoothing in (0.0, 0.2):
        hard, soft = Categorical(smoothing), Categorical(smoothing, soft=True)
        close(soft.cost(logits, hot), hard.cost(logits, jnp.asarray(HARD)))
    soft = Categorical(soft=True)
    found = soft.metrics(logits[None], hot)
    assert found == pytest.approx(Categorical().metrics(logits[None], HARD), rel=1e-5)
    # The gradient to a teacher's probabilities is p - t; 0 at the teacher itself.
    grad = jax.grad(lambda x: soft.nll(x, jnp.asarray(SOFT)).sum())(jnp.log(SOFT))
    np.testing.assert_allclose(grad, 0, atol=1e-6)
    with pytest.raises(ValueError, match="must have the shape"):
        soft.nll(logits, hot[:, :1])


def test_the_head_of_a_task_is_a_likelihood_of_its_classes():
    """As if there were no other outputs: they have neither probability nor gradient."""
    heads, plain = Heads(classes=3), Categorical()
    logits = random.normal(random.key(0), (2, 50, 6))  # of two draws
    target = random.randint(random.key(1), (50,), 0, 6)
    own = jnp.where((target < 3)[:, None], logits[..., :3], logits[..., 3:])
    for name, value in heads.metrics(logits, target).items():
        assert value == pytest.approx(plain.metrics(own, target % 3)[name], abs=1e-6)
    np.testing.assert_allclose(
        heads.nll(logits[0], target), plain.nll(own[0], target % 3), rtol=1e-6
    )
    shown = heads.shown(logits[0], target)["accuracy"]
    assert shown == plain.shown(own[0], target % 3)["accuracy"]
    slope = jax.grad(lambda x: jnp.sum(heads.nll(x, target)))(logits[0])
    idle = (jnp.arange(6) // 3)[None] != (target // 3)[:, None]
    np.testing.assert_array_equal(slope[idle], 0)
    assert np.all(np.isfinite(slope))
    with pytest.raises(ValueError, match="6 logits are no heads of 4"):
        Heads(classes=4).nll(logits[0], target)
    for refused in (
        lambda: Heads(classes=0),
        lambda: Heads(smoothing=0.1),
        lambda: heads.averaged(logits),
        lambda: heads.mean(logits),
    ):
        with pytest.raises(ValueError, match="heads have"):
            refused()


def test_coverage_is_that_of_the_interval():
    """95 % of targets that are as the mixture of draws says."""
    draws = 2 * random.normal(random.key(0), (50, 1)) + jnp.zeros((50, 4000))
    spread = jnp.sqrt(jnp.var(draws[:, 0]) + 0.25)
    target = draws[:, 0].mean() + spread * random.normal(random.key(1), (4000,))
    found = Gaussian(0.5).metrics(draws, target)
    # 5 standard errors of a fraction of 4,000.
    assert found["coverage"] == pytest.approx(0.95, abs=5 * np.sqrt(0.05 * 0.95 / 4000))
    assert found["rmse"] == pytest.approx(float(spread), rel=5 / np.sqrt(2 * 4000))
    assert Gaussian(0.5).metrics(draws, target + 100)["coverage"] == 0
    # A single draw has the spread of the noise, which may be none.
    for std, far, covered in (
        *((0.0, 0.0, 1), (0.0, 1e-3, 0)),
        *((0.1, 0.195, 1), (0.1, 0.197, 0), (9.0, 17.5, 1), (9.0, 17.8, 0)),
    ):
        log_std = jnp.full(target.shape, np.log(max(std, 1e-30)), jnp.float32)
        draw = jnp.stack([target, log_std], -1)[None]
        assert Gaussian().metrics(draw, target + far)["coverage"] == covered


@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli(), Gaussian(0.5)])
def test_the_loss_is_the_bound_under_every_likelihood(likelihood):
    net = MLP((3,), 4, posteriors={"dense1": gaussian(-3.0)})
    x = random.normal(random.key(0), (6, 4), jnp.float32)
    params = net.init(random.key(1), x)["params"]
    batch = {"input": x, "target": jnp.arange(6) % 4}
    if not isinstance(likelihood, Categorical):  # no target: the input itself
        batch = {"input": jax.nn.sigmoid(x)}
    state, prior = ModelState(jnp.int32(0), {}), standard_normal(1.0)
    loss = neg_elbo(forward(net), likelihood, prior, 100, 0.5)
    value, (_, metrics) = loss(params, state, batch, random.key(2))
    outputs = net.apply(
        {"params": params}, batch["input"], rngs={"noise": random.key(2)}
    )
    nll = likelihood.nll(outputs, batch.get("target", batch["input"])).mean()
    assert float(value) == pytest.approx(float(nll + kl(params, prior) / 200), rel=1e-5)
    assert float(metrics["elbo"]) == pytest.approx(
        -100 * float(nll) - float(kl(params, prior)), rel=1e-5
    )
    assert hasattr(loss, "logits") == isinstance(likelihood, Categorical)


def test_a_deviation_is_learned_as_the_residuals_have_it():
    """Where its gradient is 0, it is the root of their mean square."""
    net = WithDeviation(MLP((), 1), start=2.0)
    x = random.normal(random.key(0), (50, 3), jnp.float32)
    variables = net.init(random.key(1), x)
    params = variables["params"]
    assert float(params["log_std"]) == pytest.approx(np.log(2))
    target = random.normal(random.key(2), (50, 1), jnp.float32)

    def nll(log_std):
        own = {"params": {**params, "log_std": log_std}}
        return Gaussian().nll(net.apply(own, x), target).mean()

    mean = net.apply(variables, x)[..., 0]
    best = 0.5 * jnp.log(jnp.mean(jnp.square(mean - target)))
    assert float(jax.grad(nll)(best)) == pytest.approx(0, abs=1e-5)
    assert float(nll(best)) < float(nll(params["log_std"]))
    with pytest.raises(ValueError, match=r"\[B, ..., 2\], not \(50, 1\)"):
        Gaussian().nll(mean, target)


def test_a_net_of_latent_variables_is_a_prediction_with_their_kl():
    """x = z + noise, z ~ N(0, 1): at the true posterior the loss is -log p(x)."""
    x = random.normal(random.key(0), (2000, 1), jnp.float32) * jnp.sqrt(1.25)
    std, gain = 0.5, 1 / (1 + 0.5**2)  # q(z | x) = N(gain x, std^2 gain)

    def predict(params, state, batch, key):
        q = nodes.Additive(params["gain"] * batch["input"], params["log_var"])
        z = q.sample(key)
        kl_local = 0.5 * (jnp.square(q.mean) + jnp.exp(q.log_var) - q.log_var - 1)
        return Prediction(z[None], state.collections, latent_kl=kl_local.sum(1))

    loss = neg_elbo(predict, Gaussian(std), standard_normal(1.0), 100)
    log_var = jnp.full((2000, 1), np.log(std**2 * gain), jnp.float32)
    params = {"gain": jnp.float32(gain), "log_var": log_var}
    state = ModelState(jnp.int32(0), {})
    value, (_, metrics) = loss(params, state, {"input": x}, random.key(1))
    exact = 0.5 * np.log(2 * np.pi * 1.25) + np.mean(np.square(x)) / 2.5
    # The residual's square has standard deviation 0.2 sqrt(2), an nll of it twice that.
    assert float(value) == pytest.approx(exact, abs=5 * 0.6 / np.sqrt(2000))
    total = float(metrics["nll"] + metrics["latent_kl"])
    assert float(value) == pytest.approx(total, rel=1e-5)
    assert float(metrics["elbo"]) == pytest.approx(-100 * total, rel=1e-5)
    worse = params | {"gain": jnp.float32(0.0)}
    assert float(loss(worse, state, {"input": x}, random.key(1))[0]) > exact + 0.5

    class Net:
        def apply(self, variables, x, mode, rngs, mutable):
            found = predict(variables["params"], state, {"input": x}, rngs["noise"])
            return (found.outputs[0], found.latent_kl), {}

    for samples in (1, 3):
        run = forward(Net(), samples=samples, latent=True)
        again = neg_elbo(run, Gaussian(std), standard_normal(1.0), 100, None, "losses")
        same, (_, found) = again(params, state, {"input": x}, random.key(1))
        assert float(found["latent_kl"]) == pytest.approx(float(metrics["latent_kl"]))
        assert float(same) == pytest.approx(exact, abs=5 * 0.6 / np.sqrt(2000))


@pytest.mark.parametrize("sure", [False, True])
def test_all_pairs_are_each_outputs_with_each_target(case, sure):
    """Also where outputs of classes leave nothing to chance."""
    likelihood, outputs, target = case
    outputs = 3 * outputs
    if sure and isinstance(likelihood, Gaussian):
        pytest.skip("its outputs are numbers")
    if sure:
        never = random.bernoulli(random.key(3), 0.2, outputs.shape)
        outputs = jnp.where(never, -jnp.inf, outputs)
        if isinstance(likelihood, Bernoulli):
            always = jnp.asarray(YES[:1]) & ~never
            outputs = jnp.where(always, jnp.inf, outputs)
    found = likelihood.crossed(outputs, target[:5])
    for one, row in zip(outputs, found, strict=True):
        alone = likelihood.log_p(jnp.broadcast_to(one, (5, *one.shape)), target[:5])
        alone = alone.sum(1) if likelihood.parts == "sum" else alone.mean(1)
        np.testing.assert_allclose(row, alone, rtol=1e-5, atol=1e-6)


def test_an_impossible_answer_that_is_not_given_costs_nothing():
    logits, yes = jnp.asarray([[jnp.inf, -jnp.inf]]), jnp.asarray([[1.0, 0.0]])
    likelihood = Bernoulli()
    np.testing.assert_array_equal(likelihood.log_p(logits, yes), [[0.0, 0.0]])
    assert np.all(np.isneginf(likelihood.log_p(logits, 1 - yes)))


def test_grey_pixels_have_means_of_sigmoids_and_deviations_with_a_floor():
    likelihood = Grey(least=0.1)
    logits, log_std = 2 * random.normal(random.key(0), (2, 4, 3)) - 1
    target = random.uniform(random.key(1), (5, 3))
    std = np.maximum(np.exp(log_std), 0.1)
    outputs = jnp.concatenate([logits, log_std], -1)
    means = 1 / (1 + np.exp(-np.asarray(logits)))
    wanted = stats.norm.logpdf(target[None], means[:, None], std[:, None]).sum(-1)
    np.testing.assert_allclose(likelihood.crossed(outputs, target), wanted, rtol=1e-4)
    for wrong in ({"std": 1.0}, {"least": 0.0}):
        with pytest.raises(ValueError, match="among the outputs"):
            Grey(**wrong)
