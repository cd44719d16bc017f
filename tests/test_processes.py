"""Laws of the processes: their number changes no result, and a kill loses no run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import preemption
from tests import cluster_run
from tests.waiting import HANG
from vnets import parallel
from vnets.parallel import processes

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = ("OMPI_", "SLURM_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JOB_COMPLETION")
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment(devices):
    """This one's, with another number of fake devices and no launcher."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    count = "--xla_force_host_platform_device_count"
    flags = env["XLA_FLAGS"].split()
    flags = [flag for flag in flags if not flag.startswith(count)]
    env["XLA_FLAGS"] = " ".join([*flags, f"{count}={devices}"])
    return env


def start(arguments, devices=1, **variables):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(devices) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(started):
    """Waits; returns exit codes and what was printed."""
    try:
        ended = [one.communicate(timeout=HANG) for one in started]
    finally:
        for one in started:
            one.kill()
    return [one.returncode for one in started], ended


def two(folder, kind, devices=1, dies_at=None):
    """Two processes that train together; the second may kill itself."""
    folder.mkdir(exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    common = ["-m", "tests.cluster_run", str(folder), kind, address, "2"]
    dies = [] if dies_at is None else [str(dies_at)]
    return finish(
        [start([*common, "0"], devices), start([*common, "1", *dies], devices)]
    )


def assert_same_run(found, expected):
    assert found["draw"] == expected["draw"]
    for one, other in zip(found["histories"], expected["histories"], strict=True):
        assert [row["epoch"] for row in one] == [row["epoch"] for row in other]
        for row, wanted in zip(one, other, strict=True):
            for name in set(wanted) - {"seconds", "probe_seconds"}:
                assert row[name] == pytest.approx(wanted[name], rel=1e-5), name
    for one, other in zip(found["params"], expected["params"], strict=True):
        for leaf, wanted in zip(one, other, strict=True):
            np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_after_a_kill(one_device, tmp_path):
    whole = cluster_run.main(tmp_path / "one", "streamed", one_device)
    assert whole["rows"] == [(0, cluster_run.BATCH)]
    folder = tmp_path / "two"
    codes, (first, _) = two(folder, "streamed", dies_at=3)
    assert codes == [1, -signal.SIGKILL], first
    # The kill came before the third epoch was saved, and so before its row.
    log = folder / str(cluster_run.SEEDS[0]) / "metrics.jsonl"
    assert len(log.read_text().splitlines()) == 2
    codes, ended = two(folder, "streamed")
    assert codes == [0, 0], ended
    half = cluster_run.BATCH // 2
    rows = ([[0, half]], [[half, 2 * half]])
    for number in (0, 1):
        found = json.loads((folder / f"{number}.json").read_text())
        assert found["rows"] == rows[number]
        assert found["epochs"] == cluster_run.EPOCHS - 2, "not resumed"
        assert_same_run(found, whole)
    lines = log.read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resident", "seeds"])
def test_two_processes_of_two_devices_train_as_one(kind, one_device, tmp_path):
    whole = cluster_run.main(tmp_path / "one", kind, one_device)
    codes, ended = two(tmp_path / "two", kind, devices=2)
    assert codes == [0, 0], ended
    for number in (0, 1):
        found = json.loads((tmp_path / "two" / f"{number}.json").read_text())
        assert_same_run(found, whole)


def script(folder, epochs=8):
    """Arguments of a small run."""
    small = (
        "--config.model={'name': 'mlp', 'widths': (8,), "
        "'posteriors': {'dense1': {'kind': 'variance'}}}"
    )
    return [
        "scripts/train.py",
        "--config=configs/lenet5_mnist.py:variance,quick",
        small,
        f"--config.epochs={epochs}",
        "--config.batch_size=48",
        "--checkpoint_seconds=0",
        f"--workdir={folder}",
    ]


def two_scripts(folder):
    """The run by two processes: SLURM's variables in place of two of three flags."""
    flags = (f"--coordinator=127.0.0.1:{free_port()}", f"--connect_seconds={HANG}")
    slurm = SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
    return [
        start([*script(folder), *flags], **slurm | {"SLURM_PROCID": str(number)})
        for number in (0, 1)
    ]


def interrupt_second(folder, number):
    """Starts the two, and sends the second a signal once an epoch is logged."""
    started = two_scripts(folder)
    log = folder / "metrics.jsonl"
    while all(one.poll() is None for one in started) and not (
        log.exists() and log.read_bytes()
    ):
        time.sleep(0.05)
    started[1].send_signal(number)
    return finish(started)


@pytest.fixture(scope="module")
def one_script(tmp_path_factory):
    """The record of the run by one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    codes, ended = finish([start(script(folder))])
    assert codes == [0], ended
    return json.loads((folder / "record.json").read_text())


def assert_same_record(folder, one):
    other = json.loads((folder / "record.json").read_text())
    assert one["config_hash"] == other["config_hash"]
    assert [row["epoch"] for row in other["history"]] == list(range(1, 9))
    for row, wanted in zip(other["history"], one["history"], strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    for name, metrics in one["evals"].items():
        assert other["evals"][name]["nll"] == pytest.approx(metrics["nll"], rel=1e-4)


@pytest.mark.slow
def test_the_script_writes_and_prints_once_and_resumes(one_script, tmp_path):
    """A survivor ends."""
    folder = tmp_path / "two"
    codes, _ = interrupt_second(folder, signal.SIGKILL)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    codes, ((out, err), (silent, _)) = finish(two_scripts(folder))
    assert codes == [0, 0], err
    assert "Record:" in out
    assert "Record:" not in silent  # gloo itself prints a line there
    assert_same_record(folder, one_script)


@pytest.mark.slow
def test_a_process_that_is_to_end_takes_the_other_along(one_script, tmp_path):
    """One scheduler's SIGTERM to one host: both save, and ask to be queued again."""
    folder = tmp_path / "two"
    codes, ended = interrupt_second(folder, signal.SIGTERM)
    assert codes == [preemption.REQUEUE] * 2, ended
    assert not (folder / "record.json").exists()
    codes, ended = finish(two_scripts(folder))
    assert codes == [0, 0], ended
    assert_same_record(folder, one_script)


def test_a_coordinator_out_of_reach_is_an_error_in_time(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    flags = ("--processes=2", "--process_id=1", "--connect_seconds=2")
    [code], [(_, err)] = finish(
        [
            start(
                [
                    "scripts/train.py",
                    "--config=configs/lenet5_mnist.py:variance,quick",
                    f"--workdir={tmp_path / 'run'}",
                    f"--coordinator={address}",
                    *flags,
                ]
            )
        ]
    )
    assert code == 1
    assert "process 1: not all 2 processes were there after 2 seconds" in err
    assert f"the coordinator {address} is out of reach" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_wrong_number_of_processes_is_an_error():
    """One of them was told of another number."""
    address = f"127.0.0.1:{free_port()}"

    def join(processes, number, then):
        code = (
            "import time\n"
            "from vnets import parallel\n"
            "try:\n"
            f"    given = '{address}', {processes}, {number}\n"
            f"    parallel.initialize(*given, timeout={HANG})\n"
            "except parallel.ClusterError as error:\n"
            "    print(error)\n"
            f"{then}\n"
            "parallel.abandon(0)\n"
        )
        return start(["-c", code])

    coordinator = join(2, 0, f"time.sleep({HANG})")
    try:
        codes, ended = finish([join(3, 1, "")])
    finally:
        coordinator.kill()
        coordinator.communicate()
    assert codes == [0], ended
    assert "process 1 was told of 3 processes, there are 2" in ended[0][0]


@pytest.fixture
def launched(monkeypatch):
    """launched(variables): the environment that a launcher makes; calls are caught."""
    for name in os.environ:
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(processes, "_connect", lambda *given: calls.append(given[:3]))

    def launch(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return calls

    return launch


OMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (SLURM | {"SLURM_NTASKS": "2"}, (None, 2, 1)),
        (OMPI, (None, 4, 2)),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, (None, 4, None)),
        ({"TPU_ML_PLATFORM": "JAX"}, (None, None, None)),
        (KUBERNETES, (None, None, None)),
    ],
)
def test_launchers_are_recognized(launched, variables, expected):
    calls = launched(variables)
    parallel.initialize()
    assert calls == [expected]
    parallel.initialize("host:1", 8, 3)
    assert calls[1:] == [("host:1", 8, 3)]
    parallel.initialize(processes=1)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "variables",
    [
        {},
        SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        # An interactive step of a larger job, and a batch script without `srun`.
        SLURM | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_one_process_stays_alone(launched, variables):
    calls = launched(variables)
    parallel.initialize()
    assert not calls
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", 2, None), "process_id must be given too"),
        ((None, 2, None), "coordinator and process_id must be given too"),
        (("host:1", 2, 2), "at least 0 and at most 1, not 2"),
        (("host", 2, 0), "host:port, not 'host'"),
        ((None, 0, None), "processes must be at least 1, not 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(launched, arguments, message):
    launched({})
    with pytest.raises(ValueError, match=message):
        parallel.initialize(*arguments)


def test_alone_each_does_everything():
    assert parallel.is_first()
    assert parallel.once(lambda: [1]) == [1]
    assert parallel.after_first(lambda: "x") == "x"
    parallel.same("nothing", 1, "unused")
    with pytest.raises(KeyError):
        parallel.once(lambda: {}["x"])
