"""The files of tables are checked, and every name in them."""

from pathlib import Path

import pytest

from experiments.config_files import load_config
from experiments.tables import reading
from experiments.tables.specs import TableError
from tests.toy_table import PROSE, SPEC, spec

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = "tolerance = { stoch = 1.0, det = 0.3 }"
FIGURE = "[figure.f]\ntitle = 'F'\nkind = '{}'\n{}\n"


def test_what_a_file_leaves_out_is_derived(tmp_path):
    table = spec(tmp_path, SPEC.replace(', run = "configs/x.py:b"', ""))
    assert [column.name for column in table.column] == ["stoch", "det"]
    assert [row.run for row in table.row] == ["configs/x.py:a", "configs/toy.py:b"]
    assert table.row[0].places == {"paper": "their A"}
    assert table.row[0].paper == {"paper": {"stoch": 99.0, "det": 99.3}}
    assert table.row[1].note == "Nobody published it."
    assert table.scale["short"].text == "The data."
    assert [version.source for version in table.published] == ["Table 1"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title =", "titel =", r"'titel'; valid: title, .*metric"),
        ('metric = "accuracy"', "", "table toy: metric is missing"),
        ('"variance networks"', '"others"', "part: 'others'; valid: variance networks"),
        ("chance = 10.0", 'chance = "low"', "chance = 'low' must be .*float"),
        ("chance = 10.0", "shown = ['ens']", "column in shown: 'ens'; valid: stoch"),
        ("chance = 10.0", f"shown = {['det'] * 7}", "shown has 7 columns; 6 fit"),
        ("factor = 100.0", "factor = true", "factor = True must be .*float"),
        ('label = "Net B"', "label = 1", "row b: label = 1 must be .*str"),
        ('label = "Net B"', 'lable = "B"', "key of row b: 'lable'; valid: name, label"),
        ('label = "Net B", ', "", "row b: label is missing"),
        ('eval = "det", ', "", "column 'Deterministic': give an eval, or a history"),
        ("det = 0.3 }", "mean = 0.3 }", "'mean'; valid: stoch, det"),
        (TOLERANCE, "relative = { stoch = 0.1 }\n" + TOLERANCE, "stoch has a toleranc"),
        (TOLERANCE, "relative = { ens = 0.1 }", "tolerance of scale short: 'ens'"),
        (TOLERANCE, TOLERANCE + "\nwide.ens = 'x'", "'ens'; valid: stoch, det"),
        (TOLERANCE, TOLERANCE + "\nchanged.ens = 'x'", "'ens'; valid: stoch, det"),
        ('tag = "P"', 'tag = "M"', "tag of published paper: 'M'; valid: C, S, P"),
        ("paper.paper", "paper.slides", "'slides'; valid: paper"),
        ("det = 99.3", "ens = 99.3", "'ens'; valid: stoch, det"),
        ("det = 99.3", 'det = "99"', r"row a, paper\.paper = .* must be dict.*float"),
        ('at = "their A"', "at = 1", r"row a, paper\.paper: at = 1 must be .*str"),
        ("configs/x.py:b", "configs/x.py", "row b: run ="),
        ("configs/x.py:b", "configs/x.py:a", "run stands twice"),
        ('name = "a"', 'name = "b"', "row stands twice"),
        ("quick = 90.0", "quik = 90.0", "scale of claim 1: 'quik'; valid: quick"),
        ("at_most =", "at_lest =", "key of claim 2: 'at_lest'; valid: .*at_least"),
        ("at_most = { short = 12.0 }, ", "", "claim 2: give one of at_most"),
        ('row = "b", other', 'row = "c", other', "row of claim 3: 'c'; valid: a, b"),
        ('other = "a", ', "", "claim 3: within needs other"),
        ('other = "a"', 'other_column = "c"', "other_column of claim 3: 'c'"),
        ("[scale.quick]", "[scale.quick]\nrows = ['c']", "row of scale quick: 'c'"),
        ("[scale.quick]", "[scale.quick]\nshown = ['ens']", "column in shown: 'ens'"),
        ("[scale.quick]", "[scales.quick]", "'scales'; valid"),
        ("[scale.quick]", "[scale.quick]\ntext = 'x'", "quick: text stands in the TOM"),
        (
            'label = "Net B"',
            "without = ['c'], label = ''",
            "without: 'c'; valid: stoch",
        ),
        (
            'label = "Net B"',
            "without = ['det'], label = ''",
            "claim 2: row b is without",
        ),
        ("column = [", "column = 1\nx = [", "column must be a list of lines"),
        ("column = [", "column = [3,", "column 1 must be a table, not 3"),
        ("[published", "[column", "toy.toml"),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path, old, new, message):
    assert old in SPEC
    with pytest.raises(TableError, match=message) as error:
        spec(tmp_path, SPEC.replace(old, new, 1))
    assert "toy.toml" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## row b", "## row c", "## row c: there is no such row"),
        ("## row b", "## rwo b", "kind of section: 'rwo'; valid: scale, row, pub"),
        ("## row b", "## row", "a section is of one name"),
        ("## row b", "## scale short", "a section is of one name, once"),
        ("## row b", "### text", "key of published paper: 'text'"),
        ("## row b", "### reading a b", "### FIELD or ### FIELD NAME"),
        ("## row b", "#### reading", "### FIELD or ### FIELD NAME"),
        ("The\n", "### read\nThe\n", "key of scale short: 'read'; valid: .*reading"),
        ("The\n", "Of\n### wide x\nThe\n", "with a tolerance of .*: 'x'; valid: stoch"),
        ("Table 1", "", "published paper: source is missing"),
    ],
)
def test_wrong_prose_is_refused_by_name(tmp_path, old, new, message):
    assert old in PROSE
    with pytest.raises(TableError, match=message):
        spec(tmp_path, prose=PROSE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("pie", 'y = ["det"]', "kind of figure f: 'pie'; valid: lines"),
        ("history", 'y = ["log_alpha/*"]\nlabels = ["x"]', r"needs a \*"),
        ("band", 'y = ["v", "low"]', "middle, lower, upper"),
        ("band", 'y = ["v", "low", "high"]\nless = "w"', "valid: v, low, high"),
        ("lines", 'y = ["v"]\ndots = "c"', "for a band"),
        ("lines", 'y = ["v"]\ny_range = [1, 1]', "lower end, upper end"),
        ("rows", 'y = ["det"]', "no row has a series and x"),
        ("rows", 'y = ["det"]\nrows = ["a"]', "row a needs series and x, or x_column"),
        ("rows", 'y = ["ens"]', "column in figure f: 'ens'; valid: stoch, det"),
    ],
)
def test_wrong_figures_are_refused(tmp_path, kind, line, message):
    with pytest.raises(TableError, match=message):
        spec(tmp_path, SPEC + FIGURE.format(kind, line))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ('series = "s", x = 2', None),
        ('series = "s", x_column = "det"', None),
        ('series = "s", x = 2, x_column = "det"', "row b needs series and x"),
        ('series = "s", x_column = "rate"', "unknown x_column of row b"),
        ("x = 2", "row b needs series and x"),
    ],
)
def test_a_figure_of_rows_needs_their_places(tmp_path, place, message):
    text = SPEC.replace('label = "Net B"', f'label = "Net B", {place}')
    text += FIGURE.format("rows", 'rows = ["b"]\ny = ["det"]')
    if message is None:
        spec(tmp_path, text)
        return
    with pytest.raises(TableError, match=message):
        spec(tmp_path, text)


