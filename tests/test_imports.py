"""Laws of the imports: light at the top, without TensorFlow, one way."""

import ast
import importlib
import operator
import pathlib
import subprocess
import sys

import pytest

import vnets
from vnets import renamed

ROOT = pathlib.Path(vnets.__file__).resolve().parent.parent
# A module imports from earlier layers only, or from its own package.
LAYERS = (
    ("types", "rng", "backend", "derivatives", "noise", "augment", "gradients"),
    ("targets", "likelihoods"),
    ("nodes", "pooling"),
    ("tree",),
    ("pretrained", "initializers", "optimizers", "samplers", "ivon"),
    ("deep_kernels",),
    ("edits", "learned_dropout"),
    ("estimators", "ops", "projections", "priors"),
    ("pruning", "vectors"),
    ("layers",),
    ("nets",),
    ("compact",),
    ("foreign",),
    ("bits", "weight_code", "loss", "overview", "predictor", "columns", "evaluate"),
    ("sources",),
    ("sequences", "latent", "swag", "svgd", "kronecker", "laplace", "continual"),
    ("curves", "permutations", "statistics"),
    ("uncertainty", "attacks", "calibration", "curvature", "moments", "propagation"),
    ("active", "train"),
    ("sklearn",),
)
# These stand apart: any layer may use them, and they use one another or nothing.
APART = (
    *("files", "data", "checkpoint", "monitor", "parallel", "plan", "renamed"),
    *("extras", "bitsback", "pytrees"),
)
# Within a layer, in this order.
ORDER = {name: i for i, name in enumerate(n for layer in LAYERS for n in layer)}
FORBIDDEN = {
    "experiments",
    "configs",
    "scripts",
    "ml_collections",
    "absl",
    "tensorflow",
}
HEAVY = ("jax", "flax", "tensorflow", "matplotlib", "orbax", "tensorflow_datasets")


def sources():
    return sorted((ROOT / "vnets").rglob("*.py"))


def module_of(path):
    """The name under `vnets` that a file belongs to: "train", "nets", "" for itself."""
    parts = path.relative_to(ROOT / "vnets").with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(path):
    """Dotted names that a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(path):
    """Names under `vnets` that a file imports."""
    parts = [name.split(".") for name in imported(path)]
    return {part[1] for part in parts if part[0] == "vnets" and len(part) > 1}


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )


def test_every_module_has_its_place():
    names = {module_of(path) for path in sources()} - {""}
    assert names == set(ORDER) | set(APART)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    name = module_of(path)
    for other in within(path) - {name}:
        if name in APART:
            assert other in APART, f"{name} stands apart, but imports {other}"
        elif other not in APART:
            assert name, f"vnets itself imports {other} at once"
            assert ORDER[other] < ORDER[name], f"{name} imports {other}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_knows_no_experiments_flags_or_tensorflow(path):
    assert not {name.split(".")[0] for name in imported(path)} & FORBIDDEN


def test_the_walk_sees_imports(tmp_path):
    """The two tests above can fail."""
    file = tmp_path / "x.py"
    file.write_text("import absl.flags\ndef f():\n    from vnets import train, types\n")
    assert set(imported(file)) == {"absl.flags", "vnets.train", "vnets.types"}
    assert within(file) == {"train", "types"}


def circle(arrows):
    """Names that lead from one back to itself by its arrows, or none."""
    done = set()

    def search(name, path):
        if name in path:
            return path[path.index(name) :]
        if name not in done:
            found = next(
                filter(None, (search(n, [*path, name]) for n in arrows[name])), []
            )
            done.add(name)
            return found
        return []

    return next(filter(None, (search(name, []) for name in arrows)), [])


def test_no_modules_import_one_another_in_a_circle():
    """Imports within functions count, too: they hide a circle and do not undo it."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for package in ("vnets", "experiments")
        for path in sorted((ROOT / package).rglob("*.py"))
    }

    def target(dotted):
        """`a.b` for a.b.name where a.b is a module, and for a.b itself."""
        return dotted if dotted in modules else dotted.rpartition(".")[0]

    arrows = {
        name: sorted({target(d) for d in imported(path)} & modules.keys() - {name})
        for name, path in modules.items()
    }
    assert circle(arrows) == []
    assert set(circle({"a": ["b"], "b": ["c"], "c": ["b"]})) == {"b", "c"}


def test_importing_vnets_is_light():
    code = f"import sys, vnets; print([m for m in {HEAVY} if m in sys.modules])"
    done = python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_importing_everything_leaves_tensorflow_out():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("vnets", "experiments")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    names = [name.removesuffix(".__init__") for name in names]
    assert "vnets.train" in names
    code = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'tensorflow'])"
    )
    done = python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_submodules_are_attributes():
    for name in vnets.__all__:
        assert getattr(vnets, name) is not None
    assert vnets.rng is importlib.import_module("vnets.rng")
    assert callable(vnets.summary)
    listed = set(vnets.__all__) - {"__version__", "summary"}
    assert listed <= {module_of(path) for path in sources()}
    with pytest.raises(AttributeError, match=r"no attribute 'nope'.*nodes"):
        _ = vnets.nope


@pytest.mark.parametrize("old", renamed.RENAMED)
def test_an_old_name_says_the_new_one(old):
    module, _, name = old.rpartition(".")
    new = renamed.RENAMED[old]
    with pytest.raises(ImportError, match=f"{old} is called {new} now"):
        getattr(importlib.import_module(module), name)
    operator.attrgetter(new.removeprefix("vnets."))(vnets)
