"""Laws of the studies of uncertainty and diversity, on small untrained nets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import core, predictions
from experiments import spec as parts
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import uncertainty
from experiments.tables import reading
from vnets import backend, data, edits
from vnets.data import Split
from vnets.nets import MLP
from vnets.nodes import Additive, Point, dropout, multiplicative, variance

POSTERIORS = {
    "variance": {"dense1": variance()},
    "dropout": {"dense1": dropout(0.5)},
    "vd": {"dense1": multiplicative(1.0)},
    "abs_eps": {"dense1": variance()},
    "abs_gaussian": {"dense1": variance()},
}
IMAGES = 40


@functools.cache
def initializer(variant):
    model = MLP(widths=(16,), posteriors=POSTERIORS.get(variant, {}))
    return model, jax.jit(model.init)


def net(variant="variance", seed=0):
    """A net of one hidden layer on 28 x 28 images, its outputs far from uniform."""
    model, init = initializer(variant)
    x = np.zeros((1, 28, 28, 1), np.float32)
    params = init({"params": random.key(seed), "noise": random.key(1)}, x)["params"]
    return core.Net(model, jax.tree.map(lambda leaf: 4 * leaf, params), {})


def taught(variant, seed):
    """The same with its last layer fitted to the digits, over draws of its first."""
    found, split = net(variant, seed), data.load("digits").train
    first = found.params["dense1"]
    x = predictions.unit_range(split.inputs).reshape(len(split), -1)
    drawn = [np.asarray(first["kernel"].sample(random.key(i))) for i in range(30)]
    hidden = [np.maximum(x @ one + np.asarray(first["bias"]), 0) for one in drawn]
    hidden = np.concatenate(hidden)
    known = np.concatenate([hidden, np.ones((len(hidden), 1))], 1)
    targets = np.tile(np.eye(10)[split.target] - 0.1, (len(drawn), 1))
    fitted = np.linalg.solve(known.T @ known + np.eye(17), known.T @ targets)
    weight, bias = (
        jnp.asarray(9 * part, jnp.float32) for part in np.split(fitted, [16])
    )
    last = {"kernel": Point(weight), "bias": bias[0]}
    return dataclasses.replace(found, params={**found.params, "dense2": last})


def images(count=IMAGES):
    return predictions.unit_range(data.load("digits").test.inputs[:count])


def summaries(nets, *, samples=3, key=0, batch_size=16, **options):
    return predictions.summaries(
        nets, images(), samples, random.key(key), batch_size=batch_size, **options
    )


def quick(name, variant, **changes):
    config = load_config(f"configs/{name}.py:{variant},quick")
    config.images, config.batch_size, config.samples = IMAGES, 16, 3
    with config.unlocked():
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = value
    return config


def measured(name, variant, make=net, **changes):
    study = core.build(quick(name, variant, **changes))
    members = study.nets["net"].members
    nets = [make(variant, seed) for seed in range(members)]
    return study.measure({"net": nets}, random.key(3))


def test_batches_and_padding_do_not_show():
    """Without noise nothing depends on how images fall into batches."""
    whole = summaries([net("deterministic")], batch_size=IMAGES)
    parted = summaries([net("deterministic")], batch_size=16)
    assert whole.log_p.shape == (IMAGES, 10)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parted
    )


def test_equal_members_are_one_and_noise_is_the_members_own():
    quiet, noisy = net("deterministic"), net("variance")
    one, five = (summaries([quiet] * k, samples=1) for k in (1, 5))
    np.testing.assert_allclose(five.log_p, one.log_p, atol=1e-5)
    assert np.all(five.disagreement == 0)
    np.testing.assert_allclose(five.mutual_information, 0, atol=1e-6)
    assert np.mean(summaries([noisy] * 2, samples=1).disagreement) > 0.1


def test_edits_that_keep_the_types_share_what_is_compiled():
    noisy = net("variance")
    run = predictions._batch_summary(backend.forms())
    run.clear_cache()
    for factor in (0.5, 1.0, 2.0):
        summaries([noisy], edit=edits.scale_noise(factor))
    assert run._cache_size() == 1


def test_one_sample_is_scored_by_its_votes():
    """`accuracy_one` is the mean over samples, counted here net by net."""
    label = data.load("digits").test.target[:IMAGES]
    alone = predictions.scores(summaries([net()], samples=1), label)
    assert alone["accuracy_one"] == pytest.approx(alone["accuracy"])
    members = [net("deterministic", seed) for seed in range(3)]
    each = [
        predictions.scores(summaries([one], samples=1), label)["accuracy"]
        for one in members
    ]
    together = predictions.scores(summaries(members, samples=1), label)
    assert together["accuracy_one"] == pytest.approx(np.mean(each))


def test_calibration_is_measured_on_what_it_was_not_fitted_to():
    """Labels drawn from probabilities that are three times too sharp."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 5))
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    label = (log_p + rng.gumbel(size=z.shape)).argmax(-1)
    sharp = 3 * z - np.log(np.exp(3 * z).sum(-1, keepdims=True))
    tempered, found = uncertainty.halves(sharp, label)
    assert found["temperature"] == pytest.approx(3, rel=0.15)
    np.testing.assert_allclose(tempered, log_p, atol=0.3)
    own = np.arange(len(label)), label
    assert found["nll"] == pytest.approx(-log_p[own].mean(), abs=0.02)
    # As noisy a bound on either half as the half that it is measured on.
    error = (0.95 * 0.05 * (1 / 2000 + 1 / 2000)) ** 0.5
    assert found["coverage"] == pytest.approx(0.95, abs=5 * error / 2**0.5)
    curve = uncertainty._reliability(sharp, tempered, label)
    before, after = (np.abs(curve[name]).max() for name in ("plain", "tempered"))
    assert after < 0.1 < before


