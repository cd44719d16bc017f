"""The TOML of tables is checked, and every name in it."""

from pathlib import Path

import pytest

from experiments import table_specs
from experiments.config_files import load_config
from experiments.table_specs import TableError
from tests.toy_table import SPEC, spec

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title =", "titel =", r"'titel'; valid: .*title"),
        ('metric = "accuracy"', "", "metric is missing"),
        ('"variance networks"', '"others"', "part: 'others'; valid: variance networks"),
        ("chance = 10.0", 'chance = "low"', "chance = 'low' must be .*float"),
        ("factor = 100.0", "factor = true", "factor = True must be .*float"),
        ("det = 0.3 }", "mean = 0.3 }", "'mean'; valid: stoch, det"),
        ('tag = "P"', 'tag = "M"', "tag of published paper: 'M'; valid: C, S, P"),
        ("paper.paper", "paper.slides", "'slides'; valid: paper"),
        ("det = 99.3", "ens = 99.3", "'ens'; valid: stoch, det"),
        ('run = "configs/x.py:b"', 'run = "configs/x.py"', "row b: run ="),
        ('run = "configs/x.py:b"', 'run = "configs/x.py:a"', "run stands twice"),
        ('name = "b"', 'name = "a"', "row stands twice"),
        ("quick = 90.0", "quik = 90.0", "scale of claim 1: 'quik'; valid: quick"),
        ("at_most =", "at_lest =", "key of claim 2: 'at_lest'; valid: .*at_least"),
        ("at_most = { short = 12.0 }", "", "claim 2: give one of at_most"),
        ('row = "b"\nother', 'row = "c"\nother', "row of claim 3: 'c'; valid: a, b"),
        ('other = "a"', "", "claim 3: within needs other"),
        ('other = "a"', 'other_column = "c"', "other_column of claim 3: 'c'"),
        ("[scale.quick]", "[scale.quick]\nrows = ['c']", "row of scale quick: 'c'"),
        ("note =", "without = ['c']\nnote =", "row b is without: 'c'; valid: stoch"),
        (
            "[[row]]",
            "[[figure]]\nname = 'f'\ntitle = ''\nkind = 'pie'\n[[row]]",
            "kind of figure f: 'pie'; valid: lines",
        ),
        ("[scale.quick]", "[scales.quick]", "'scales'; valid"),
        ("[[column]]", "[column", "toy.toml"),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path, old, new, message):
    assert old in SPEC
    with pytest.raises(TableError, match=message) as error:
        spec(tmp_path, SPEC.replace(old, new, 1))
    assert "toy.toml" in str(error.value)


def test_unknown_names_are_told_with_the_valid_ones(tmp_path):
    spec(tmp_path)
    with pytest.raises(TableError, match="unknown table: 'x'; valid: toy"):
        table_specs.select("x", folder=tmp_path)
    for name in ("", "toy"):
        with pytest.raises(TableError, match="'huge'; valid: quick, short"):
            table_specs.select(name, "huge", folder=tmp_path)


@pytest.mark.parametrize("name", table_specs.names())
def test_tables_in_the_repository_load(name):
    table = table_specs.find(name)
    for row in table.row:
        path = row.run.partition(":")[0]
        assert load_config(f"{row.run},{min(table.scale)}")
        assert (ROOT / path).is_file(), f"{row.run}: no such config"
    for version in table.published:
        assert version.source
