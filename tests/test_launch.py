"""Launches: what is missing, in order, bounded; killed, launched again, submitted."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import workdirs
from experiments.build import ConfigError
from experiments.launch import LaunchError, local, plan, slurm
from experiments.launch.plan import Run
from experiments.preemption import REQUEUE
from experiments.table_specs import TableError
from vnets import results, train

ROOT = Path(__file__).resolve().parents[1]
# Configuring logging, as it is imported, submitit has absl close what pytest captures.
os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
# Six runs of a second, without training: three of these, two seeds each.
QUICK = """
from configs import kl_approximations, lenet5_mnist

SCALES = ("quick",)
VARIANTS = ("log_uniform", "log_uniform_2016", "ard")
sweep = lenet5_mnist.all_of(VARIANTS)


def get_config(which):
    config = kl_approximations.get_config(which)
    config.grid.update({"points": 5, "weights": 8, "rounds": 1})
    return config
"""
# Six that train; half of them start from others.
TRAINED = """
from configs import lenet5_mnist

SCALES = ("quick",)
VARIANTS = ("warm", "variance", "dropout")
sweep = lenet5_mnist.all_of(VARIANTS)
KINDS = {"dropout": {"kind": "dropout", "rate": 0.5}}


def get_config(which):
    variant, scale = lenet5_mnist.split(which, VARIANTS)
    config = lenet5_mnist.base(variant, scale)
    kind = KINDS.get(variant, {"kind": "variance"})
    config.model = {"name": "mlp", "widths": (8,), "posteriors": {"dense1": kind}}
    config.epochs, config.chunk_steps, config.probe.every = 200, 1, 100
    config.evals.columns = config.probe.columns = ("det",)
    if variant == "warm":
        start = {"run": f"{__file__}:variance", "edit": "nothing"}
        config.nets = {"start": start}
    return config
"""


@pytest.fixture
def quick(tmp_path):
    path = tmp_path / "quick.py"
    path.write_text(QUICK)
    return path


@pytest.fixture
def environment(tmp_path):
    hidden = {"XLA_FLAGS", "SUBMITIT_LOG_LEVEL"}
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return env | {"VNETS_CACHE_DIR": str(tmp_path / "no-cache")}


def launch(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "scripts/launch.py", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def inherit(environment, monkeypatch):
    """Gives what this process starts the environment of a user's shell."""
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def records(home):
    return {path: path.read_bytes() for path in Path(home).rglob("record.json")}