def test_a_half_that_is_right_has_no_temperature_and_sets_all_the_same():
    log_p = np.log(np.full((40, 10), 0.01) + 0.9 * np.eye(10)[np.arange(40) % 10])
    tempered, found = uncertainty.halves(log_p, np.arange(40) % 10)
    assert tempered is None
    assert found == {"coverage": 1.0, "set_size": 1.0}
    curve = uncertainty._reliability(log_p, tempered, np.arange(40) % 10)
    assert set(map(len, curve.values())) == {0}


def test_detection_of_a_set_from_itself_is_a_coin_toss():
    summary = summaries([net()])
    found = predictions.detection(summary, summary)
    assert found["auroc/entropy"] == pytest.approx(0.5)
    certain = jax.tree.map(np.zeros_like, summary)
    found = predictions.detection(certain, summary)
    for name in predictions.SCORES:
        assert found[f"auroc/{name}"] == 1.0
        assert found[f"fpr95/{name}"] == 0.0


# Images that are made.


def test_rotation_is_exact_at_right_angles_and_keeps_the_centre():
    pixels = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    for turns in range(5):
        turned = uncertainty.rotated(pixels, 90 * turns)
        expected = np.rot90(pixels, turns, axes=(1, 2))
        np.testing.assert_allclose(turned, expected, atol=1e-6)
    # A cone is the same at any angle, up to bilinear interpolation.
    y, x = np.mgrid[:28, :28] - 13.5
    cone = np.maximum(0, 12 - np.hypot(x, y))[None, ..., None].astype(np.float32)
    turned = uncertainty.rotated(cone, 33.0)
    # Of a function of slope 1, interpolation between pixels is off by less than 1/2.
    assert np.abs(turned - cone).max() < 0.5
    assert turned.dtype == np.float32


def test_made_images_are_what_they_say():
    test = data.load("digits").test.inputs[:20]
    shuffled = uncertainty.MADE["shuffled_pixels"](test)
    flat, other = (np.sort(a.reshape(20, -1), axis=1) for a in (test, shuffled))
    np.testing.assert_array_equal(flat, other)  # the grey levels of each image
    assert np.mean(shuffled != test) > 0.3
    orders = uncertainty.MADE["shuffled_pixels"](np.stack([test[0]] * 2))
    assert np.any(orders[0] != orders[1])  # an order of its own
    np.testing.assert_array_equal(
        uncertainty.MADE["shuffled_pixels"](test), shuffled
    )  # the same in every run
    inverted = uncertainty.MADE["inverted"](test)
    assert np.all(inverted.astype(int) + test == 255)
    assert inverted.dtype == shuffled.dtype == np.uint8


@pytest.mark.parametrize("count", [1, 7, 100, 1000])
def test_evenly(count):
    label = np.arange(100, dtype=np.int32)
    chosen = uncertainty.evenly(Split(np.zeros((100, 1, 1, 1), np.uint8), label), count)
    assert len(chosen) == min(count, 100)
    gaps = np.diff(chosen.target)
    assert np.all((gaps == 100 // len(chosen)) | (gaps == -(-100 // len(chosen))))


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_another_data_set_of_the_same_shape_serves_as_the_outside(shape, monkeypatch):
    digits = data.load("digits")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, *shape)).astype(np.uint8)
    other = dataclasses.replace(digits, test=Split(image, np.zeros(60, np.int32)))

    def load(spec):
        return digits if spec.name == "digits" else other

    monkeypatch.setattr(uncertainty, "load_data", load)
    config = quick("uncertainty", "variance", shift__name="kmnist")
    if shape == (28, 28, 1):
        _, test = uncertainty.test_images(config)
        shifted = uncertainty.shifted_images(config, test)
        assert shifted.shape == (IMAGES, *shape)
        assert {x.tobytes() for x in shifted} <= {x.tobytes() for x in image}
    else:
        with pytest.raises(ConfigError, match=r"'kmnist' are \(32, 32, 3\), not"):
            core.build(config)


