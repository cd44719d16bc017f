"""A run that is killed again and again, wherever it is, ends as if it never was."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from attack.sizes import some

from experiments import records
from vnets import monitor

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
KILLS = len(some(50))
LIMIT = 3600  # seconds, after which no more are tried: it hangs
ARGUMENTS = (
    "--config=configs/lenet5_mnist.py:variance,quick",
    "--config.model={'name': 'mlp', 'widths': (8,), "
    "'posteriors': {'dense1': {'kind': 'variance'}}}",
    "--config.probe.every=100",
    "--config.epochs=8",
    "--checkpoint_seconds=0",
)
TOUCHES = 400  # of the workdir, in which a kill falls
SECONDS = 3.0  # after the first of them


def start(environment, folder, at=0):
    program = [sys.executable, "tests/attack/killed.py", str(at), str(folder)]
    return subprocess.Popen(
        [*program, *ARGUMENTS, f"--workdir={folder}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def by_clock(environment, folder, rng):
    """Killed at some moment after it first wrote, if it has not ended by then."""
    process = start(environment, folder)
    marked = time.time()
    log = folder / monitor.METRICS
    while process.poll() is None:
        if log.exists() and log.stat().st_mtime > marked - 1.0:
            time.sleep(rng.uniform(0, SECONDS))
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    return process


def measured(folder):
    record = records.read(folder / "record.json")
    lines = (folder / monitor.METRICS).read_text().splitlines()
    rows = [
        {k: v for k, v in row.items() if "seconds" not in k}
        for row in map(json.loads, lines)
    ]
    return record["evals"], rows, record.get("notes")


def test_kills_change_nothing(environment, tmp_path):
    process = start(environment, tmp_path / "whole")
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    whole = measured(tmp_path / "whole")
    rng, began = np.random.default_rng(0), time.monotonic()
    kills = chains = tries = 0
    folder = tmp_path / "chain0"
    while kills < KILLS and time.monotonic() - began < LIMIT:
        tries += 1
        if tries % 2:
            process = start(environment, folder, int(rng.integers(1, TOUCHES)))
        else:
            process = by_clock(environment, folder, rng)
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode in (0, -signal.SIGKILL), err
        kills += process.returncode != 0
        if process.returncode == 0:
            assert measured(folder) == whole
            chains += 1
            folder = tmp_path / f"chain{chains}"
    process = start(environment, folder)  # the last chain, to its end
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert measured(folder) == whole
    left = [path.name for path in tmp_path.rglob("*.tmp")]
    assert left == []
    assert kills == KILLS, f"{kills} kills in {LIMIT} seconds"
