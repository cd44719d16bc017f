"""Which small changes of the algebra no test notices: `make mutate`.

    python -m tests.mutate [--limit=40] [--seconds=1200] [--modules=priors,edits]

One expression at a time is changed (a comparison, an operator of arithmetic or logic, a
constant, what a function returns) in a copy of the project, and the test files that
are about its module run until the first failure. A mutant that they pass survives: it
is listed, and either wants a test or changes nothing (`EQUIVALENT`). Which mutants are
tried is drawn by --seed; without a limit all of them take hours.
"""

import argparse
import ast
import copy
import dataclasses
import functools
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Modules under vnets, by pattern, and the files of tests that are about them, the
# quickest first. A module belongs to the first row that matches it.
MODULES = (
    ("nodes/positive", "test_scales test_node_laws"),
    ("nodes/[!_]*", "test_node_laws test_nodes test_matching test_pruned"),
    ("tree", "test_tree test_vector_walks"),
    ("noise", "test_noise test_node_laws"),
    ("priors/fitted", "test_normal_priors test_pruned test_priors"),
    ("priors/units", "test_group_priors test_pruned test_priors"),
    ("priors/[!_]*", "test_priors test_node_laws"),
    ("estimators", "test_estimators test_estimator_laws test_magnitudes"),
    ("edits", "test_edits test_prune_units test_vector_walks"),
    ("loss", "test_loss test_targets"),
    ("targets", "test_targets"),
    ("predictor", "test_predictor test_evaluate"),
    ("likelihoods/[!_]*", "test_likelihoods test_targets"),
    ("compact/limits", "test_limits test_compact_files"),
    (
        "compact/[!_]*",
        "test_golden test_properties test_compact test_compact_files",
    ),
)
# (function, line before, line after): why no test can tell the two apart.
_ENDS = "low, high = np.arcsinh((mean + np.array([[[{}]], [[{}]]]) * _TAIL) / t ** 0.5)"
_TYPED = "@dataclass_transform(frozen_default={}, field_specifiers=(static,))"
_REMAT = "one = jax.checkpoint(one, prevent_cse={})"
EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("_jensen_gaps", _ENDS.format(-1, 1), _ENDS.format(-2, 1)): "the tail is nothing",
    ("_jensen_gaps", _ENDS.format(-1, 1), _ENDS.format(-1, 2)): "the tail is nothing",
    ("node_type", _TYPED.format(True), _TYPED.format(False)): "for type checkers",
    ("per_example_sampling", _REMAT.format(False), _REMAT.format(True)): "slower",
}
COMPARED = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In},
}
COMPUTED = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Pow: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv},
    **{ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
    **{ast.LShift: ast.RShift, ast.RShift: ast.LShift},
}
SKIPPED = (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr)
SLACK = 10  # times as long as the tests take without a change, and
LEAST = 60.0  # seconds at least, is when a mutant counts as hung: noticed


def _tests() -> dict[str, tuple[str, ...]]:
    """Files of tests by module, "compact/codec"."""
    found: dict[str, tuple[str, ...]] = {}
    for pattern, files in MODULES:
        for path in sorted((ROOT / "vnets").glob(f"{pattern}.py")):
            module = path.relative_to(ROOT / "vnets").with_suffix("").as_posix()
            found.setdefault(module, tuple(files.split()))
    return found