# Whole studies.


@pytest.mark.parametrize("name", ["uncertainty", "diversity"])
@pytest.mark.parametrize("variant", ["variance", "deep_ensemble"])
def test_every_cell_and_curve_of_the_tables_is_measured(name, variant):
    found = measured(name, variant, taught, images=120)
    table = reading.find(name)
    [row] = [row for row in table.row if row.name == variant]
    of_others = ("transferred", "white_box", "corrupted_3", "corrupted_5")
    for column in table.column:
        if column.name not in row.without and column.eval not in of_others:
            value = found.evals[column.eval][column.metric or table.metric]
            assert np.isfinite(value)
    for figure in table.figure:
        if figure.rows and variant not in figure.rows:
            assert figure.curve not in found.curves
            continue
        curve = found.curves[figure.curve]
        lengths = {len(curve[axis]) for axis in (figure.x, *figure.y)}
        assert len(lengths) == 1
        assert lengths.pop() > 1


def test_the_curves_agree_with_the_cells():
    found = measured("uncertainty", "variance")
    rejection, angles = found.curves["rejection"], found.curves["rotation"]
    inside = found.evals["inside"]
    assert rejection["kept"][-1] == 1
    assert rejection["accuracy"][-1] == pytest.approx(inside["accuracy"])
    # Both sets have as many images, and outside every answer is wrong.
    assert rejection["mixed"][-1] == pytest.approx(inside["accuracy"] / 2)
    assert angles["degrees"] == [0, 45, 90, 135, 180]
    at_90 = found.evals["rotated_90"]
    assert angles["accuracy"][2] == at_90["accuracy"]
    cdf = found.curves["entropy_cdf"]
    assert cdf["inside"][-1] == pytest.approx(1, abs=1 / IMAGES)  # log K and rounding
    # E X is the area above a distribution function, on a grid of steps of 0.012.
    step = cdf["entropy"][1]
    area = sum(1 - value for value in cdf["inside"]) * step
    assert area == pytest.approx(inside["entropy"], abs=step)


@pytest.mark.parametrize("variant", ["variance", "dropout", "vd"])
def test_noise_of_factor_zero_is_the_deterministic_pass(variant):
    found = measured("diversity", variant, noise__factors=(0.0, 1.0))
    curve = found.curves["noise_tolerance"]
    assert curve["accuracy"][0] == found.evals["deterministic"]["accuracy"]
    assert curve["nll"][0] == pytest.approx(
        found.evals["deterministic"]["nll"], rel=1e-4
    )
    assert curve["disagreement"][0] == 0
    assert curve["accuracy_one"][0] == pytest.approx(curve["accuracy"][0])
    assert curve["disagreement"][1] > 0.05


def test_a_magnitude_and_its_gaussian_share_the_deterministic_pass():
    one, other = (measured("diversity", name) for name in ("abs_eps", "abs_gaussian"))
    assert one.evals["deterministic"] == other.evals["deterministic"]
    assert one.evals["deterministic"]["disagreement"] == 0
    assert one.evals["inside"] != other.evals["inside"]
    assert not one.curves


def test_with_a_magnitude_the_deterministic_pass_sees_the_image():
    """That of signed noise gives every image the same answer."""
    config = quick("diversity", "abs_eps")
    mode = parts.mode(config.deterministic.estimator)
    edit = parts.edit("deterministic", config.deterministic)
    seeing = summaries([net("abs_eps")], samples=1, mode=mode, edit=edit)
    blind = summaries([net("variance")], samples=1, edit=edits.mean_only)
    assert np.all(blind.log_p == blind.log_p[:1])
    assert np.std(seeing.log_p, axis=0).max() > 0.1


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("uncertainty", {"samples": 0}, ["config.samples"]),
        ("uncertainty", {"rotation__images": 0}, ["config.rotation.images"]),
        ("uncertainty", {"rotation__degrees": (np.inf,)}, ["rotation.degrees"]),
        ("uncertainty", {"nets__net__members": 0}, ["nets.net.members"]),
        (
            "uncertainty",
            {"shift__name": "letters"},
            ["config.shift.name", "notmnist", "shuffled_pixels", "kmnist"],
        ),
        ("uncertainty", {"shift__name": "digits"}, ["config.shift.name"]),
        ("uncertainty", {"shift__name": "generated_shapes"}, ["config.shift.name"]),
        ("diversity", {"estimator": "nope"}, ["config.estimator", "magnitude"]),
        ("diversity", {"deterministic__edit": "nope"}, ["deterministic", "mean_only"]),
        ("diversity", {"noise__factors": (-1.0,)}, ["noise.factors", "-1.0"]),
        ("diversity", {"estimator": "magnitude"}, ["noise.factors", "'magnitude'"]),
    ],
)
def test_bad_values_name_the_field_and_the_valid_ones(name, changes, words):
    with pytest.raises(ConfigError) as caught:
        core.build(quick(name, "variance", **changes))
    for word in words:
        assert word in str(caught.value)


