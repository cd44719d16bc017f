"""Which small changes of the algebra no test notices: `make mutate`.

    python -m tests.mutate [--limit=40] [--seconds=1200] [--modules=priors,edits]

One expression at a time is changed (a comparison, an operator of arithmetic or logic, a
constant, what a function returns) in a fork of this process, and the tests of the files
that are about its module run until the first failure (`mutant_runs`). A mutant that
they pass survives: it is listed, and either wants a test or changes nothing that a test
may see; `equivalent.toml` names those that do not, each with the reason. Which mutants
are tried is drawn by --seed, evenly over modules.
"""

import argparse
import ast
import copy
import dataclasses
import functools
import itertools
import os
import random
import sys
import time
import tomllib
from collections.abc import Iterator

from tests import mutant_runs
from tests.mutant_runs import ROOT

# Modules under vnets, by pattern, and the files of tests that are about them, the
# quickest first. A module belongs to the first row that matches it.
MODULES = (
    ("nodes/positive", "test_extremes test_scales test_node_laws"),
    (
        "nodes/[!_]*",
        "test_extremes test_node_laws test_nodes test_matching test_pruned test_scales"
        " test_prune_units test_learned_dropout",
    ),
    ("tree", "test_tree test_vector_walks"),
    ("noise", "test_noise test_node_laws"),
    (
        "priors/fitted",
        "test_extremes test_normal_priors test_pruned test_priors test_prior_laws",
    ),
    (
        "priors/units",
        "test_extremes test_group_priors test_pruned test_priors test_prior_laws",
    ),
    ("priors/soft_sharing", "test_soft_sharing"),
    ("priors/coding", "test_coding"),
    ("priors/sampled", "test_extremes test_prior_shapes test_prior_laws"),
    ("priors/[!_]*", "test_extremes test_priors test_prior_laws"),
    (
        "estimators",
        "test_estimators test_estimator_laws test_magnitudes test_sequences"
        " test_derivatives",
    ),
    (
        "edits",
        "test_extremes test_edits test_prune_units test_vector_walks test_node_laws",
    ),
    ("loss", "test_loss test_targets"),
    ("targets", "test_targets"),
    ("predictor", "test_predictor test_evaluate"),
    ("propagation", "test_propagation test_moment_loss"),
    ("moments", "test_moments test_propagation test_moment_loss"),
    ("projections", "test_projections test_node_laws"),
    ("pruning", "test_pruning test_pruned"),
    ("learned_dropout", "test_learned_dropout"),
    ("latent", "test_latent"),
    ("ivon", "test_ivon"),
    ("samplers", "test_samplers"),
    ("svgd", "test_svgd"),
    ("swag", "test_svgd"),
    ("laplace", "test_laplace test_kronecker"),
    ("kronecker", "test_kronecker"),
    ("curvature", "test_curvature"),
    ("deep_kernels", "test_deep_kernels"),
    ("plan/features", "test_uci"),
    ("weight_code", "test_weight_code"),
    ("bits", "test_bits"),
    ("bitsback", "test_bitsback"),
    ("likelihoods/[!_]*", "test_extremes test_likelihoods test_targets"),
    (
        "compact/[!_]*",
        "test_compact_bounds test_compact_streams test_golden test_properties"
        " test_limits test_compact test_quantize test_compact_predict"
        " test_compact_files test_compact_noise test_sequence_files test_foreign",
    ),
    ("compact/nets/__init__", "test_shelf"),
)
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
      reach: lines of the body of the innermost function around it, or its statement's.
    """

    parent: ast.AST
    field: str
    number: int | None
    function: str
    statement: ast.AST
    reach: range

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
        _, function, before, after = self.name
        return f"vnets/{self.module}.py:{line} {function}:\n    {before}\n    {after}"

    @property
    def line(self) -> int:
        """Of its statement."""
        return getattr(self.place.statement, "lineno", 0)

    @functools.cached_property
    def name(self) -> tuple[str, str, str, str]:
        """As in `equivalent`: with the line of the statement, before and after."""
        whole = self.place.statement
        before = ast.unparse(whole)
        self.place.put(self.changed)
        after = ast.unparse(self.changed if whole is self.node else whole)
        self.place.put(self.node)
        lines = zip(before.splitlines(), after.splitlines(), strict=True)
        [(old, new)] = [pair for pair in lines if pair[0] != pair[1]]
        return self.module, self.place.function, old.strip(), new.strip()


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
    parent: ast.AST,
    function: str = "",
    statement: ast.AST | None = None,
    reach: range | None = None,
) -> Iterator[Place]:
    """What can be changed; no text, no types, nothing for people only."""
    for field, held in ast.iter_fields(parent):
        if field in ("annotation", "returns", "type_params"):
            continue
        if isinstance(parent, ast.keyword) and parent.arg == "strict":  # of zip
            continue  # an assertion: where it fails, the code is wrong already
        listed = isinstance(held, list)
        around = reach
        if isinstance(parent, ast.FunctionDef) and field == "body":
            around = range(held[0].lineno, parent.end_lineno + 1)
        for number, node in enumerate(held if listed else [held]):
            if not isinstance(node, ast.AST) or isinstance(node, SKIPPED):
                continue
            inside = function
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                inside = f"{function}.{node.name}".removeprefix(".")
                if node.name == "__repr__":
                    continue
            within = node if isinstance(node, ast.stmt) else statement or node
            line = getattr(within, "lineno", 0)
            lines = around or range(line, line + 1)
            at = number if listed else None
            yield Place(parent, field, at, inside, within, lines)
            yield from places(node, inside, within, around)


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


def main(argv: list[str] | None = None) -> int:
    """Tries mutants; prints the survivors and the share that the tests noticed."""
    options = _options(argv)
    names = [name for name in TESTS if _named(name, options.modules)]
    unknown = [
        asked
        for asked in filter(None, options.modules.split(","))
        if not any(_named(name, asked) for name in TESTS)
    ]
    if unknown:
        print(f"unknown modules {unknown}; choose from {list(TESTS)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    sources = {name: source_of(name) for name in TESTS}
    found = [one for name in names for one in mutants(name, sources[name])]
    known = equivalent()
    chosen = drawn(found, options.limit or len(found), options.seed)
    tellable = [one for one in chosen if one.name not in known]
    print(f"{len(found)} mutants; {len(chosen)} drawn, {len(tellable)} not equivalent")
    chosen = tellable
    if options.only:
        chosen = [one for one in chosen if options.only in str(one)]
    mutant_runs.warm()
    files = dict.fromkeys(file for one in chosen for file in TESTS[one.module])
    order = mutant_runs.Order(mutant_runs.record(files, sources, options.jobs))
    tried: dict[Mutant, bool] = {}
    end = began + options.seconds if options.seconds else None
    tasks = _tasks(chosen, order, end)
    for one, test in mutant_runs.answers(tasks, options.jobs):
        tried[one] = test == ""
        order.failed[one.module, test or ""] += 1
        told = "SURVIVED" if test == "" else f"killed by {test or 'time'}:"
        print(f"{told} {one}", flush=True)
    print(f"\n{len(tried)} of {len(chosen)} tried, seed {options.seed}")
    _report(tried)
    return 0


def _tasks(chosen: list[Mutant], order: mutant_runs.Order, end: float | None):
    seconds = order.seconds()
    for one in chosen:
        if end is not None and time.monotonic() > end:
            return
        tests = order.tests(one.module, one.line, one.place.reach, TESTS[one.module])
        call = mutant_runs.noticed_by
        yield one, functools.partial(call, one.module, one.source(), tests, seconds)


def _named(module: str, asked: str) -> bool:
    """Whether it is one of those, or in a package that is: "compact,edits"."""
    packages = asked.split(",")
    return not asked or module in packages or module.split("/")[0] in packages


def equivalent() -> dict[tuple[str, str, str, str], str]:
    """Why no test can tell a mutant from the code, by `Mutant.name`."""
    text = (ROOT / "tests" / "equivalent.toml").read_text(encoding="utf-8")
    return {
        (module, one["function"], one["before"], one["after"]): one["reason"]
        for module, listed in tomllib.loads(text).items()
        for one in listed
    }


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=0, help="mutants; 0: all of them")
    parser.add_argument("--seconds", type=float, default=0.0, help="in all; 0: any")
    parser.add_argument(
        "--modules", default="", help=f"or packages, of {', '.join(TESTS)}"
    )
    parser.add_argument("--only", default="", help="those drawn whose lines have it")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="how many at a time"
    )
    return parser.parse_args(argv)


def _report(tried: dict[Mutant, bool]) -> None:
    """Share of killed mutants of each module, package and of all, and who survived."""
    modules = [name for name in TESTS if any(one.module == name for one in tried)]
    for name in sorted({part for m in modules for part in (m, m.split("/")[0])}):
        own = [lives for one, lives in tried.items() if _named(one.module, name)]
        print(f"{name:24} {_share(own)}")
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
