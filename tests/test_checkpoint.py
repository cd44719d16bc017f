"""Checkpoints that are damaged, or not of what is asked for, say where they lie."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_tasks import fit, make_split, make_task

from vnets import checkpoint, train
from vnets.checkpoint import Checkpoints, DamagedError
from vnets.nodes import Gaussian, Point

ONES = jnp.ones((3, 4), jnp.float32)
TREE = {"dense": {"kernel": Gaussian(ONES, ONES)}, "step": jnp.int32(3)}


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(2, TREE, [{"epoch": 1}, {"epoch": 2}])
    checkpoints.close()
    return tmp_path / "run"


def files(folder, part=""):
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if part in str(path.relative_to(folder))]


def cut(folder):
    for path in files(folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(folder):
    for path in files(folder, "/d/"):
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def lost(folder):
    for path in files(folder, "/d/"):
        path.unlink()


def unnamed(folder):
    for path in files(folder, "_METADATA"):
        path.unlink()


def foreign(folder):
    for path in files(folder):
        path.unlink()
    (folder / "2" / "model.pt").write_text("of another library")


# TensorStore leaves what it began.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("harm", [cut, flipped, lost, unnamed, foreign])
def test_a_damaged_checkpoint_is_named(folder, harm):
    harm(folder)
    with pytest.raises(ValueError, match=f"checkpoint {folder}/2 is damaged, or of"):
        checkpoint.latest(folder, TREE)


OTHERS = {
    "wider": TREE | {"dense": {"kernel": Gaussian(jnp.ones((3, 5)), ONES)}},
    "a node less": TREE | {"dense": {"kernel": Point(ONES)}},
    "a layer more": TREE | {"dense2": {"kernel": Point(ONES)}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_net_is_named(folder, name):
    words = f"checkpoint {folder}/2 is .* of another net or optimizer: "
    with pytest.raises(ValueError, match=words) as raised:
        checkpoint.latest(str(folder), OTHERS[name])
    assert len(str(raised.value)) < 600
    restored = checkpoint.latest(folder, TREE)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, TREE))


def test_a_run_does_not_go_on_from_another_ones_checkpoint(one_device, tmp_path):
    task, workdir = make_task(make_split()), tmp_path / "run"
    checkpoints = Checkpoints(workdir / "seed0" / train.early.LAST)
    checkpoints.save(1, task.begin({"w": ONES}, {}))
    checkpoints.close()
    with pytest.raises(ValueError, match=f"checkpoint {workdir}/seed0/.*/1 is damaged"):
        fit(task, one_device, workdir=workdir)


def restored(folder):
    return checkpoint.latest(folder, TREE)


def fifo(path):
    path.unlink()
    os.mkfifo(path)


HARMS = {
    "a bit": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 1, *path.read_bytes()[1:]])
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "lost": lambda path: path.unlink(),
    "a fifo": fifo,
}


@pytest.mark.parametrize("harm", HARMS)
def test_whichever_file_is_damaged_is_named(folder, harm):
    names = [path.relative_to(folder / "2") for path in files(folder)]
    assert len(names) > 5
    shutil.copytree(folder, folder.with_name("whole"))
    for name in map(str, names):
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name("whole"), folder)
        HARMS[harm](folder / "2" / name)
        if (harm, name) == ("lost", checkpoint.SUMS):
            continue  # as one of before there were any
        with pytest.raises(DamagedError) as raised:
            restored(folder)
        assert str(folder / "2") in str(raised.value)
        assert f"file {name} " in str(raised.value) or name == checkpoint.SUMS


def test_a_file_that_was_not_written_is_named(folder):
    (folder / "2" / "more").touch()
    with pytest.raises(DamagedError, match="file more is not listed in SHA256SUMS"):
        restored(folder)


def test_an_empty_checkpoint_is_named(folder):
    shutil.rmtree(folder / "2")
    (folder / "2").mkdir()
    with pytest.raises(DamagedError, match=f"{folder}/2 .*: its folder is empty"):
        restored(folder)


def test_a_checkpoint_of_before_there_were_checksums_is_restored(folder, caplog):
    for name in (checkpoint.SUMS, checkpoint.ROWS):
        (folder / "2" / name).unlink()
    for _ in range(2):
        assert jax.tree.all(jax.tree.map(np.array_equal, restored(folder), TREE))
    assert caplog.text.count("damage would not be noticed") == 1
    checkpoints = Checkpoints(folder)
    assert checkpoints.rows(2) is None
    checkpoints.close()
    with pytest.raises(ValueError, match="another net") as raised:
        checkpoint.latest(folder, OTHERS["wider"])
    assert not isinstance(raised.value, DamagedError)
    flipped(folder)
    with pytest.raises(DamagedError):
        restored(folder)


def test_the_rows_of_a_checkpoint_come_back(tmp_path):
    rows = [{"epoch": 1, "loss": float("inf")}, {"epoch": 2, "loss": 0.1 + 0.2}]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, TREE, rows)
    assert checkpoints.rows(2) == rows
    checkpoints.close()
