"""Laws of acquisitions, of who is labelled next, and of the loop that asks."""

import functools
import itertools

import documents
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from vnets import active, data, nets, train
from vnets.likelihoods import Categorical
from vnets.loss import forward, neg_elbo
from vnets.predictor import Member, Predictor
from vnets.priors import log_uniform
from vnets.rng import stream

S, N, K = 6, 50, 4
KEY = random.key(0)
BY_DRAWS = ("bald", "entropy", "variation_ratio", "mean_std")
score = {name: jax.jit(each) for name, each in active.ACQUISITIONS.items()}


def samples(seed=0, shape=(S, N, K)):
    return jax.nn.log_softmax(3.0 * random.normal(random.key(seed), shape))


def by_definition(name, p):
    """Sums over draws and classes of one example, [S, K]."""
    mean = [sum(one[k] for one in p) / len(p) for k in range(K)]
    whole = -sum(q * np.log(q) for q in mean)
    if name == "entropy":
        return whole
    if name == "variation_ratio":
        return 1 - max(mean)
    if name == "bald":
        return whole + sum(q * np.log(q) for one in p for q in one) / len(p)
    squares = [sum(one[k] ** 2 for one in p) / len(p) for k in range(K)]
    return sum(np.sqrt(a - b**2) for a, b in zip(squares, mean, strict=True)) / K


@pytest.mark.parametrize("name", BY_DRAWS)
def test_against_the_formula_example_by_example(name):
    log_p = samples()
    p = np.exp(np.asarray(log_p, np.float64))
    expected = [by_definition(name, p[:, i]) for i in range(N)]
    np.testing.assert_allclose(score[name](log_p, KEY), expected, rtol=1e-4, atol=1e-6)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("name", BY_DRAWS)
def test_the_order_of_draws_and_of_classes_says_nothing(name):
    log_p = samples()
    for other in (log_p[::-1], log_p[:, :, ::-1]):
        np.testing.assert_allclose(
            score[name](other, KEY), score[name](log_p, KEY), rtol=1e-4, atol=1e-6
        )


def test_bald_is_between_nothing_and_the_entropy():
    log_p = samples(1)
    bald, entropy = score["bald"](log_p, KEY), score["entropy"](log_p, KEY)
    assert np.all(bald >= -1e-6)
    assert np.all(bald <= entropy + 1e-6)
    assert np.max(bald) > 0.5


@pytest.mark.parametrize("draws", [1, S])
def test_draws_that_do_not_differ_say_nothing_of_the_net(draws):
    """Of one draw exactly nothing: rounding would rank the examples."""
    log_p = jnp.broadcast_to(samples()[:1], (draws, N, K))
    for name in ("bald", "mean_std"):
        found = np.abs(score[name](log_p, KEY))
        assert np.all(found == 0) if draws == 1 else np.all(found < 1e-5)
    assert np.min(score["entropy"](log_p, KEY)) > 0


def test_random_is_uniform_and_does_not_look(assert_mean):
    found = score["random"](samples(), KEY)
    np.testing.assert_array_equal(found, score["random"](samples(1), KEY))
    many = score["random"](jnp.zeros((1, 4000, K), jnp.float32), KEY)
    assert_mean(many, 0.5)
    assert 0 <= np.min(many) <= np.max(many) < 1


# Who is labelled next.


def test_the_highest_scores_without_a_label_are_taken():
    values = random.normal(KEY, (N,))
    labelled = random.bernoulli(random.key(1), 0.5, (N,))
    chosen = np.asarray(jax.jit(lambda: active.acquire(values, labelled, 7, KEY))())
    free = [i for i in np.argsort(-np.asarray(values)) if not labelled[i]]
    np.testing.assert_array_equal(chosen, free[:7])


def test_equal_scores_are_taken_at_random():
    """Each of 9 of equal score as often as another, and the better one always."""
    values = jnp.zeros(10, jnp.float32).at[3].set(1.0)
    none, draws = jnp.zeros(10, bool), 3000
    chosen = jax.vmap(lambda key: active.acquire(values, none, 4, key))(
        random.split(KEY, draws)
    )
    assert np.all(chosen[:, 0] == 3)
    counts = np.bincount(np.asarray(chosen[:, 1:]).ravel(), minlength=10)
    expected, error = draws / 3, np.sqrt(draws * 1 / 3 * 2 / 3)
    assert np.all(np.abs(np.delete(counts, 3) - expected) < 5 * error)