def children(pid):
    """Processes that a process started, and theirs."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    own = [int(one) for one in path.read_text().split()] if path.exists() else []
    return own + [one for child in own for one in children(child)]


# What is missing


def test_nets_come_before_what_starts_from_them(tmp_path):
    runs = plan.sweep("configs/uncertainty.py:deep_ensemble", "quick", range(2))
    todo = plan.missing(runs, tmp_path)
    order = list(todo)
    assert len(todo) == 2 + 10
    assert todo[runs[1]] == tuple(
        Run("configs/variance_lenet5.py:deterministic", "quick", k)
        for k in range(5, 10)
    )
    for run, needs in todo.items():
        assert all(order.index(need) < order.index(run) for need in needs)
    nets, studies = plan.stages(todo)
    assert set(studies) == set(runs)
    assert len(nets) == 10


def test_every_table_can_be_planned_at_each_of_its_scales(tmp_path):
    for scale in ("quick", "short", "paper"):
        runs = plan.tables("", scale, range(3))
        todo = plan.missing(runs, tmp_path)
        assert set(runs) <= set(todo)
        assert len(set(runs)) == len(runs)
        stages = plan.stages(todo)
        level = {run: k for k, stage in enumerate(stages) for run in stage}
        assert set(level) == set(todo)
        for run, needs in todo.items():
            assert all(level[need] < level[run] for need in needs)


def test_seeds_are_capped_as_in_the_table(tmp_path):
    del tmp_path
    runs = plan.tables("kl_approximations", "quick", range(3))
    assert {run.seed for run in runs} == {0}


@pytest.mark.parametrize(
    ("which", "scale", "words"),
    [
        ("configs/nope.py", "quick", ["nope.py", "configs/lenet5_mnist.py"]),
        ("configs", "quick", ["configs/lenet5_mnist.py"]),
        ("configs/lenet5_mnist.py:varience", "quick", ["varience", "variance_all"]),
        ("configs/lenet5_mnist.py", "tiny", ["tiny", "quick", "paper"]),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(which, scale, words):
    with pytest.raises(ConfigError) as caught:
        plan.sweep(which, scale, range(1))
    for word in words:
        assert word in str(caught.value)


def test_unknown_tables_are_answered_with_the_known():
    with pytest.raises(TableError, match=r"nope.*lenet5_mnist"):
        plan.tables("nope", "quick", range(1))


def test_a_changed_config_is_moved_aside_and_missing(quick, tmp_path):
    home = tmp_path / "runs"
    [run] = plan.sweep(f"{quick}:ard", "quick", range(1))
    folder = run.folder(home)
    folder.mkdir(parents=True)
    (folder / workdirs.CONFIG).write_text('{"config": {"other": 1}}')
    todo = plan.missing([run], home)
    plan.prepare(todo, home)
    assert list(todo) == [run]
    assert not folder.exists()
    assert len(list((home / "stale").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=configs/nope.py"], ["nope.py", "configs/rl.py"]),
        (
            ["--table=rl", "--gpus=2", "--partition=x"],
            ["--gpus", "--partition", "slurm"],
        ),
    ],
)
def test_wrong_calls_exit_with_2_and_write_nothing(
    environment, tmp_path, arguments, words
):
    process = launch(environment, *arguments, f"--runs={tmp_path / 'runs'}")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (tmp_path / "runs").exists()


# Here


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
        "open(os.path.join(home, f'ready{seed}'), 'w'); time.sleep(99)"
    )
    todo = dict.fromkeys(runs_of(4), ())

    def stop():
        return len(list(tmp_path.glob("ready*"))) == 2

    began = time.monotonic()
    outcome = local.run(todo, tmp_path, 2, stop, scripted(body))
    assert set(outcome.left) == set(todo)
    assert len(outcome.left) == 4
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("count", "processes"), [*itertools.product((1, 3, 8), (1, 2, 5))]
)
def test_devices_are_shared_out_whole(count, processes):
    devices = list(range(count))
    shares = [local.share(devices, slot, processes) for slot in range(processes)]
    assert all(shares)
    if processes <= count:
        assert sorted(itertools.chain.from_iterable(shares)) == devices
    else:
        assert all(share == devices for share in shares)


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


def test_killed_halfway_and_launched_again_repeats_nothing(
    quick, environment, tmp_path
):
    home = tmp_path / "runs"
    arguments = (f"--config={quick}", "--seeds=2", f"--runs={home}", "--processes=2")
    process = launch(environment, *arguments)
    while process.poll() is None and len(records(home)) < 3:
        time.sleep(0.02)
    for one in (process.pid, *children(process.pid)):
        os.kill(one, signal.SIGKILL)
    process.communicate()
    before = records(home)
    assert 3 <= len(before) < 6
    process = launch(environment, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    after = records(home)
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    assert len(re.findall("^started ", out, re.MULTILINE)) == 6 - len(before)
    assert f"{6 - len(before)} done, 0 failed, 0 left" in out
    names = {"log_uniform", "log_uniform_2016", "ard"}
    assert {
        (results.read(p)["variant"], results.read(p)["seed"]) for p in after
    } == set(itertools.product(names, (0, 1)))


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
    out, err = process.communicate(timeout=300)
    assert process.returncode == REQUEUE, out + err
    assert not records(cut)
    assert "0 done, 0 failed, 6 left" in out
    saved = [*cut.rglob(f"{train.INSIDE}/*"), *cut.rglob("checkpoints/*")]
    assert saved
    for name in ("cut", "whole"):
        process = launch(environment, *arguments(name))
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
        assert "6 done, 0 failed, 0 left" in out
    for path in records(cut):
        whole = tmp_path / "whole" / path.relative_to(cut)
        assert results.read(path)["evals"] == results.read(whole)["evals"]
        logs = [one.with_name("metrics.jsonl") for one in (path, whole)]
        a, b = ([json.loads(x) for x in log.read_text().splitlines()] for log in logs)
        for row, other in zip(a, b, strict=True):
            assert {k: v for k, v in row.items() if "seconds" not in k} == {
                k: v for k, v in other.items() if "seconds" not in k
            }


# On a cluster


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A PATH with SLURM's commands: sbatch keeps what it is given and counts jobs."""
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {
        "sbatch": 'n=$(ls | wc -l); cp "$1" $n; echo "Submitted batch job $((n+41))"',
        "squeue": "cat queue 2>/dev/null",
        "srun": "exit 1",
    }
    seen = tmp_path / "seen"
    seen.mkdir()
    for name, body in scripts.items():
        path = tools / name
        path.write_text(f"#!/bin/sh\ncd {seen} || exit 1\n{body}\nexit 0\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return seen


OPTIONS = {
    "time_limit": 90,
    "gpus": 2,
    "gpu_type": "a100",
    "cores": 6,
    "partition": "spot",
    "max_requeues": 4,
    "sbatch": ["account=us", "qos=low"],
}


def flags_of(path):
    lines = path.read_text().splitlines()
    words = [shlex.split(line)[1] for line in lines if line.startswith("#SBATCH ")]
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def test_slurm_gets_an_array_for_each_stage(cluster, tmp_path, capfd):
    home = tmp_path / "runs"
    runs = plan.sweep("configs/toy_four_classes.py:solutions", "quick", range(2))
    todo = plan.missing(runs, home)
    slurm.launch(todo, home, 3, OPTIONS, dry_run=False)
    first, second = (flags_of(path) for path in sorted(cluster.iterdir()))
    assert first["--array"] == "0-5%3"
    assert second["--array"] == "0-1%2"
    assert "--dependency" not in first
    assert second["--dependency"] == "afterany:41"
    for given in (first, second):
        assert given["--time"] == "90"
        assert given["--gpus-per-node"] == "a100:2"
        assert given["--cpus-per-task"] == "6"
        assert given["--partition"] == "spot"
        assert given["--account"] == "us"
        assert given["--qos"] == "low"
        assert given["--signal"] == f"USR2@{slurm.SIGNAL_SECONDS}"
        assert "--requeue" in given
    out = capfd.readouterr().out
    assert f"submitted {runs[1]}: job 42_1" in out
    # Launched again: what SLURM still has is left alone, the rest submitted.
    (cluster / "queue").write_text("".join(f"41_{k}\n" for k in range(6)) + "42_0\n")
    slurm.launch(todo, home, None, OPTIONS, dry_run=False)
    out = capfd.readouterr().out
    assert out.count("queued ") == 7
    assert out.count("submitted ") == 1
    assert "submitted " + str(runs[1]) in out
    assert flags_of(max(cluster.glob("[0-9]")))["--dependency"] == "afterany:41"
    # A job that runs out of time comes back so often.
    from submitit.core.utils import DelayedSubmission

    pickled = home / "slurm" / "41_0_submitted.pkl"
    delayed = DelayedSubmission.load(pickled)
    assert (delayed._timeout_min, delayed._timeout_countdown) == (90, 4)
    assert delayed.function.run in todo


def test_slurm_dry_run_needs_no_cluster_and_writes_nothing(quick, tmp_path, capsys):
    home = tmp_path / "runs"
    todo = plan.missing(plan.sweep(str(quick), "quick", range(2)), home)
    slurm.launch(todo, home, None, OPTIONS, dry_run=True)
    assert capsys.readouterr().out.count("array 1: ") == 6
    assert not home.exists()


def test_slurm_refuses_what_it_cannot_do(quick, tmp_path, monkeypatch, cluster):
    todo = plan.missing(plan.sweep(f"{quick}:ard", "quick", [0]), tmp_path)
    with pytest.raises(ConfigError, match=r"OPTION=VALUE.*account"):
        slurm.launch(todo, tmp_path, None, OPTIONS | {"sbatch": ["account"]}, False)
    broken = cluster.parent / "bin" / "sbatch"
    broken.write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(LaunchError, match="no such partition"):
        slurm.launch(todo, tmp_path, None, OPTIONS, dry_run=False)
    broken.unlink()
    with pytest.raises(LaunchError, match=r"sbatch.*--backend=local"):
        slurm.launch(todo, tmp_path, None, OPTIONS, dry_run=False)
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"pip install.*launch"):
        slurm.launch(todo, tmp_path, None, OPTIONS, dry_run=False)