TESTS = _tests()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an expression stands: in a field of its parent, or in a list there.

    Attributes:
      function: "Node.kl", and
      statement: that it belongs to.
    """

    parent: ast.AST
    field: str
    number: int | None
    function: str
    statement: ast.AST

    @property
    def node(self) -> ast.AST:
        held = getattr(self.parent, self.field)
        return held if self.number is None else held[self.number]

    def put(self, node: ast.AST) -> None:
        if self.number is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.number] = node


@dataclasses.dataclass(frozen=True, eq=False)
class Mutant:
    """One changed expression.

    Attributes:
      module: "priors", under vnets.
      tree: of the module, as it is.
      place: of the expression.
      node: the expression, and
      changed: what it becomes.
    """

    module: str
    tree: ast.Module
    place: Place
    node: ast.AST
    changed: ast.AST

    def source(self) -> str:
        """The whole module, changed."""
        self.place.put(self.changed)
        try:
            return ast.unparse(self.tree)
        finally:
            self.place.put(self.node)

    def __str__(self) -> str:
        line = getattr(self.node, "lineno", 0)
        function, before, after = self.name
        return f"vnets/{self.module}.py:{line} {function}:\n    {before}\n    {after}"

    @functools.cached_property
    def name(self) -> tuple[str, str, str]:
        """As in `EQUIVALENT`: with the line of the statement, before and after."""
        whole = self.place.statement
        before = ast.unparse(whole)
        self.place.put(self.changed)
        after = ast.unparse(self.changed if whole is self.node else whole)
        self.place.put(self.node)
        lines = zip(before.splitlines(), after.splitlines(), strict=True)
        [(old, new)] = [pair for pair in lines if pair[0] != pair[1]]
        return self.place.function, old.strip(), new.strip()


def source_of(module: str) -> str:
    return (ROOT / "vnets" / f"{module}.py").read_text(encoding="utf-8")


def mutants(module: str, source: str) -> list[Mutant]:
    """All of a module, in the order of its lines."""
    tree = ast.parse(source)
    return [
        Mutant(module, tree, place, place.node, changed)
        for place in list(places(tree))
        for changed in changes(place.node)
    ]


def places(
    parent: ast.AST, function: str = "", statement: ast.AST | None = None
) -> Iterator[Place]:
    """What can be changed; no text, no types, nothing for people only."""
    for field, held in ast.iter_fields(parent):
        if field in ("annotation", "returns", "type_params"):
            continue
        if isinstance(parent, ast.keyword) and parent.arg == "strict":  # of zip
            continue  # an assertion: where it fails, the code is wrong already
        listed = isinstance(held, list)
        for number, node in enumerate(held if listed else [held]):
            if not isinstance(node, ast.AST) or isinstance(node, SKIPPED):
                continue
            inside = function
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                inside = f"{function}.{node.name}".removeprefix(".")
                if node.name == "__repr__":
                    continue
            within = node if isinstance(node, ast.stmt) else statement or node
            yield Place(parent, field, number if listed else None, inside, within)
            yield from places(node, inside, within)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What an expression or a `return` is changed to; mostly one thing, or nothing."""
    if isinstance(node, ast.Compare):
        for number, kind in enumerate(node.ops):
            if type(kind) in COMPARED:
                ops = list(node.ops)
                ops[number] = COMPARED[type(kind)]()
                yield _with(node, ops=ops)
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in COMPUTED:
        yield _with(node, op=COMPUTED[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield copy.copy(node.operand)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield _with(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Return) and ast.unparse(node)[6:] not in ("", " None"):
        yield ast.Return(ast.Constant(None))


def drawn(found: list[Mutant], limit: int, seed: int) -> list[Mutant]:
    """So many at random, one of each module in turn, as long as it has more."""
    queues: dict[str, list[Mutant]] = {}
    for one in random.Random(seed).sample(found, len(found)):
        queues.setdefault(one.module, []).append(one)
    rounds = itertools.zip_longest(*(queues[name] for name in sorted(queues)))
    turns = (one for turn in rounds for one in turn if one is not None)
    return list(itertools.islice(turns, limit))


def _with(node, **fields):
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


class Copy:
    """A copy of the project in a temporary folder, to change and to run tests in."""

    def __init__(self, folder: Path):
        self.folder = folder
        words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
        for name in listed.stdout.decode().split("\0"):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)

    def path(self, module: str) -> Path:
        return self.folder / "vnets" / f"{module}.py"

    def passes(self, module: str, source: str, seconds: float | None) -> bool:
        """Whether the module's tests pass with this source; no longer than that."""
        path = self.path(module)
        original = path.read_text(encoding="utf-8")
        path.write_text(source, encoding="utf-8")
        files = [f"tests/{name}.py" for name in TESTS[module]]
        words = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", *files]
        # A session of its own: what hangs is ended with all that it started.
        process = subprocess.Popen(
            [*words, "-p", "no:cacheprovider"],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": self._paths()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            path.write_text(original, encoding="utf-8")

    def _paths(self) -> str:
        return os.pathsep.join(
            filter(None, (str(self.folder), os.environ.get("PYTHONPATH", "")))
        )


def main(argv: list[str] | None = None) -> int:
    """Tries mutants; prints the survivors and the share that the tests noticed."""
    options = _options(argv)
    names = options.modules.split(",") if options.modules else list(TESTS)
    unknown = sorted(set(names) - set(TESTS))
    if unknown:
        print(f"unknown modules {unknown}; choose from {list(TESTS)}", file=sys.stderr)
        return 2
    sources = {name: source_of(name) for name in names}
    found = [one for name in names for one in mutants(name, sources[name])]
    chosen = [one for one in found if one.name not in EQUIVALENT]
    equivalent = len(found) - len(chosen)
    chosen = drawn(chosen, options.limit or len(chosen), options.seed)
    print(f"{len(found)} mutants, {equivalent} of them equivalent; {len(chosen)} tried")
    began, limits = time.monotonic(), {}
    tried: dict[Mutant, bool] = {}
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        project = Copy(Path(folder))
        for one in chosen:
            if options.seconds and time.monotonic() - began > options.seconds:
                print(f"stopped after {options.seconds:g} seconds")
                break
            files = TESTS[one.module]
            if files not in limits:
                limits[files] = _limit(project, one.module, sources[one.module])
            tried[one] = project.passes(one.module, one.source(), limits[files])
            print(f"{'SURVIVED' if tried[one] else 'killed'} {one}", flush=True)
    _report(tried)
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=0, help="mutants; 0: all of them")
    parser.add_argument("--seconds", type=float, default=0.0, help="in all; 0: any")
    parser.add_argument("--modules", default="", help=f"of {', '.join(TESTS)}")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    return parser.parse_args(argv)


def _limit(project: Copy, module: str, source: str) -> float:
    """Seconds after which a mutant hangs, by how long the tests take without one.

    Raises:
      RuntimeError: they fail as it is.
    """
    began = time.monotonic()
    # Twice through the parser: what is lost on the way is lost in each mutant.
    if not project.passes(module, ast.unparse(ast.parse(source)), None):
        raise RuntimeError(f"tests of {module} fail without a change: {TESTS[module]}")
    took = time.monotonic() - began
    print(f"{', '.join(TESTS[module])}: {took:.0f} seconds", flush=True)
    return max(LEAST, SLACK * took)


def _report(tried: dict[Mutant, bool]) -> None:
    """Share of killed mutants of each module and of all, and who survived."""
    print()
    for module in dict.fromkeys(one.module for one in tried):
        own = [survived for one, survived in tried.items() if one.module == module]
        print(f"{module:24} {_share(own)}")
    print(f"{'all':24} {_share(list(tried.values()))}")
    for one, survived in tried.items():
        if survived:
            print(f"survived: {one}")


def _share(survived: list[bool]) -> str:
    killed = len(survived) - sum(survived)
    share = 100 * killed / len(survived) if survived else 100.0
    return f"killed {killed} of {len(survived)} ({share:.1f} %)"


if __name__ == "__main__":
    sys.exit(main())
