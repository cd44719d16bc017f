"""What a benchmark measured, as JSON, and as Markdown generated from it."""

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import records
from experiments.bench import figures, suite
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
NONE = "-"  # where there is no number
PERCENT = ("of the peak",)  # columns of an overview that are shares


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
    benchmark = suite.find(name)
    rounds = rounds or (2 if quick else benchmark.rounds)
    outcome = benchmark.run(quick, rounds, say)
    environment["versions"]["torch"] = _version("torch")
    return {
        "schema": SCHEMA,
        "name": name,
        "title": benchmark.title,
        "unit": benchmark.unit,
        "quick": quick,
        "rounds": rounds,
        "threads": environment["device"]["threads"],
        **environment,
        **outcome,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    return "\n".join([INTRODUCTION, *(_section(report) for report in reports)])


def _section(report: Report) -> str:
    parts = [f"## {report['title']}", _where(report)]
    if report["quick"]:
        parts.append("**A quick run with tiny sizes: these numbers mean nothing.**")
    first, every = overview(report), [markdown_table(*t) for t in tables(report)]
    if first:
        parts.append(markdown_table(*first))
        summary = f"<details>\n<summary>{DETAILS}</summary>"
        every = [summary, *every, "</details>"]
    image = [f"![{report['title']}]({report['name']}.png)"]
    image = image if report["name"] in figures.OF else []
    parts += [*image, *every] if first else [*every, *image]
    parts += report["notes"]
    return "\n\n".join(parts) + "\n"


def _where(report: Report) -> str:
    """Device, software and settings that all numbers of a report belong to."""
    versions, git = report["versions"], report["git"]
    software = [
        f"{name} {versions[name]}" for name in ("jax", "torch") if versions[name]
    ]
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
    threads = f"{report['threads']} threads"
    return f"{where['kind']} ({where['platform']}, {threads})"


def overview(report: Report) -> Table | None:
    """A few numbers a row, where the report has such rows: what is asked first."""
    rows = report.get("overview", {})
    columns = [
        column
        for column in dict.fromkeys(c for row in rows.values() for c in row)
        if any(row.get(column) is not None for row in rows.values())
    ]
    if not columns:
        return None
    shown = [
        [name, *(_cell(column, row.get(column)) for column in columns)]
        for name, row in rows.items()
    ]
    return ["", *columns], shown


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return NONE
    return f"{100 * value:.3g} %" if column in PERCENT else _number(value)


def short(report: Report) -> list[Table]:
    """What to show in few lines: the overview, or the ratios and other values."""
    first = overview(report)
    return [first] if first else tables(report)[1:]


def tables(report: Report) -> list[Table]:
    """Cases, ratios and other values."""
    unit, cases = report["unit"], report["cases"]
    columns = [
        (f"{unit}, median [shortest]", _times, "median"),
        ("quartiles", _range, "median"),
        ("peak MiB", _peak, "peak_mib"),
        ("compiling, s", lambda c: _known(c["compile_seconds"]), "compile_seconds"),
        (
            "images/s",
            lambda c: _number(c["images_per_second"]),
            "images_per_second",
        ),
        ("of the peak", lambda c: _cell(PERCENT[0], c["of_peak"]), "of_peak"),
    ]
    # Older reports have fewer.
    columns = [c for c in columns if all(c[2] in case for case in cases.values())]
    measured = [
        [name, *(show_one(case) for _, show_one, _ in columns)]
        for name, case in cases.items()
    ]
    ratios = [
        [name, _number(r["median"]), _range(r), _number(r["of_minima"])]
        for name, r in report["ratios"].items()
    ]
    values = [[name, _number(v)] for name, v in report.get("values", {}).items()]
    every = [
        (["case", *(header for header, _, _ in columns)], measured),
        (["ratio of times", "median", "quartiles", "of the shortest"], ratios),
        (["other", "value"], values),
    ]
    return [table for table in every if table[1]]


def _number(value: float) -> str:
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1000 or not value else _big(value)


def _big(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.2e}"


def _times(case: dict) -> str:
    return f"{_number(case['median'])} [{_number(case['min'])}]"


def _known(value: float | None) -> str:
    return NONE if value is None else _number(value)


def _range(summary: dict) -> str:
    return f"{_number(summary['q1'])} to {_number(summary['q3'])}"


def _peak(case: dict) -> str:
    return "not measured" if case["peak_mib"] is None else f"{case['peak_mib']:.0f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table as Markdown; the first column is text, the others numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    # A bar in a name, as in P(|eps| > 4), would end the cell.
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )


def show(report: Report, console) -> None:
    """Prints a report on a rich console."""
    from rich.table import Table as Grid

    console.print(
        f"\n[bold]{report['title']}[/bold]\n{_where(report)}", highlight=False
    )
    first = overview(report)
    for header, rows in [*([first] if first else []), *tables(report)]:
        table = Grid()
        for number, cell in enumerate(header):
            table.add_column(cell, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in report["notes"]:
        console.print(note, markup=False)
