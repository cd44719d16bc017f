"""Whatever is damaged in a workdir, a run ends as if nothing was, and says so."""

import functools
import json
import shutil
import types

import jax
import numpy as np
import pytest
import train_tasks
from claims import every
from train_tasks import make_split, make_task

from experiments import core, running
from experiments.config_files import load_config
from vnets import checkpoint, monitor, train
from vnets.files import FileError
from vnets.train.early import BEST, LAST

EPOCHS, BEHIND = 5, 3
fit = functools.partial(train_tasks.fit, chunk_steps=1)


@pytest.fixture(scope="module")
def task():
    return make_task(make_split())


@pytest.fixture(scope="module")
def whole(task, one_device):
    [result] = fit(task, one_device, epochs=EPOCHS)
    return result


@pytest.fixture(scope="module")
def begun(task, one_device, tmp_path_factory):
    """A workdir with three of five epochs; not to be changed."""
    folder = tmp_path_factory.mktemp("begun")
    fit(
        task,
        one_device,
        epochs=BEHIND,
        checkpoint_seconds=0.0,
        workdir=lambda _: folder,
    )
    return folder


@pytest.fixture
def folder(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def values(rows):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def equal(one, other):
    assert jax.tree.all(jax.tree.map(np.array_equal, one.state, other.state))
    assert values(one.history) == values(other.history)


def go_on(task, one_device, folder, whole):
    """To the end; what came of it is as if nothing had been."""
    [result] = fit(task, one_device, epochs=EPOCHS, workdir=lambda _: folder)
    equal(result, whole)
    lines = (folder / monitor.METRICS).read_text().splitlines()
    assert values(map(json.loads, lines)) == values(whole.history)
    return result


def damage(checkpoint):
    [data, *_] = sorted(path for path in checkpoint.rglob("d/*") if path.is_file())
    data.write_bytes(data.read_bytes()[:-1] + b"?")


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def test_without_damage_nothing_is_noted(task, one_device, folder, whole):
    assert go_on(task, one_device, folder, whole).notes == []


@pytest.mark.parametrize("harm", [damage, empty])
@pytest.mark.parametrize(
    ("epochs", "back"), [([3], "epoch 2"), ([2, 3], "the start")], ids=["newest", "all"]
)
def test_the_checkpoint_before_a_damaged_one_is_taken(
    task, one_device, folder, whole, caplog, harm, epochs, back
):
    for epoch in epochs:
        harm(folder / LAST / str(epoch))
    notes = go_on(task, one_device, folder, whole).notes
    assert len(notes) == len(epochs)
    assert notes[0].startswith(f"checkpoint {LAST}/3 is damaged: its f")
    assert notes[-1].endswith(f"training goes on from {back}")
    assert every(f"{folder}: {note}" in caplog.text for note in notes)
    # They stay for the record, however often it is called again.
    assert go_on(task, one_device, folder, whole).notes == notes


def test_one_seed_of_several_takes_the_others_back(one_device, task, tmp_path):
    options = {"seeds": [0, 1], "vectorize": True, "checkpoint_seconds": 0.0}
    wanted = fit(task, one_device, epochs=EPOCHS, **options)
    fit(task, one_device, epochs=BEHIND, workdir=tmp_path, **options)
    damage(tmp_path / "seed1" / LAST / "3")
    found = fit(task, one_device, epochs=EPOCHS, workdir=tmp_path, **options)
    for one, other in zip(found, wanted, strict=True):
        equal(one, other)
    assert found[0].notes[0] == f"seed1: {found[1].notes[0]}"


def test_a_damaged_state_inside_an_epoch_is_given_up(task, one_device, folder, whole):
    asked = iter([False, False, True])
    with pytest.raises(train.Preempted, match="in epoch 4 after 2 of 5"):
        fit(
            task,
            one_device,
            epochs=EPOCHS,
            workdir=lambda _: folder,
            stop=lambda: next(asked),
        )
    [state] = (folder / train.INSIDE).iterdir()
    damage(state)
    [note] = go_on(task, one_device, folder, whole).notes
    assert note.startswith(f"checkpoint {train.INSIDE}/{state.name} is damaged: ")
    assert note.endswith("goes on from epoch 3")


def test_a_damaged_best_state_is_made_again(one_device, tmp_path):
    scores = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.2, 5: 0.3}

    def probe(params, collections, key):
        return {"score": scores[next(epochs)]}

    task = make_task(make_split(), probe=probe)
    options = {"early_stopping": train.EarlyStopping("score", 9)}
    epochs = iter(range(1, 9))
    [whole] = fit(task, one_device, epochs=EPOCHS, **options)
    options |= {"workdir": lambda _: tmp_path, "checkpoint_seconds": 0.0}
    epochs = iter(range(1, 9))
    fit(task, one_device, epochs=4, **options)
    damage(tmp_path / BEST / "3")
    shutil.rmtree(tmp_path / LAST / "3")
    epochs = iter(range(1, 9))  # both checkpoints come after it: from the start
    [result] = fit(task, one_device, epochs=EPOCHS, **options)
    equal(result, whole)
    assert result.notes[0].startswith(f"checkpoint {BEST}/3 is damaged: its file")


