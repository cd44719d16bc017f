"""What `make mutate` changes, and what it leaves alone."""

import ast

import pytest

from tests import mutate

SOURCE = '''
"""Text with 1 < 2."""
LIMIT: int = 3


def clipped(x: "1 + 1", low=-1.0, deep=True) -> "2 * 2":
    """More of it."""
    if not x < LIMIT and x in (low,):
        raise ValueError(f"{x + 1}")
    return x ** 2 if deep else f(x, strict=True)


class Node:
    def __repr__(self):
        return "a" + "b"

    def nothing(self):
        return None
'''
CHANGES = [
    ("", "3", "4"),
    ("clipped", "-1.0", "1.0"),
    ("clipped", "1.0", "2.0"),
    ("clipped", "True", "False"),
    ("clipped", "not x < LIMIT and x in (low,)", "not x < LIMIT or x in (low,)"),
    ("clipped", "not x < LIMIT", "x < LIMIT"),
    ("clipped", "x < LIMIT", "x <= LIMIT"),
    ("clipped", "x in (low,)", "x not in (low,)"),
    ("clipped", "return x ** 2 if deep else f(x, strict=True)", "return None"),
    (
        "clipped",
        "x ** 2 if deep else f(x, strict=True)",
        "f(x, strict=True) if deep else x ** 2",
    ),
    ("clipped", "x ** 2", "x * 2"),
    ("clipped", "2", "3"),
]


def test_each_mutant_is_the_module_with_one_change():
    plain = ast.unparse(ast.parse(SOURCE))
    lines = plain.splitlines()
    found = mutate.mutants("priors", SOURCE)
    described = [
        (one.place.function, ast.unparse(one.node), ast.unparse(one.changed))
        for one in found
    ]
    assert sorted(described) == sorted(CHANGES)
    for one in found:
        changed = one.source()
        assert changed != plain
        pairs = zip(lines, changed.splitlines(), strict=True)
        [(before, after)] = [(a.strip(), b.strip()) for a, b in pairs if a != b]
        assert one.name == (one.place.function, before, after)
        assert ast.unparse(one.tree) == plain


def test_what_is_drawn_is_even_and_the_same_again():
    found = [
        one for name in ("priors", "edits") for one in mutate.mutants(name, SOURCE)
    ] + mutate.mutants("metrics", "x = 1")
    drawn = mutate.drawn(found, 9, seed=3)
    assert [one.module for one in drawn] == [
        "edits",
        "metrics",
        "priors",
        *["edits", "priors"] * 3,
    ]
    assert drawn == mutate.drawn(found, 9, seed=3)
    assert drawn != mutate.drawn(found, 9, seed=4)
    assert set(mutate.drawn(found, 99, seed=3)) == set(found)


def test_every_pattern_matches_a_module():
    for pattern, _ in mutate.MODULES:
        assert list((mutate.ROOT / "vnets").glob(f"{pattern}.py")), pattern


@pytest.mark.parametrize("module", mutate.TESTS)
def test_every_module_has_mutants_and_tests(module):
    found = mutate.mutants(module, mutate.source_of(module))
    assert len(found) > 20
    for name in mutate.TESTS[module]:
        assert (mutate.ROOT / "tests" / f"{name}.py").is_file()


def test_what_is_called_equivalent_is_there():
    there = {
        one.name
        for module in mutate.TESTS
        for one in mutate.mutants(module, mutate.source_of(module))
    }
    assert set(mutate.EQUIVALENT) <= there


def test_unknown_modules_are_named(capsys):
    assert mutate.main(["--modules=edits,nope"]) == 2
    told = f"unknown modules ['nope']; choose from {list(mutate.TESTS)}"
    assert told in capsys.readouterr().err