def test_the_first_are_as_many_of_each_class():
    target = random.randint(KEY, (200,), 0, K)
    found = active.first(target, 3, K, KEY)
    np.testing.assert_array_equal(np.bincount(target[np.asarray(found)]), [3] * K)
    others = active.first(target, 3, K, random.key(1))
    assert not np.array_equal(found, others)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: active.acquire(jnp.zeros(3), jnp.zeros(4), 1, KEY), r"\(3,\) and"),
        (lambda: active.acquire(jnp.zeros(3), jnp.zeros(3), 4, KEY), "from 1 to 3"),
        (
            lambda: active.acquire(jnp.zeros(3), jnp.arange(3) > 0, 2, KEY),
            "from 1 to 1, not 2",
        ),
        (
            lambda: active.first(jnp.zeros(9, jnp.int32), 5, 2, KEY),
            "from 1 to 0, not 5",
        ),
        (lambda: active.Pool(data.Split(np.zeros(3)), 0), "at least 1, not 0"),
        (
            lambda: active.learn(
                *(None, None, active.bald, jnp.arange(9) < 1, KEY), count=5, rounds=2
            ),
            "do not fit the 8",
        ),
        (
            lambda: active.learn(
                *(None, None, active.bald, jnp.arange(9) < 0, KEY), count=1, rounds=2
            ),
            "no example has a label",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# The loop.


@functools.cache
def made():
    """Forty points of four classes in the plane, and a net that learns them."""
    target = np.arange(40, dtype=np.int32) % K
    corner = np.stack([target % 2, target // 2], 1) * 2.0 - 1
    noise = np.random.default_rng(0).normal(0, 0.3, (40, 2))
    split = data.Split((corner + noise).astype(np.float32), target)
    pool = active.Pool(split, 8, prepare=lambda x: x)
    model = nets.MLP(widths=(16,), classes=K)
    init = train.initializer(model, jnp.zeros((1, 2), jnp.float32))
    loss = neg_elbo(forward(model), Categorical(), log_uniform, pool.n)
    return pool, model, train.Task(init, loss, optax.adam(3e-2), pool)


def run(one_device, key, acquisition=active.entropy, rounds=3):
    pool, model, task = made()

    def fit(labelled, key):
        arrays = pool.labelled(pool.arrays, labelled)
        steps = jnp.arange(60, dtype=jnp.int32)
        start = task.start(key)
        state, _ = train.train_chunk(task, one_device, start, arrays, steps, key)
        return {"params": state.params}

    def look(variables, key):
        log_p = Predictor([Member(model, variables)])(pool.arrays["input"], key)
        right = jnp.argmax(log_p[0], -1) == pool.arrays["target"]
        return log_p, jnp.mean(right.astype(jnp.float32))

    first = active.first(pool.arrays["target"], 1, K, stream(key, "first"))
    return active.learn(fit, look, acquisition, first, key, count=4, rounds=rounds)


def test_a_batch_is_of_labelled_examples_each_as_often(assert_mean):
    pool, _, _ = made()
    labelled = jnp.zeros(pool.n, bool).at[jnp.asarray([0, 7, 8, 39])].set(True)
    arrays = pool.labelled(pool.arrays, labelled)
    batches = jax.vmap(lambda key: pool.batch(arrays, 0, key))(random.split(KEY, 1000))
    which = np.asarray(batches["input"]).reshape(-1, 1, 2)
    same = np.all(which == np.asarray(pool.arrays["input"]), -1)
    assert set(np.flatnonzero(same.any(0))) == {0, 7, 8, 39}
    assert_mean(same[:, [0, 7, 8, 39]], [0.25] * 4)
    own = np.asarray(pool.arrays["target"])[same.argmax(1)]
    np.testing.assert_array_equal(own, np.asarray(batches["target"]).ravel())


def test_a_loop_labels_by_the_score_and_never_twice():
    """Where scores do not change, all is labelled in their order."""
    order = random.permutation(KEY, 20)
    seen = []

    def look(net, key):
        seen.append(0)
        rate = jax.nn.sigmoid(0.2 * order.astype(jnp.float32))
        p = jnp.stack([rate, 1 - rate], -1)
        return jnp.log(p)[None], jnp.sum(net)

    first = jnp.zeros(20, bool).at[jnp.argmin(order)].set(True)
    learn = functools.partial(active.learn, lambda labelled, key: labelled, look)
    found = learn(active.entropy, first, KEY, count=3, rounds=6)
    assert len(seen) == 1  # traced once, for all rounds
    np.testing.assert_array_equal(order[found.chosen.ravel()], range(1, 19))
    np.testing.assert_array_equal(found.labels, [1, 4, 7, 10, 13, 16])
    np.testing.assert_array_equal(found.measured, found.labels)


def test_seeds_side_by_side_are_the_seeds_in_turn(one_device):
    keys = random.split(KEY, 2)
    together = jax.jit(jax.vmap(functools.partial(run, one_device)))(keys)
    alone = jax.jit(functools.partial(run, one_device))
    for number, key in enumerate(keys):
        one = alone(key)
        np.testing.assert_array_equal(together.chosen[number], one.chosen)
        np.testing.assert_allclose(together.measured[number], one.measured, atol=1e-6)
    assert alone._cache_size() == 1
    assert np.min(together.measured[:, -1]) >= 0.8
    for a, b in itertools.pairwise(together.chosen.reshape(2, -1)):
        assert not np.array_equal(a, b)


def test_labels_until_an_error():
    labels, error = [20, 40, 60, 80], [0.3, 0.1, 0.12, 0.05]
    for level, expected in {0.5: 20, 0.1: 40, 0.09: 80, 0.01: float("inf")}.items():
        assert active.labels_until(level, labels, error) == expected


@pytest.mark.slow
def test_the_how_to_runs_as_it_stands(tmp_path):
    code = "\n".join(documents.blocks("docs/howto/label.md", "python"))
    lines = [line.split() for line in documents.printed(code, tmp_path)]
    found = {int(one[0]): float(one[-1]) for one in lines if one[1:2] == ["labels:"]}
    assert list(found) == [20, 40, 60, 80, 100]
    assert found[100] >= 0.85
