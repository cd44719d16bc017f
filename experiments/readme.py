"""The generated parts of the README: between marks, from committed records alone."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments import render
from experiments.bench import report
from experiments.tables import Outcome
from vnets import results

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "results"


def results_block(outcomes: Iterable[tuple[Path, Outcome]]) -> str:
    """Each table at the largest scale that has records: a figure, what holds, claims.

    Args:
      outcomes: folder and outcome, a table's scales from small to large.
    """
    largest = {outcome.table.name: outcome for _, outcome in outcomes}
    order = sorted(largest.values(), key=lambda outcome: not outcome.table.main)
    return "\n\n".join(part for outcome in order for part in _table(outcome))


def _table(outcome: Outcome) -> list[str]:
    """A table: its own figure, the claims that were measured, a main one's numbers."""
    folder = f"results/{outcome.table.name}"
    images = render.images(outcome)
    images = images[:1] if outcome.table.main else (images[1:] or images)[:1]
    measured = dataclasses.replace(
        outcome, verdicts=[v for v in outcome.verdicts if v.holds is not None]
    )
    grids = [grid for grid in render.grids(measured) if grid.title != "Runs"]
    if not outcome.table.main:
        grids = [grid for grid in grids if grid.title == "Claims"]
    left = len(outcome.verdicts) - len(measured.verdicts)
    text = f"{folder}/{outcome.scale.name}.md"
    parts = [
        f"### {render.heading(outcome)}",
        f"{render.summary(outcome)}. {outcome.scale.text}",
        outcome.scale.reading,
        *(f"![{title}]({folder}/{name})" for title, name in images),
        *(render.markdown_grid(grid) for grid in grids),
        f"Claims whose rows are not run yet: {left}." if left else "",
        f"All numbers, figures, runs and sources: [{text}]({text}).",
    ]
    return [part for part in parts if part]


def bench_block(reports: Sequence[report.Report]) -> str:
    """The ratios of each benchmark, with the device that they hold for."""
    parts = []
    for one in reports:
        _, *others = report.tables(one)
        parts += [f"{one['title']}, on {report.device(one)}:"]
        parts += [report.markdown_table(*table) for table in others]
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


def update(outcomes: Iterable[tuple[Path, Outcome]]) -> None:
    """Writes the generated parts into the README."""
    results.write_text(README, generate(outcomes))
