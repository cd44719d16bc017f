"""Runs a plan through submitit on a SLURM cluster: a job for each run, in arrays.

Files are submitit's in <home>/slurm, which the nodes must share, as they must the runs.
A job that is about to end, at its time limit or preempted, saves and is queued again:

  - SLURM's --signal (submitit: SIGUSR2) comes `SIGNAL_SECONDS` before the time limit.
    Training saves, and then submitit's own handler has its turn: it stores the job and
    requeues it, `max_requeues` times at most.
  - SIGTERM comes with a preemption, but also with scancel. Training saves, and the job
    exits with `REQUEUE`. SLURM has then requeued a preempted job already (sbatch
    --requeue) and has not one that is cancelled. Where it still counts the job as
    running (a partition with a GraceTime, which a process that exits would cut short),
    submitit's handler has its turn, too.
"""

import contextlib
import dataclasses
import getpass
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments import config_files, records, running
from experiments.config_files import ROOT, load_config
from experiments.launch import LaunchError
from experiments.launch.local import LOG
from experiments.launch.plan import Run, Todo, prepare, stages
from experiments.preemption import REQUEUE, Preemption
from experiments.spec import ConfigError
from vnets import files
from vnets.train import Preempted

SIGNAL_SECONDS = 120  # from SLURM's signal to the time limit
AT_ONCE = 256
JOB = "slurm_job"  # in a workdir: the job that was last submitted for it


@dataclasses.dataclass(frozen=True)
class Job:
    """A run as submitit calls it: in a process of its own, on some node."""

    run: Run
    home: Path

    def __call__(self) -> str:
        """Runs it; returns the path of its record.

        Raises:
          RecordError: the run failed.
          SystemExit: it was stopped, with the code that submitit's handler or `REQUEUE`
            gives.
        """
        from submitit.core.job_environment import JobEnvironment

        config_files.allow(self.run.run)  # what the launch was told to run
        soon = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        folder = self.run.folder(self.home)
        with _logged(folder / LOG):
            stop = Preemption(signal.SIGTERM, soon)
            try:
                with stop:
                    [record] = running.run(
                        load_config(self.run.which),
                        self.run.run,
                        lambda _: folder,
                        [self.run.seed],
                        home=self.home,
                        stop=stop,
                    ).values()
            except Preempted as stopped:
                print(stopped, flush=True)
                if soon in stop.received or _counts_as_running():
                    signal.raise_signal(soon)  # submitit's handler is in place again
                raise SystemExit(REQUEUE) from None
            if record["status"] != "done":
                raise records.RecordError(f"{folder}: {record['status']['failed']}")
            return str(folder)

    def checkpoint(self):
        """What submitit queues again: the same, which goes on where it saved."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def launch(
    plan: Todo,
    home: Path,
    at_once: int | None,
    options: Mapping[str, Any],
    dry_run: bool,
) -> None:
    """Submits a plan, but for what is queued already, or prints what it would submit.

    Args:
      plan: what is missing.
      home: folder of the runs, which the nodes share.
      at_once: the most jobs that run side by side; None: 256.
      options: time_limit (minutes), gpus, gpu_type, cores, partition, max_requeues, and
        sbatch, a list of OPTION=VALUE.
      dry_run: print only; this needs no cluster.

    Raises:
      ConfigError: an option of sbatch without a value.
      LaunchError: submitit or SLURM are not there, or refuse.
      DataError, WorkdirError: see `plan.prepare`.
    """
    options = dict(options)
    words = [one.partition("=") for one in options.pop("sbatch")]
    for name, equals, _ in words:
        if not (name and equals):
            raise ConfigError(f"--sbatch takes OPTION=VALUE, not {name!r}")
    print(f"{len(plan)} runs are missing", flush=True)
    if dry_run:
        for number, stage in enumerate(stages(plan), start=1):
            for run in stage:
                print(f"array {number}: {run} -> {run.folder(home)}")
        return
    require()
    there = queued(plan, home)
    for run, job in there.items():
        print(f"queued    {run}: job {job}, of an earlier launch", flush=True)
    needed = [one for needs in plan.values() for one in needs]
    plan = {
        run: tuple(one for one in needs if one not in there)
        for run, needs in plan.items()
        if run not in there
    }
    after = {there[one].partition("_")[0] for one in needed if one in there}
    prepare(plan, home)
    made = executor(
        home, at_once=at_once or AT_ONCE, sbatch={n: v for n, _, v in words}, **options
    )
    for run, job in submit(made, plan, home, sorted(after)).items():
        print(f"submitted {run}: job {job.job_id}, {run.folder(home) / LOG}")


def require() -> None:
    """Refuses where the backend cannot work.

    Raises:
      LaunchError: submitit or SLURM's commands are not there.
    """
    if importlib.util.find_spec("submitit") is None:
        raise LaunchError(
            "--backend=slurm needs submitit: pip install -e '.[launch]' (in .venv)"
        )
    for name in ("sbatch", "srun", "squeue"):
        if shutil.which(name) is None:
            raise LaunchError(
                f"--backend=slurm needs SLURM's {name}, which is not on the PATH: "
                "launch on a login node, or with --backend=local"
            )


def executor(
    home: Path,
    *,
    time_limit: int,
    gpus: int,
    gpu_type: str,
    cores: int,
    partition: str,
    max_requeues: int,
    at_once: int,
    sbatch: Mapping[str, str],
):
    """submitit's executor for this cluster.

    Args:
      home: folder of the runs; submitit's files go to its folder slurm.
      time_limit: of a job, minutes.
      gpus: of a job; 0 for none.
      gpu_type: as the cluster names it; any, if empty.
      cores: of a job.
      partition: the cluster's default, if empty.
      max_requeues: how often a job that runs out of time is queued again; preemptions
        do not count.
      at_once: the most jobs of an array that run side by side.
      sbatch: further options of sbatch, by name.
    """
    import submitit

    made = submitit.SlurmExecutor(Path(home) / "slurm", max_num_timeout=max_requeues)
    parameters: dict[str, Any] = {
        "job_name": "vnets",
        "time": time_limit,
        "cpus_per_task": cores,
        "signal_delay_s": SIGNAL_SECONDS,
        "array_parallelism": at_once,
        # Jobs start where sbatch was called; the experiments are no installed package.
        "setup": [pythonpath(ROOT)],
        "additional_parameters": {"requeue": True, **sbatch},
    }
    if gpus:
        parameters["gpus_per_node"] = f"{gpu_type}:{gpus}" if gpu_type else gpus
    if partition:
        parameters["partition"] = partition
    made.update_parameters(**parameters)
    return made


def pythonpath(root: Path) -> str:
    """The line of a job's script that adds a folder; its name is no shell code."""
    return f'export PYTHONPATH={shlex.quote(str(root))}"${{PYTHONPATH:+:$PYTHONPATH}}"'


