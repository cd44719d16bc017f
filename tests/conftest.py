"""Eight fake CPU devices, a cache of compiled programs, and the tools of law tests.

A tolerance is derived, not chosen: a Monte-Carlo mean is compared within five of its
own standard errors, anything else within what float32 rounding can do.

`train.fit` uses a mesh over all devices unless it is given one: take a batch divisible
by eight, or the fixture `one_device`.
"""

import gc
import os
import shutil
from pathlib import Path

DEVICES = 8
FLAGS = (
    f"--xla_force_host_platform_device_count={DEVICES}",
    # Nearly all the time goes into compiling: half of it saved at LLVM's -O0. What XLA
    # itself does to a program (fusion, partitioning) stays as it is.
    "--xla_backend_optimization_level=0",
    # Half of the rest: the older code generator for fused loops, and a program as one
    # module of LLVM's instead of up to 32 for as many threads.
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ["XLA_FLAGS"] = " ".join((*FLAGS, os.environ.get("XLA_FLAGS", ""))).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# What one test, worker, script or earlier run has compiled serves the others: many
# tests train the same net.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402 (the flags above are read when JAX is imported)
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--part", default="1/1", help="i/n: each n-th test from the i-th")


def pytest_collection_modifyitems(config, items):
    part, parts = map(int, config.getoption("part").split("/"))
    if not 1 <= part <= parts:
        raise pytest.UsageError(f"--part is {part}/{parts}; take 1 to {parts} of them")
    chosen = items[part - 1 :: parts]
    left = [item for i, item in enumerate(items) if i % parts != part - 1]
    config.hook.pytest_deselected(items=left)
    items[:] = chosen


STANDARD_ERRORS = 5  # missed once in 1.7 million comparisons of a right estimate
ROUNDING = 1e-5  # relative; float32 sums of some thousand terms


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Frees what a file compiled: no other file would find it.

    Thousands of programs that nobody runs again make each new one slower to lower. As
    `reproduce.forget_programs`, which would load vnets before a mutant of it is there.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def one_device():
    """A mesh over the first device only: any batch size fits."""
    from vnets import parallel

    return parallel.mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def assert_mean():
    """assert_mean(draws [n, ...], expected): their mean, within its standard errors."""

    def check(draws, expected):
        draws = np.asarray(draws, np.float64)
        expected = np.asarray(expected, np.float64)
        error = draws.std(axis=0) / np.sqrt(len(draws))
        # Draws without any spread (noise of +-1, squared) still have rounding.
        slack = ROUNDING * (np.abs(expected) + np.abs(draws).max())
        gap = np.abs(draws.mean(axis=0) - expected)
        worst = np.max(gap - STANDARD_ERRORS * error - slack)
        assert worst <= 0, f"off by up to {np.max(gap / (error + slack)):.1f} errors"

    return check


@pytest.fixture(scope="session")
def assert_moments(assert_mean):
    """assert_moments(draws [n, ...], mean, var), within standard errors."""

    def check(draws, mean, var):
        draws = np.asarray(draws, np.float64)
        assert_mean(draws, np.broadcast_to(mean, draws.shape[1:]))
        squares = (draws - np.asarray(mean, np.float64)) ** 2
        assert_mean(squares, np.broadcast_to(var, draws.shape[1:]))

    return check


@pytest.fixture(scope="session")
def assert_same_moments():
    """assert_same_moments(a [n, ...], b [m, ...]): equal means and variances."""

    def check(a, b):
        a, b = (np.asarray(draws, np.float64) for draws in (a, b))
        centre = (a.mean(axis=0) + b.mean(axis=0)) / 2
        for first, second in ((a, b), ((a - centre) ** 2, (b - centre) ** 2)):
            error = np.sqrt(first.var(axis=0) / len(a) + second.var(axis=0) / len(b))
            slack = ROUNDING * np.abs(first).max()
            gap = np.abs(first.mean(axis=0) - second.mean(axis=0))
            assert np.all(gap <= STANDARD_ERRORS * error + slack), np.max(gap / error)

    return check


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    """A TFDS directory with a small MNIST, not to be changed, and its raw splits."""
    from tests.raw_data import prepare_fake

    return prepare_fake("mnist", tmp_path_factory.mktemp("mnist"))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Keeps every test away from this machine's own data; gives the two directories."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("VNETS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "tfds", tmp_path / "cache"


@pytest.fixture
def environment(tmp_path):
    """A user's shell: without what the tests set for themselves, and without data."""
    hidden = {"XLA_FLAGS", "SUBMITIT_LOG_LEVEL"}
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    root = Path(__file__).resolve().parents[1]
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    return env | {"VNETS_CACHE_DIR": str(tmp_path / "no-cache")}


@pytest.fixture
def sweep_file(tmp_path):
    """A config file of runs of a second each, to launch."""
    from tests.launches import QUICK

    path = tmp_path / "quick.py"
    path.write_text(QUICK)
    return path


@pytest.fixture
def own_mnist(mnist, places):
    """A copy of the small MNIST where it is looked for; gives the prepared folder."""
    from vnets.data import records

    shutil.copytree(mnist[0] / "mnist", places[0] / "mnist")
    return records.locate("mnist", places[0])


def pytest_sessionstart(session):
    """Fails at once where JAX was imported before the flags were set."""
    del session
    if jax.device_count() != DEVICES:
        raise pytest.UsageError(f"{jax.device_count()} devices instead of {DEVICES}")
