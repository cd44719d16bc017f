"""Runs of tests with changed modules, each in a fork of one process that is warm.

The process imports what tests need but vnets and the tests themselves, and starts no
device: what is forked may. A fork has modules of vnets from text instead of files. The
first runs, of whole files of tests, note which statements each test executes and how
long it takes (`Recorded`, kept as long as nothing changes). A mutant then meets first
the tests that execute its statement, the quick and those that have failed often before
the others, and after them the rest of the files that reach its function: the tests of
other files cannot notice it.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import SourceFileLoader
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".pytest_cache" / "mutants"  # what `record` found
WARM = ("flax.linen", "hypothesis", "optax", "scipy.integrate", "scipy.stats")
FORK = multiprocessing.get_context("fork")
# Seconds of this process's own time (a busy machine changes nothing) after which a
# test hangs: so many times what it takes unchanged and compiled, plus compiling.
SLACK, COMPILING = 5, 30
DEADLINE = 7200  # seconds by the clock: what waits for ever uses no time of its own


def warm() -> None:
    """Imports, with the flags of the tests, what takes long and starts no device.

    Raises:
      RuntimeError: a module of vnets is loaded, of which no fork would see a change.
    """
    importlib.import_module("tests.conftest")
    for name in WARM:
        importlib.import_module(name)
    loaded = sorted(name for name in sys.modules if name.split(".")[0] == "vnets")
    if loaded:
        raise RuntimeError(f"{loaded} are loaded before any change")
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)


def answers(
    tasks: Iterable[tuple[Any, Callable[[], Any]]], jobs: int
) -> Iterator[tuple[Any, Any]]:
    """(name, what the call answers in a fork, None where it died), as they end.

    A task is drawn from `tasks` when there is room for it, `jobs` at a time.
    """
    waiting, running = iter(tasks), {}
    try:
        while True:
            while len(running) < jobs and (task := next(waiting, None)) is not None:
                receive, send = FORK.Pipe(duplex=False)
                process = FORK.Process(target=_answer, args=(send, task[1]))
                process.start()
                send.close()
                running[receive] = task[0], process, time.monotonic() + DEADLINE
            if not running:
                return
            for receive in connection.wait(list(running), timeout=1):
                name, process, _ = running.pop(receive)
                try:
                    answer = receive.recv()
                except EOFError:
                    answer = None
                _end(process)
                yield name, answer
            for _, process, deadline in running.values():
                if time.monotonic() > deadline:
                    _end(process)
    finally:
        for _, process, _ in running.values():
            _end(process)


def _answer(send: connection.Connection, call: Callable[[], Any]) -> None:
    os.setsid()  # what it starts is ended with it
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    send.send(call())
    send.close()
    os._exit(0)


def _end(process: multiprocessing.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()


class _Loader(SourceFileLoader):
    """Makes a module of `tree`; what its probes call is `hit`."""

    tree: ast.Module
    hit: Callable[[int], None] | None

    def get_code(self, fullname):
        del fullname
        return compile(self.tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module):
        vars(module)["__hit__"] = self.hit
        super().exec_module(module)


class _Finder:
    """Finds the modules of `trees`, by name under vnets ("compact/codec"); a package is
    its `__init__`."""

    def __init__(self, trees: dict[str, ast.Module], hit=lambda module: None):
        self.trees, self.hit = trees, hit

    def find_spec(self, fullname, path=None, target=None):
        del path, target
        named = fullname.removeprefix("vnets.").replace(".", "/")
        module = next(
            (m for m in (named, f"{named}/__init__") if m in self.trees), None
        )
        if module is None:
            return None
        where = ROOT / "vnets" / f"{module}.py"
        loader = _Loader(fullname, str(where))
        loader.tree, loader.hit = self.trees[module], self.hit(module)
        return importlib.util.spec_from_file_location(fullname, where, loader=loader)


class _Probes(ast.NodeTransformer):
    """Tells the line of each statement before it is executed."""

    def generic_visit(self, node):
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            held = getattr(node, field, None)
            if isinstance(held, list):
                setattr(node, field, [new for one in held for new in _probed(one)])
        return node


def _probed(one: ast.stmt) -> list[ast.stmt]:
    if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
        return [one]  # text
    probe = ast.parse(f"__hit__({one.lineno})").body[0]
    return [ast.copy_location(probe, one), one]


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One test, as it passed unchanged.

    Attributes:
      seconds: of the process's own time.
      hits: lines of the statements that it executed, of each module.
    """

    seconds: float
    hits: dict[str, list[int]]


@dataclasses.dataclass(frozen=True)
class File:
    """What a file of tests does unchanged.

    Attributes:
      tests: by node id.
      imports: statements that are executed before any test is, as `Recorded.hits`.
    """

    tests: dict[str, Recorded]
    imports: dict[str, list[int]]

    def reaches(self, module: str, lines: range) -> bool:
        every = [self.imports, *(one.hits for one in self.tests.values())]
        return any(line in lines for hits in every for line in hits.get(module, ()))


