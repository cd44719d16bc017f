"""Laws of tables: the numbers are NumPy's, and what is committed is what the records
give."""

import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import reproduce, running
from experiments.records import write
from experiments.tables import outcomes, pages, reading, render, words
from experiments.tables.specs import TableError
from tests.toy_table import SPEC, make, spec, store

ROOT = Path(__file__).resolve().parents[1]


MAPPINGS = Path("/proc/self/maps")


# The limit is of Linux, and so is the list: elsewhere there is nothing to count.
@pytest.mark.skipif(not MAPPINGS.exists(), reason="Linux lists its mappings")
def test_what_was_compiled_is_freed():
    def count():
        return len(MAPPINGS.read_text().splitlines())

    reproduce.forget_programs()
    before = count()
    kept = [jax.jit(lambda x, k=k: jnp.sin(k * x).sum()) for k in range(20)]
    for function in kept:
        function(jnp.ones(3))
    compiled = count() - before
    assert compiled >= 20
    reproduce.forget_programs()
    assert count() - before < compiled / 4


def test_aggregation_is_numpys(tmp_path):
    values = [0.9912, 0.9897, 0.9931, 0.9904]
    records = [make("a", seed, stoch=value) for seed, value in enumerate(values)]
    records.append(make("a", 9, scale="quick"))
    outcome = outcomes.aggregate(spec(tmp_path), "short", store(tmp_path, *records))
    first, second = outcome.rows
    cell = first.cells["stoch"]
    assert cell.mean == pytest.approx(100 * np.mean(values), abs=1e-9)
    assert cell.std == pytest.approx(100 * np.std(values, ddof=1), abs=1e-9)
    assert len(cell.values) == 4
    assert first.gaps["paper"]["stoch"].difference == pytest.approx(0.11, abs=1e-9)
    assert first.gaps["paper"]["stoch"].within
    assert second.cells["stoch"].mean is None


@pytest.mark.parametrize(
    ("det", "within"), [(0.996, True), (0.99, True), (0.9961, False), (0.1, False)]
)
def test_the_tolerance_includes_its_bound(tmp_path, det, within):
    records = store(tmp_path, make("a", 0, det=det))
    outcome = outcomes.aggregate(spec(tmp_path), "short", records)
    assert outcome.rows[0].gaps["paper"]["det"].within is within
    assert f", {'yes' if within else 'no'})" in render.markdown(outcome)


def test_without_tolerance_nothing_is_judged(tmp_path):
    records = store(tmp_path, make("a", 0, stoch=0.5, scale="quick"))
    outcome = outcomes.aggregate(spec(tmp_path), "quick", records)
    assert outcome.rows[0].gaps["paper"]["stoch"].within is None
    assert "context only" in render.markdown(outcome)
    assert [verdict.holds for verdict in outcome.verdicts] == [False]


@pytest.mark.parametrize(
    ("records", "holds"),
    [
        ([make("a", 0), make("b", 0, stoch=0.987, det=0.12)], [True, True, True]),
        ([make("a", 0), make("b", 0, stoch=0.9931)], [True, False, False]),
        ([make("a", 0, stoch=0.97)], [False, None, None]),
        ([make("b", 0, stoch=math.nan, det=0.1)], [None, True, None]),
        ([make("a", 0), make("b", 0, stoch=math.nan)], [True, False, False]),
    ],
)
def test_claims(tmp_path, records, holds):
    outcome = outcomes.aggregate(spec(tmp_path), "short", store(tmp_path, *records))
    assert [verdict.holds for verdict in outcome.verdicts] == holds


def test_the_overview_shows_the_largest_scale_that_measured_a_claim(tmp_path):
    table, records = spec(tmp_path), store(tmp_path, make("a", 0, scale="quick"))
    quick = outcomes.aggregate(table, "quick", records)
    started = outcomes.aggregate(table, "short", {})
    whole = outcomes.aggregate(table, "short", store(tmp_path, make("a", 0)))
    nothing = outcomes.aggregate(table, "quick", {})
    for given, expected in (
        ([quick, started], quick),
        ([quick, whole], whole),
        ([nothing, started], started),
    ):
        assert pages.shown(given) == [expected]


