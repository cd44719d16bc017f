"""The help in choosing a threshold: what it counts, what it chooses, what it draws."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from experiments import core, running, show, thresholds, weight_figures
from experiments.config_files import load_config
from experiments.spec import ConfigError
from vnets import data
from vnets.nets import MLP
from vnets.nodes import (
    AdaptiveDropout,
    Gaussian,
    Point,
    Scaled,
    TruncatedLogNormal,
    gaussian,
    variance,
)

PIXELS, K = 12, 3


def net_of(log_var, mean=None):
    """A linear net on images of 12 pixels; class k is the brightest third."""
    hot = np.zeros((PIXELS, K), np.float32)
    for k in range(K):
        hot[4 * k : 4 * k + 4, k] = 1
    node = Gaussian(jnp.asarray(hot if mean is None else mean), log_var)
    params = {"dense1": {"kernel": node, "bias": jnp.zeros(K)}}
    return core.Net(MLP((), K), params, {})


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    label = rng.integers(0, K, 90).astype(np.int32)
    image = rng.integers(0, 60, (90, PIXELS, 1, 1)).astype(np.uint8)
    for n, k in enumerate(label):
        image[n, 4 * k : 4 * k + 4] += 150
    return data.Split(image, label)


def test_what_is_idle_goes_and_what_is_needed_stays(split):
    # Weights of one have log alpha -6; the others, of zero, have plenty.
    net = net_of(jnp.full((PIXELS, K), -6.0))
    choice = thresholds.choose(net, split, "made-up images", thresholds=(-8, 0, 3))
    assert choice.unpruned == 1.0
    assert [row["nonzero"] for row in choice.rows] == [0, PIXELS, PIXELS]
    assert choice.rows[0]["accuracy"] < 0.5
    assert choice.chosen is choice.rows[1]
    assert choice.chosen["compression"] == K


def test_nothing_is_chosen_if_every_threshold_costs_too_much(split):
    net = net_of(jnp.full((PIXELS, K), 9.0))
    choice = thresholds.choose(net, split, "made-up images", thresholds=(-8, 0))
    assert choice.chosen is None
    assert choice.unpruned == 1.0


def scaled_net(scale):
    """The net above of points, with noise on its pixels."""
    hot = np.zeros((PIXELS, K), np.float32)
    for k in range(K):
        hot[4 * k : 4 * k + 4, k] = 1
    node = Scaled(scale, Point(jnp.asarray(hot)), "in", "batch")
    return core.Net(MLP((), K), {"dense1": {"kernel": node, "bias": jnp.zeros(K)}}, {})


@pytest.mark.parametrize("kind", ["gaussian", "truncated"])
def test_units_are_cut_where_weights_have_no_noise(kind, split):
    """Of each third two pixels have a noisy scale, and the other two are enough."""
    idle = jnp.arange(PIXELS) % 2 == 1
    scale = {
        "gaussian": Gaussian(jnp.ones(PIXELS), jnp.where(idle, 4.0, -6.0)),
        "truncated": TruncatedLogNormal(
            jnp.where(idle, -10.0, 0.0), jnp.where(idle, 3.0, -5.0)
        ),
    }[kind]
    net = scaled_net(scale)
    choice = thresholds.choose(net, split, "", thresholds=(-20, 0, 30), kind="units")
    assert [row["nonzero"] for row in choice.rows] == [0, PIXELS // 2, PIXELS]
    assert choice.chosen is choice.rows[1]
    [layer] = choice.layers
    assert layer.log_alpha.shape == (PIXELS, K)
    np.testing.assert_array_equal(layer.log_alpha[:, 0] > 0, idle)
    with pytest.raises(ConfigError, match="no layer of this net has weights with a"):
        thresholds.choose(net, split, "")
    with pytest.raises(ConfigError, match="choose from"):
        thresholds.choose(net, split, "", kind="maps")


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        ("sparse_vd.py:lenet_300_100_sparse_vd", "weights"),
        ("structured.py:lenet5_sparse_vd", "weights"),
        ("structured.py:lenet5_sbp", "units"),
        ("structured.py:lenet5_gnj", "units"),
    ],
)
def test_the_config_says_what_is_cut(run, kind):
    config = load_config(f"configs/{run},quick")
    params = {"dense1": {"kernel": gaussian()(random.key(0), (PIXELS, K))}}
    assert thresholds.kind_of(config, params) == kind


def test_where_only_units_have_a_log_alpha_they_are_cut(split):
    """Learned dropout: of each third of the pixels two are noisy, two are enough."""
    config = load_config("configs/vd_mnist.py:vd_a_100,quick")
    idle = jnp.arange(PIXELS) % 2 == 1
    learned = AdaptiveDropout(jnp.where(idle, 4.0, -6.0), PIXELS, K)
    net = scaled_net(learned)
    assert thresholds.kind_of(config, net.params) == "units"
    choice = thresholds.choose(net, split, "", thresholds=(-20, 0, 30), kind="units")
    assert [row["nonzero"] for row in choice.rows] == [0, PIXELS // 2, PIXELS]
    assert choice.chosen is choice.rows[1]
    noisy = {"dense1": {"kernel": gaussian()(random.key(0), (PIXELS, K))}}
    for params in (noisy, {}, {**net.params, **noisy}):
        assert thresholds.kind_of(config, params) == "weights"
    mixed = net.params | {"dense2": {"kernel": variance()(random.key(0), (K, K))}}
    with pytest.raises(ConfigError, match="no rule for ZeroMean"):
        thresholds.choose(core.Net(None, mixed, {}), split, "", kind="units")


def test_data_that_are_streamed_or_made_on_the_fly(monkeypatch, tmp_path):
    """Of a stream the first pictures are tested on; without a data set, none."""
    asked = []

    @dataclasses.dataclass(frozen=True)
    class Pictures(data.Stream):
        def test_batches(self, batch_size, rows=slice(None)):
            asked.append((self.count, batch_size))
            image = np.zeros((batch_size, *self.shape), np.uint8)
            yield {"input": image, "target": np.zeros(batch_size, np.int32)}

    few = thresholds._first(Pictures(tmp_path, "train", 2, 10**6))
    assert asked == [(thresholds.STREAMED,) * 2]
    assert few.inputs.shape == (thresholds.STREAMED, 2, 2, 3)
    config = load_config("configs/toy_regression.py:variance,quick")
    made = (config, core.Experiment(_Task(), None), core.Net(None, {}, {}))
    monkeypatch.setattr(thresholds, "restore", lambda folder: made)
    with pytest.raises(ConfigError, match="made on the fly"):
        thresholds.choose_for(tmp_path)


@pytest.mark.parametrize("node", [Point, variance()])
def test_a_net_without_log_alpha_is_refused(node, split):
    shape = (PIXELS, K)
    made = Point(jnp.ones(shape)) if node is Point else node(random.key(0), shape)
    net = core.Net(MLP((), K), {"dense1": {"kernel": made, "bias": jnp.zeros(K)}}, {})
    with pytest.raises(
        ConfigError, match="no layer of this net has weights with a log"
    ):
        thresholds.choose(net, split, "")


def test_a_negative_tolerance_is_refused(split):
    with pytest.raises(ConfigError, match="at least 0"):
        thresholds.choose(net_of(jnp.zeros((PIXELS, K))), split, "", -0.1)


def test_pictures_leave_out_what_is_pruned():
    mean = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    log_alpha = np.zeros_like(mean)
    log_alpha[0, 0, 1, 2] = 5
    layer = thresholds.Layer("conv", mean, log_alpha)
    image = weight_figures.picture(layer, 3.0)
    assert image.shape == (2 * 3, 3 * 3)
    # Kernel (input 1, output 2) begins at row 3 and column 6; its corner is pruned.
    assert np.isnan(image[3, 6])
    assert image[4, 7] == mean[1, 1, 1, 2]
    assert np.isnan(image[2]).all()
    assert np.isnan(image[:, 8]).all()
    assert np.isfinite(weight_figures.picture(layer, 9.0)).sum() == mean.size
    first = thresholds.Layer("conv1", mean[:, :, :1], np.zeros((2, 2, 1, 3)))
    image = weight_figures.picture(first, 3.0)  # three kernels in a square of four
    assert image.shape == (2 * 3, 2 * 3)
    np.testing.assert_array_equal(image[3:5, :2], mean[:, :, 0, 2])
    assert np.isnan(image[3:, 3:]).all()
    assert "shown: 1 x 3 of 1 x 3 maps" in weight_figures._caption(first, 3.0)
    wide = np.arange(300.0 * 150).reshape(300, 150)
    dense = thresholds.Layer("dense", wide, np.zeros_like(wide))
    np.testing.assert_array_equal(
        weight_figures.picture(dense, 3.0), wide[100:200, 25:125]
    )
    caption = weight_figures._caption(dense, 3.0)
    assert "shown: 100 x 100 of 300 x 150 units" in caption


def layers_named(names, size, log_alpha=0.0):
    """Layers of 4 weights of one size."""
    mean = np.full((2, 2), size)
    return [thresholds.Layer(n, mean, np.full((2, 2), log_alpha)) for n in names]


def test_layers_come_in_the_order_of_the_net():
    kernel = Gaussian(jnp.ones((2, 2)), jnp.zeros((2, 2)))
    params = {name: {"kernel": kernel} for name in ("a", "b", "c", "d")}
    order = ("c", "none", "a", "d", "b")
    found = thresholds.layers_of(params, order=order)
    assert [layer.name for layer in found] == ["c", "a", "d", "b"]
    found = thresholds.layers_of(params, order=("d",))
    assert [layer.name for layer in found] == ["d", "a", "b", "c"]


def test_all_frames_have_the_same_colours_and_axes(tmp_path, monkeypatch):
    """Of many layers some are drawn, from the first to the last, in several rows."""
    monkeypatch.setattr(weight_figures, "ANIMATED", 3)
    monkeypatch.setattr(weight_figures, "COLUMNS", 2)
    seen, names = [], [f"layer{n}" for n in range(7)]
    frames = [(epoch, layers_named(names, size)) for epoch, size in ((3, 0.5), (7, 4))]

    def capture(animation, path, writer):
        del writer
        pathlib.Path(path).touch()
        canvas, animation._draw_was_started = animation._fig, True
        for number in (0, 1):
            animation._func(number)
            shown = [panel for panel in canvas.axes if panel.get_visible()]
            images = [panel.images[0] for panel in shown if panel.images]
            seen.append(
                (
                    canvas.get_suptitle().splitlines()[-1],
                    [panel.get_position().bounds for panel in shown],
                    [panel.get_ylim() for panel in shown if not panel.images],
                    [image.get_clim() for image in images],
                    [panel.get_title() for panel in shown if panel.images],
                )
            )
        seen.append(canvas.get_size_inches())

    monkeypatch.setattr("matplotlib.animation.Animation.save", capture)
    weight_figures.save_animation(frames, tmp_path / "x.gif", 3.0)
    (first, *same), (last, *also), size = seen
    assert first.startswith("epoch 3; 3 of 7 layers; ")
    assert last.startswith("epoch 7; ")
    assert same == also
    assert same[2] == [(-4, 4)] * 3
    titles = [title.partition(":")[0] for title in same[3]]
    assert titles == ["layer0", "layer3", "layer6"]
    assert size[1] > size[0]


@pytest.mark.parametrize("count", [2, 9])
def test_tables_of_many_layers_can_be_read(count, capsys, tmp_path):
    names = [f"stage1_block{n}_conv1" for n in range(count)]
    rows = [
        {"threshold": t, "accuracy": 0.91, "nonzero": 7, "compression": 2.0}
        | {f"sparsity/{name}": 0.125 for name in names}
        for t in (-1.5, 3.0)
    ]
    choice = thresholds.Choice(layers_named(names, 1.0), rows, 0.9, rows[0], "images")
    show.thresholds(choice, 0.001, tmp_path)
    out = capsys.readouterr().out
    assert out.count("0.9100") == 2
    assert out.count("12.5") == (2 * count if count == 2 else count)
    assert every(out.count(name) == 1 for name in names) or count == 2
    command = f"compress.py --workdir={tmp_path} --out=net.vnz --threshold=-1.5\n"
    assert command in out


@pytest.mark.slow
def test_for_a_workdir_it_uses_no_test_image_and_animates_what_was_kept(
    tmp_path, monkeypatch
):
    config = load_config("configs/sparse_vd.py:lenet_300_100_sparse_vd,quick")
    with config.ignore_type():
        noise = {"kind": "gaussian", "log_var": -6.0}
        config.model = {"name": "mlp", "widths": (6,), "posteriors": {"dense1": noise}}
    config.epochs, config.batch_size, config.probe.every = 4, 48, 4
    running.run(config, "configs/x.py:y", lambda _: tmp_path, [0], keep_every=2)
    choice = thresholds.choose_for(tmp_path)
    assert "training images" in choice.images
    assert [layer.name for layer in choice.layers] == ["dense1"]
    frames = thresholds.over_training(tmp_path)
    assert [epoch for epoch, _ in frames] == [2, 4]
    assert not np.array_equal(frames[0][1][0].mean, frames[1][1][0].mean)
    for save, arguments in (
        (weight_figures.save_choice, (choice,)),
        (weight_figures.save_weights, (choice.layers,)),
    ):
        save(*arguments, tmp_path / "x.png")
        assert (tmp_path / "x.png").stat().st_size > 5000
        (tmp_path / "x.png").unlink()
    weight_figures.save_animation(frames, tmp_path / "x.gif", 3.0)
    assert (tmp_path / "x.gif").read_bytes().startswith(b"GIF8")


def test_without_kept_checkpoints_it_says_how_to_keep_them(tmp_path, monkeypatch):
    config = load_config("configs/sparse_vd.py:lenet_300_100_sparse_vd,quick")
    monkeypatch.setattr(
        thresholds,
        "restore",
        lambda folder: (
            config,
            core.Experiment(_Task(), None),
            core.Net(None, {}, {}),
        ),
    )
    with pytest.raises(ConfigError, match="--keep_every"):
        thresholds.over_training(tmp_path)


class _Task:
    @staticmethod
    def start(key):
        del key
        return jnp.zeros(())
