"""No test is content with a claim about all of nothing."""

import ast
from pathlib import Path

import pytest
from claims import every

TESTS = Path(__file__).parent


def test_every_is_all_of_at_least_one():
    assert every([True, 1])
    assert not every(x > 0 for x in (1, 0))
    with pytest.raises(AssertionError, match="all of nothing"):
        every(x > 0 for x in ())


def test_no_assertion_is_a_bare_all():
    """`every` says so first where there is nothing; a loop says that there may be."""
    texts = {path: path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py")}
    bare = [
        f"{path.name}:{node.lineno}"
        for path, text in texts.items()
        if "assert all(" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assert)
        and isinstance(node.test, ast.Call)
        and isinstance(node.test.func, ast.Name)
        and node.test.func.id == "all"
    ]
    assert not bare, f"{bare}: write `assert every(...)`, of tests/claims.py"