def test_a_claim_tells_its_seeds_and_what_its_bound_knew(tmp_path):
    at_least = "at_least = { quick = 90.0, short = 98.0 }"
    text = SPEC.replace(at_least, at_least + ', after = "seed 0"')
    records = store(tmp_path, make("a", 0), make("a", 1), make("b", 0))
    outcome = outcomes.aggregate(spec(tmp_path, text), "short", records)
    lines = render.grids(outcome)[1].lines
    assert [line[1].rpartition(", ")[2] for line in lines] == [
        "n = 2",
        "n = 1",
        "n = 1",
    ]
    assert lines[0][2] == "at least 98; set after seed 0"
    assert lines[2][1].startswith("differs by ")
    assert "set after" not in lines[1][2]


@pytest.mark.parametrize(
    ("row", "scale", "wanted"),
    [
        ("", "", [0, 1, 2]),
        (", seeds = 2", "", [0, 1]),
        ("", "seeds = 1", [0]),
        (", seeds = 2", "seeds = 1", [0]),
        (", seeds = 1", "seeds = 9", [0]),
        (", first_seed = 4", "", [4, 5, 6]),
        (", first_seed = 4, seeds = 2", "", [4, 5]),
    ],
)
def test_rows_and_scales_cap_seeds(tmp_path, monkeypatch, row, scale, wanted):
    text = SPEC.replace('label = "Net A"', f'label = "Net A"{row}', 1)
    table = spec(tmp_path, text.replace("[scale.quick]", f"[scale.quick]\n{scale}"))
    ran = {}
    monkeypatch.setattr(reproduce, "load_config", lambda which: None)

    def run(config, run, folder, seeds, **kwargs):
        ran.update({run: seeds})

    monkeypatch.setattr(running, "run", run)
    assert reproduce.train_missing(table, "quick", range(3), tmp_path) == {}
    b_capped = [0] if scale == "seeds = 1" else [0, 1, 2]
    assert ran == {"configs/x.py:a": wanted, "configs/x.py:b": b_capped}


@pytest.mark.parametrize(
    ("made", "cells"),
    [
        ([make("a", 0), make("a", 1, failed="| NaN")], "n = 1 of 2 | 99.00 | 99.30"),
        ([make("a", 0, failed="NaN"), make("a", 1, failed="| NaN")], "n = 0 of 2 | f"),
    ],
)
def test_failed_seeds_are_counted_and_told(tmp_path, made, cells):
    outcome = outcomes.aggregate(spec(tmp_path), "short", store(tmp_path, *made))
    assert outcome.rows[0].failed[1] == "| NaN"
    text = render.markdown(outcome)
    assert f"| Net A | ours, {cells}" in text
    assert "Net A, seed 1 failed: | NaN" in text
    assert "| Net B |" not in text
    assert "\n\nNot run:\n\n- Net B\n" in text


HISTORIES = """
  { name = "speed", history = "ens", summary = "epochs_to", level = 0.9, label = "Epochs", digits = 1 },
  { name = "fall", history = "ens", summary = "largest_fall", label = "Fall", factor = 100.0 },
  { name = "end", history = "ens", summary = "last", label = "End" },
]

row"""  # noqa: E501


def probes(*values):
    """A history that probes every second epoch; its last epoch was not probed."""
    found = [{"epoch": 2 * i + 2, "ens": v, "nll": 1.0} for i, v in enumerate(values)]
    return [*found, {"epoch": 2 * len(values) + 1, "nll": 1.0}]


def test_columns_of_histories(tmp_path):
    table = spec(tmp_path, SPEC.replace("]\n\nrow", HISTORIES, 1))
    records = store(
        tmp_path,
        make("a", 0, history=probes(0.5, 0.8, 0.95, 0.6, 0.7)),
        make("a", 1, history=probes(0.9, 0.91, 0.92)),
        make("b", 0, history=probes(0.5, 0.9)),
        make("b", 1, history=probes(0.5, 0.89)),
    )
    outcome = outcomes.aggregate(table, "short", records)
    first, second = outcome.rows
    assert first.cells["speed"].values == [6.0, 2.0]
    assert first.cells["fall"].values == pytest.approx([35.0, 0.0])
    assert first.cells["end"].values == [0.7, 0.92]
    assert second.cells["speed"].values == [4.0, math.inf]
    text = render.markdown(outcome)
    assert "| 4.0 ± 2.8 | 17.50 ± 24.75 |" in text
    assert "never, 1 of 2" in text
    assert [column.name for column in table.plain] == ["stoch", "det"]


def test_rows_of_several_configurations_are_refused(tmp_path):
    records = store(tmp_path, make("a", 0), make("a", 1, epochs=4))
    with pytest.raises(TableError, match=r"a-seed0\.json.*a-seed1\.json"):
        outcomes.aggregate(spec(tmp_path), "short", records)