def test_submitit_debug_runs_the_jobs(quick, tmp_path, monkeypatch):
    import submitit

    home = tmp_path / "runs"
    todo = plan.missing(plan.sweep(f"{quick}:ard", "quick", range(2)), home)
    jobs = slurm.submit(submitit.DebugExecutor(home / "slurm"), todo, home)
    assert [Path(job.result()) for job in jobs.values()] == [
        run.folder(home) for run in todo
    ]
    assert len(records(home)) == 2
    assert not plan.missing(todo, home)


def test_submitit_local_runs_and_logs_in_the_workdir(
    quick, environment, tmp_path, monkeypatch
):
    import submitit

    inherit(environment, monkeypatch)
    home = tmp_path / "runs"
    todo = plan.missing(plan.sweep(f"{quick}:ard", "quick", [0]), home)
    jobs = slurm.submit(submitit.LocalExecutor(home / "slurm"), todo, home)
    [(run, job)] = jobs.items()
    assert job.result() == str(run.folder(home))
    assert len(records(home)) == 1
    assert (run.folder(home) / local.LOG).is_file()
    assert (run.folder(home) / slurm.JOB).read_text() == job.job_id


@pytest.mark.slow
def test_submitit_requeues_a_job_that_is_about_to_end(
    environment, tmp_path, monkeypatch
):
    """SLURM's signal before the time limit: saved, queued again, ended as if never."""
    import submitit

    inherit(environment, monkeypatch)
    file = tmp_path / "trained.py"
    file.write_text(TRAINED)
    [run] = plan.sweep(f"{file}:variance", "quick", [0])
    for name, number in (("cut", signal.SIGUSR2), ("term", signal.SIGTERM)):
        home = tmp_path / name
        executor = submitit.LocalExecutor(home / "slurm")
        executor.update_parameters(timeout_min=20)
        [job] = slurm.submit(executor, {run: ()}, home).values()
        log = run.folder(home) / "metrics.jsonl"
        while not (log.exists() and log.read_bytes()):
            assert not job.done()
            time.sleep(0.02)
        [task] = children(int(job.job_id))
        os.kill(task, number)
        if number == signal.SIGUSR2:
            assert job.result() == str(run.folder(home))
            assert "Requeued job" in (run.folder(home) / local.LOG).read_text()
        else:
            with pytest.raises(submitit.core.utils.UncompletedJobError):
                job.result()
            assert not records(home)
            [job] = slurm.submit(executor, {run: ()}, home).values()
            job.result()
    a, b = (results.read(path) for path in records(tmp_path))
    assert a["evals"] == b["evals"]


# The README


def test_the_commands_of_the_readme_plan_something(environment, tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^python scripts/launch.py(.*)$", text, re.MULTILINE)
    assert commands
    environment["PATH"] = os.environ["PATH"]
    home = tmp_path / "runs"
    started = [
        launch(environment, *shlex.split(one), "--dry_run", f"--runs={home}")
        for one in commands
    ]
    for process in started:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert not out.startswith("0 runs")
    assert not home.exists()
