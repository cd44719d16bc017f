"""Early stopping: the best epoch counts, whatever runs beside it or interrupts it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import core
from experiments import spec as parts
from experiments.config_files import load_config
from experiments.kinds import classify
from vnets import nets, parallel, priors, sources, train
from vnets.data import Split
from vnets.likelihoods import Categorical
from vnets.loss import ModelState, forward, neg_elbo

# What the probe says after each epoch, and what follows with patience 2.
SCORES = (0.1, 0.5, 0.3, 0.5, 0.2, 0.9, 0.9)
BEST, LAST = 2, 4
EARLY = train.EarlyStopping("score", 2)


@pytest.fixture(scope="module")
def one_device():
    return parallel.mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (16, 2, 2, 1)).astype(np.uint8)
    return sources.Resident(Split(image, np.arange(16, dtype=np.int32) % 2), 8)


@pytest.fixture(scope="module")
def task(source):
    """A probe that reads the score of the epoch off the number of steps."""
    model = nets.MLP(classes=2)

    def init(key):
        params, collections = start(key)
        return params, {**collections, "steps": {"done": jnp.zeros((), jnp.int32)}}

    def loss(params, state, batch, key):
        steps = state.collections["steps"]
        rest = ModelState(state.step, {})
        value, (new, metrics) = plain(params, rest, batch, key)
        collections = {"steps": {"done": steps["done"] + 1}}
        return value, (ModelState(new.step, collections), metrics)

    def probe(params, collections, key):
        epoch = int(collections["steps"]["done"]) // source.steps_per_epoch
        return {"score": SCORES[epoch - 1]}

    start = train.initializer(model, jnp.zeros((1, 2, 2, 1), jnp.float32))
    plain = neg_elbo(forward(model), Categorical(), priors.log_uniform, source.n)
    return train.Task(init, loss, optax.sgd(0.1), source, probe=probe)


def fit(task, mesh, **options):
    options = {"epochs": 7, "seeds": [0], "early_stopping": EARLY} | options
    return train.fit(task, show_progress=False, mesh=mesh, **options)


def steps(state):
    return int(state.model.collections["steps"]["done"])


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


@pytest.fixture(scope="module")
def whole(task, one_device):
    return fit(task, one_device)[0]


def test_the_state_after_the_best_epoch_counts(whole, task, one_device):
    assert [row["epoch"] for row in whole.history] == list(range(1, LAST + 1))
    assert int(whole.state.model.step) == BEST * task.source.steps_per_epoch
    [two] = fit(task, one_device, epochs=BEST)
    assert same(whole.state.params, two.state.params)


def test_no_epoch_is_trained_after_the_end(task, one_device, tmp_path, monkeypatch):
    """Neither by the run that ends early, nor by the next call."""
    trained, real = [], sources.Resident.chunks

    def chunks(source, key, epoch, *rest):
        trained.append(epoch)
        return real(source, key, epoch, *rest)

    monkeypatch.setattr(sources.Resident, "chunks", chunks)
    fit(task, one_device, workdir=tmp_path)
    assert sorted(set(trained)) == list(range(LAST))
    trained.clear()
    [again] = fit(task, one_device, workdir=tmp_path)
    assert trained == []
    assert again.compile_seconds == 0
    assert steps(again.state) == BEST * task.source.steps_per_epoch


def test_without_it_all_epochs_are_trained(task, one_device):
    [result] = fit(task, one_device, early_stopping=None)
    assert len(result.history) == len(SCORES)
    assert steps(result.state) == len(SCORES) * task.source.steps_per_epoch


def test_patience_that_never_ends_still_takes_the_best(task, one_device):
    [result] = fit(task, one_device, early_stopping=train.EarlyStopping("score", 9))
    assert len(result.history) == len(SCORES)
    assert steps(result.state) == 6 * task.source.steps_per_epoch


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_resumed_equals_uninterrupted(first, whole, task, one_device, tmp_path):
    folder = tmp_path / "run"
    options = {"workdir": lambda seed: folder, "checkpoint_seconds": 0.0}
    fit(task, one_device, epochs=first, **options)
    [result] = fit(task, one_device, **options)
    assert [row["epoch"] for row in result.history] == list(range(1, LAST + 1))
    assert same(result.state, whole.state)
    like = jax.eval_shape(task.start, jax.random.key(0))
    assert same(train.chosen(folder, like), whole.state)
    [again] = fit(task, one_device, **options)  # nothing is left to do
    assert same(again.state, whole.state)


def test_a_best_state_newer_than_the_checkpoint_is_made_again(
    whole, task, one_device, tmp_path
):
    """Killed between the two writes: the epochs after the checkpoint come again."""
    folder = tmp_path / "run"
    options = {"workdir": lambda seed: folder, "checkpoint_seconds": 0.0}
    fit(task, one_device, epochs=1, **options)
    stale = train.early.Best(EARLY, [folder], done=1)
    rows = [{"epoch": 2, "score": 0.5}]
    state = fit(task, one_device, epochs=1)[0].state
    stale.see(0, rows, lambda: state)
    stale.save(0, rows)
    stale.close()
    [result] = fit(task, one_device, **options)
    assert same(result.state, whole.state)


def test_a_seed_that_ended_is_left_alone_by_those_beside_it(source, one_device):
    """Seed 1 goes on for longer; each gets what it gets by itself."""
    model = nets.MLP(classes=2)

    def probe(params, collections, key):
        [leaf, *_] = jax.tree.leaves(params)
        return {"score": float(jnp.sum(jnp.sin(900.0 * leaf)))}

    task = train.Task(
        train.initializer(model, jnp.zeros((1, 2, 2, 1), jnp.float32)),
        neg_elbo(forward(model), Categorical(), priors.log_uniform, source.n),
        optax.sgd(0.1),
        source,
        probe=probe,
    )
    seeds, options = [0, 1, 2, 3], {"epochs": 12}
    together = fit(task, one_device, seeds=seeds, vectorize=True, **options)
    lengths = {len(result.history) for result in together}
    assert len(lengths) > 1
    for result in together:
        [alone] = fit(task, one_device, seeds=[result.seed], **options)
        assert len(result.history) == len(alone.history)
        assert int(result.state.model.step) == int(alone.state.model.step)


def test_refusals_name_what_is_there(task, one_device):
    with pytest.raises(ValueError, match="at least 1 epoch, not 0"):
        train.EarlyStopping("score", 0)
    with pytest.raises(ValueError, match=r"'det'.*'score'"):
        fit(task, one_device, early_stopping=train.EarlyStopping("det", 2))
    bare = train.Task(task.init, task.loss, task.optimizer, task.source)
    with pytest.raises(ValueError, match="needs a probe"):
        fit(bare, one_device)


def test_a_config_watches_the_validation_split_and_tests_on_the_test_set():
    config = load_config("configs/vd_mnist.py:vd_a_100,quick")
    net = classify.build(config)
    assert core.build(config).early_stopping == train.EarlyStopping(
        "det", config.early_stopping.patience
    )
    assert net.probed is net.dataset.validation
    assert net.test is net.dataset.test
    assert len(net.dataset.train) + len(net.dataset.validation) == 1437
    config.early_stopping.metric = "accuracy"
    with pytest.raises(parts.ConfigError, match=r"early_stopping.metric.*det"):
        core.build(config)
    config.early_stopping.metric, config.dataset.validation = "det", 0
    with pytest.raises(parts.ConfigError, match=r"dataset\.validation"):
        core.build(config)
