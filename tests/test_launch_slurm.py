"""Launches on a cluster: what SLURM is given; jobs that run and are queued again."""

import os
import shlex
import signal
import time
from pathlib import Path

import pytest

from experiments.launch import LaunchError, local, plan, slurm
from experiments.records import read
from experiments.spec import ConfigError
from tests.launches import TRAINED, children, inherit, records

# Configuring logging, as it is imported, submitit has absl close what pytest captures.
os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"


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


def test_slurm_dry_run_needs_no_cluster_and_writes_nothing(
    sweep_file, tmp_path, capsys
):
    home = tmp_path / "runs"
    todo = plan.missing(plan.sweep(str(sweep_file), "quick", range(2)), home)
    slurm.launch(todo, home, None, OPTIONS, dry_run=True)
    assert capsys.readouterr().out.count("array 1: ") == 6
    assert not home.exists()


def test_slurm_refuses_what_it_cannot_do(sweep_file, tmp_path, monkeypatch, cluster):
    todo = plan.missing(plan.sweep(f"{sweep_file}:ard", "quick", [0]), tmp_path)
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


@pytest.mark.slow
def test_submitit_debug_runs_the_jobs(sweep_file, tmp_path, monkeypatch):
    import submitit

    home = tmp_path / "runs"
    todo = plan.missing(plan.sweep(f"{sweep_file}:ard", "quick", range(2)), home)
    jobs = slurm.submit(submitit.DebugExecutor(home / "slurm"), todo, home)
    assert [Path(job.result()) for job in jobs.values()] == [
        run.folder(home) for run in todo
    ]
    assert len(records(home)) == 2
    assert not plan.missing(todo, home)


@pytest.mark.slow
def test_submitit_local_runs_and_logs_in_the_workdir(
    sweep_file, environment, tmp_path, monkeypatch
):
    import submitit

    inherit(environment, monkeypatch)
    home = tmp_path / "runs"
    todo = plan.missing(plan.sweep(f"{sweep_file}:ard", "quick", [0]), home)
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
    a, b = (read(path) for path in records(tmp_path))
    assert a["evals"] == b["evals"]
