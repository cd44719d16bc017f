"""Checkpoints that are damaged, or not of what is asked for, say where they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_tasks import fit, make_split, make_task

from vnets import checkpoint, train
from vnets.checkpoint import Checkpoints
from vnets.posteriors import Gaussian, Point

ONES = jnp.ones((3, 4), jnp.float32)
TREE = {"dense": {"kernel": Gaussian(ONES, ONES)}, "step": jnp.int32(3)}


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(2, TREE)
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