ROWS = {
    "emptied": lambda lines: [],
    "cut": lambda lines: [*lines[:-1], lines[-1][:20]],
    "garbled": lambda lines: [lines[0], "?" * 40 + "\n", *lines[2:]],
    "changed": lambda lines: [line.replace('"loss": ', '"loss": 9') for line in lines],
    "a gap": lambda lines: [lines[0], *lines[2:]],
    "twice": lambda lines: [*lines, lines[-1]],
}


@pytest.mark.parametrize("harm", ROWS)
def test_rows_come_from_the_checkpoint(task, one_device, folder, whole, harm):
    path = folder / monitor.METRICS
    path.write_text("".join(ROWS[harm](path.read_text().splitlines(keepends=True))))
    go_on(task, one_device, folder, whole)


def old(folder):
    """Makes of its checkpoints some of before they had checksums and rows."""
    for name in (checkpoint.SUMS, checkpoint.ROWS):
        for path in list(folder.rglob(name)):
            path.unlink()


def test_a_workdir_of_before_is_resumed(task, one_device, folder, whole):
    old(folder)
    assert go_on(task, one_device, folder, whole).notes == []


@pytest.mark.parametrize("harm", ["emptied", "cut", "garbled", "a gap"])
def test_a_workdir_of_before_needs_its_rows(task, one_device, folder, whole, harm):
    old(folder)
    path = folder / monitor.METRICS
    path.write_text("".join(ROWS[harm](path.read_text().splitlines(keepends=True))))
    with pytest.raises(FileError, match=rf"{path} (is damaged|has \d rows of 3)"):
        go_on(task, one_device, folder, whole)


def test_a_log_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / monitor.METRICS
    path.write_text('{"epoch": 1}\n')

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor.files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        monitor.Log(tmp_path, [{"epoch": 1}, {"epoch": 2}], tensorboard=False)
    assert path.read_text() == '{"epoch": 1}\n'


def test_the_record_tells_what_was_noted(tmp_path, monkeypatch):
    config = load_config("configs/lenet5_mnist.py:variance,quick")
    stub = types.SimpleNamespace(
        start=None,
        task=None,
        early_stopping=None,
        dataset=None,
        evaluations=lambda *_: core.Measured({}),
    )
    state = train.TrainState({}, types.SimpleNamespace(collections={}), (), np.True_)
    notes = ["checkpoint checkpoints/3 is damaged: ..."]
    fitted = [train.Result(0, state, [], None, 0.0, notes)]
    monkeypatch.setattr(core, "build", lambda config: stub)
    monkeypatch.setattr(train, "fit", lambda *_, **__: fitted)
    records = running.run(config, "configs/x.py:y", lambda _: tmp_path / "run", [0])
    assert records[0]["notes"] == notes
    fitted[0].notes.clear()
    records = running.run(config, "configs/x.py:y", lambda _: tmp_path / "other", [0])
    assert "notes" not in records[0]
