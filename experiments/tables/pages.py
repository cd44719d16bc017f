"""The generated pages: one for each table and scale, and parts of the README between
marks, from committed records alone."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.bench import report
from experiments.tables import render, words
from experiments.tables.outcomes import Outcome
from experiments.tables.specs import PARTS
from vnets import files

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "results"


def results_block(outcomes: Iterable[tuple[Path, Outcome]]) -> str:
    """What each table asks and how many of its claims hold, then the main table.

    Args:
      outcomes: folder and outcome, a table's scales from small to large; the largest
        with records is shown.
    """
    largest = {outcome.table.name: outcome for _, outcome in outcomes}
    order = sorted(largest.values(), key=_place)
    main = [outcome for outcome in order if outcome.table.main]
    return "\n\n".join([overview(order), *map(_section, main)])


def overview(outcomes: Iterable[Outcome]) -> str:
    """A line for each table: its question, its scale, how many of its claims hold."""
    lines, part = [], ""
    for outcome in outcomes:
        table = outcome.table
        if table.part != part:
            part = table.part
            lines.append([f"**{part.capitalize()}**", "", "", ""])
        link = f"[`{table.name}`]({_text(outcome)})"
        lines.append([link, table.asks, outcome.scale.name, _held(outcome)])
    header = ["table", "asks", "scale", "claims that hold"]
    return render.markdown_grid(render.Grid("Overview", header, lines))


def _place(outcome: Outcome) -> tuple[int, bool, str]:
    table = outcome.table
    return PARTS.index(table.part), not table.main, table.name


def _held(outcome: Outcome) -> str:
    verdicts = [verdict.holds for verdict in outcome.verdicts]
    measured = [holds for holds in verdicts if holds is not None]
    left = len(verdicts) - len(measured)
    text = f"{sum(measured)} of {len(measured)}" if measured else ""
    return ", ".join(t for t in (text, f"{left} not run" if left else "") if t)


def _text(outcome: Outcome) -> str:
    return f"results/{outcome.table.name}/{outcome.scale.name}.md"


def _section(outcome: Outcome) -> str:
    """A table's figure, numbers, and claims that were measured."""
    measured = dataclasses.replace(
        outcome, verdicts=[v for v in outcome.verdicts if v.holds is not None]
    )
    grids = [grid for grid in render.grids(measured) if grid.title != "Runs"]
    text = _text(outcome)
    folder = text.rpartition("/")[0]
    parts = [
        f"### {words.heading(outcome)}",
        f"{words.summary(outcome)}. {outcome.scale.text}",
        outcome.scale.reading,
        *(f"![{title}]({folder}/{name})" for title, name in render.images(outcome)[:1]),
        *(render.markdown_grid(grid) for grid in grids),
        f"All numbers, figures, runs and sources: [{text}]({text}).",
    ]
    return "\n\n".join(part for part in parts if part)


def bench_block(reports: Sequence[report.Report]) -> str:
    """What to know of each benchmark, with the device that it holds for."""
    parts = []
    for one in reports:
        parts += [f"{one['title']}, on {report.device(one)}:"]
        parts += [report.markdown_table(*table) for table in report.short(one)]
    return "\n\n".join(parts)


def with_block(text: str, name: str, block: str) -> str:
    """The text with what stands between the marks of `name` replaced.

    Raises:
      ValueError: there are no such marks.
    """
    pattern = rf"(<!-- {name}:begin [^>]*-->\n).*?(<!-- {name}:end -->)"
    inner = f"\n{block}\n\n" if block else ""
    new, count = re.subn(pattern, lambda m: m[1] + inner + m[2], text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{README.name} has {count} pairs of marks for {name!r}")
    return new


def generate(outcomes: Iterable[tuple[Path, Outcome]]) -> str:
    """The README as the committed records and reports have it."""
    text = README.read_text(encoding="utf-8")
    text = with_block(text, "results", results_block(outcomes))
    return with_block(text, "bench", bench_block(report.read_all(RESULTS / "bench")))


def pages(outcomes: Iterable[tuple[Path, Outcome]]) -> dict[Path, str]:
    """Every generated page by its path, as the committed records and reports have it.

    Args:
      outcomes: of all tables and scales that have records; see `outcomes.all_of`.
    """
    outcomes, bench = list(outcomes), RESULTS / "bench"
    reports = {bench / "README.md": report.markdown(report.read_all(bench))}
    return table_pages(outcomes) | reports | {README: generate(outcomes)}


def table_pages(outcomes: Iterable[tuple[Path, Outcome]]) -> dict[Path, str]:
    """The page of each table and scale by its path."""
    return {home.with_suffix(".md"): render.markdown(one) for home, one in outcomes}


def update(outcomes: Iterable[tuple[Path, Outcome]]) -> None:
    """Writes the generated parts into the README."""
    files.write_text(README, generate(outcomes))
