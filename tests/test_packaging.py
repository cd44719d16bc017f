"""Laws of what is installed: extras by name, a lock that fits, a wheel that works."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib

import documents
import numpy as np
import pytest
import yaml
from claims import every
from compact_nets import SHAPE, close, inputs, lenet5
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vnets
from vnets import backend, compact, extras

ROOT = documents.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]
FOUR = ("jax", "flax", "optax", "numpy")  # with these every module is imported
BROUGHT = {
    "scipy": "jax",
    "rich": "flax",
    "requests": "tensorflow-datasets",
}  # by a package of the base
MEGABYTES = 1000  # of the base, at most; 756 of the four


def packages(requirements) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def imports(path, top_only=False):
    """Roots of what a file imports; with `top_only`, as soon as it is imported."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def foreign(roots) -> set[str]:
    own = {"vnets", "experiments", "configs", "scripts", "tests"}
    return set(roots) - set(sys.stdlib_module_names) - own


def files(*folders):
    return [
        path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))
    ]


@pytest.mark.parametrize("folder", ["vnets", "experiments", "configs", "scripts"])
def test_what_is_imported_is_of_the_base_or_of_an_extra(folder):
    of = importlib.metadata.packages_distributions()
    base = packages(PROJECT["dependencies"])
    for root in foreign(r for path in files(folder) for r in imports(path)):
        names = {canonicalize_name(name) for name in of.get(root, [root])}
        brought = BROUGHT.get(root) in base
        assert root in extras.EXTRAS or names & base or brought, root


def test_every_extra_brings_what_it_is_named_for():
    names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    for module, extra in extras.EXTRAS.items():
        wanted = canonicalize_name(names.get(module, module))
        assert wanted in packages(OPTIONAL[extra]), (module, extra)


@pytest.mark.parametrize("path", files("vnets"), ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_of_the_library_import_the_four_alone(path):
    assert foreign(imports(path, top_only=True)) <= set(FOUR)


@pytest.mark.parametrize(("module", "extra"), extras.EXTRAS.items())
def test_a_missing_extra_is_named(module, extra, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    need = extras.need_package if module == backend.ONEDNN else extras.need
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(extras.MissingExtra, match=rf"vnets\[{extra}\]"):
        need(module)


def test_another_missing_package_is_no_extra(tmp_path, monkeypatch):
    """Nor is what a package of an extra lacks itself."""
    (tmp_path / "broken_package.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(extras.EXTRAS, "broken_package", "figures")
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all") as caught:
        extras.need("broken_package")
    assert not isinstance(caught.value, extras.MissingExtra)


def test_the_lock_has_all_that_is_required_within_the_bounds():
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    locked = {canonicalize_name(name): version for name, version in locked.items()}
    wanted = [*PROJECT["dependencies"]]
    for extra in OPTIONAL.keys() - {"bench"}:  # PyTorch is chosen by its machine
        wanted += OPTIONAL[extra]
    for one in map(Requirement, wanted):
        name = canonicalize_name(one.name)
        assert name == "vnets" or one.specifier.contains(locked[name]), one
    for one in map(Requirement, PROJECT["dependencies"]):
        upper = [s for s in one.specifier if s.operator not in (">=", ">")]
        assert one.name not in FOUR or not upper, one


def test_the_page_for_pypi_links_to_no_file():
    text = (ROOT / PROJECT["readme"]).read_text("utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert every(link.startswith("https://") for link in (*links, *_urls()))
    told = set(re.findall(r"`(\w+)`", text.partition("| `pip install")[2]))
    assert told >= OPTIONAL.keys()


def _urls():
    return PROJECT["urls"].values()


@pytest.mark.slow
def test_the_example_for_pypi_runs(tmp_path):
    (block,) = documents.blocks(PROJECT["readme"], "python")
    look = "print(type(variables['params']['hidden']['kernel']).__name__)"
    assert documents.printed(block + look, tmp_path) == ["ZeroMean"]


EVERY_MODULE = """
import importlib, pkgutil, vnets
walk = pkgutil.walk_packages(vnets.__path__, "vnets.")
print(*sorted(module.name for module in walk))
for module in pkgutil.walk_packages(vnets.__path__, "vnets."):
    importlib.import_module(module.name)
"""
LOAD = """
import sys, numpy as np
from vnets import compact
np.save("logits.npy", compact.load("net.vnz")(np.load("images.npy")))
print(sorted({"jax", "scipy"} & set(sys.modules)))
"""
SIZE = """
import pathlib, sysconfig
lib = pathlib.Path(sysconfig.get_path("purelib"))
tools = {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
own = (p for p in lib.iterdir() if p.name.partition("-")[0] not in tools)
files = (f for p in own for f in (p.rglob("*") if p.is_dir() else [p]))
print(sum(4096 * -(-f.stat().st_size // 4096) for f in files if f.is_file()) / 2**20)
"""


@pytest.mark.slow  # a gigabyte is installed
def test_the_wheel_works_in_a_fresh_environment(tmp_path):
    """With NumPy and the coder, with the four, and as `pip install vnets` leaves it."""

    def call(*words):
        env = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")
        }
        done = subprocess.run(
            [str(word) for word in words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    built = tmp_path / "source"
    built.mkdir()
    for name in ("pyproject.toml", "LICENSE", PROJECT["readme"]):
        shutil.copy(ROOT / name, built)
    shutil.copytree(ROOT / "vnets", built / "vnets")
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, built)
    (wheel,) = tmp_path.glob("*.whl")
    call(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "-q", "-c", ROOT / "requirements.lock")

    content, net = lenet5()
    (tmp_path / "net.vnz").write_bytes(content)
    np.save(tmp_path / "images.npy", inputs(SHAPE))
    call(*pip, "--no-deps", wheel)
    call(*pip, "numpy", "constriction")
    assert call(python, "-c", LOAD) == "[]"
    close(np.load(tmp_path / "logits.npy"), compact.Predictor(net)(inputs(SHAPE)))

    call(*pip, *FOUR)
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files("vnets")
    }
    assert set(call(python, "-c", EVERY_MODULE).split()) == names - {"vnets"}

    call(*pip, wheel)
    assert float(call(python, "-c", SIZE)) <= MEGABYTES
    lines = call(python, "-c", documents.blocks("README.md", "python")[0]).splitlines()
    shown = {name: float(x) for name, x in (line.split() for line in lines)}
    assert shown["det"] <= 0.3
    assert shown["ens"] >= 0.9
    (typed,) = (python.parent.parent / "lib").glob("*/site-packages/vnets/py.typed")
    assert typed.is_file()
    with pytest.raises(AssertionError, match=r"vnets\[tensorboard\]"):
        call(
            python,
            "-c",
            "from vnets import extras; extras.need('tensorboardX')",
        )


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == PROJECT["version"] == vnets.__version__
    assert cited["license"] == PROJECT["license"]
    assert {one["url"] for one in cited["references"]} == set(_urls())


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*")))
def test_issue_templates_ask_for_something(path):
    form = yaml.safe_load(path.read_text("utf-8"))
    if path.stem == "config":
        assert form.keys() <= {"blank_issues_enabled", "contact_links"}
        return
    assert form["name"]
    assert form["description"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert any(part.get("validations", {}).get("required") for part in asked)
    labels = [part["attributes"]["label"] for part in asked]
    assert len(set(labels)) == len(labels)