def submit(
    executor, plan: Todo, home: Path, after: Iterable[str] = ()
) -> dict[Run, Any]:
    """Submits a plan to an executor of submitit, an array for each of its stages.

    On SLURM a stage begins after the one before it has ended (the first: after `after`,
    jobs or arrays of an earlier launch), however that ended; a run whose nets are not
    there then trains them itself. Other executors know no such order: there, who needs
    a net that another job trains waits for it.

    Returns:
      submitit's job of each run.

    Raises:
      LaunchError: SLURM refused; earlier stages are queued.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    home = Path(home).absolute()
    jobs: dict[Run, Any] = {}
    previous = ":".join(after)
    for stage in stages(plan):
        if isinstance(executor, submitit.SlurmExecutor) and previous:
            executor.update_parameters(dependency=f"afterany:{previous}")
        try:
            with executor.batch():
                submitted = {run: executor.submit(Job(run, home)) for run in stage}
        except (FailedJobError, FailedSubmissionError) as error:
            raise LaunchError(f"sbatch refused: {error}") from error
        for run, job in submitted.items():
            folder = run.folder(home)
            folder.mkdir(parents=True, exist_ok=True)
            files.write_text(folder / JOB, job.job_id)
        jobs |= submitted
        previous = submitted[stage[0]].job_id.partition("_")[0]
    return jobs


def queued(runs: Iterable[Run], home: Path) -> dict[Run, str]:
    """Those that an earlier launch submitted and SLURM still has, with their jobs.

    Raises:
      LaunchError: SLURM does not answer.
    """
    jobs = {}
    for run in runs:
        path = run.folder(home) / JOB
        if path.is_file():
            jobs[run] = path.read_text(encoding="utf-8").strip()
    if not jobs:
        return {}
    words = ["squeue", "--noheader", "--array", "--format=%i"]
    there = set(_ask([*words, f"--user={getpass.getuser()}"]).split())
    return {run: job for run, job in jobs.items() if job in there}


def _ask(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        text = getattr(error, "stderr", None) or str(error)
        raise LaunchError(f"{words[0]} failed: {text.strip()}") from error
    return done.stdout


def _counts_as_running() -> bool:
    """Whether this is a SLURM job that SLURM neither cancels nor requeues yet."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    words = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    return _ask(words).strip() == "RUNNING"


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Sends what this process writes, below Python too, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = [os.dup(1), os.dup(2)]
    try:
        with open(path, "ab", opener=files.unlinked) as file:
            _redirect([file.fileno()] * 2)
        yield
    finally:
        _redirect(own)
        for descriptor in own:
            os.close(descriptor)


def _redirect(descriptors: list[int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for target, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, target)
