"""Damages of every file of a newest checkpoint: none passes in silence."""

import shutil

import jax
import numpy as np
import pytest
from attack.damage import WAYS
from attack.sizes import some
from claims import every
from train_tasks import fit, make_split, make_task

from vnets import monitor
from vnets.checkpoint import SUMS, Checkpoints, DamagedError
from vnets.train.early import LAST

pytestmark = pytest.mark.slow

DAMAGES = some(400)
RESUMED = some(400, every=20)  # which are trained to the end
EPOCHS, BEHIND = 4, 3


@pytest.fixture(scope="module")
def task():
    return make_task(make_split())


@pytest.fixture(scope="module")
def whole(task, one_device):
    [result] = fit(task, one_device, epochs=EPOCHS)
    return result


@pytest.fixture(scope="module")
def begun(task, one_device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    kwargs = {"checkpoint_seconds": 0.0, "workdir": lambda _: folder}
    fit(task, one_device, epochs=BEHIND, **kwargs)
    return folder


def content(folder, like):
    """What the newest checkpoint gives: its state and rows."""
    checkpoints = Checkpoints(folder / LAST)
    try:
        state = checkpoints.restore(BEHIND, like)
        return jax.tree.leaves(state), checkpoints.rows(BEHIND)
    finally:
        checkpoints.close()


def damaged(begun, folder, number):
    """A copy of the workdir with damage of this number; says what it is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(begun, folder)
    newest = folder / LAST / str(BEHIND)
    names = sorted(x.relative_to(newest) for x in newest.rglob("*") if x.is_file())
    way = WAYS[number // len(names) % len(WAYS)]
    name = names[number % len(names)]
    before = (newest / name).read_bytes()
    way(newest / name, np.random.default_rng(number))
    path = newest / name
    same = path.is_file() and path.read_bytes() == before  # a cut of nothing, say
    return str(name), way.__name__, same


# TensorStore leaves what it began.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_of_a_checkpoint_is_silent(begun, whole, tmp_path):
    state, rows = content(begun, whole.state)
    silent, unnamed, noticed = [], [], 0
    for number in DAMAGES:
        name, way, same = damaged(begun, tmp_path / "run", number)
        try:
            found, found_rows = content(tmp_path / "run", whole.state)
        except DamagedError as error:
            noticed += 1
            if f"{LAST}/{BEHIND}" not in str(error) or name not in str(error):
                unnamed.append((number, name, way, str(error)))
            continue
        unchanged = all(map(np.array_equal, found, state))
        # Without its checksums a checkpoint is one of before: that is said, and it is
        # the same.
        told = same or (name == SUMS and way == "lose" and found_rows is None)
        if not (unchanged and told and (found_rows is None or found_rows == rows)):
            silent.append((number, name, way))
    assert silent == []
    assert noticed > 0.9 * len(DAMAGES)
    # Whatever is in it, a damaged list of checksums names another file at times.
    assert [x for x in unnamed if x[1] != SUMS] == []


def test_after_a_damage_a_run_ends_as_if_there_were_none(
    begun, task, whole, one_device, tmp_path
):
    folder = tmp_path / "run"
    for number in RESUMED:
        what = damaged(begun, folder, number)
        [result] = fit(task, one_device, epochs=EPOCHS, workdir=lambda _: folder)
        assert every(
            map(
                np.array_equal,
                jax.tree.leaves(result.state),
                jax.tree.leaves(whole.state),
            )
        ), what
        losses = [[row["loss"] for row in one.history] for one in (result, whole)]
        assert losses[0] == losses[1], what
        assert len(monitor.read(folder / monitor.METRICS)) == EPOCHS, what
        assert result.notes or what[2] or what[:2] == (SUMS, "lose"), what
