"""Laws of compressing a run: what is restored, reported and refused."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from experiments import compress, core, latency, running, show, workdirs
from experiments.bench import timing
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import artifact
from experiments.tables import reading
from vnets import checkpoint, compact, data, edits, nodes, plan
from vnets.columns import standard_evals
from vnets.nets.chain import Chain

RUN = "configs/sparse_vd.py:lenet_300_100_sparse_vd,quick"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of an epoch on the digits, and its record."""
    folder = tmp_path_factory.mktemp("run")
    config = load_config(RUN)
    config.model = {
        "name": "mlp",
        "widths": (20,),
        "posteriors": {
            name: {"kind": "gaussian", "log_var": -6.0} for name in ("dense1", "dense2")
        },
    }
    config.epochs, config.batch_size = 1, 48
    config.evals.columns = ("det", "pruned")
    config.probe.every = 2
    config.kl_weight = ((0.0, 1.0),)
    config.max_log_alpha = float("inf")
    name, _, _ = RUN.partition(",")
    records = running.run(config, name, lambda seed: folder, [0])
    return folder, records[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Where the generated shapes are."""
    folder = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield data.prepare("generated_shapes", folder)


@pytest.fixture(scope="module")
def report(workdir):
    folder, _ = workdir
    with contextlib.chdir(folder):  # a path that is relative to where one is
        return compress.compress(folder, "net.vnz", threshold=1.0, seconds=0.01)


def test_a_restored_net_is_the_one_that_was_measured(workdir):
    folder, record = workdir
    config, experiment, net = running.restore(folder)
    assert (
        workdirs.plain_config(config)
        == json.loads((folder / "config.json").read_text())["config"]
    )
    again = experiment.evaluations(net.params, net.collections, random.key(1)).evals
    assert again["pruned"]["accuracy"] == record["evals"]["pruned"]["accuracy"]


def test_the_report_agrees_with_the_file(workdir, report):
    folder, record = workdir
    net = compact.load(folder / "net.vnz").net
    weights, size = report["weights"], report["bytes"]
    assert size["file"] == (folder / "net.vnz").stat().st_size
    assert weights["all"] == 784 * 20 + 20 * 10
    assert weights["all"] > weights["pruned"] >= weights["shrunk"]
    assert weights["shrunk"] >= weights["quantized"] == sum(net.nonzeros().values())
    assert size["dense"] == 4 * (weights["all"] + 30)
    assert size["file"] < size["nonzeros"] < size["csr"] < size["dense"]
    test = report["test"]
    assert test["differ/file_and_quantized"] == 0
    assert test["error/file"] == test["error/quantized"]
    assert test["error/all_weights"] == pytest.approx(
        1 - record["evals"]["det"]["accuracy"]
    )
    assert 0 < report["mdl_bits"]["left"] < report["mdl_bits"]["all"]
    assert every(2 <= bits <= 8 for bits in report["bits"].values())
    times = report["latency_ms"]
    assert times["threads"] == 1
    for batch in ("batch_1", "batch_256"):
        assert set(times[batch]) == {"compact", "dense_numpy", "dense_jax"}
        assert min(times[batch].values()) > 0
        fastest = times[batch.replace("batch", "fastest")]
        assert every(0 < fastest[name] <= ms for name, ms in times[batch].items())


@pytest.mark.parametrize(
    "which",
    [
        # Residual, of pictures that are streamed:
        pytest.param("imagenet.py:magnitude_90", marks=pytest.mark.slow),
        "lenet5_mnist.py:variance",  # batch normalization
        pytest.param("structured.py:lenet_500_300_sbp", marks=pytest.mark.slow),
        pytest.param("vd_cifar.py:vd_a_1", marks=pytest.mark.slow),
        # Inputs standardized:
        pytest.param("vgg_cifar.py:cifar10_variance", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_net_becomes_a_file(which, prepared, tmp_path, monkeypatch):
    """As it starts: before training, but for running statistics and pruning."""
    del prepared
    monkeypatch.setattr(latency, "measure", lambda *arguments: {})
    config = load_config(f"configs/{which},quick")
    experiment = core.build(config)
    params, collections = experiment.task.init(random.key(0))
    net = core.Net(experiment.model, params, collections)
    out = tmp_path / "net.vnz"
    report = compress.compress_net(config, experiment.dataset, net, out, bits=8)
    assert report["test"]["differ/file_and_quantized"] == 0
    assert report["test"]["examples"] == len(experiment.dataset.test)
    predictor = compact.load(out)
    images = experiment.dataset.test.take(np.arange(3)).inputs
    graph = predictor.net.graph()
    x = np.float32(images) / 255
    np.testing.assert_allclose(
        predictor(images), latency.dense_numpy(graph, x), rtol=1e-4, atol=1e-4
    )


def test_dense_numpy_is_the_dense_net():
    steps = (
        plan.Standardize((0.2, 0.4), (0.5,)),
        plan.Conv("conv1", 4, (3, 3), bias=False),
        plan.Norm("norm1"),
        plan.Activation("tanh"),
        plan.MaxPool(),
        plan.Conv("conv2", 3, (2, 2), (2, 1), "VALID"),
        plan.Residual((plan.Conv("conv3", 3, (3, 3)), plan.Activation())),
        plan.WindowMaxPool(2, 1),
        plan.Residual((plan.MeanPool(),), (plan.MeanPool(), plan.Dense("side", 3))),
        plan.Activation("leaky_relu"),
        plan.Dense("dense1", 5),
    )
    net = Chain(steps=steps)
    x = np.random.default_rng(0).random((3, 9, 8, 2)).astype(np.float32)
    variables = jax.jit(net.init)(random.key(0), x)
    graph = compact.fold_norms(compact.capture(net, variables, x.shape[1:]))
    wanted = jax.jit(net.apply)(variables, x)
    np.testing.assert_allclose(
        latency.dense_numpy(graph, x), wanted, rtol=1e-4, atol=1e-4
    )
    model, plain = graph.to_flax()
    np.testing.assert_allclose(model.apply(plain, x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "kind", "has"),
    [
        (nodes.structured(), "structured", {"all"}),
        (nodes.gaussian(), "log_uniform", {"all", "left"}),
    ],
)
def test_description_length_leaves_out_factors(make, kind, has):
    """They weigh the objective of training; bits are bits."""
    kernel = make(random.key(0), (4, 3))
    params = {"dense1": {"kernel": kernel, "bias": jnp.zeros(3, jnp.float32)}}
    pruned = edits.mean_only(params)
    weighted = {"kind": kind, "factors": {"dense1": 20.0}}
    found = compress._description_length(params, pruned, weighted)
    assert found == compress._description_length(params, pruned, kind)
    assert set(found) == has
    assert found["all"] > 0
    assert compress._description_length(pruned, pruned, weighted) == {}


@pytest.mark.parametrize("mdl", [{}, {"all": 16000.0}, {"all": 16000.0, "left": 80.0}])
def test_the_report_is_shown(report, capsys, mdl):
    show.compression({**report, "mdl_bits": mdl})
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{report['bytes']['file']:,}" in shown
    assert ("whole posterior: 2,000 bytes" in shown) == ("all" in mdl)
    assert ("what is left: 10 bytes" in shown) == ("left" in mdl)
    assert "Careful" not in shown


def test_a_file_without_information_is_called_that(report, capsys):
    show.compression({**report, "test": {**report["test"], "classes/file": 1}})
    assert "answers every test image alike" in " ".join(capsys.readouterr().out.split())


def test_a_file_that_predicts_otherwise_is_counted(workdir, tmp_path, monkeypatch):
    folder, _ = workdir
    _, experiment, _ = running.restore(folder)
    test, load = experiment.dataset.test, compact.load
    nothing = np.eye(10, dtype=np.float32)[:1]
    monkeypatch.setattr(
        compact, "load", lambda path: lambda x: nothing.repeat(len(x), 0)
    )
    monkeypatch.setattr(latency, "measure", lambda *arguments: {})
    out = tmp_path / "net.vnz"
    found = compress.compress(folder, out, threshold=1.0, bits=6)["test"]
    other = int(np.sum(np.argmax(load(out)(test.inputs), -1) != 0))
    assert found["differ/file_and_quantized"] == other > 0
    assert found["classes/file"] == 1
    assert found["error/file"] == pytest.approx(np.mean(test.target != 0))


@pytest.mark.slow
def test_the_study_of_files_has_every_column_of_its_table(workdir):
    folder, _ = workdir
    trained, experiment, net = running.restore(folder)
    config = load_config("configs/artifact.py:student,quick")
    config.latency.seconds, config.tolerance = 0.01, 1.0
    nets = {"net": [net], "teacher": [net]}
    measured = artifact._measure(
        config, trained, experiment.dataset, nets, random.key(0)
    )
    evals, table = measured.evals, reading.find("artifact")
    for column in table.column:
        assert np.isfinite(evals[column.eval][column.metric or table.metric])
    assert evals["latency"]["threads"] == config.latency.threads
    assert evals["file"]["images"] == len(experiment.dataset.test)
    # As few bits as there are, if any prediction may change.
    assert {v for k, v in evals["file"].items() if k.startswith("bits/")} == {2.0}
    # The teacher is the same net with its noise, of which 20 draws take longer.
    teacher, test = evals["teacher"], experiment.dataset.test
    drawn = net.evaluate(test, standard_evals(20)["ens"], random.key(1))
    assert teacher["error"] == pytest.approx(1 - drawn["accuracy"], abs=0.05)
    assert abs(teacher["error"] - evals["dense"]["error"]) > 0.1  # of means alone
    assert teacher["bytes"] > evals["file"]["bytes"]
    assert min(teacher["times"], teacher["fastest_times"]) > 2


def test_a_record_of_a_file_is_its_report(workdir, report):
    folder, _ = workdir
    evals = artifact.evaluations(report)
    nonzeros = sum(compact.load(folder / "net.vnz").net.nonzeros().values())
    size = (folder / "net.vnz").stat().st_size
    assert evals["file"]["weights"] == evals["quantized"]["weights"] == nonzeros
    assert evals["file"]["bytes"] == size
    assert evals["file"]["bytes_beyond"] == pytest.approx(size - 2.7 * nonzeros)
    for name, key in (("dense", "all_weights"), ("pruned", "pruned"), ("file", "file")):
        assert evals[name]["error"] == report["test"][f"error/{key}"]
    assert evals["pruned"]["mdl_bits/left"] == report["mdl_bits"]["left"]
    for key, prefix in (("batch_256", ""), ("fastest_256", "fastest_")):
        times = report["latency_ms"][key]
        assert evals["latency"][f"{prefix}compact/256"] == times["compact"]
        speedup = evals["latency"][f"{prefix}speedup/256"]
        assert speedup * times["compact"] == pytest.approx(times["dense_numpy"])
    # A posterior whose KL does not split by weights has no more than the whole of it.
    whole = artifact.evaluations({**report, "mdl_bits": {"all": 3.0}})["pruned"]
    assert {k for k in whole if k.startswith("mdl")} == {"mdl_bits/all"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency": {"threads": 0, "seconds": 1.0}}, "latency.threads"),
        ({"latency": {"threads": 1, "seconds": 0.0}}, "latency.seconds"),
        ({"tolerance": 1.5}, "config.tolerance"),
        ({"draws": 20}, "both, or neither"),
    ],
)
def test_a_study_of_files_refuses_what_does_not_fit(changes, words):
    config = load_config("configs/artifact.py:lenet5_gnj,quick")
    config.update(changes)
    with pytest.raises(ConfigError, match=words):
        core.build(config)


def test_a_threshold_is_of_units_where_only_they_are_noisy():
    config = load_config("configs/vd_mnist.py:vd_a_100,quick")
    scale = nodes.AdaptiveDropout(jnp.asarray([-9.0, 9.0, -9.0]), 3, 2)
    weight = nodes.Point(jnp.ones((3, 2), jnp.float32))
    params = {"dense1": {"kernel": nodes.Scaled(scale, weight, "in", "example")}}
    found = compress.pruning_of(config, params, 3.0)(params)["dense1"]["kernel"]
    np.testing.assert_array_equal(found.mean, [[1, 1], [0, 0], [1, 1]])


def test_what_cannot_be_compressed_is_refused(workdir, tmp_path, monkeypatch):
    folder, _ = workdir
    with pytest.raises(ConfigError, match="no folder"):
        compress.compress(folder, tmp_path / "missing" / "net.vnz")
    (tmp_path / "folder.vnz").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.vnz is a folder"):
        compress.compress(folder, tmp_path / "folder.vnz")
    (tmp_path / "folder.vnz").rmdir()
    monkeypatch.setattr(compress.os, "access", lambda path, how: False)
    with pytest.raises(checkpoint.WorkdirError, match="not allowed to write"):
        compress.compress(folder, tmp_path / "net.vnz")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="the cores there are"):
        compress.compress(folder, tmp_path / "net.vnz", threads=timing.cores() + 1)
    with pytest.raises(ConfigError, match="no workdir"):
        compress.compress(tmp_path, tmp_path / "net.vnz")
    study = load_config("configs/diversity.py:dropout,quick")
    workdirs.claim(tmp_path / "study", workdirs.plain_config(study))
    with pytest.raises(ConfigError, match="trains no net"):
        running.restore(tmp_path / "study")
    workdirs.claim(tmp_path / "new", workdirs.plain_config(load_config(RUN)))
    with pytest.raises(checkpoint.WorkdirError, match="no checkpoints"):
        running.restore(tmp_path / "new")
    config, experiment, net = running.restore(folder)
    streamed = data.Stream(tmp_path, "train", 28, 10)
    dataset = dataclasses.replace(experiment.dataset, test=streamed)
    with pytest.raises(ConfigError, match="need"):  # three channels
        compress.compress_net(config, dataset, net, tmp_path / "net.vnz")
    plain = {"dense1": {"kernel": net.params["dense1"]["bias"]}}
    with pytest.raises(ConfigError, match="no threshold"):
        compress.pruning_of(load_config(RUN), plain, 3.0)
    assert not list(tmp_path.glob("*.vnz"))
