"""What a benchmark measured, as JSON, and as Markdown generated from it."""

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import records
from experiments.bench import figures, measuring, suite
from vnets import files

Report = dict[str, Any]
Table = tuple[list[str], list[list[str]]]  # header and rows

SCHEMA = 1
INTRODUCTION = """\
# Benchmarks

Written by `make bench` from the JSON files beside this one; do not edit. The cases of a
benchmark take turns. Times are medians over the rounds with [the shortest] and the
quartiles; a ratio is the median of the ratios round by round, and beside it the ratio
of the shortest times. Peak memory is that of a process that runs only this case, beyond
its imports, compilation included.
"""
DETAILS = "Every case, with quartiles, memory and compiling, and every ratio"
PERCENT = ("of the peak",)  # columns of an overview that are shares
MOST = 8  # columns of an overview
METHODS = ("deterministic", "variance", "LRT")  # of the steps in an overview
ASKED = ("ms per step", "peak MiB", "over deterministic", "over PyTorch")  # columns
# Left out of a wider one: it says no more than the time, or is one of the forms of
# PyTorch's of which the best is "over PyTorch"; the details have all.
SPARE = ("images per second", "over PyTorch, ")


def measure(
    name: str, *, quick: bool, rounds: int, say: Callable[[str], None] = print
) -> Report:
    """Runs a benchmark.

    Args:
      name: one of `suite.MODULES`.
      quick: tiny sizes: it shows that everything runs, and its numbers mean nothing.
      rounds: 0 takes the benchmark's own.
      say: takes lines about what is being done.
    """
    environment = records.environment()  # before: by the end the files may be others
    benchmark = suite.find(name, quick)
    rounds = rounds or (2 if quick else benchmark.rounds)
    parts = measuring.measure(name, benchmark, rounds=rounds, quick=quick, say=say)
    installed = list(importlib.metadata.distributions(name="torch"))
    environment["versions"]["torch"] = installed[0].version if installed else None
    return {
        "schema": SCHEMA,
        "name": name,
        "title": benchmark.title,
        "unit": benchmark.unit,
        "quick": quick,
        "rounds": rounds,
        "threads": environment["device"]["threads"],
        **environment,
        **parts,
    }


def require_writable(folder: Path) -> None:
    """Makes the folder and writes into it: known before the measuring.

    Raises:
      FileError: the file system refuses.
    """
    probe = folder / ".write-test"
    files.write_text(probe, "")
    probe.unlink()


def save(folder: Path, report: Report) -> Path:
    """Writes <name>.json, and anew the README of all in the folder; returns the first.

    Raises:
      FileError: the file system refuses.
    """
    path = folder / f"{report['name']}.json"
    files.write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    if report["name"] in figures.OF:
        title = f"{report['title']}\n{device(report)}"
        figures.save(report, title, path.with_suffix(".png"))
    files.write_text(folder / "README.md", markdown(read_all(folder)))
    return path


def read_all(folder: Path) -> list[Report]:
    """The reports in a folder, in the order of `suite.MODULES`."""
    paths = [folder / f"{name}.json" for name in suite.MODULES]
    return [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]


def markdown(reports: Sequence[Report]) -> str:
    """The README: a function of the reports alone."""
    return "\n".join([INTRODUCTION, *map(section, reports)])


def section(report: Report) -> str:
    """All of one report."""
    parts = [f"## {report['title']}", _where(report)]
    if report["quick"]:
        parts.append("**A quick run with tiny sizes: these numbers mean nothing.**")
    first, every = overview(report), [markdown_table(*t) for t in tables(report)]
    drawn = report["name"] in figures.OF
    image = [f"![{report['title']}]({report['name']}.png)"] * drawn
    if first:
        summary = f"<details>\n<summary>{DETAILS}</summary>"
        parts += [markdown_table(*first), *image, summary, *every, "</details>"]
    else:
        parts += [*every, *image]
    return "\n\n".join(parts + report["notes"]) + "\n"


def _where(report: Report) -> str:
    """Device, software and settings that all numbers of a report belong to."""
    versions, git = report["versions"], report["git"]
    software = [f"{n} {versions[n]}" for n in ("jax", "torch") if versions[n]]
    commit = git["commit"][:10] if git["commit"] else "none"
    changed = " with changes" if git["dirty"] and git["commit"] else ""
    settings = ", ".join(f"{k} {v}" for k, v in report["settings"].items())
    return (
        f"{device(report)}; {', '.join(software)}; commit {commit}{changed}; "
        f"{report['rounds']} rounds; {settings}."
    )


def device(report: Report) -> str:
    """The device and how much of it was used."""
    where = report["device"]
    return f"{where['kind']} ({where['platform']}, {report['threads']} threads)"


def overview(report: Report) -> Table | None:
    """A few numbers a row, where the report has such rows: what is asked first."""
    rows = report.get("overview", {})
    every = dict.fromkeys(column for row in rows.values() for column in row)
    known = [c for c in every if any(row.get(c) is not None for row in rows.values())]
    if len(known) >= MOST:
        known = [column for column in known if not column.startswith(SPARE)]
    shown = [
        [name, *(_number(row.get(c), c in PERCENT) for c in known)]
        for name, row in rows.items()
    ]
    return (["", *known], shown) if known else None


def steps(reports: Sequence[Report]) -> Table:
    """Training steps of nets without noise and with it, and what each costs."""
    rows = [
        [
            report["title"].removeprefix("Training step of "),
            method,
            *(_number(report["overview"][method][column]) for column in ASKED),
            device(report),
        ]
        for report in reports
        if suite.MODULES[report["name"]] == "steps"
        for method in METHODS
    ]
    return ["net", "noise", *ASKED, "device"], rows


def tables(report: Report) -> list[Table]:
    """Cases, ratios and other values."""
    cases, ratios = report["cases"], report["ratios"]
    times = [f"{report['unit']}, median [shortest]", "quartiles"]
    rates = {"images/s": "images_per_second", "of the peak": "of_peak"}  # of steps only
    rates = {k: v for k, v in rates.items() if all(v in c for c in cases.values())}
    measured = [
        [
            name,
            f"{_number(case['median'])} [{_number(case['min'])}]",
            _range(case),
            "not measured" if case["peak_mib"] is None else f"{case['peak_mib']:.0f}",
            _number(case["compile_seconds"]),
            *(_number(case[key], column in PERCENT) for column, key in rates.items()),
        ]
        for name, case in cases.items()
    ]
    compared = [
        [name, _number(r["median"]), _range(r), _number(r["of_minima"])]
        for name, r in ratios.items()
    ]
    values = [[name, _number(v)] for name, v in report.get("values", {}).items()]
    every = [
        (["case", *times, "peak MiB", "compiling, s", *rates], measured),
        (["ratio of times", "median", "quartiles", "of the shortest"], compared),
        (["other", "value"], values),
    ]
    return [table for table in every if table[1]]


def _number(value: float | None, percent: bool = False) -> str:
    if value is None:
        return "-"
    if percent:
        return f"{100 * value:.3g} %"
    if 1e-3 <= abs(value) < 1000 or not value:
        return f"{value:.3g}"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.2e}"


def _range(summary: dict) -> str:
    return f"{_number(summary['q1'])} to {_number(summary['q3'])}"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table as Markdown; the first column is text, the others numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    # A bar in a name, as in P(|eps| > 4), would end the cell.
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )
