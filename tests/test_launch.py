"""Launches on this machine: bounded, on devices of their own; killed, run again."""

import itertools
import json
import os
import re
import signal
import sys
import time

import pytest
from claims import every

from experiments.launch import local
from experiments.launch.plan import Run
from experiments.preemption import REQUEUE
from experiments.records import read
from tests.launches import TRAINED, children, launch, records
from tests.waiting import HANG
from vnets import train


def runs_of(count):
    return [Run("x.py:a", "quick", seed) for seed in range(count)]


def scripted(body):
    """A command for `local.run`: Python without site-packages, in milliseconds."""

    def command(run, home):
        start = (
            f"import os, signal, sys, time; seed, home = {run.seed}, {str(home)!r}\n"
        )
        return [sys.executable, "-S", "-c", start + body]

    return command


def never():
    return False


def test_at_most_so_many_run_at_once_each_on_cores_of_its_own(tmp_path):
    body = (
        "began = time.monotonic(); time.sleep(0.3)\n"
        "cores = sorted(os.sched_getaffinity(0))\n"
        "print(began, time.monotonic(), *cores)"
    )
    todo = dict.fromkeys(runs_of(5), ())
    outcome = local.run(todo, tmp_path, 2, never, scripted(body))
    assert sorted(outcome.done, key=lambda run: run.seed) == list(todo)
    spans = []
    for run in todo:
        lines = (run.folder(tmp_path) / local.LOG).read_text().splitlines()
        assert lines[0].startswith("$ ")
        began, ended, *cores = lines[-1].split()
        spans.append((float(began), float(ended), set(cores)))
    for moment, _, _ in spans:
        now = [cores for began, ended, cores in spans if began <= moment < ended]
        assert len(now) <= 2
        if len(now) == 2 and len(os.sched_getaffinity(0)) > 1:
            assert not now[0] & now[1]


def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path, capsys):
    failing, needy, other, stopped, last = runs_of(5)
    todo = {failing: (), needy: (failing,), other: (), stopped: (), last: (needy,)}
    body = f"print('why'); sys.exit({{0: 3, 3: {REQUEUE}}}.get(seed, 0))"
    outcome = local.run(todo, tmp_path, 2, never, scripted(body))
    assert (outcome.done, outcome.failed) == ([other], [failing])
    assert set(outcome.left) == {needy, stopped, last}
    out = capsys.readouterr().out
    assert f"failed   {failing}: exit code 3: why" in out
    assert f"left     {needy}: it needs {failing}" in out
    assert not needy.folder(tmp_path).exists()


def test_what_needs_another_waits_for_it(tmp_path):
    net, study = runs_of(2)
    body = (
        "path = os.path.join(home, 'net')\n"
        "if seed: sys.exit(not os.path.exists(path))\n"
        "time.sleep(0.3); open(path, 'w')"
    )
    outcome = local.run({net: (), study: (net,)}, tmp_path, 2, never, scripted(body))
    assert outcome.done == [net, study]


def test_a_stop_is_passed_on_and_waited_for(tmp_path):
    body = (
        f"end = lambda *_: (time.sleep(0.3), sys.exit({REQUEUE}))\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(os.path.join(home, f'ready{seed}'), 'w'); time.sleep(999)"
    )
    todo = dict.fromkeys(runs_of(4), ())

    def stop():
        return len(list(tmp_path.glob("ready*"))) == 2

    began = time.monotonic()
    outcome = local.run(todo, tmp_path, 2, stop, scripted(body))
    assert set(outcome.left) == set(todo)
    assert len(outcome.left) == 4
    assert time.monotonic() - began < 600


@pytest.mark.parametrize(
    ("count", "processes"), [*itertools.product((1, 3, 8), (1, 2, 5))]
)
def test_devices_are_shared_out_whole(count, processes):
    devices = list(range(count))
    shares = [local.share(devices, slot, processes) for slot in range(processes)]
    assert every(shares)
    if processes <= count:
        assert sorted(itertools.chain.from_iterable(shares)) == devices
    else:
        assert every(share == devices for share in shares)


def test_gpus_are_dealt_out_or_shared(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert local.default_processes() == 3
    assert local._environment(1, 2) == {"CUDA_VISIBLE_DEVICES": "6"}
    assert local._environment(4, 6) == {
        "CUDA_VISIBLE_DEVICES": "6",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450",
    }
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert local._environment(0, 2) == {}


@pytest.mark.slow
def test_killed_halfway_and_launched_again_repeats_nothing(
    sweep_file, environment, tmp_path
):
    home = tmp_path / "runs"
    arguments = (
        f"--config={sweep_file}",
        "--seeds=2",
        f"--runs={home}",
        "--processes=2",
    )
    process = launch(environment, *arguments)
    while process.poll() is None and len(records(home)) < 3:
        time.sleep(0.02)
    for one in (process.pid, *children(process.pid)):
        os.kill(one, signal.SIGKILL)
    process.communicate()
    before = records(home)
    assert 3 <= len(before) < 6
    process = launch(environment, *arguments)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 0, out + err
    after = records(home)
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    assert len(re.findall("^started ", out, re.MULTILINE)) == 6 - len(before)
    assert f"{6 - len(before)} done, 0 failed, 0 left" in out
    names = {"log_uniform", "log_uniform_2016", "ard"}
    assert {(read(p)["variant"], read(p)["seed"]) for p in after} == set(
        itertools.product(names, (0, 1))
    )


@pytest.mark.slow
def test_stopped_launched_again_and_uninterrupted_are_the_same(environment, tmp_path):
    """Ctrl-C in the middle: all save, exit 75; the second launch goes on from there."""
    file = tmp_path / "trained.py"
    file.write_text(TRAINED)

    def arguments(name):
        home = tmp_path / name
        return (f"--config={file}", "--seeds=2", f"--runs={home}", "--processes=2")

    cut = tmp_path / "cut"
    process = launch(environment, *arguments("cut"))
    while process.poll() is None:
        logs = [path.read_bytes() for path in cut.rglob("metrics.jsonl")]
        if len(logs) >= 2 and all(logs):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == REQUEUE, out + err
    assert not records(cut)
    assert "0 done, 0 failed, 6 left" in out
    saved = [*cut.rglob(f"{train.INSIDE}/*"), *cut.rglob("checkpoints/*")]
    assert saved
    for name in ("cut", "whole"):
        process = launch(environment, *arguments(name))
        out, err = process.communicate(timeout=HANG)
        assert process.returncode == 0, out + err
        assert "6 done, 0 failed, 0 left" in out
    for path in records(cut):
        whole = tmp_path / "whole" / path.relative_to(cut)
        assert read(path)["evals"] == read(whole)["evals"]
        logs = [one.with_name("metrics.jsonl") for one in (path, whole)]
        a, b = ([json.loads(x) for x in log.read_text().splitlines()] for log in logs)
        for row, other in zip(a, b, strict=True):
            assert {k: v for k, v in row.items() if "seconds" not in k} == {
                k: v for k, v in other.items() if "seconds" not in k
            }
