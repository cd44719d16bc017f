"""Laws of runs that build on others: tasks in turn, and students of trained nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core
from experiments.config_files import load_config
from experiments.kinds.continual import ANCHOR, Continual, build
from experiments.kinds.distill import TAUGHT
from experiments.spec import ConfigError
from vnets import continual, data, kronecker, priors, train
from vnets.evaluate import to_float
from vnets.likelihoods import Categorical
from vnets.loss import ModelState, forward
from vnets.predictor import Member
from vnets.rng import stream


def tasks_in_turn(method):
    """Two tasks of two epochs, of which the second measures."""
    config = load_config(f"configs/continual.py:{method},quick")
    config.dataset.train_images, config.epochs = 100, 4
    config.continual.tasks = config.optimizer.restarts = 2
    knots = ((0.0, 1e-3), (0.49, 1e-3), (0.4999, 0.0), (1.0, 0.0))
    config.optimizer.learning_rate = knots
    config.model.widths = (8,)
    names = ("dense1", "dense2", "dense1/bias", "dense2/bias")
    if method.startswith("vcl"):
        noise = {"kind": "gaussian", "log_var": -6.0}
        config.model.posteriors = dict.fromkeys(names, noise)
    return config


def fitted(task, epochs, workdir=None):
    [result] = train.fit(
        task, epochs=epochs, seeds=[0], workdir=workdir, show_progress=False
    )
    return result.state


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


MADE = {
    "ewc": continual.ewc,
    "ewc_online": continual.laplace,
    "laplace": continual.laplace,
    "laplace_kronecker": kronecker.laplace,
}


@pytest.mark.parametrize(
    "method",
    [
        "ewc",
        *(
            pytest.param(m, marks=pytest.mark.slow)
            for m in ("vcl", *MADE)
            if m != "ewc"
        ),
    ],
)
def test_what_a_task_left_holds_the_next_and_a_resumed_run_is_the_same(
    method, tmp_path
):
    task = core.build(tasks_in_turn(method)).task
    first = fitted(task, 2, tmp_path)
    whole = fitted(task, 4)
    assert_same(fitted(task, 4, tmp_path), whole)
    before, after = (s.model.collections[ANCHOR] for s in (first, whole))
    if method == "vcl":
        expected = continual.posterior(first.params)
    else:
        # All of the curvature is measured where the rate is 0.
        assert float(jax.tree.leaves(before["curvature"])[0].max()) > 0
        expected = MADE[method](before["prior"], first.params, before["curvature"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        *(after["prior"], expected),
    )


def test_what_predicts_has_seen_the_coreset_of_the_tasks_until_then():
    config = tasks_in_turn("vcl_coreset")
    config.continual.coreset.size, config.continual.coreset.updates = 10, 5
    kind = build(config)
    assert (kind.source.n, len(kind.coreset)) == (90, 20)
    params, collections = kind.init(random.key(0))
    key = random.key(3)
    found = kind.columns("evals", ["det"])(params, collections, key)["det"]
    first = kind.coreset.take(np.arange(10))
    batch = {"input": to_float(first.inputs), "target": first.target}
    copy = continual.rehearsed(
        *(forward(kind.model), Categorical(), params, batch, stream(key, "coreset")),
        updates=5,
    )
    net = Member(kind.model, {"params": copy})
    spec = kind.specs(1)["det"]
    expected = kind.tested(net, spec, kind.test, stream(key, "det"))
    assert found["nll"] == pytest.approx(expected["nll"], rel=1e-4)
    before = kind.tested(
        Member(kind.model, {"params": params}), spec, kind.test, stream(key, "det")
    )
    assert abs(found["nll"] - before["nll"]) > 1e-3


@pytest.mark.parametrize("method", ["ewc", "laplace_kronecker"])
def test_a_task_with_a_head_of_its_own_moves_no_other(method):
    config = load_config(f"configs/split_tasks.py:{method},quick")
    config.epochs, config.model.widths = 10, (4,)
    knots = ((0.0, 1e-3), (0.49, 1e-3), (0.4999, 0.0), (1.0, 0.0))
    config.optimizer.learning_rate = knots
    kind = build(config)
    start, state = kind.init(random.key(0)), fitted(core.build(config).task, 2)
    bias = state.params["dense2"]["bias"] - start[0]["dense2"]["bias"]
    assert np.all(bias[:2] != 0)
    np.testing.assert_array_equal(bias[2:], 0)
    bent = state.model.collections[ANCHOR]["curvature"]
    own = bent["dense2"].cols.diagonal() if method != "ewc" else bent["dense2"]["bias"]
    np.testing.assert_array_equal(own[2:], 0)
    assert np.all(own[:2] > 0)
    tested = kind.columns("evals", ["det"])(state.params, {}, random.key(0))["det"]
    assert tested["accuracy/task3"] > 0.2  # of two classes, not of ten


def test_tasks_of_unlike_sizes_are_tested_each_by_its_own_examples():
    config = load_config("configs/split_tasks.py:fine_tuning,quick")
    config.model.widths = (8,)
    kind = build(config)
    params, _ = kind.init(random.key(0))
    net, key = Member(kind.model, {"params": params}), random.key(1)
    spec, split = kind.specs(1)["det"], kind.test
    found = kind.tested(net, spec, split, key)
    each = [split.take(np.flatnonzero(split.target // 2 == task)) for task in range(5)]
    assert len({len(part) for part in each}) > 1
    alone = [super(Continual, kind).tested(net, spec, part, key) for part in each]
    for number, one in enumerate(alone, start=1):
        assert found[f"accuracy/task{number}"] == pytest.approx(one["accuracy"])
    for name in ("nll", "brier", "ece"):
        mean = np.mean([one[name] for one in alone])
        np.testing.assert_allclose(found[name], mean, rtol=1e-5)


def test_a_head_that_has_seen_nothing_keeps_its_prior():
    """And is as free in its own task as any head in the first."""
    config = load_config("configs/split_tasks.py:vcl,quick")
    config.epochs, config.model.widths = 10, (4,)
    config.model.posteriors = {
        name: {"kind": "gaussian", "log_var": -6.0}
        for name in ("dense1", "dense2", "dense2/bias")
    }
    task = core.build(config).task
    learned, begun = fitted(task, 2), fitted(task, 3)
    prior = begun.model.collections[ANCHOR]["prior"]
    left = continual.posterior(learned.params)
    for name in ("kernel", "bias"):
        head, own = prior["dense2"][name], left["dense2"][name]
        np.testing.assert_array_equal(head.mean[..., :2], own.mean[..., :2])
        np.testing.assert_array_equal(head.log_var[..., :2], own.log_var[..., :2])
        np.testing.assert_array_equal(head.mean[..., 2:], 0)
        np.testing.assert_array_equal(head.log_var[..., 2:], 0)
    assert_same(prior["dense1"], left["dense1"])


def test_the_first_task_has_a_prior_of_its_own():
    """And the loss of the next is under what it left."""
    config = tasks_in_turn("vcl_sparse")
    config.dataset.train_images, config.batch_size, config.nets = 20, 10, {}
    kind = build(config)
    params, collections = kind.init(random.key(0))
    anchor = continual.posterior(jax.tree.map(lambda x: x + 0.1, params))
    batch = {"input": jnp.zeros((5, 8, 8, 1)), "target": jnp.zeros(5, jnp.int32)}
    loss, key = kind.loss(), random.key(1)
    for task, prior in enumerate((priors.log_uniform(), priors.of_tree(anchor))):
        held = {"prior": anchor, "task": jnp.int32(task)}
        step = jnp.int32(task * kind.task_steps + 1)
        state = ModelState(step, {**collections, ANCHOR: held})
        _, (_, shown) = loss(params, state, batch, key)
        expected = float(priors.kl(params, prior))
        assert float(shown["kl"]) == pytest.approx(expected, rel=1e-4)


def test_tasks_that_do_not_fit_their_method_are_refused():
    for change, words in (
        ({"epochs": 5}, "5, of 2 tasks"),
        ({"model.posteriors": {"dense1": {"kind": "gaussian"}}}, "without noise"),
        ({"optimizer.restarts": 1}, "as many as tasks"),
        ({"model.batch_norm": True}, "batch normalization"),
        ({"continual.heads": "each"}, "share their classes"),
        ({"continual.of": "split", "continual.tasks": 3}, "10 classes are not 3"),
    ):
        config = tasks_in_turn("ewc")
        for path, value in change.items():
            group, _, field = path.rpartition(".")
            with config.unlocked():
                (config[group] if group else config)[field] = value
        with pytest.raises((ConfigError, data.DataError), match=words):
            core.build(config)
    config = tasks_in_turn("vcl")
    config.continual.first = "log_uniform"
    with pytest.raises(ConfigError, match="give one of the two"):
        core.build(config)
    del config.continual.first
    config.model.posteriors = {"dense1": {"kind": "dropout", "rate": 0.5}}
    with pytest.raises(ConfigError, match=r"'dense1', a .* gaussian, variance"):
        core.build(config)


def a_student(groups: int = 1):
    """Of two teachers that know nothing, 1,020 images, and what each says of them."""
    config = load_config("configs/distillation.py:net_ensemble,quick")
    config.dataset.train_images, config.model.widths = 510, (4,)
    config.distill.perturbed, config.distill.deviation = 1, 0.1
    config.distill.groups = groups
    student = core.build(config)
    teachers = []
    for seed in range(2):
        params, held = student.task.init(random.key(seed))
        own = {k: v for k, v in held.items() if k not in student.carried}
        teachers.append(core.Net(student.model, params, own))
    x = student.task.source.arrays["input"] / np.float32(255)
    each = [jax.nn.softmax(net.model.apply(net.variables(), x)) for net in teachers]
    return student, teachers, np.stack(each)


def taught_by(student, params, collections, seed: int):
    """The loss of images 5 to 54 and the state after it; and their logits."""
    item, source = jnp.arange(5, 55), student.task.source
    batch = source.batch(source.arrays, item, random.key(0))
    state = ModelState(jnp.int32(0), collections)
    value, (new, _) = student.task.loss(params, state, batch, random.key(seed))
    return value, new, student.model.apply({"params": params}, batch["input"])


@pytest.mark.slow
def test_a_student_learns_what_its_teachers_say_on_average():
    student, teachers, each = a_student()
    params, collections = student.begin(teachers, random.key(7))
    taught = collections[TAUGHT]["p"]
    assert taught.shape == (1020, 10)
    np.testing.assert_allclose(taught, each.mean(0), rtol=1e-4, atol=1e-6)

    value, new, logits = taught_by(student, params, collections, 0)
    cross = -jnp.sum(taught[5:55] * jax.nn.log_softmax(logits), -1)
    np.testing.assert_allclose(value, jnp.mean(cross), rtol=1e-5)
    assert_same(new.collections, collections)


def test_a_student_of_groups_is_taught_by_one_of_them_at_an_update():
    student, teachers, each = a_student(groups=2)
    params, collections = student.begin(teachers, random.key(7))
    taught = collections[TAUGHT]["p"]
    assert student.task.init(random.key(0))[1][TAUGHT]["p"].shape == taught.shape
    np.testing.assert_allclose(taught, each, rtol=1e-4, atol=1e-6)

    met = set()
    for seed in range(8):
        value, new, logits = taught_by(student, params, collections, seed)
        log_p = np.asarray(jax.nn.log_softmax(logits))
        cross = -np.sum(np.asarray(taught)[:, 5:55] * log_p, -1).mean(-1)
        assert abs(cross[0] - cross[1]) > 1e-3
        met.add(int(np.argmin(abs(cross - value))))
        np.testing.assert_allclose(np.min(abs(cross - value)), 0, atol=1e-5)
        assert_same(new.collections, collections)
    assert met == {0, 1}


def test_groups_are_of_as_many_draws_each():
    student, teachers, _ = a_student(groups=2)
    with pytest.raises(ConfigError, match="groups is 2, of 3 draws"):
        student.begin([*teachers, teachers[0]], random.key(7))


def test_nets_that_a_run_kept_are_what_teaches():
    student, teachers, each = a_student()
    kept = jax.tree.map(lambda *a: jnp.stack(a), *(net.variables() for net in teachers))
    chain = core.Net(student.model, teachers[0].params, {}, collected=kept)
    _, collections = student.begin([chain], random.key(7))
    found = collections[TAUGHT]["p"]
    np.testing.assert_allclose(found, each.mean(0), rtol=1e-4, atol=1e-6)
