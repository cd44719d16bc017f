"""Every config, variant and scale builds; every net runs one compiled step."""

import functools
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from claims import every
from jax import random

from experiments import config_files, core
from experiments import spec as parts
from experiments.config_files import load_config
from experiments.tables import reading
from vnets import data, parallel, train
from vnets.data import uci
from vnets.evaluate import standard_evals

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {
    "mnist": (28, 28, 1),
    "notmnist": (28, 28, 1),
    "omniglot": (28, 28, 1),
    "frey": (28, 20, 1),
    "digits": (28, 28, 1),
    "digits_8x8": (8, 8, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
}


class FakeStream(data.Stream):
    """Pictures of the right size that nobody has to decode."""

    def training_batches(self, batch_size, seed, epoch, rows, first=0):
        for _ in range(first, len(self) // batch_size):
            yield self._fake(batch_size, rows)

    def test_batches(self, batch_size, rows=slice(None)):
        for start in range(0, len(self), batch_size):
            inside = np.arange(start, start + batch_size)[rows] < len(self)
            yield self._fake(batch_size, rows) | {"inside": inside}

    def _fake(self, batch_size, rows):
        split = fake_split(batch_size, self.shape)
        return {"input": split.inputs[rows], "target": split.target[rows]}


def modules():
    for path in map(ROOT.joinpath, config_files.names()):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield path.stem, module


CLASSIFIERS = ("variance_networks", "sparsity", "text", "language")


@functools.cache
def fake_split(n, shape):
    image = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
    return data.Split(image, np.arange(n, dtype=np.int32) % 10)


@functools.cache
def fake_text(name):
    """Rows of tokens with a class each, or a stream of them."""
    classes = data.SOURCES[name].labels[None].classes
    stream = "next" in data.SOURCES[name].labels[None].feature
    shape = (20_000,) if stream else (1_000, 50)
    tokens = np.random.default_rng(0).integers(1, classes, shape, dtype=np.int32)
    split = data.Split(tokens, tokens if stream else tokens[:, 0] % classes)
    return data.Dataset(name, split, split, split, classes, {}, "fake")


@functools.cache
def fake_table(name):
    columns = {"mushroom": 117, "breast_cancer": 30, "diabetes": 10}[name]
    table = np.random.default_rng(0).normal(size=(500, columns)).astype(np.float32)
    classes = data.SOURCES[name].labels[None].classes or 0
    target = np.arange(500, dtype=np.int32) % 2 if classes else table[:, 0]
    split = data.Split(table, target)
    return data.Dataset(name, split, None, split, classes, {}, "fake")


@pytest.fixture(params=[10000])
def fake_data(request, monkeypatch):
    """Data of the right shape, with `param` test images; nobody asks for the pixels."""

    def load(name, **options):
        sizes = (10_000, request.param)
        if "image_size" in options:
            train, test = (
                FakeStream(ROOT, "fake", options["image_size"], n) for n in sizes
            )
        elif name in data.TEXTS:
            return fake_text(name)
        elif name in data.TABLES:
            return fake_table(name)
        else:
            train, test = (fake_split(n, SHAPES[name]) for n in sizes)
        held = options["validation"]
        validation = fake_split(1000, SHAPES[name]) if held else None
        return data.Dataset(name, train, validation, test, 10, {}, "fake")

    monkeypatch.setattr(data, "load", load)
    repeated = uci.repeat(fake_table("diabetes"), 20)
    monkeypatch.setattr(uci, "load", lambda name: repeated)


def scales_of(name):
    if name == "imagenet":  # its net at paper is large: `test_builds_resnet_50`
        return ("quick", "paper")
    return ("short", "paper", "quick")


def variants():
    """Every config and variant: the first and last of each config at once, the others
    by slow tests; of VGGs and ResNets the small ones."""
    for name, module in modules():
        small = [v for v in module.VARIANTS if "k025" in v] or module.VARIANTS
        small = module.QUICK if name == "imagenet" else small
        for variant in module.VARIANTS:
            marks = () if variant in (small[0], small[-1]) else pytest.mark.slow
            yield pytest.param(name, variant, marks=marks)


@pytest.mark.parametrize(("name", "variant"), list(variants()))
def test_builds_and_a_step_keeps_its_types(name, variant, fake_data):
    experiment = None
    for scale in scales_of(name):
        config = load_config(f"configs/{name}.py:{variant},{scale}")
        assert (config.variant, config.scale) == (variant, scale)
        # A study's scales differ in what fits the data, a training's in numbers only.
        if experiment is None or isinstance(experiment, core.Study):
            experiment = core.build(config)
        for spec in config.get("nets", {}).values():
            net = load_config(f"{spec.run},{scale}")
            assert net.dataset.name == config.dataset.name
    if isinstance(experiment, core.Experiment):
        _assert_a_step_keeps_its_types(experiment.task)


@pytest.mark.slow
@pytest.mark.parametrize("variant", dict(modules())["imagenet"].QUICK)
def test_builds_resnet_50(variant, fake_data):
    """At paper, too; the batches are of two pictures, since somebody must make them."""
    config = load_config(f"configs/imagenet.py:{variant},paper")
    config.batch_size = 2
    experiment = core.build(config)
    layers = dict(modules())["imagenet"].layers("paper")
    assert set(layers) == set(experiment.model.layers)
    _assert_a_step_keeps_its_types(experiment.task)


def _assert_a_step_keeps_its_types(task):
    mesh = parallel.mesh(jax.devices()[:1])
    state = jax.eval_shape(task.start, random.key(0))
    chunk = next(iter(task.source.chunks(random.key(0), 0, 1)))
    item = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), chunk)

    def one(state, arrays, item, key):
        return train.step(task, mesh, state, arrays, item, key)

    key = jax.eval_shape(lambda: random.key(0))
    new, metrics = jax.eval_shape(one, state, task.source.arrays, item, key)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    shapes = jax.tree.map(lambda a, b: a.shape == b.shape, new, state)
    assert every(jax.tree.leaves(shapes))
    dtypes = jax.tree.map(lambda a, b: a.dtype == b.dtype, new, state)
    assert every(jax.tree.leaves(dtypes))
    assert every(metric.shape == () for metric in metrics.values())


