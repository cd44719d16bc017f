"""What a table's pages and figures say in words: functions of its file and records."""

import math
import re
from collections.abc import Iterable

from experiments.config_files import split_run
from experiments.tables.outcomes import Outcome, RowResult
from experiments.tables.specs import TAGS, Column, Published, Scale

NOT_RUN = "not run"
ABBREVIATIONS = ("elbo", "nll", "rms", "rmse")  # names of metrics
FAILED = "failed"
SENTENCE = re.compile(r"(?<=\.) (?=[A-Z])")  # where one ends and the next begins
NONE = "–"  # noqa: RUF001 (an en dash is how a table says: nothing here)


def heading(outcome: Outcome) -> str:
    return f"{outcome.table.title} (scale {outcome.scale.name})"


def summary(outcome: Outcome) -> str:
    """Returns data, epochs and seeds of a row, as the records have them."""
    records = [record for measured in outcome.rows for record in measured.records]
    data = distinct(data_text(record) for record in records)
    counts = {len(row.records) for row in outcome.rows if row.records} or {0}
    seeds = " to ".join(str(n) for n in sorted({min(counts), max(counts)}))
    epochs = distinct(text for text in map(epochs_text, records) if text)
    told = f" Epochs: {epochs}." if epochs != NONE else ""  # a study has none
    return f"Data: {data}.{told} Seeds of a row: {seeds}."


def bullets(reading: str) -> str:
    """Returns a bullet for each sentence; a paragraph that ends in a colon stands."""
    blocks = reading.split("\n\n") if reading else []
    return "\n\n".join(
        block if block.endswith(":") else listed(SENTENCE.split(block))
        for block in blocks
    )


def listed(lines: Iterable[str]) -> str:
    """A bullet for each line."""
    return "\n".join(f"- {line}" for line in lines)


def legend(outcome: Outcome) -> str:
    """Returns how to read the numbers, and a bullet for each tolerance of the scale."""
    table, scale = outcome.table, outcome.scale
    unit = f" in {table.unit}" if table.unit else ""
    name = table.metric
    name = name.upper() if name in ABBREVIATIONS else name.capitalize()
    metric = f"{name}{unit}: mean" if table.plain else "Mean"
    text = f"{metric} ± sample standard deviation over the n seeds that finished"
    if not table.published:
        return f"{text}."
    text += ", above the published numbers."
    if not scale.judged:
        return f"{text} No tolerance at this scale: published numbers are context only."
    unless = " unless it says when" if scale.changed else ""
    bounds = listed(
        _tolerance(scale, column)
        for column in table.column
        if column.name in scale.judged
    )
    return (
        f"{text} In brackets: measured minus published, and whether that is within the "
        f"tolerance. Tolerances were set before any run{unless}:\n\n{bounds}"
    )


def _tolerance(scale: Scale, column: Column) -> str:
    """A column's tolerance with what is to be said of it."""
    key = column.name
    if key in scale.tolerance:
        bound = f"{scale.tolerance[key]:g}"
    else:
        bound = f"{100 * scale.relative[key]:g} % of the published number"
    text = f"{column.label.lower()}: {bound}"
    if key in scale.wide:
        text += f". More than half of the published spread: {scale.wide[key]}"
    if key in scale.changed:
        text += f". Changed {scale.changed[key]}"
    return text


def source(version: Published) -> str:
    """Where a version was read."""
    known = f"{version.tag}: read in {TAGS[version.tag]}"
    return f"{version.label}: {version.source} [{known}]"


def called(version: Published, outcome: Outcome) -> list[tuple[str, str]]:
    """Our columns and rows that a version has numbers of, with what it calls them."""
    shown = [m.row for m in outcome.rows if version.name in m.row.paper]
    numbers = {column for row in shown for column in row.paper[version.name]}
    columns = [
        (column.label, version.columns[column.name])
        for column in outcome.table.column
        if column.name in numbers & version.columns.keys()
    ]
    rows = [
        (row.label, row.places[version.name])
        for row in shown
        if version.name in row.places
    ]
    return columns + rows


def notes(outcome: Outcome) -> list[str]:
    """Returns the rows' notes and every failed seed with its reason."""
    lines = [f"{m.row.label}: {m.row.note}" for m in outcome.rows if m.row.note]
    for measured in outcome.rows:
        for seed, reason in measured.failed.items():
            lines.append(f"{measured.row.label}, seed {seed} failed: {reason}")
    return lines


def configs(outcome: Outcome) -> str:
    """Returns the config files whose records fill the table."""
    stems = (split_run(measured.row.run)[0] for measured in outcome.rows)
    return ", ".join(f"`{stem}`" for stem in dict.fromkeys(stems))


def run_facts(measured: RowResult) -> dict[str, str]:
    """Returns what ran in a row, as text; a fact may have several values."""
    records, failed = measured.records, len(measured.failed)
    seeds = [str(record["seed"]) for record in records] or [NONE]
    return {
        "Data": distinct(data_text(record) for record in records),
        "Epochs": distinct(text for text in map(epochs_text, records) if text),
        "Ensemble samples": distinct(
            str(record["evals"]["ens"]["samples"])
            for record in records
            if "samples" in record["evals"].get("ens", {})
        ),
        "Seeds": " ".join(seeds) + (f"; {failed} failed" if failed else ""),
        "Minutes": _minutes(records),
        "Device": distinct(_device(record["device"]) for record in records),
        "Commit": distinct(_commit(record["git"]) for record in records),
    }


def cell_text(measured: RowResult, column: Column) -> str:
    """Returns mean and spread with the column's decimals, or why there is none."""
    cell = measured.cells[column.name]
    if cell.mean is None:
        if measured.records or column.name in measured.row.without:
            return NONE
        return FAILED if measured.failed else NOT_RUN
    if math.isinf(cell.mean):
        never = sum(map(math.isinf, cell.values))
        return f"never, {never} of {len(cell.values)}"
    spread = "" if cell.std is None else f" ± {cell.std:.{column.digits}f}"
    return f"{cell.mean:.{column.digits}f}{spread}"


def epochs_text(record: dict) -> str:
    return str(record["config"].get("epochs", ""))


def data_text(record: dict) -> str:
    """Returns the data set by its name in the configuration, with its sizes."""
    dataset = record["config"].get("dataset") or record["dataset"]
    name = dataset["name"] if isinstance(dataset, dict) else dataset
    sizes = sorted(
        record["dataset"].get("sizes", {}).items(), key=lambda item: -item[1]
    )
    told = ", ".join(f"{n} {split}" for split, n in sizes)
    return f"{name} ({told})" if told else name


def distinct(texts: Iterable[str]) -> str:
    """Returns the different texts in their order, or a dash."""
    return "; ".join(dict.fromkeys(texts)) or NONE


def _minutes(records: list[dict]) -> str:
    """Returns the range of wall time; it is told, never compared."""
    minutes = [record["wall_seconds"]["total"] / 60 for record in records]
    if not minutes:
        return NONE
    low, high = f"{min(minutes):.1f}", f"{max(minutes):.1f}"
    return low if low == high else f"{low} to {high}"


def _device(device: dict) -> str:
    count = f"{device['count']} x " if device["count"] > 1 else ""
    threads = f", {device['threads']} threads" if device["platform"] == "cpu" else ""
    return f"{count}{device['kind']}{threads}"


def _commit(git: dict) -> str:
    commit = (git["commit"] or "no commit")[:9]
    return f"{commit} + changes" if git["commit"] and git["dirty"] else commit