def record(files: Iterable[str], sources: dict[str, str], jobs: int) -> dict[str, File]:
    """What each file does, with these sources; from `KEPT` where nothing changed.

    Raises:
      RuntimeError: tests that fail as they are.
    """
    found, missing = {}, {}
    for name in files:
        text = (ROOT / "tests" / f"{name}.py").read_text(encoding="utf-8")
        whole = json.dumps([text, sources], sort_keys=True).encode()
        kept = KEPT / f"{name}-{hashlib.sha256(whole).hexdigest()[:16]}.json"
        if kept.is_file():
            found[name] = _file(json.loads(kept.read_text(encoding="utf-8")))
        else:
            missing[name] = kept
    tasks = ((name, lambda name=name: _recorded(name, sources)) for name in missing)
    for name, answer in answers(tasks, jobs):
        if answer is None or not answer["passed"]:
            raise RuntimeError(f"tests/{name}.py fails without a change")
        found[name] = _file(answer)
        took = sum(one.seconds for one in found[name].tests.values())
        print(f"{name}: {len(found[name].tests)} tests, {took:.0f} seconds", flush=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        for old in KEPT.glob(f"{name}-*.json"):
            old.unlink()
        missing[name].write_text(json.dumps(answer), encoding="utf-8")
    return found


def _file(found: dict) -> File:
    tests = {name: Recorded(*one) for name, one in found["tests"].items()}
    return File(tests, found["imports"])


def _recorded(name: str, sources: dict[str, str]) -> dict:
    hits: set[tuple[str, int]] = set()
    trees = {module: probed(source) for module, source in sources.items()}
    finder = _Finder(trees, lambda module: lambda line: hits.add((module, line)))
    plugin = _Recorder(hits)
    passed = _tested([name], finder, plugin)
    return {"passed": passed, "tests": plugin.tests, "imports": plugin.imports}


def probed(source: str) -> ast.Module:
    """A module that calls `__hit__(line)` before each of its statements."""
    return ast.fix_missing_locations(_Probes().visit(ast.parse(source)))


class _Recorder:
    def __init__(self, hits: set[tuple[str, int]]):
        self.hits, self.tests, self.imports = hits, {}, {}

    def _drawn(self) -> dict[str, list[int]]:
        lines: dict[str, list[int]] = {}
        for module, line in sorted(self.hits):
            lines.setdefault(module, []).append(line)
        self.hits.clear()
        return lines

    def pytest_collection_finish(self):
        self.imports = self._drawn()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        began = time.process_time()
        result = yield
        self.tests[item.nodeid] = time.process_time() - began, self._drawn()
        return result


@dataclasses.dataclass
class Order:
    """Which tests a mutant meets, and in which order.

    Attributes:
      files: of tests, as recorded.
      failed: how often each test has noticed a mutant of a module.
    """

    files: dict[str, File]
    failed: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)

    def tests(
        self, module: str, line: int, function: range, files: Iterable[str]
    ) -> list[str]:
        """Node ids: those that execute the line first, of the files that reach it."""
        ranked = []
        for name in files:
            file = self.files[name]
            if not file.reaches(module, function):
                continue
            for test, one in file.tests.items():
                likely = 1 + self.failed[module, test]
                later = line not in one.hits.get(module, ())
                ranked.append((later, (one.seconds + 0.1) / likely, test))
        return [test for _, _, test in sorted(ranked)]

    def seconds(self) -> dict[str, float]:
        """What each test takes unchanged."""
        tests = (file.tests.items() for file in self.files.values())
        return {name: one.seconds for file in tests for name, one in file}


def noticed_by(
    module: str, source: str, tests: list[str], seconds: dict[str, float]
) -> str:
    """The first test to fail with this source of a module; "" if all of them pass."""
    if not tests:
        return ""  # of none pytest would run nothing, which it calls a failure
    plugin = _Chosen(tests, seconds)
    files = list(dict.fromkeys(Path(test.split("::")[0]).stem for test in tests))
    passed = _tested(files, _Finder({module: ast.parse(source)}), plugin)
    return "" if passed else plugin.current


class _Chosen:
    def __init__(self, tests: list[str], seconds: dict[str, float]):
        self.rank = {test: number for number, test in enumerate(tests)}
        self.seconds = seconds
        self.current = "import"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.nodeid in self.rank]
        items.sort(key=lambda item: self.rank[item.nodeid])

    def pytest_runtest_setup(self, item):
        self.current = item.nodeid
        limit = COMPILING + SLACK * self.seconds[item.nodeid]
        signal.setitimer(signal.ITIMER_PROF, limit)  # what takes longer is killed


def _tested(files: list[str], finder: _Finder, plugin: object) -> bool:
    """Whether the tests pass that are left of these files; in a fork only."""
    import hypothesis
    import jax

    if isinstance(plugin, _Chosen):  # programs of mutants are of no use to others
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    plain = [phase for phase in hypothesis.Phase if phase.name != "shrink"]
    hypothesis.settings.register_profile("mutant", database=None, phases=plain)
    hypothesis.settings.load_profile("mutant")
    os.chdir(ROOT)
    sys.meta_path.insert(0, finder)
    words = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    paths = [f"tests/{name}.py" for name in files]
    return pytest.main([*words, *paths], plugins=[plugin]) == pytest.ExitCode.OK