def nets():
    """One config for each net that a classifier's config can ask for.

    Which layers are noisy and how wide a family is makes no other net; how they are
    sampled and trained does. The fast tests compile one net of each name in each
    experiment: `test_builds_and_a_step_keeps_its_types` traces a step of every config.
    """
    same = ("posteriors", "width", "widths")
    found = {}
    quick = [x for x in modules() if "quick" in config_files.scales(x[1])]
    for name, variant in ((name, v) for name, module in quick for v in module.VARIANTS):
        config = load_config(f"configs/{name}.py:{variant},quick")
        if config.experiment in CLASSIFIERS:
            model = {k: v for k, v in config.model.items() if k not in same}
            extra = [config.get("estimator"), config.get("train_samples", 1) > 1]
            case = (name, variant, (config.model.name, config.experiment))
            found.setdefault(repr((model, extra)), case)
    compiled = set()
    # The one with every column stands for its kind.
    for name, variant, kind in sorted(
        found.values(), key=lambda case: (case[1] != "dropout", case)
    ):
        again = kind in compiled
        compiled.add(kind)
        yield pytest.param(name, variant, marks=pytest.mark.slow if again else ())


@pytest.mark.parametrize("fake_data", [50], indirect=True)
@pytest.mark.parametrize(("name", "variant"), list(nets()))
def test_one_compiled_step_and_a_column(name, variant, fake_data, one_device):
    config = load_config(f"configs/{name}.py:{variant},quick")
    config.evals.columns = config.probe.columns = ("stoch",)
    if variant == "dropout":  # every column, once
        config.evals.columns, config.evals.elbo_samples = tuple(standard_evals()), 2
    if "early_stopping" in config:
        config.early_stopping.metric = "stoch"
    config.evals.samples = config.probe.samples = 2
    if "batch_size" in config:  # else all points are in each
        config.batch_size = 8
    experiment = core.build(config)
    source = experiment.task.source
    source.steps_per_epoch = 1  # one step of the real net
    [result] = train.fit(
        experiment.task, epochs=1, seeds=[0], mesh=one_device, show_progress=False
    )
    assert result.failed is None
    assert np.isfinite(result.history[0]["loss"])
    state = result.state
    key = random.key(0)
    evals = experiment.evaluations(state.params, state.model.collections, key).evals
    assert set(config.evals.columns) <= set(evals)
    for column in config.evals.columns:
        assert 0 <= evals[column]["accuracy"] <= 1
        assert np.isfinite(evals[column]["nll"])


@pytest.mark.parametrize(("name", "module"), list(modules()), ids=lambda x: str(x)[:24])
def test_a_sweep_names_variants_no_two_of_which_are_the_same(name, module):
    for scale in config_files.scales(module):
        swept = config_files.swept(module, scale)
        assert swept
        assert len(set(swept)) == len(swept)
        assert set(swept) <= set(module.VARIANTS)
        seen = {}
        for variant in swept:
            config = load_config(f"configs/{name}.py:{variant},{scale}").to_dict()
            del config["variant"]
            assert seen.setdefault(repr(config), variant) == variant


