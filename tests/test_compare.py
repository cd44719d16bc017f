"""Laws of comparing: a run has the numbers of its row, and no format loses any."""

import csv
import io
import math
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import records
from experiments.tables import compare, formats
from experiments.tables.specs import TableError
from tests.toy_table import PROSE, SPEC, make, spec, store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def filled(tmp_path):
    """A table, and two folders of records: its own and those of the user."""
    store(tmp_path / "ours", make("a", 0), make("a", 1, stoch=0.97), make("b", 0))
    yours = [
        make("mine", seed, stoch=0.9 + 0.01 * seed, scale="big") for seed in (0, 1)
    ]
    store(tmp_path / "yours", *yours, make("other", 0, epochs=9))
    return spec(tmp_path), tmp_path / "ours", tmp_path / "yours"


def test_a_run_compared_has_the_numbers_of_its_row(filled):
    table, ours, _ = filled
    given = compare.runs([ours / "x" / "short"])
    outcome = compare.beside(table, "short", ours, given)
    rows, theirs = outcome.rows[:2], outcome.rows[2:]
    assert [measured.row.label for measured in theirs] == ["a, yours", "b, yours"]
    assert [m.cells for m in theirs] == [m.cells for m in rows]
    again = store(ours.parent / "again", make("a", 1, stoch=0.97))
    with pytest.raises(TableError, match="seed 1 twice"):
        compare.beside(table, "short", ours, given | again)


def test_runs_stand_below_what_is_not_changed(filled):
    table, ours, yours = filled
    given = compare.runs([yours])
    before = compare.aggregate(table, "short", compare.collect(table, "short", ours))
    outcome = compare.beside(table, "short", ours, given)
    assert outcome.rows[:2] == before.rows
    assert outcome.verdicts == before.verdicts
    theirs = {row.row.label: row for row in outcome.rows[2:]}
    assert set(theirs) == {"mine, yours", "other, yours"}
    mine = theirs["mine, yours"]
    assert mine.cells["stoch"].values == pytest.approx([90, 91])
    assert "at scale big" in mine.row.note
    assert not mine.gaps


def test_what_cannot_be_compared_is_refused(filled, tmp_path):
    table, ours, yours = filled
    with pytest.raises(records.RecordError, match="has no record"):
        compare.runs([tmp_path / "nowhere"])
    other = make("c", 0)
    other["evals"] = {"else": {"accuracy": 0.5}}
    store(tmp_path / "else", other)
    with pytest.raises(TableError, match="columns are stoch, det"):
        compare.beside(table, "short", ours, compare.runs([tmp_path / "else"]))
    given = compare.runs([yours])
    assert compare.choose([table], given) == [table]
    for record in given.values():
        record["run"] = "configs/y.py:mine"
    with pytest.raises(TableError, match=r"no table has a row of y; give --table.*toy"):
        compare.choose([table], given)


def test_formats_have_every_number(filled):
    table, ours, yours = filled
    outcome = compare.beside(table, "short", ours, compare.runs([yours]))
    lines = list(csv.DictReader(io.StringIO(formats.csv_text(outcome))))
    for measured in outcome.rows:
        for column in table.column:
            (line,) = (
                line
                for line in lines
                if (line["row"], line["source"], line["column"])
                == (measured.row.label, "ours", column.label)
            )
            cell = measured.cells[column.name]
            assert float(line["mean"]) == cell.mean
            assert int(line["n"]) == len(cell.values)
            assert (line["std"] == "") == (cell.std is None)
    published = {
        line["column"]: line["mean"] for line in lines if line["source"] == "paper"
    }
    assert published == {"Stochastic": "99.0", "Deterministic": "99.3"}
    grid = [line for line in formats.markdown(outcome).splitlines() if line]
    body = formats.latex(outcome).splitlines()
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == len(grid) - 1
    assert {line.count("&") for line in rows} == {3}
    assert "±" not in formats.latex(outcome)


def test_latex_takes_what_it_would_read_as_its_own():
    text = "50 % of a_b & #1 {x} ~ ^ \\"
    written = text.translate(formats.LATEX)
    for character in "%_&#{}":
        assert written.count(character) <= written.count(f"\\{character}") + 3 * (
            character in "{}"
        )
    assert r"50 \% of a\_b \& \#1 \{x\}" in written


def test_rows_are_what_the_records_hold(filled):
    _, ours, _ = filled
    rows = records.rows(ours)
    held = list(records.collect(ours).values())
    for row, record in zip(
        rows, sorted(held, key=lambda r: (r["variant"], r["seed"])), strict=True
    ):
        assert row["stoch/accuracy"] == record["evals"]["stoch"]["accuracy"]
        assert row["config.dataset.name"] == "mnist"
        assert (row["seed"], row["status"]) == (record["seed"], "done")
    frame = records.load(ours)
    means = frame.groupby("variant")["stoch/accuracy"].mean()
    assert means["a"] == pytest.approx(0.98)
    assert math.isclose(frame["seconds"].sum(), 270)


def test_the_command_takes_tables_and_runs_from_anywhere(filled):
    _, ours, yours = filled
    (ours.parent / "specs").mkdir()
    (ours.parent / "specs" / "toy.toml").write_text(SPEC)
    (ours.parent / "specs" / "toy.md").write_text(PROSE)
    command = [sys.executable, "scripts/tables.py", f"--tables={ours.parent / 'specs'}"]
    command += [f"--records={ours}", "--scale=short"]

    def run(*words):
        return subprocess.run(
            [*command, *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("--format=csv", "--compare", yours / "x" / "big", yours / "x" / "short")
    assert done.returncode == 0, done.stderr
    assert {line.partition(",")[0] for line in done.stdout.splitlines()} == {
        "row",
        "Net A",
        "Net B",
        '"mine',
        '"other',
    }
    assert sorted(ours.rglob("*.md")) == []  # nothing is written
    assert run("--check", "--format=csv").returncode == 2
