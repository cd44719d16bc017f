"""Measures training steps, draws and estimators, and writes a report.

    python scripts/bench.py [--rounds=30]
        [--only=lenet5,vgg,resnet50,ensembles,forms,noise,lrt_layer,sparse_nets,
               small_files,recurrent]
        [--quick] [--out=results/bench]

Each benchmark runs in a process of its own, which gives its memory back. Writes
<out>/<benchmark>.json and, generated from them, <out>/README.md and the figures; prints
the tables. With --quick everything is tiny: it shows that all runs, and the numbers
mean nothing.
"""

import subprocess
import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import cli
from experiments.bench import measuring, report, suite
from experiments.ranges import INDEX
from experiments.tables import outcomes, pages, reading
from vnets import files

ONLY = flags.DEFINE_list("only", list(suite.MODULES), "Which benchmarks to run.")
ROUNDS = cli.define_number("rounds", 0, "Rounds; 0: each benchmark's own.", INDEX)
QUICK = flags.DEFINE_bool("quick", False, "Tiny sizes, to see that it runs.")
OUT = cli.define_path("out", "results/bench", "Folder of the reports.")


def main(argv: list[str]) -> int:
    unknown = [name for name in ONLY.value if name not in suite.MODULES]
    if argv[1:] or unknown or not ONLY.value:
        wrong = " ".join([*argv[1:], *unknown]) or "nothing to run"
        valid = ", ".join(suite.MODULES)
        print(f"{wrong}: no such benchmark; --only takes {valid}", file=sys.stderr)
        return 2
    measuring.prepare()  # before JAX starts
    try:
        report.require_writable(Path(OUT.value))
    except files.FileError as error:
        print(error, file=sys.stderr)
        return 1
    if len(ONLY.value) > 1:
        statuses = [_apart(name) for name in ONLY.value]  # all, whatever one does
        return int(any(statuses))
    return _measure(ONLY.value[0])


def _apart(name: str) -> int:
    """Runs one benchmark as this script was called; returns its exit code."""
    command = [sys.executable, __file__, f"--only={name}", f"--out={OUT.value}"]
    command += [f"--rounds={ROUNDS.value}"] + ["--quick"] * QUICK.value
    return subprocess.run(command, check=False).returncode


def _measure(name: str) -> int:
    """Runs one benchmark here, writes and shows its report; returns an exit code."""
    from rich.console import Console
    from rich.markdown import Markdown

    try:
        measured = report.measure(name, quick=QUICK.value, rounds=ROUNDS.value)
        path = report.save(Path(OUT.value), measured)
    except (measuring.BenchError, files.FileError) as error:
        print(error, file=sys.stderr)
        return 1
    console = Console()
    console.print(Markdown(report.section(measured)))
    console.print(f"Written: {path}", markup=False)
    if Path(OUT.value).resolve() == pages.RESULTS / "bench":
        tables_there = outcomes.all_of(reading.select(), "", pages.RESULTS)
        pages.update(tables_there)
    return 0


if __name__ == "__main__":
    cli.run(main)