def test_every_table_row_is_a_variant():
    for name in reading.names():
        table = reading.find(name)
        for row in table.row:
            for scale in table.scale:
                assert load_config(f"{row.run},{scale}").scale == scale


@pytest.mark.parametrize("which", ["varience", "variance,tiny"])
def test_unknown_variant_or_scale_lists_the_valid_ones(which):
    module = dict(modules())["lenet5_mnist"]
    with pytest.raises(ValueError, match="choose from"):
        module.get_config(which)


def quick(**changes):
    config = load_config("configs/lenet5_mnist.py:variance,quick")
    with config.unlocked(), config.ignore_type():
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = value
    return config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experiment": "nope"}, ["config.experiment", "variance_networks"]),
        ({"prior": "nope"}, ["config.prior", "log_uniform", "ard"]),
        ({"model__name": "nope"}, ["config.model.name", "lenet5", "mlp"]),
        ({"model__hidden": 3}, ["config.model", "hidden", "batch_norm"]),
        ({"model__widths": 3}, ["config.model", "widths", "three whole numbers"]),
        (
            {"model__posteriors": {"dense9": {"kind": "variance"}}},
            ["dense9", "conv1", "dense2"],
        ),
        (
            {"model__posteriors": {"dense1": {"kind": "varience"}}},
            ["posteriors.dense1.kind", "variance", "gaussian"],
        ),
        (
            {"model__posteriors": {"dense1": {"kind": "variance", "rate": 1}}},
            ["posteriors.dense1", "rate", "noise", "init"],
        ),
        (
            {"model__posteriors": {"dense1": {"kind": "dropout", "rate": 1.5}}},
            ["posteriors.dense1", "1.5"],
        ),
        (
            {
                "model__posteriors": {
                    "dense1": {
                        "kind": "dropout",
                        "rate": 0.5,
                        "weight": {"kind": "varience"},
                    }
                }
            },
            ["posteriors.dense1.weight.kind", "variance"],
        ),
        (
            {
                "model__posteriors": {
                    "dense1": {
                        "kind": "point",
                        "init": {"name": "truncated_normal", "mean": 1.0},
                    }
                }
            },
            ["posteriors.dense1.init", "stddev"],
        ),
        ({"dataset__augment": {"pad": 1, "per": "image"}}, ["augment", "example"]),
        ({"dataset__augment": {"pads": 1}}, ["dataset.augment", "pads", "flip"]),
        ({"precision": "float16"}, ["config.precision", "bfloat16", "float32"]),
        ({"remat": 2}, ["config.remat", "False", "True"]),
        ({"optimizer__accumulate": 0}, ["config.optimizer.accumulate"]),
        (
            {"optimizer__factors": {"norm1/bias": 2.0, "dens1/*": 3.0, "*/a": 4.0}},
            ["config.optimizer.factors", "['dens1/*']", "norm1/bias"],
        ),
        (
            {"optimizer__factors": {"norm1/*": 2.0, "norm1/bias": 3.0}},
            ["config.optimizer.factors", "['norm1/bias']"],
        ),
        ({"estimator": "nope"}, ["config.estimator", "lrt", "weight_sampling"]),
        ({"train_samples": 0}, ["config.train_samples"]),
        ({"prior": {"kind": "student_t", "nu": -1.0}}, ["config.prior", "positive"]),
        ({"probe__columns": ("dett",)}, ["config.probe.columns", "det", "stoch"]),
        ({"probe__channels": "conv1"}, ["probe.channels", "dense1"]),
        (
            {"probe__kappa": {"images": 10, "batch_size": 5, "threshold": 1.5}},
            ["probe.kappa", "probe.channels"],
        ),
        ({"nets": {"start": {"run": "x", "edit": "no"}}}, ["nets.start.edit", "zero"]),
        ({"optimizer__name": "nope"}, ["config.optimizer.name", "adam"]),
        ({"optimizer__beta": 1}, ["config.optimizer", "beta", "b1"]),
        ({"optimizer__learning_rate": ((1, 0), (0, 1))}, ["learning_rate", "rising"]),
        ({"kl_weight": (3.0,)}, ["config.kl_weight", "pairs"]),
        ({"batch_size": 5000}, ["config.batch_size", "1437"]),
        ({"epochs": 0}, ["epochs"]),
        ({"evals__samples": 0}, ["samples"]),
    ],
)
def test_bad_values_name_the_field_and_the_valid_ones(changes, words):
    with pytest.raises(parts.ConfigError) as caught:
        core.build(quick(**changes))
    for word in words:
        assert word in str(caught.value)


def test_a_prior_that_does_not_fit_is_refused_before_training():
    with pytest.raises(parts.ConfigError, match=r"config.prior: .*ZeroMean"):
        core.build(quick(prior="log_uniform_2015"))
