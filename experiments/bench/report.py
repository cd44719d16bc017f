"""What a benchmark measured: JSON, Markdown generated from it, and a figure."""

import importlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vnets import results

Report = dict[str, Any]

BENCHMARKS = ("lenet5", "forms", "noise", "lrt_layer")
WITH_FIGURE = ("lenet5",)
SCHEMA = 1
INTRODUCTION = """\
# Benchmarks

Written by `make bench` from the JSON files beside this one; do not edit. The cases of a
benchmark take turns. Times are medians over the rounds with [the shortest] and the
quartiles; a ratio is the median of the ratios round by round, and beside it the ratio
of the shortest times. Peak memory is that of a process that runs only this case, beyond
its imports, compilation included.
"""
# Okabe and Ito's palette: told apart with any colour vision; markers say it again.
COLOURS = {"vnets": "#0072B2", "torch": "#D55E00"}
MARKERS = {"vnets": "o", "torch": "s"}


def measure(
    name: str, *, quick: bool, rounds: int, say: Callable[[str], None] = print
) -> Report:
    """Runs a benchmark.

    Args:
      name: one of BENCHMARKS.
      quick: tiny sizes: it shows that everything runs, and its numbers mean nothing.
      rounds: 0 takes the benchmark's own.
      say: takes lines about what is being done.
    """
    environment = results.environment()  # before: by the end the files may be others
    module = importlib.import_module(f"experiments.bench.{name}")
    rounds = rounds or (2 if quick else module.ROUNDS)
    outcome = module.run(quick, rounds, say)
    environment["versions"]["torch"] = _version("torch")
    return {
        "schema": SCHEMA,
        "name": name,
        "title": module.TITLE,
        "unit": module.UNIT,
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
      RecordError: the file system refuses.
    """
    probe = folder / ".write-test"
    results.write_text(probe, "")
    probe.unlink()


def save(folder: Path, report: Report) -> Path:
    """Writes <name>.json, and anew the README of all in the folder; returns the first.

    Raises:
      RecordError: the file system refuses.
    """
    path = folder / f"{report['name']}.json"
    results.write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    if report["name"] in WITH_FIGURE:
        save_figure(report, path.with_suffix(".png"))
    results.write_text(folder / "README.md", markdown(read_all(folder)))
    return path


def read_all(folder: Path) -> list[Report]:
    """The reports in a folder, in the order of BENCHMARKS."""
    paths = [folder / f"{name}.json" for name in BENCHMARKS]
    return [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]


def markdown(reports: Sequence[Report]) -> str:
    """The README: a function of the reports alone."""
    return "\n".join([INTRODUCTION, *(_section(report) for report in reports)])


def _section(report: Report) -> str:
    parts = [f"## {report['title']}", _where(report)]
    if report["quick"]:
        parts.append("**A quick run with tiny sizes: these numbers mean nothing.**")
    parts += [markdown_table(*table) for table in tables(report)]
    if report["name"] in WITH_FIGURE:
        parts.append(f"![{report['title']}]({report['name']}.png)")
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


def tables(report: Report) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows of each table: cases, ratios and other values."""
    unit = report["unit"]
    cases = [
        [name, f"{_number(c['median'])} [{_number(c['min'])}]", _range(c), _peak(c)]
        for name, c in report["cases"].items()
    ]
    ratios = [
        [name, _number(r["median"]), _range(r), _number(r["of_minima"])]
        for name, r in report["ratios"].items()
    ]
    values = [[name, _number(v)] for name, v in report.get("values", {}).items()]
    every = [
        (["case", f"{unit}, median [shortest]", "quartiles", "peak MiB"], cases),
        (["ratio of times", "median", "quartiles", "of the shortest"], ratios),
        (["other", "value"], values),
    ]
    return [table for table in every if table[1]]


def _number(value: float) -> str:
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1000 or not value else _big(value)


def _big(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.2e}"


def _range(summary: dict) -> str:
    return f"{_number(summary['q1'])} to {_number(summary['q3'])}"


def _peak(case: dict) -> str:
    return "not measured" if case["peak_mib"] is None else f"{case['peak_mib']:.0f}"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """One of `tables` as Markdown; the first column is text, the others numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    # A bar in a name, as in P(|eps| > 4), would end the cell.
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )


def show(report: Report, console) -> None:
    """Prints a report on a rich console."""
    from rich.table import Table

    console.print(
        f"\n[bold]{report['title']}[/bold]\n{_where(report)}", highlight=False
    )
    for header, rows in tables(report):
        table = Table()
        for number, cell in enumerate(header):
            table.add_column(cell, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in report["notes"]:
        console.print(note, markup=False)


def save_figure(report: Report, path: Path) -> None:
    """Median, quartiles and shortest time of each case, as a PNG."""
    from matplotlib.figure import Figure  # not pyplot: no state is shared

    cases = report["cases"]
    figure = Figure(
        figsize=(7.5, 1.5 + 0.32 * len(cases)), dpi=160, layout="constrained"
    )
    axes = figure.subplots()
    for row, (name, case) in enumerate(cases.items()):
        library = name.split()[0]
        colour = COLOURS.get(library, "#222222")
        axes.plot([case["q1"], case["q3"]], [row, row], color=colour, linewidth=2)
        axes.plot(case["median"], row, MARKERS.get(library, "o"), color=colour)
        axes.plot(case["min"], row, "|", color=colour, markersize=11)
        axes.annotate(
            _number(case["median"]),
            (max(case["q3"], case["median"]), row),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(cases)), list(cases), fontsize=9)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(case["q3"] for case in cases.values()))
    axes.set_xlabel(
        f"{report['unit']}: median and quartiles; tick: shortest of "
        f"{report['rounds']} rounds",
        fontsize=8,
    )
    axes.set_title(f"{report['title']}\n{device(report)}", loc="left", fontsize=9)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
