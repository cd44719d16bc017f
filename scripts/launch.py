r"""Runs what is missing of a sweep or of a table: here, or through submitit on SLURM.

    python scripts/launch.py --config=configs/lenet5_mnist.py --scale=quick
    python scripts/launch.py --table=sparse_vd --scale=short --seeds=3 --dry_run
    python scripts/launch.py --table=sparse_vd --scale=short --status
    python scripts/launch.py --table= --scale=paper --backend=slurm --gpu_type=a100 \
        --time_limit=720 --partition=preempt --sbatch=account=me

CONFIG is a file (its sweep()) or FILE:VARIANT; an empty table is all of them. Nets that
a run starts from are run before it. What has a record is left alone, what was begun
goes on: called again after Ctrl-C, a kill or a failure, it does the rest. --status runs
nothing and says what is done, running, failed, stopped or missing, and the time left.
Exit codes: 0 all done (slurm: submitted), 1 something failed, 2 asked wrongly, 75
stopped.
"""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.ranges import COUNT, INDEX, Range

CONFIG = flags.DEFINE_string("config", None, "FILE or FILE:VARIANT.")
TABLE = flags.DEFINE_string("table", None, "Table, of configs/tables; all if empty.")
SCALE = cli.define_scale("quick", "Scale, of those config or table know.")
SEEDS = cli.define_number("seeds", 3, "Seeds 0, 1, ... of each.", COUNT)
RUNS = cli.define_path("runs", "runs", "Folder of the runs.")
BACKEND = flags.DEFINE_enum("backend", "local", ["local", "slurm"], "Where to run.")
PROCESSES = cli.define_number(
    "processes",
    None,
    "Runs at once; by default one a GPU or two cores, slurm: 256.",
    COUNT,
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would run, and run nothing.")
STATUS = flags.DEFINE_bool("status", False, "Say how far it is, and run nothing.")
MINUTES = Range(5, whole=True)  # less than the signal before the end needs
SLURM = {
    "time_limit": cli.define_number(
        "time_limit", 240, "slurm: minutes a job.", MINUTES
    ),
    "gpus": cli.define_number("gpus", 1, "slurm: GPUs of a job.", INDEX),
    "gpu_type": flags.DEFINE_string("gpu_type", "", "slurm: type of the GPUs."),
    "cores": cli.define_number("cores", 4, "slurm: processor cores of a job.", COUNT),
    "partition": flags.DEFINE_string("partition", "", "slurm: partition."),
    "max_requeues": cli.define_number(
        "max_requeues", 9, "slurm: after timeouts.", INDEX
    ),
    "sbatch": flags.DEFINE_list("sbatch", [], "slurm: further OPTION=VALUE of sbatch."),
}


def main(argv: list[str]) -> int:
    from experiments.build import ConfigError
    from experiments.launch import local, plan, slurm, status

    cli.no_arguments(argv)
    if (CONFIG.value is None) == (TABLE.value is None):
        raise ConfigError("give either --config or --table")
    given = [f"--{name}" for name, flag in SLURM.items() if flag.present]
    if given and BACKEND.value != "slurm":
        raise ConfigError(f"{', '.join(given)}: for --backend=slurm only")
    home, seeds = Path(RUNS.value), range(SEEDS.value)
    if CONFIG.value is None:
        runs = plan.tables(TABLE.value, SCALE.value, seeds)
    else:
        runs = plan.sweep(CONFIG.value, SCALE.value, seeds)
    todo = plan.missing(runs, home)
    if STATUS.value:
        return status.show([*runs, *todo], home)
    failed = plan.failed(runs, home)
    if BACKEND.value == "slurm":
        options = {name: flag.value for name, flag in SLURM.items()}
        slurm.launch(todo, home, PROCESSES.value, options, DRY_RUN.value)
        return 1 if failed else 0
    return local.launch(todo, home, PROCESSES.value, DRY_RUN.value) or bool(failed)


if __name__ == "__main__":
    cli.run(main)
