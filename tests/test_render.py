"""Tables as text, in the terminal and as a figure: functions of the records."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.tables import dots, outcomes, reading, render, terminal
from tests.toy_table import make, spec, store

ROOT = Path(__file__).resolve().parents[1]


def test_markdown_is_a_function_of_the_records(tmp_path):
    made = [make("a", seed, stoch=0.99 + seed / 1000) for seed in range(3)]
    made.append(make("b", 0, epochs=7))
    one = store(tmp_path / "one", *made)
    two = store(tmp_path / "two", *reversed(made))
    texts = [
        render.markdown(outcomes.aggregate(spec(tmp_path), "short", records))
        for records in (one, dict(reversed(two.items())))
    ]
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]


def test_the_terminal_needs_100_columns(tmp_path):
    console_type = pytest.importorskip("rich.console").Console
    table = reading.find("lenet5_mnist")
    records = {}
    for row in table.row:
        for seed in range(3):
            failed = "non-finite loss" if seed == 2 else None
            record = make("a", seed, stoch=0.1, det=0.9, failed=failed)
            record["evals"]["ens"] = {"accuracy": 0.1, "samples": 100}
            records[Path(f"{row.name}{seed}")] = {**record, "run": row.run}
    stream = io.StringIO()
    outcome = outcomes.aggregate(table, "short", records)
    terminal.terminal(outcome, console_type(file=stream, width=100))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for grid in render.grids(outcome):
        for line in grid.lines:
            # A field of two words or fewer stands on one line, whole.
            for field in (field for field in line[1:] if field.count(" ") < 2):
                assert field in text


def test_columns_that_do_not_fit_the_terminal_go_below_with_their_rows():
    header = ["Row", "", *(f"A column about layer {i}" for i in range(20))]
    lines = [["Some net", "ours", *(f"{i}.25" for i in range(20))]]
    parts = list(terminal.panels(render.Grid("", header, lines, names=2), width=100))
    assert len(parts) > 1
    for part in parts:
        assert part.header[:2] == header[:2]
        assert part.lines[0][:2] == lines[0][:2]
    assert [name for part in parts for name in part.header[2:]] == header[2:]
    assert [one for part in parts for one in part.lines[0][2:]] == lines[0][2:]
    [whole] = terminal.panels(render.Grid("", header, lines, names=2), width=500)
    assert whole.header == header


@pytest.mark.parametrize("value", [100.0, 0.0, -2e-4])
def test_equal_numbers_have_an_axis_that_can_be_read(value):
    """Ticks that differ in a digit near the first, not by an offset."""
    span = dots._around([value, value], "")
    assert span.low < value < span.high
    assert span.high - span.low >= 0.009 * abs(value)


def test_the_figure_is_written(tmp_path):
    records = store(tmp_path, make("a", 0), make("a", 1, det=0.1))
    for scale in ("short", "quick"):  # the second has no record at all
        outcome = outcomes.aggregate(spec(tmp_path), scale, records)
        dots.save(outcome, tmp_path / f"{scale}.png")
        assert (tmp_path / f"{scale}.png").read_bytes().startswith(b"\x89PNG")


def test_tables_load_nothing_heavy():
    code = (
        "import sys; from experiments.tables import dots, render, terminal; "
        "heavy = {'jax', 'rich', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
