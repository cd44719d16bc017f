"""Published numbers have a place in a source, tolerances can fail, and no bound was
edited after its run in silence."""

import subprocess
from pathlib import Path

import pytest

from experiments.tables import outcomes, reading, render
from tests import table_rules as rules
from tests.toy_table import SPEC, make, spec, store

ROOT = Path(__file__).resolve().parents[1]
TWO = SPEC.replace(
    'label = "Net B"',
    'label = "Net B", paper.paper = { at = "their B", stoch = 95.0, det = 99.0 }',
)
ALL = reading.select()


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
@pytest.mark.parametrize(
    "rule",
    [rules.without_place, rules.too_wide, rules.undated],
    ids=lambda rule: rule.__name__,
)
def test_committed_tables_keep_the_rule(table, rule):
    assert list(rule(table)) == []


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
def test_every_column_of_committed_tables_was_measured(table):
    assert list(rules.never_measured(table, ROOT / "results")) == []


def test_a_column_of_no_record_is_named(tmp_path):
    more = "column = [{ name = 'x', eval = 'dte', label = 'X' },"
    text = SPEC.replace("column = [", more)
    table = spec(tmp_path, text)
    assert list(rules.never_measured(table, tmp_path)) == []
    store(tmp_path, make("a", 0))
    assert list(rules.never_measured(table, tmp_path)) == ["toy: x"]


def test_no_bound_of_a_committed_record_was_edited_in_silence():
    try:
        history = rules.History.read(ROOT)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git history here")
    found = [
        text
        for table in ALL
        for scale in table.scale
        for text in rules.edited(table, scale, ROOT / "results", history)
    ]
    assert found == []


@pytest.mark.parametrize("what", [', det = "means"', 'at = "their A", '])
def test_a_number_without_its_row_or_column_is_named(tmp_path, what):
    assert list(rules.without_place(spec(tmp_path, SPEC))) == []
    text = SPEC.replace(what, "")
    assert "toy: a, paper, det" in list(rules.without_place(spec(tmp_path, text)))


@pytest.mark.parametrize(
    ("tolerance", "wide", "named"),
    [
        ("tolerance = { stoch = 1.0 }", "", []),
        ("tolerance = { stoch = 1.5 }", "", ["stoch"]),
        ("tolerance = { stoch = 1.5, det = 0.2 }", "", ["stoch", "det"]),
        ("tolerance = { stoch = 1.5 }", 'wide = { stoch = "why" }', []),
        ("tolerance = { stoch = 1.0 }", 'wide = { stoch = "why" }', ["stoch"]),
        ("relative = { stoch = 0.01 }", "", []),
        ("relative = { stoch = 0.02 }", "", ["stoch"]),
    ],
)
def test_a_tolerance_above_half_of_the_spread_says_why(
    tmp_path, tolerance, wide, named
):
    old = "tolerance = { stoch = 1.0, det = 0.3 }"
    table = spec(tmp_path, TWO.replace(old, f"{tolerance}\n{wide}"))
    found = list(rules.too_wide(table))
    assert [text.split(": ")[1] for text in found] == [f"short, {key}" for key in named]


@pytest.mark.parametrize(("det", "shown"), [(0.97, "-2 %, yes"), (0.95, "-4 %, no")])
def test_a_relative_tolerance_is_of_the_published_number(tmp_path, det, shown):
    text = SPEC.replace(
        "tolerance = { stoch = 1.0, det = 0.3 }", "relative = { det = 0.03 }"
    )
    records = store(tmp_path, make("a", 0, det=det))
    page = render.markdown(outcomes.aggregate(spec(tmp_path, text), "short", records))
    assert f"99.3 ({shown})" in page
    assert "deterministic: 3 % of the published number" in page
    assert "| the paper | Stochastic | one draw |\n|  | Deterministic | means |" in page
    assert "|  | Net A | their A |" in page


def test_notes_of_changes_begin_with_their_day(tmp_path):
    changed = 'changed.det = "2026-11-29: it was 9"'
    text = SPEC.replace("det = 0.3 }", f"det = 0.3 }}\n{changed}")
    bound = "at_most = { short = 12.0 }"
    text = text.replace(bound, f'{bound}, changed = "2026-11-29: it was 9"')
    assert list(rules.undated(spec(tmp_path, text))) == []
    undated = spec(tmp_path, text.replace("2026-11-29: it was", "it was"))
    assert len(list(rules.undated(undated))) == 2


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *identity, *arguments]
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


SECTIONS = """
[scale.short]
tolerance = { stoch = 1.0, det = 0.3 }

[[claim]]
row = "b"
column = "det"
at_most = { short = 12.0 }
"""  # how files were written before each claim had a line


def changes(folder, committed, text):
    """What `edited` names of a table whose records are of a commit with another."""
    place = folder / "configs" / "tables"
    place.mkdir(parents=True)
    (place / "toy.toml").write_text(committed)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "Claim")
    records = [make("a", 0), make("b", 0)]
    for record in records:
        record["git"]["commit"] = git(folder, "rev-parse", "HEAD")
    store(folder / "results", *records)
    history = rules.History.read(folder)
    return list(rules.edited(spec(place, text), "short", folder / "results", history))


ONE_MORE = '{ text = "B guesses, too", row = "b", column = "stoch", '
ONE_MORE += "at_most = { short = 12.0 }"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("short = 12.0", "short = 12.0", 0),
        ('text = "B guesses"', 'text = "B knows nothing"', 0),
        ("short = 12.0", "short = 13.0", 1),
        ("quick = 90.0", "quick = 91.0", 0),
        ("at_most = { short = 12.0 }", "at_least = { short = 12.0 }", 1),
        ("short = 12.0 }", 'short = 13.0 }, changed = "2026-11-29: it was 12"', 0),
        ("short = 12.0 }", 'short = 13.0 }, after = "a trial"', 1),
        ("claim = [", f"claim = [{ONE_MORE} }},", 1),
        ("claim = [", f'claim = [{ONE_MORE}, after = "all" }},', 0),
        ("det = 0.3 }", "det = 0.4 }", 1),
        ("det = 0.3 }", 'det = 0.4 }\nchanged = { det = "2026-11-29: .3" }', 0),
    ],
)
def test_an_edit_after_the_record_is_named_unless_it_says_so(tmp_path, old, new, named):
    assert old in SPEC
    assert len(changes(tmp_path, SPEC, SPEC.replace(old, new, 1))) == named


def test_files_of_another_form_are_read_where_they_are_in_the_history(tmp_path):
    found = changes(tmp_path, SECTIONS, SPEC.replace("det = 0.3 }", "det = 0.4 }"))
    assert found[0] == "toy: short, tolerance of det"
    assert ["A is good" in text or "B is as good" in text for text in found[1:]] == [
        True,
        True,
    ]
