"""Laws of the status of a sweep: each state is seen as what it is."""

import json
import os

import pytest

from configs import lenet5_mnist
from experiments import workdirs
from experiments.config_files import load_config
from experiments.launch import plan, status
from tests.launches import launch
from vnets import monitor


@pytest.fixture
def runs(tmp_path):
    """Five seeds of one run, each in another state, and a sixth that was not begun."""
    found = plan.sweep("configs/lenet5_mnist.py:variance", "quick", range(6))
    epochs = load_config(found[0].which).epochs
    for run in found[:5]:
        run.folder(tmp_path).mkdir(parents=True)
    rows = [{"epoch": e, "seconds": 2.0, "probe_seconds": 1.0} for e in range(1, 4)]
    for run in found[2:4]:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (run.folder(tmp_path) / monitor.METRICS).write_text(text)
    return found, epochs


def records(monkeypatch, runs, home):
    """Makes the first run done, and the second a failure."""
    held = {
        runs[0].folder(home): {"status": "done", "wall_seconds": {"total": 100.0}},
        runs[1].folder(home): {"status": {"failed": "nan in epoch 2"}},
    }
    monkeypatch.setattr(workdirs, "held_record", lambda folder, _: held.get(folder))


def test_each_state_is_seen_and_the_time_left(tmp_path, runs, monkeypatch, capsys):
    found, epochs = runs
    records(monkeypatch, found, tmp_path)
    with workdirs.held([found[2].folder(tmp_path), found[4].folder(tmp_path)]):
        states = status.states(found, tmp_path)
        code = status.show(found, tmp_path)
    assert [states[run].name for run in found] == [
        "done",
        "failed",
        "running",
        "stopped",
        "running",
        "missing",
    ]
    left = 3.0 * (epochs - 3)
    assert [states[run].left for run in found] == [0, 0, left, left, None, 100.0]
    *lines, last = capsys.readouterr().out.splitlines()
    assert code == 1
    assert len(lines) == 5
    assert "nan in epoch 2" in lines[0]
    assert f"epoch 3/{epochs}" in lines[1]
    assert last.startswith("1 done, 2 running, 1 failed, 1 stopped, 1 missing; ")
    assert last.endswith("and 1 runs of unknown length")
    # Asking takes no lock: whoever wants the workdir has it at once.
    with workdirs.held([found[2].folder(tmp_path)]):
        pass
    assert status.states([found[2]], tmp_path)[found[2]].name == "stopped"


def test_the_command_runs_nothing(tmp_path):
    words = ("--config=configs/lenet5_mnist.py", f"--runs={tmp_path}", "--status")
    out, err = (process := launch(os.environ, *words)).communicate()
    assert process.returncode == 0, err
    missing = 3 * len(lenet5_mnist.VARIANTS)
    assert f"0 done, 0 running, 0 failed, 0 stopped, {missing} missing" in out
    assert not list(tmp_path.iterdir())