HISTORY = '  {{ history = "ens", {}label = "H" }},\n]\n\nrow'


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            'name = "h", summary = "mean", ',
            "summary of column h: 'mean'; valid: epoc",
        ),
        ('name = "h", summary = "epochs_to", ', "column h: epochs_to has a level"),
        ('name = "h", summary = "last", level = 1.0, ', "column h: epochs_to has"),
        ('summary = "last", ', "column 'H': give an eval, or a history with a name"),
        ('name = "h", eval = "det", summary = "last", ', "column 'H': give an eval"),
        ('name = "h", metric = "ece", summary = "last", ', "h: a metric is of an eval"),
    ],
)
def test_wrong_columns_of_histories_are_refused(tmp_path, keys, message):
    with pytest.raises(TableError, match=message):
        spec(tmp_path, SPEC.replace("]\n\nrow", HISTORY.format(keys), 1))


def test_a_published_zero_has_no_relative_tolerance(tmp_path):
    text = SPEC.replace(TOLERANCE, "relative = { det = 0.1 }")
    with pytest.raises(TableError, match="det of row a was published as 0"):
        spec(tmp_path, text.replace("det = 99.3", "det = 0"))


def test_unknown_names_are_told_with_the_valid_ones(tmp_path):
    spec(tmp_path)
    with pytest.raises(TableError, match="unknown table: 'x'; valid: toy"):
        reading.select("x", folder=tmp_path)
    for name in ("", "toy"):
        with pytest.raises(TableError, match="'huge'; valid: quick, short"):
            reading.select(name, "huge", folder=tmp_path)


@pytest.mark.parametrize("name", reading.names())
def test_tables_in_the_repository_load(name):
    table = reading.find(name)
    for row in table.row:
        path = row.run.partition(":")[0]
        assert load_config(f"{row.run},{min(table.scale)}")
        assert (ROOT / path).is_file(), f"{row.run}: no such config"
