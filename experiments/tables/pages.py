"""The generated pages, from committed records alone: one for each table and scale, and
parts of pages on several tables, between marks."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.bench import report
from experiments.tables import render, words
from experiments.tables.outcomes import Outcome, RowResult
from experiments.tables.specs import PARTS, Column
from vnets import compact, files

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "results"
OVERVIEW = RESULTS / "README.md"
SPEED = ROOT / "docs" / "speed.md"
SMALL_FILES = ROOT / "docs" / "howto" / "files.md"


def main_table(outcomes: Iterable[Outcome]) -> str:
    """Ours and the published numbers of the main tables, in the columns that all have.

    Args:
      outcomes: of each table at its largest scale.
    """
    main = [o for o in outcomes if o.table.main and o.scale.name != "quick"]
    common = set.intersection(*({c.name for c in o.table.column} for o in main))
    columns = [column for column in main[0].table.column if column.name in common]
    lines, links = [], []
    for outcome in main:
        table, text = outcome.table, _text(outcome)
        links.append(f"[{table.name}]({text}) at scale {outcome.scale.name}")
        lines.append([f"**{table.title}**", *("" for _ in columns), ""])
        for measured in (m for m in outcome.rows if m.records):
            version = (list(measured.gaps) or [""])[-1]
            cells = [_beside(measured, version, column) for column in columns]
            seeds = len(measured.records)
            lines.append([measured.row.label, *cells, str(seeds)])
    header = ["", *(column.label for column in columns), "seeds"]
    grid = render.Grid("Main", header, lines)
    told = (
        "In brackets: the published number, and *above* or *below* where ours differs "
        "from it by more than the tolerance."
    )
    return "\n\n".join(
        [render.markdown_grid(grid), f"{told} From {' and '.join(links)}."]
    )


def _beside(measured: RowResult, version: str, column: Column) -> str:
    text = words.cell_text(measured, column)
    gap = measured.gaps.get(version, {}).get(column.name)
    if gap is None:
        return text
    mark = ""
    if gap.within is False:
        mark = ", *above*" if gap.difference > 0 else ", *below*"
    return f"{text} ({gap.published:g}{mark})"


def shown(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Of each table's scales, small to large, the last where a claim was measured.

    The last of all where none was.
    """
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        before = found.get(outcome.table.name)
        if before is None or _measured(outcome) or not _measured(before):
            found[outcome.table.name] = outcome
    return list(found.values())


def overview(outcomes: Iterable[Outcome]) -> str:
    """A line for each table: its question, its scale, how many of its claims hold."""
    lines, part = [], ""
    for outcome in sorted(outcomes, key=_place):
        table = outcome.table
        if table.part != part:
            part = table.part
            lines.append([f"**{part[0].upper() + part[1:]}**", "", "", ""])
        link = f"[`{table.name}`]({table.name}/{outcome.scale.name}.md)"
        lines.append([link, table.asks, outcome.scale.name, _held(outcome)])
    header = ["table", "asks", "scale", "claims that hold"]
    return render.markdown_grid(render.Grid("Overview", header, lines))


def _place(outcome: Outcome) -> tuple[int, bool, str]:
    table = outcome.table
    return PARTS.index(table.part), not table.main, table.name


def _held(outcome: Outcome) -> str:
    measured = _measured(outcome)
    left = len(outcome.verdicts) - len(measured)
    text = f"{sum(measured)} of {len(measured)}" if measured else ""
    return ", ".join(t for t in (text, f"{left} not run" if left else "") if t)


def _measured(outcome: Outcome) -> list[bool]:
    """Whether each claim holds that was measured."""
    holds = [verdict.holds for verdict in outcome.verdicts]
    return [one for one in holds if one is not None]


def _text(outcome: Outcome) -> str:
    return f"results/{outcome.table.name}/{outcome.scale.name}.md"


def bench_block(reports: Sequence[report.Report]) -> str:
    """What users ask of speed: training steps, ensembles and sparse nets."""
    parts = ["Training steps:", report.markdown_table(*report.steps(reports))]
    for one in reports:
        grid = report.overview(one)
        if grid and one["name"] in ("ensembles", "sparse_nets"):
            parts += [f"{one['title']}, {one['unit']}, on {report.device(one)}:"]
            parts += [report.markdown_table(*grid)]
    return "\n\n".join(parts)


def small_nets(nets: dict[str, dict[str, Any]]) -> str:
    """The nets that come with the package, from their entries in `compact.shelved`."""
    rows = []
    for name, told in nets.items():
        column = "ens" if told["noise"] else "det"
        accuracies = [told[key][column] for key in ("accuracy", "recorded")]
        mode = "20 draws" if told["noise"] else "noise off"
        numbers = [f"{told['bytes']:,}", str(told["epochs"])]
        numbers += [f"{100 * accuracy:.2f}" for accuracy in accuracies]
        rows.append([f"`{name}`", told["dataset"], mode, *numbers])
    header = ["net", "data", "predicts by", "bytes", "epochs", "accuracy, %"]
    return report.markdown_table([*header, "of the whole net"], rows)


def with_block(path: Path, name: str, block: str) -> str:
    """The text of a file with what stands between the marks of `name` replaced.

    Raises:
      ValueError: there are no such marks.
    """
    text = path.read_text(encoding="utf-8")
    pattern = rf"(<!-- {name}:begin [^>]*-->\n).*?(<!-- {name}:end -->)"
    inner = f"\n{block}\n\n" if block else ""
    new, count = re.subn(pattern, lambda m: m[1] + inner + m[2], text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{path.name} has {count} pairs of marks for {name!r}")
    return new


def generate(outcomes: Iterable[tuple[Path, Outcome]]) -> dict[Path, str]:
    """The pages that show more than one table, as the committed records have them.

    Args:
      outcomes: folder and outcome, as `shown` takes them.
    """
    order = sorted(shown(one for _, one in outcomes), key=_place)
    measured = bench_block(report.read_all(RESULTS / "bench"))
    return {
        README: with_block(README, "results", main_table(order)),
        OVERVIEW: with_block(OVERVIEW, "tables", overview(order)),
        SPEED: with_block(SPEED, "bench", measured),
        SMALL_FILES: with_block(SMALL_FILES, "nets", small_nets(compact.shelved())),
    }


def pages(outcomes: Iterable[tuple[Path, Outcome]]) -> dict[Path, str]:
    """Every generated page by its path, as the committed records and reports have it.

    Args:
      outcomes: of all tables and scales that have records; see `outcomes.all_of`.
    """
    outcomes, bench = list(outcomes), RESULTS / "bench"
    reports = {bench / "README.md": report.markdown(report.read_all(bench))}
    return table_pages(outcomes) | reports | generate(outcomes)


def table_pages(outcomes: Iterable[tuple[Path, Outcome]]) -> dict[Path, str]:
    """The page of each table and scale by its path, and its CSV if it has one."""
    return {
        p: t for home, one in outcomes for p, t in render.written(home, one).items()
    }


def update(outcomes: Iterable[tuple[Path, Outcome]]) -> None:
    """Writes the generated parts into their pages."""
    for path, text in generate(outcomes).items():
        files.write_text(path, text)
