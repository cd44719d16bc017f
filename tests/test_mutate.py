"""What `make mutate` changes, and what it leaves alone."""

import ast
import subprocess
import sys

import pytest

from tests import mutant_runs, mutate

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
        assert one.name == ("priors", one.place.function, before, after)
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


GROUPS = ("nodes", "priors", "estimators", "edits", "likelihoods", "compact")


@pytest.mark.parametrize("group", GROUPS)
def test_no_module_of_a_group_is_left_out(group):
    vnets = mutate.ROOT / "vnets"
    for path in (*vnets.glob(f"{group}.py"), *vnets.glob(f"{group}/**/*.py")):
        module = path.relative_to(vnets).with_suffix("").as_posix()
        tried = module in mutate.TESTS
        assert tried or not mutate.mutants(module, mutate.source_of(module)), module


@pytest.mark.parametrize("module", mutate.TESTS)
def test_every_module_has_mutants_and_tests(module):
    found = mutate.mutants(module, mutate.source_of(module))
    assert len(found) > 15
    for name in mutate.TESTS[module]:
        assert (mutate.ROOT / "tests" / f"{name}.py").is_file()


def test_what_is_called_equivalent_is_there():
    listed = mutate.equivalent()
    functions = {name[:2] for name in listed}
    there = {
        one.name
        for module in {module for module, _ in functions}
        for one in mutate.mutants(module, mutate.source_of(module))
        if (module, one.place.function) in functions
    }
    assert set(listed) <= there


def test_unknown_modules_are_named(capsys):
    assert mutate.main(["--modules=edits,nope"]) == 2
    told = f"unknown modules ['nope']; choose from {list(mutate.TESTS)}"
    assert told in capsys.readouterr().err


def test_probes_tell_the_statements_that_are_executed():
    hits = []
    made = {"__hit__": hits.append, "f": None}
    exec(compile(mutant_runs.probed(SOURCE), "priors", "exec"), made)
    text = SOURCE.splitlines()
    assert any(text[line - 1].startswith("LIMIT") for line in hits)
    assert not any("x" in text[line - 1].split(":")[-1] for line in hits)
    hits.clear()
    assert made["clipped"](5.0, deep=True) == 25.0
    assert [text[line - 1].split()[0] for line in hits] == ["if", "return"]
    [one] = [m for m in mutate.mutants("priors", SOURCE) if "x * 2" in m.name[-1]]
    assert one.line == hits[1]
    assert set(hits) <= set(one.place.reach)


def test_the_likeliest_tests_come_first_and_only_those_that_reach_the_function():
    def file(**hits):
        tests = {
            name: mutant_runs.Recorded(1.0, {"edits": h}) for name, h in hits.items()
        }
        return mutant_runs.File(tests, {"edits": [1]})

    files = {
        "a": file(no=[], yes=[5]),
        "b": file(far=[6], near=[5, 6]),
        "c": file(x=[9]),
    }
    order = mutant_runs.Order(files)
    asked = "edits", 5, range(5, 8), "abc"
    assert order.tests(*asked) == ["near", "yes", "far", "no"]
    order.failed["edits", "yes"] += 1
    order.failed["edits", "no"] += 1
    assert order.tests(*asked) == ["yes", "near", "no", "far"]
    assert order.tests("edits", 1, range(1, 2), "c") == ["x"]


def test_no_module_is_loaded_before_it_is_changed():
    """Else its mutants are the module itself, and all survive."""
    program = "from tests import mutant_runs as m; m.WARM = (); m.warm()"
    for first, good in (("", True), ("import vnets.rng; ", False)):
        words = [sys.executable, "-c", first + program]
        run = subprocess.run(words, cwd=mutate.ROOT, capture_output=True, text=True)
        assert ("loaded before any change" not in run.stderr) == good, run.stderr
        assert (run.returncode == 0) == good


def test_what_no_test_reaches_survives():
    assert mutant_runs.noticed_by("edits", "1 / 0", [], {}) == ""


def test_what_dies_in_a_fork_answers_nothing():
    program = (
        "import os, signal; from tests.mutant_runs import answers\n"
        "end = lambda: os.kill(os.getpid(), signal.SIGPROF)\n"
        "tasks = [(1, lambda: 'one'), (2, end), (3, lambda: ['x' * 10**6])]\n"
        "found = {name: len(answer or '') for name, answer in answers(tasks, 2)}\n"
        "print(sorted(found.items()))"
    )
    words = [sys.executable, "-c", program]
    run = subprocess.run(words, cwd=mutate.ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "[(1, 3), (2, 0), (3, 1)]", run.stderr