def test_a_seed_counts_once(tmp_path):
    write(tmp_path / "again" / "record.json", make("a", 0))
    records = store(tmp_path, make("a", 0))
    with pytest.raises(TableError, match="seed 0 twice"):
        outcomes.aggregate(spec(tmp_path), "short", records)


def without_det(variant, seed):
    record = make(variant, seed)
    del record["evals"]["det"]
    return record


def test_a_row_may_lack_a_column_that_it_owes_nobody(tmp_path):
    text = SPEC.replace(", det = 99.3", "")
    held = store(tmp_path, without_det("a", 0), without_det("a", 1), make("b", 0))
    outcome = outcomes.aggregate(spec(tmp_path, text), "short", held)
    assert [row.cells["det"].values for row in outcome.rows] == [[], [99.3]]
    assert f"| Net A | ours, n = 2 | 99.00 ± 0.00 | {words.NONE} |" in render.markdown(
        outcome
    )


@pytest.mark.parametrize(
    ("change", "made", "path"),
    [
        ("", [without_det("a", 0)], "a-seed0"),  # published of it
        (", det = 99.3", [without_det("b", 0)], "b-seed0"),  # claimed of it
        (", det = 99.3", [make("a", 0), without_det("a", 1)], "a-seed1"),
    ],
)
def test_a_missing_evaluation_is_named(tmp_path, change, made, path):
    table, records = spec(tmp_path, SPEC.replace(change, "")), store(tmp_path, *made)
    with pytest.raises(TableError, match=rf"{path}\.json.*of evaluation det.* stoch"):
        outcomes.aggregate(table, "short", records)


def test_tables_without_a_scale_are_passed_over(tmp_path):
    specs = reading.select("", "short")
    assert not all("short" in table.scale for table in specs)
    assert outcomes.all_of(specs, "short", tmp_path) == []


def run(script, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture
def lenet_runs(tmp_path):
    for seed in range(2):
        record = make("variance", seed)
        record["run"] = "configs/lenet5_mnist.py:variance"
        record["evals"]["ens"] = {"accuracy": 0.99, "samples": 20}
        place = (
            tmp_path / "runs" / "lenet5_mnist" / "short" / "variance" / f"seed{seed}"
        )
        write(place / "record.json", record)
    return tmp_path


def test_scripts_from_runs_to_committed_table(lenet_runs):
    chosen = ("--table=lenet5_mnist", "--scale=short")
    committed = lenet_runs / "results"
    paths = (f"--runs={lenet_runs / 'runs'}", f"--results={committed}")
    done = run("publish.py", *chosen, *paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written") == 2

    markdown = committed / "lenet5_mnist" / "short.md"
    assert run("tables.py", f"--records={committed}", "--check").returncode == 1
    assert not markdown.exists()
    done = run("tables.py", f"--records={committed}")
    assert done.returncode == 0, done.stderr
    assert str(markdown) in done.stdout
    assert markdown.with_suffix(".png").exists()
    assert run("tables.py", f"--records={committed}", "--check").returncode == 0

    markdown.write_text(markdown.read_text().replace("99.00", "99.90"))
    done = run("tables.py", f"--records={committed}", "--check")
    assert done.returncode == 1
    assert "does not agree" in done.stdout


def test_a_table_may_stand_before_its_first_record(tmp_path):
    table = reading.find("lenet5_mnist")
    done = run("tables.py", f"--table={table.name}", f"--records={tmp_path}")
    assert done.returncode == 0, done.stderr
    for row in table.row:
        assert row.label in done.stdout
    assert "not run" in done.stdout
    assert "no records in" in done.stdout
    assert list(tmp_path.iterdir()) == []
    for scale in table.scale:
        outcome = outcomes.aggregate(table, scale, {})
        assert render.markdown(outcome).count("not run") >= len(outcome.rows)
        assert {verdict.holds for verdict in outcome.verdicts} <= {None}


def test_scripts_explain_what_they_lack(tmp_path):
    for arguments, status, message in (
        ([f"--records={tmp_path}"], 1, "no records in"),
        (["--table=x"], 2, "unknown table: 'x'; valid: "),
        (["--scale=x"], 2, "unknown scale: 'x'; valid: "),
    ):
        done = run("tables.py", *arguments)
        assert done.returncode == status
        assert message in done.stderr
        assert "Traceback" not in done.stderr
