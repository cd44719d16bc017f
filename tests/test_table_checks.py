"""Published numbers have a place in a source, tolerances can fail, and no bound was
edited after its run in silence."""

import subprocess
from pathlib import Path

import pytest

from experiments import render, table_checks, table_specs, tables
from experiments.table_specs import TableError
from tests.toy_table import SPEC, make, spec, store

ROOT = Path(__file__).resolve().parents[1]
PLACED = SPEC.replace(
    'tag = "P"\n',
    'tag = "P"\ncolumns = { stoch = "one draw", det = "means" }\n'
    'rows = { a = "their A", b = "their B" }\n',
)
TWO = PLACED.replace(
    'note = "Nob', 'paper.paper = { stoch = 95.0, det = 99.0 }\nnote = "Nob'
)
ALL = table_specs.select()


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
@pytest.mark.parametrize(
    "rule",
    [table_checks.without_place, table_checks.too_wide, table_checks.undated],
    ids=lambda rule: rule.__name__,
)
def test_committed_tables_keep_the_rule(table, rule):
    assert list(rule(table)) == []


def test_no_bound_of_a_committed_record_was_edited_in_silence():
    try:
        history = table_checks.History.read(ROOT)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git history here")
    found = [
        text
        for table in ALL
        for scale in table.scale
        for text in table_checks.edited(table, scale, ROOT / "results", history)
    ]
    assert found == []


@pytest.mark.parametrize("what", [', det = "means"', 'a = "their A", '])
def test_a_number_without_its_row_or_column_is_named(tmp_path, what):
    assert list(table_checks.without_place(spec(tmp_path, PLACED))) == []
    text = PLACED.replace(what, "")
    assert "toy: a, paper, det" in list(
        table_checks.without_place(spec(tmp_path, text))
    )


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
    found = list(table_checks.too_wide(table))
    assert [text.split(": ")[1] for text in found] == [f"short, {key}" for key in named]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relative = { stoch = 0.1 }", "stoch has a tolerance and a relative one"),
        ('wide = { ens = "x" }', "'ens'; valid: stoch, det"),
        ('changed = { ens = "x" }', "'ens'; valid: stoch, det"),
        ("relative = { ens = 0.1 }", "tolerance of scale short: 'ens'"),
    ],
)
def test_wrong_tolerances_are_refused_by_name(tmp_path, text, message):
    with pytest.raises(TableError, match=message):
        spec(tmp_path, SPEC.replace("[scale.short]", f"[scale.short]\n{text}"))


def test_a_published_zero_has_no_relative_tolerance(tmp_path):
    old = "tolerance = { stoch = 1.0, det = 0.3 }"
    text = SPEC.replace(old, "relative = { det = 0.1 }").replace(
        "det = 99.3", "det = 0"
    )
    with pytest.raises(TableError, match="det of row a was published as 0"):
        spec(tmp_path, text)


def test_a_place_of_no_row_is_refused(tmp_path):
    with pytest.raises(TableError, match="row in published paper: 'c'; valid: a, b"):
        spec(tmp_path, PLACED.replace("{ a =", "{ c ="))


@pytest.mark.parametrize(("det", "shown"), [(0.97, "-2 %, yes"), (0.95, "-4 %, no")])
def test_a_relative_tolerance_is_of_the_published_number(tmp_path, det, shown):
    text = PLACED.replace(
        "tolerance = { stoch = 1.0, det = 0.3 }", "relative = { det = 0.03 }"
    )
    records = store(tmp_path, make("a", 0, det=det))
    page = render.markdown(tables.aggregate(spec(tmp_path, text), "short", records))
    assert f"99.3 ({shown})" in page
    assert "deterministic 3 % of the published number" in page
    assert 'Columns there: Stochastic: "one draw"; Deterministic: "means"' in page
    assert 'Rows there: Net A: "their A"' in page


def test_a_page_says_what_was_changed(tmp_path):
    text = PLACED.replace(
        "det = 0.3 }", 'det = 0.3 }\nchanged = { det = "2026-11-29: it was 9" }'
    )
    bound = "at_most = { short = 12.0 }"
    text = text.replace(bound, f'{bound}\nchanged = "2026-11-29: it was 9"')
    bound = "at_least = { quick = 90.0, short = 98.0 }"
    text = text.replace(bound, f'{bound}\nrecipe = "a first run had missed it"')
    table = spec(tmp_path, text)
    page = render.markdown(
        tables.aggregate(table, "short", store(tmp_path, make("a", 0)))
    )
    assert "| at most 12; changed 2026-11-29: it was 9 |" in page
    assert "recipe was changed after a first run had missed it" in page
    assert "deterministic 0.3, changed 2026-11-29: it was 9" in page
    assert list(table_checks.undated(table)) == []
    undated = spec(tmp_path, text.replace("2026-11-29: it was", "it was"))
    assert len(list(table_checks.undated(undated))) == 2


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *identity, *arguments]
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A table committed as it is in PLACED, with a record of that commit."""
    folder = tmp_path / "configs" / "tables"
    folder.mkdir(parents=True)
    spec(folder, PLACED)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Claim")
    records = [make("a", 0), make("b", 0)]
    for record in records:
        record["git"]["commit"] = git(tmp_path, "rev-parse", "HEAD")
    store(tmp_path / "results", *records)
    return tmp_path


LATER = (
    'text = "B guesses, too"\nrow = "b"\ncolumn = "stoch"\nat_most = { short = 12.0 }'
)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("short = 12.0", "short = 12.0", 0),
        ('text = "B guesses"', 'text = "B knows nothing"', 0),
        ("short = 12.0", "short = 13.0", 1),
        ("quick = 90.0", "quick = 91.0", 0),
        ("at_most = { short = 12.0 }", "at_least = { short = 12.0 }", 1),
        ("short = 12.0 }", 'short = 13.0 }\nchanged = "2026-11-29: it was 12"', 0),
        ("short = 12.0 }", 'short = 13.0 }\nafter = "a trial"', 1),
        ("[[claim]]", f"[[claim]]\n{LATER}\n\n[[claim]]", 1),
        ("[[claim]]", f'[[claim]]\n{LATER}\nafter = "all"\n\n[[claim]]', 0),
        ("det = 0.3 }", "det = 0.4 }", 1),
        ("det = 0.3 }", 'det = 0.4 }\nchanged = { det = "2026-11-29: .3" }', 0),
    ],
)
def test_an_edit_after_the_record_is_named_unless_it_says_so(
    repository, old, new, named
):
    assert old in PLACED
    table = spec(repository / "configs" / "tables", PLACED.replace(old, new, 1))
    history = table_checks.History.read(repository)
    found = list(table_checks.edited(table, "short", repository / "results", history))
    assert len(found) == named
