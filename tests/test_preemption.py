"""Signals as requests: when they wait, that a second one does not; workdirs held."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import cli, core, running, workdirs
from experiments.config_files import load_config
from experiments.preemption import REQUEUE, Preemption
from vnets import sources, train
from vnets.checkpoint import WorkdirError
from vnets.train import Preempted

ROOT = Path(__file__).resolve().parents[1]
ME = os.getpid()


def test_outside_of_training_a_signal_raises_where_it_arrives():
    before = signal.getsignal(signal.SIGTERM)
    stop = Preemption(signal.SIGTERM)
    with pytest.raises(Preempted, match="SIGTERM"), stop:
        os.kill(ME, signal.SIGTERM)
    assert stop.received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before


def test_inside_it_waits_to_be_asked():
    asked = []

    def training():
        asked.append(stop())
        os.kill(ME, signal.SIGTERM)
        os.kill(ME, signal.SIGUSR2)  # another signal is no second one
        asked.append(stop())

    with Preemption(signal.SIGTERM, signal.SIGUSR2) as stop:
        with pytest.raises(Preempted, match="SIGTERM, SIGUSR2"), stop.deferred():
            training()
        # An error of the block itself is not replaced.
        with pytest.raises(ValueError, match="mine"), stop.deferred():
            raise ValueError("mine")
    assert asked == [False, True]


def test_an_exception_is_no_place_for_it_to_get_lost():
    def careless():
        try:
            os.kill(ME, signal.SIGTERM)
        except Exception:
            return

    with pytest.raises(Preempted), Preemption(signal.SIGTERM):
        careless()


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, sys, time\n"
        "from experiments.preemption import Preemption\n"
        "with Preemption(signal.SIGTERM) as stop, stop.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('waits', stop(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('not reached', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "waits True\n", done.stderr
    assert done.returncode == -signal.SIGTERM


def test_sigterm_in_an_epoch_saves_there_and_the_next_call_ends_as_if_never(
    tmp_path, one_device
):
    """The whole way: a real signal, while a batch is made; later runs are not told."""
    left = {(1, 3)}

    def batches(seed, epoch, rows):
        rng = np.random.default_rng((seed, epoch))
        for number in range(5):
            if (epoch, number) in left:
                left.clear()
                os.kill(ME, signal.SIGTERM)
            yield {"x": rng.normal(size=(4, 3)).astype(np.float32)[rows]}

    def loss(params, state, batch, key):
        noise = jax.random.normal(key, (3,), jnp.float32)
        value = jnp.mean(jnp.square(batch["x"] @ params["w"] - 1.0 + 0.1 * noise[0]))
        return value, (state, {"loss": value})

    task = train.Task(
        init=lambda key: ({"w": jax.random.normal(key, (3,), jnp.float32)}, {}),
        loss=loss,
        optimizer=optax.adam(0.1),
        source=sources.Streamed(batches, 20, 4),
    )

    def fit(name):
        with Preemption(signal.SIGTERM) as stop, stop.deferred():
            [result] = train.fit(
                task,
                epochs=3,
                seeds=[0],
                workdir=lambda seed: tmp_path / name,
                chunk_steps=1,
                stop=stop,
                mesh=one_device,
            )
        return result

    with pytest.raises(Preempted, match="in epoch 2 after 4 of 5 chunks"):
        fit("cut")
    resumed, whole = fit("cut"), fit("whole")
    assert resumed.state.params["w"].tolist() == whole.state.params["w"].tolist()
    losses = [[row["loss"] for row in one.history] for one in (resumed, whole)]
    assert losses[0] == losses[1]


def test_scripts_exit_with_the_code_that_requeues(monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(cli.app, "run", lambda main, **_: codes.append(main([])))

    def main(argv):
        raise Preempted("stopped after epoch 3")

    cli.run(main)
    assert codes == [REQUEUE] == [75]
    assert "stopped after epoch 3" in capsys.readouterr().err


def test_without_signals_it_listens_to_none():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as stop, stop.deferred():
        assert signal.getsignal(signal.SIGTERM) == before
        assert not stop()


def test_a_workdir_is_held_by_one_at_a_time(tmp_path, capfd):
    folders = [tmp_path / "a", tmp_path / "b"]
    order, inside = [], threading.Event()

    def hold():
        # In the other order: sorted, or the two would wait for one another.
        with workdirs.held(reversed(folders)):
            inside.set()
            time.sleep(0.2)
            order.append("first")

    first = threading.Thread(target=hold)
    first.start()
    inside.wait()
    with workdirs.held(folders):
        order.append("second")
    first.join()
    assert order == ["first", "second"]
    assert f"waiting for process {ME} on " in capfd.readouterr().out
    assert not any(folder.exists() for folder in folders)


def test_a_killed_process_holds_nothing(tmp_path):
    with workdirs.held([tmp_path / "run"]):
        pass
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a+')\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(999)"
    )
    words = [sys.executable, "-S", "-c", code, str(tmp_path / ".run.lock")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    process.stdout.readline()
    threading.Timer(0.2, process.kill).start()
    began = time.monotonic()
    with workdirs.held([tmp_path / "run"]):
        assert 0.1 < time.monotonic() - began < 300
    process.communicate()


def test_where_there_are_no_locks_it_says_so(tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise OSError(workdirs.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(workdirs.fcntl, "flock", refuse)
    with workdirs.held([tmp_path / "run"]):
        assert "no locks on this file system" in capfd.readouterr().err
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(WorkdirError, match="cannot hold"),
        workdirs.held([tmp_path / "file" / "run"]),
    ):
        pass


def test_two_that_want_the_same_run_run_it_once(tmp_path, monkeypatch):
    config = load_config("configs/kl_approximations.py:ard,quick")
    measured = []

    def measure(nets, key):
        del nets, key
        measured.append(threading.get_ident())
        time.sleep(0.2)
        return core.Measured({"kl": {"error": 0.5}})

    monkeypatch.setattr(core, "build", lambda config: core.Study({}, measure))
    records = []

    def run():
        records.extend(
            running.run(config, "x.py:ard", lambda s: tmp_path, [0]).values()
        )

    both = [threading.Thread(target=run) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(measured) == 1
    assert len(records) == 2
    assert records[0] == records[1]
