"""The trainer: one compile, exact resume, seeds that fail alone, clear refusals."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from claims import every
from jax import random
from train_tasks import BATCH, fit, make_split, make_task

from experiments import build
from vnets import edits, nets, objectives, posteriors, priors, sources, train
from vnets.checkpoint import WorkdirError
from vnets.layers import Mode
from vnets.rng import stream


@pytest.fixture(scope="module")
def split():
    return make_split()


def leaves_equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_learns_and_reports_each_epoch(split, one_device):
    [result] = fit(make_task(split), one_device, epochs=20)
    assert [row["epoch"] for row in result.history] == list(range(1, 21))
    assert result.history[-1]["nll"] < 0.5 * result.history[0]["nll"]
    last = result.history[-1]
    assert last["elbo"] == pytest.approx(last["data_term"] - last["kl"], rel=1e-5)
    assert last["data_term"] == pytest.approx(-40 * last["nll"], rel=1e-5)


def test_step_compiles_once_for_all_seeds(split, one_device, caplog):
    task = make_task(split)
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        fit(task, one_device, seeds=[0, 1], epochs=4, vectorize=False, chunk_steps=2)
    compiled = [record.getMessage() for record in caplog.records]
    compiled = [m for m in compiled if m.startswith("Compiling") and "_chunk" in m]
    assert len(compiled) == 1


def test_chunks_do_not_change_the_result(split, one_device):
    task = make_task(split)
    [one] = fit(task, one_device, chunk_steps=1)
    [five] = fit(task, one_device, chunk_steps=5)
    for a, b in zip(
        jax.tree.leaves(one.state), jax.tree.leaves(five.state), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_resumed_equals_uninterrupted(split, one_device, tmp_path):
    task = make_task(split)
    [whole] = fit(task, one_device, epochs=6, workdir=lambda s: tmp_path / "whole")
    cut = {"workdir": lambda s: tmp_path / "cut", "checkpoint_seconds": 0.0}
    fit(task, one_device, epochs=3, **cut)
    # Rows of epochs after the checkpoint, from before a kill, must not stay.
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "nll": 99.0}\n{"epoch": 5, "nl')
    [resumed] = fit(task, one_device, epochs=6, **cut)
    assert leaves_equal(whole.state, resumed.state)
    assert values(whole) == values(resumed)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 7))


class After:
    """Asks to stop at the n-th time that it is asked."""

    def __init__(self, times):
        self.left = times

    def __call__(self):
        self.left -= 1
        return self.left < 0


def streamed(split):
    def epochs(seed, epoch, rows):
        rng = np.random.default_rng((seed, epoch))
        for row in rng.permutation(40).reshape(5, BATCH)[:, rows]:
            image = split.image[row].astype(np.float32) / 255
            yield {"image": image, "label": split.label[row]}

    return sources.Streamed(epochs, 40, BATCH)


def values(result):
    return [
        {k: v for k, v in row.items() if "seconds" not in k} for row in result.history
    ]


@pytest.mark.parametrize(
    ("seeds", "stream"),
    [
        pytest.param([0], False, id="resident"),
        pytest.param([0, 1], True, id="vmapped-streamed", marks=pytest.mark.slow),
    ],
)
def test_stopped_anywhere_and_resumed_equals_uninterrupted(
    split, one_device, tmp_path, seeds, stream
):
    task = make_task(split, source=streamed(split) if stream else None)
    kwargs = {"seeds": seeds, "vectorize": True, "chunk_steps": 1}
    whole = fit(task, one_device, **kwargs)
    kwargs["workdir"] = lambda seed: tmp_path / str(seed)
    # Asked before it begins and after each chunk: two on, then six, then to the end of
    # an epoch.
    wheres = ("in epoch 1 after 2 of 5", "in epoch 2 after 3 of 5", "after epoch 2;")
    for asked, where in zip((2, 7, 3), wheres, strict=True):
        with pytest.raises(train.Preempted, match=where) as stopped:
            fit(task, one_device, stop=After(asked), **kwargs)
        assert str(tmp_path / "0") in str(stopped.value)
    resumed = fit(task, one_device, stop=After(100), **kwargs)
    for a, b in zip(whole, resumed, strict=True):
        assert leaves_equal(a.state, b.state)
        assert values(a) == values(b)
        lines = (tmp_path / str(a.seed) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
        assert not (tmp_path / str(a.seed) / train.INSIDE).exists()


def test_a_stop_loses_nothing_that_is_done(split, one_device, tmp_path):
    task = make_task(split)
    kwargs = {"epochs": 1, "seeds": [0, 1], "vectorize": False}
    with pytest.raises(train.Preempted, match="before it began"):
        fit(task, one_device, stop=After(0), **kwargs)
    with pytest.raises(train.Preempted, match="nothing saved: no workdir"):
        fit(task, one_device, stop=After(1), chunk_steps=1, **kwargs)
    # A seed at its end is complete; the next one is not begun.
    kwargs["workdir"] = lambda seed: tmp_path / str(seed)
    with pytest.raises(train.Preempted, match=r"seed 1.*before it began"):
        fit(task, one_device, stop=After(3), **kwargs)
    assert [len(r.history) for r in fit(task, one_device, **kwargs)] == [1, 1]


def test_a_state_inside_an_epoch_is_left_alone_where_chunks_differ(
    split, one_device, tmp_path
):
    task = make_task(split)
    folder = {"workdir": lambda seed: tmp_path}
    with pytest.raises(train.Preempted, match="in epoch 1 after 2 of 5 chunks"):
        fit(task, one_device, stop=After(2), chunk_steps=1, epochs=1, **folder)
    [whole] = fit(task, one_device, chunk_steps=5, epochs=1)
    [resumed] = fit(task, one_device, chunk_steps=5, epochs=1, **folder)
    assert leaves_equal(whole.state, resumed.state)


def test_vmapped_seeds_equal_seeds_in_turn(split, one_device):
    task = make_task(split)
    together = fit(task, one_device, seeds=[3, 4], vectorize=True)
    apart = fit(task, one_device, seeds=[3, 4], vectorize=False)
    for a, b in zip(together, apart, strict=True):
        assert a.seed == b.seed
        assert a.history[-1]["nll"] == pytest.approx(b.history[-1]["nll"], rel=1e-3)


def test_vmapped_seeds_resume(split, one_device, tmp_path):
    task = make_task(split)
    kwargs = {"seeds": [0, 1], "vectorize": True, "checkpoint_seconds": 0.0}
    whole = fit(task, one_device, epochs=4, **kwargs)
    kwargs["workdir"] = lambda seed: tmp_path / str(seed)
    fit(task, one_device, epochs=2, **kwargs)
    resumed = fit(task, one_device, epochs=4, **kwargs)
    for a, b in zip(whole, resumed, strict=True):
        assert leaves_equal(a.state, b.state)


@pytest.mark.parametrize(
    "vectorize", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_one_seed_that_fails_does_not_stop_the_others(
    split, one_device, tmp_path, vectorize
):
    task = make_task(split)
    victim = stream(random.key(1), "noise", 7)

    def loss(params, state, batch, key):
        value, aux = task.loss(params, state, batch, key)
        hit = jnp.all(random.key_data(key) == random.key_data(victim))
        return jnp.where(hit, jnp.nan, value), aux

    failing = dataclasses.replace(task, loss=loss)
    good, bad = fit(
        failing,
        one_device,
        seeds=[0, 1],
        vectorize=vectorize,
        checkpoint_seconds=0.0,
        workdir=lambda seed: tmp_path / str(seed),
    )
    assert good.failed is None
    assert len(good.history) == 3
    # Five steps an epoch: step 7 is the third of epoch 2.
    assert "seed 1" in bad.failed
    assert "epoch 2, step 3 of 5" in bad.failed
    assert "after epoch 1" in bad.failed
    assert len(bad.history) == 1
    assert int(bad.state.model.step) == 7
    finite = [np.all(np.isfinite(x)) for x in jax.tree.leaves(bad.state)]
    assert every(finite)


def test_failure_names_the_layer(split, one_device):
    task = make_task(split, optimizer=optax.sgd(1e30))
    [result] = fit(task, one_device)
    assert "layer dense1" in result.failed or "layer dense2" in result.failed
    assert "last good checkpoint" not in result.failed  # there is no workdir


def test_nan_gradient_of_a_finite_loss_is_caught(split, one_device):
    task = make_task(split)

    def loss(params, state, batch, key):
        value, aux = task.loss(params, state, batch, key)
        return value + 0.0 * jnp.sqrt(jnp.sum(0.0 * params["dense2"]["bias"])), aux

    [result] = fit(dataclasses.replace(task, loss=loss), one_device)
    assert "epoch 1, step 1 of 5" in result.failed
    assert "gradients not finite in dense2" in result.failed


def test_projection_holds_after_each_update(split, one_device):
    from vnets import projections

    task = make_task(split, optimizer=optax.adam(1.0), project=projections.at_most_one)
    [result] = fit(task, one_device)
    assert float(result.state.params["dense1"]["kernel"].log_alpha.max()) <= 0.0


def test_streamed_equals_resident_batches(split, one_device):
    resident = sources.Resident(split, BATCH)

    def epochs(seed, epoch, rows):
        # The order that a resident source would take for seed 0.
        order = np.asarray(next(resident.chunks(random.key(0), epoch, 5)))
        for row in order[:, rows]:
            image = split.image[row].astype(np.float32) / 255
            yield {"image": image, "label": split.label[row]}

    streamed = make_task(split, source=sources.Streamed(epochs, 40, BATCH))
    [a] = fit(make_task(split), one_device)
    [b] = fit(streamed, one_device)
    assert a.history[-1]["nll"] == pytest.approx(b.history[-1]["nll"], rel=1e-5)


def test_gradients_of_several_batches_make_one_update(split, one_device):
    """Four batches of 10 are one of 40: noise off, no KL, and nothing normalized."""
    model = nets.MLP(widths=(16,), classes=4)
    losses = {}
    for batch, accumulate in ((40, 1), (10, 4)):
        source = sources.Resident(split, batch)
        task = train.Task(
            init=train.initializer(model, jnp.zeros((1, 4, 4, 1), jnp.float32)),
            loss=objectives.classification_loss(model, priors.log_uniform, 40),
            optimizer=build.optimizer(
                {"name": "sgd", "learning_rate": ((0, 0.5), (1, 0.0))}
                | ({"accumulate": accumulate} if accumulate > 1 else {}),
                total_steps=6 * accumulate,
            ),
            source=source,
        )
        [result] = fit(task, one_device, epochs=6)
        losses[batch] = result.state.params
    for a, b in zip(*map(jax.tree.leaves, losses.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [posteriors.gaussian(-6.0), posteriors.variance()])
def test_half_precision_learns_alike(split, one_device, kind):
    model = nets.MLP(widths=(16,), classes=4, posteriors={"dense1": kind})
    nll, types = {}, set()
    for precision in ("float32", "bfloat16"):
        mode = Mode(norm="batch", precision=precision)
        source = sources.Resident(split, BATCH)
        task = train.Task(
            init=train.initializer(model, jnp.zeros((1, 4, 4, 1), jnp.float32)),
            loss=objectives.classification_loss(
                model, priors.log_uniform, 40, mode=mode
            ),
            optimizer=optax.adam(1e-2),
            source=source,
        )
        [result] = fit(task, one_device, epochs=10)
        nll[precision] = result.history[-1]["nll"]
        types |= {str(leaf.dtype) for leaf in jax.tree.leaves(result.state.params)}
    assert types == {"float32"}
    assert nll["bfloat16"] == pytest.approx(nll["float32"], rel=0.05)


def test_short_stream_is_an_error(split, one_device):
    batch = {"image": np.zeros((BATCH, 4, 4, 1), np.float32), "label": np.zeros(BATCH)}
    source = sources.Streamed(lambda seed, epoch, rows: iter([batch]), 40, BATCH)
    with pytest.raises(ValueError, match="ended before 5 batches"):
        fit(make_task(split, source=source), one_device)


def test_refusals_name_what_is_valid(split, one_device, tmp_path):
    task = make_task(split)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        fit(task, one_device, epochs=0)
    with pytest.raises(ValueError, match="between 1 and 40"):
        sources.Resident(split, 41)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(WorkdirError, match="cannot write"):
        fit(task, one_device, workdir=lambda seed: blocked / "run")


def test_full_disk_is_refused_at_the_start(split, one_device, tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WorkdirError, match="MiB free"):
        fit(make_task(split), one_device, workdir=lambda seed: tmp_path / "run")


def test_tensorboard_files_hold_the_metrics(split, one_device, tmp_path):
    fit(
        make_task(split),
        one_device,
        workdir=lambda seed: tmp_path,
        tensorboard=True,
    )
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_log_is_told_each_epoch_once_and_changes_nothing(split, one_device, tmp_path):
    told = []

    def log(seed, row):
        told.append((seed, dict(row)))
        row.clear()  # it is a copy

    run = {"seeds": [3, 5], "workdir": tmp_path, "log": log}
    for epochs in (2, 3):  # the second call goes on from the first
        results = fit(make_task(split), one_device, epochs=epochs, **run)
    assert sorted(seed for seed, _ in told) == [3] * 3 + [5] * 3
    for result in results:
        assert [row for seed, row in told if seed == result.seed] == result.history
    with pytest.raises(ValueError, match="log is a function, not str"):
        fit(make_task(split), one_device, log="wandb")


@pytest.mark.parametrize(
    ("steps", "at_most", "expected"),
    [(300, 50, 50), (7, 50, 7), (22, 5, 2), (13, 5, 1)],
)
def test_divisor(steps, at_most, expected):
    assert sources.divisor(steps, at_most) == expected


def test_epoch_visits_each_example_at_most_once(split):
    source = sources.Resident(split, 16)
    first = np.concatenate(list(source.chunks(random.key(0), 0, 1))).ravel()
    second = np.concatenate(list(source.chunks(random.key(0), 1, 1))).ravel()
    assert len(set(first.tolist())) == len(first) == 32
    assert first.tolist() != second.tolist()


def test_a_warm_start_begins_at_the_given_parameters(split, one_device):
    """Nodes may change their type: a variance layer from variational dropout."""
    task = make_task(split, optimizer=optax.sgd(0.0))
    [first] = fit(task, one_device, epochs=1)
    params = edits.zero_mean(first.state.params, random.key(0))

    def start(seed):
        return params, {}

    [second] = fit(task, one_device, epochs=1, warm_start=start)
    assert isinstance(second.state.params["dense1"]["kernel"], posteriors.ZeroMean)
    assert leaves_equal(second.state.params, params)
    both = fit(task, one_device, seeds=[0, 1], warm_start=start, vectorize=True)
    for result in both:
        assert leaves_equal(result.state.params, params)


def test_a_warm_start_is_not_taken_again_when_a_run_resumes(
    split, one_device, tmp_path
):
    task = make_task(split)
    [source] = fit(task, one_device, epochs=1)
    options = {
        "warm_start": lambda seed: (source.state.params, {}),
        "checkpoint_seconds": 0.0,
    }
    [whole] = fit(task, one_device, epochs=4, **options)
    folder = {"workdir": lambda seed: tmp_path / str(seed)}
    fit(task, one_device, epochs=2, **options, **folder)
    [resumed] = fit(task, one_device, epochs=4, **options, **folder)
    assert leaves_equal(resumed.state.params, whole.state.params)


@pytest.mark.parametrize("seeds", [0, [], [1, 1], ["a"], [0.5], None])
def test_seeds_are_a_list_of_different_integers(split, one_device, seeds):
    with pytest.raises(ValueError, match=r"seeds are a list .* such as \[0\]"):
        fit(make_task(split), one_device, seeds=seeds)


def test_a_workdir_may_be_one_folder_for_all_seeds(split, one_device, tmp_path):
    task, folder = make_task(split), tmp_path / "all"
    options = {"epochs": 1, "seeds": range(2), "vectorize": True}
    trained = fit(task, one_device, workdir=str(folder), **options)
    assert (folder / "seed1" / "metrics.jsonl").exists()
    # What lies there is read, and not trained again.
    for same in (folder, lambda seed: f"{folder}/seed{seed}"):
        for a, b in zip(
            trained, fit(task, one_device, workdir=same, **options), strict=True
        ):
            assert b.compile_seconds == 0
            assert leaves_equal(a.state, b.state)


def test_arguments_that_are_no_functions_are_refused(split, one_device, tmp_path):
    task = make_task(split)
    with pytest.raises(ValueError, match="workdir is a folder, or seed -> folder"):
        fit(task, one_device, workdir=3)
    with pytest.raises(ValueError, match="seeds need a folder each"):
        fit(task, one_device, seeds=[0, 1], workdir=lambda seed: tmp_path)
    with pytest.raises(ValueError, match="warm_start is a function, not tuple"):
        fit(task, one_device, warm_start=({}, {}))
    with pytest.raises(ValueError, match="a task's loss is a function, not 3"):
        dataclasses.replace(task, loss=3)
    with pytest.raises(ValueError, match=r"such as optax.adam\(1e-3\), not <function"):
        dataclasses.replace(task, optimizer=optax.adam)
