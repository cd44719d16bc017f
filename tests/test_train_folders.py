"""What lies in a workdir, when it is written, and which of it a run goes on from."""

import shutil
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_tasks import fit, make_split, make_task

from experiments import running
from vnets import checkpoint, train
from vnets.checkpoint import Checkpoints, WorkdirError
from vnets.train.early import LAST

LONG = {"checkpoint_seconds": 1e9, "chunk_steps": 1}


@pytest.fixture(scope="module")
def task():
    return make_task(make_split())


@pytest.fixture(scope="module")
def whole(task, one_device):
    """Two epochs, without a workdir."""
    return fit(task, one_device, epochs=2, chunk_steps=1)[0]


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def epochs_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_the_newest_two_are_kept_and_those_on_demand(tmp_path):
    for keep_every, kept in ((0, [4, 5]), (2, [2, 4, 5]), (1, [1, 2, 3, 4, 5])):
        checkpoints = Checkpoints(tmp_path / str(keep_every), keep_every)
        for epoch in range(1, 6):
            checkpoints.save(epoch, {"w": jnp.ones((2,), jnp.float32)})
        assert checkpoints.epochs() == kept
        checkpoints.close()


def test_what_is_kept_is_written_however_long_the_interval(task, one_device, tmp_path):
    for keep_every, kept in ((0, [3]), (2, [2, 3])):
        folder = tmp_path / str(keep_every)
        options = {**LONG, "epochs": 3, "workdir": lambda seed, folder=folder: folder}
        fit(task, one_device, keep_every=keep_every, **options)
        assert epochs_in(folder / LAST) == kept


def test_checkpoints_beyond_the_epochs_are_left_alone(
    whole, task, one_device, tmp_path
):
    options = {**LONG, "keep_every": 1, "workdir": lambda seed: tmp_path}
    fit(task, one_device, epochs=4, **options)
    [shorter] = fit(task, one_device, epochs=2, **options)
    assert [row["epoch"] for row in shorter.history] == [1, 2]
    assert same(shorter.state, whole.state)
    assert shorter.compile_seconds == 0  # read, not trained again
    assert epochs_in(tmp_path / LAST) == [1, 2, 3, 4]


def test_a_state_inside_an_epoch_that_a_checkpoint_is_newer_than_is_left_alone(
    whole, task, one_device, tmp_path
):
    """Its rows would be made again, and others' dropped."""
    folder, aside = tmp_path / "run", tmp_path / "aside"
    options = {**LONG, "workdir": lambda seed: folder}
    asked = iter([False, False, True])
    with pytest.raises(train.Preempted, match="in epoch 1 after 2 of 5"):
        fit(task, one_device, stop=lambda: next(asked), **options)
    shutil.copytree(folder / train.INSIDE, aside)
    [first] = fit(task, one_device, epochs=1, **options)
    assert not (folder / train.INSIDE).exists()
    aside.rename(folder / train.INSIDE)
    [second] = fit(task, one_device, epochs=2, **options)
    assert second.history[0] == first.history[0]  # the seconds included
    assert same(second.state, whole.state)


def test_probes_are_timed_by_themselves(task, one_device):
    waits = 0.2

    def probe(params, collections, key):
        time.sleep(waits)
        return {"score": 0.5}

    probed = make_task(make_split(), probe=probe)
    options = {**LONG, "epochs": 3, "probe_every": 2}
    [result] = fit(probed, one_device, **options)
    assert [row.get("score") for row in result.history] == [None, 0.5, 0.5]
    assert "probe_seconds" not in result.history[0]
    assert min(row["probe_seconds"] for row in result.history[1:]) >= waits


def test_the_record_counts_probes_as_evaluation():
    rows = [{"seconds": 8.0, "probe_seconds": 1.0}, {"seconds": 16.0}]
    outcome = types.SimpleNamespace(history=rows, compile_seconds=2.0)
    assert running._wall(outcome, 4.0) == {
        "train": 24.0,
        "compile": 2.0,
        "evaluate": 5.0,
        "total": 31.0,
    }


@pytest.fixture
def disk(monkeypatch):
    """disk(free): the disk has so many bytes left."""
    usage = shutil.disk_usage(".")

    def says(free):
        left = usage._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: left)

    return says


@pytest.mark.parametrize("kept", [1, 2, 7])
def test_room_is_asked_for_what_is_kept_and_what_is_being_written(kept, disk, tmp_path):
    tree = {"w": jnp.zeros((2**20,), jnp.float32), "n": jnp.zeros((4,), jnp.int32)}
    need = (kept + 1) * (2**22 + 16) + checkpoint.MARGIN
    disk(need)
    checkpoint.check_workdir(tmp_path / "run", tree, kept)
    assert list((tmp_path / "run").iterdir()) == []
    disk(need - 1)
    with pytest.raises(WorkdirError, match=f"{need / 2**20:.0f} MiB for its"):
        checkpoint.check_workdir(tmp_path / "run", tree, kept)


def score(params, collections, key):
    return {"score": 0.0}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, 2),
        ({"keep_every": 3}, 2 + 3),
        ({"stop": lambda: False}, 2 + 1),
        ({"early_stopping": train.EarlyStopping("score", 5)}, 2 + 2),
    ],
)
def test_room_is_asked_for_all_that_a_run_keeps(
    options, kept, one_device, tmp_path, monkeypatch
):
    asked = []

    def check_workdir(folder, tree, kept):
        asked.append((folder, kept))
        raise WorkdirError("asked")

    monkeypatch.setattr(
        sys.modules[train.fit.__module__], "check_workdir", check_workdir
    )
    task = make_task(make_split(), probe=score)
    with pytest.raises(WorkdirError, match="asked"):
        fit(task, one_device, epochs=11, workdir=tmp_path, **options)
    assert asked == [(tmp_path / "seed0", kept)]