# What is rejected, and what is noticed.


def test_risks_are_those_of_the_answers_that_are_kept():
    draw = np.random.default_rng(3)
    correct, score = draw.random(50) < 0.6, draw.random(50)
    found = uncertainty.rejection(correct, score)
    order = np.argsort(score)
    for name, count in {"risk80": 40, "risk90": 45}.items():
        wrong = np.mean(~correct[order[:count]])
        assert found[name] == pytest.approx(wrong)
    assert found["left90"] == pytest.approx(found["risk90"] / np.mean(~correct))
    assert uncertainty.rejection(np.ones(9, bool), score[:9])["left90"] == 0
    # Who knows all of its errors has none left.
    assert uncertainty.rejection(np.arange(50) < 45, np.arange(50.0))["left90"] == 0


def test_what_is_accepted_of_two_sets_is_counted():
    inside, outside = np.arange(100.0), np.full(40, 94.0)
    assert uncertainty.foreign(inside, outside) == pytest.approx(40 / 135)
    assert uncertainty.foreign(inside, outside + 0.5) == 0


def nearest(std=0.0, classes=slice(None)):
    """The class whose mean digit in 8 x 8 is the nearest, with noise on its weights."""
    split = data.load("digits_8x8").train
    x = predictions.unit_range(split.inputs).reshape(len(split), -1)[classes]
    means = np.stack([x[split.target[classes] == k].mean(0) for k in range(10)])
    kernel = jnp.asarray(3 * means.T, jnp.float32)
    log_var = jnp.full(kernel.shape, 2 * np.log(std or 1), jnp.float32)
    node = Additive(kernel, log_var) if std else Point(kernel)
    bias = jnp.asarray(-1.5 * (means**2).sum(1), jnp.float32)
    return core.Net(MLP(), {"dense1": {"kernel": node, "bias": bias}}, {})


def attacked(epsilon, own, other):
    config = quick("uncertainty", "attacked_dropout")
    config.rotation.degrees, config.images = (0,), 100
    config.attack = {"epsilon": epsilon, "draws": 4}
    config.samples = 3 if own.noisy else 1
    nets = {"net": [own], "surrogate": [other]}
    return core.build(config).measure(nets, random.key(0)).evals


def test_without_noise_its_own_gradient_is_that_of_its_twin():
    found = attacked(0.2, nearest(), nearest())
    assert found["transferred"] == found["white_box"]
    assert found["white_box"]["success"] > 0.3
    assert (
        found["white_box"]["auroc/mutual_information"] == 0.5
    )  # one draw says nothing
    stranger = attacked(0.2, nearest(), nearest(classes=slice(100)))
    assert 0 < stranger["transferred"]["success"] < stranger["white_box"]["success"]
    assert stranger["white_box"] == found["white_box"]


def test_an_attack_of_no_radius_fools_nobody_and_is_not_noticed():
    found = attacked(1e-6, nearest(), nearest())
    for name in ("transferred", "white_box"):
        assert found[name]["success"] == 0
        assert np.isnan(found[name]["auroc/entropy"])
    noisy = attacked(0.3, nearest(0.5), nearest())
    assert noisy["transferred"]["success"] > 0.3
    for score in predictions.SCORES:
        assert 0 < noisy["transferred"][f"auroc/{score}"] <= 1


def test_nets_to_attack_with_have_seeds_that_none_of_the_others_has():
    config = load_config("configs/uncertainty.py:attacked_dropout,quick")
    study = core.build(config)
    used = {s for seed in range(9) for s in study.nets["net"].seeds(seed)}
    assert not used & {
        s for seed in range(9) for s in study.nets["surrogate"].seeds(seed)
    }
    del config.attack
    with pytest.raises(ConfigError, match=r"config.nets.surrogate"):
        core.build(config)
