"""The UCI sets and their splits, random features, and the study that trains on them."""

import functools
import lzma
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LinearRegression

from experiments import core
from experiments.config_files import load_config
from experiments.spec import ConfigError
from experiments.studies import uci as study
from vnets import data
from vnets.compact import sequence_files
from vnets.data import text, uci
from vnets.likelihoods import Gaussian
from vnets.nets import Chain, DeepGP
from vnets.nodes import gaussian
from vnets.plan import shapes
from vnets.plan.features import Fourier
from vnets.predictor import Member, Predictor, as_is


def table(n=40, splits=3):
    rng = np.random.default_rng(0)
    test = np.stack([rng.permutation(n)[: n // 10] for _ in range(splits)])
    return rng.normal(size=(n, 2)), rng.normal(size=n), test.astype(np.int32)


def write(path, arrays):
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **dict(zip(uci.PARTS, arrays, strict=True)))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A set "yacht" of 40 rows: where its file goes, and its arrays."""
    arrays = table()
    files = {"yacht": text.File("yacht.npz", uci._sum(*arrays))}
    monkeypatch.setattr(uci, "UCI", uci.UCI._replace(files=files))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path / "uci" / "yacht.npz", arrays


def test_a_set_is_read_from_its_file_and_parted_as_published(small):
    path, (x, y, test) = small
    with pytest.raises(data.DataError, match=r"yacht\.npz[\s\S]*DropoutUncertainty"):
        uci.load("yacht")
    write(path, (x, y, test))
    held = uci.load("yacht")
    assert len(held) == 3
    for number, rows in enumerate(test):
        split = held.split(number)
        np.testing.assert_array_equal(split.test.target, y[np.sort(rows)].astype("f4"))
        rest = np.delete(np.arange(len(y)), rows)
        np.testing.assert_array_equal(split.train.inputs, x[rest].astype("f4"))
    with pytest.raises(data.DataError, match="splits 0 to 2"):
        held.split(3)
    with pytest.raises(data.DataError, match="unknown set"):
        uci.load("yachts")
    packed = path.with_name("yacht.npz.xz")
    packed.write_bytes(lzma.compress(path.read_bytes()))
    path.unlink()
    assert uci.load("yacht").checksum == held.checksum


def test_another_content_is_refused(small):
    path, (x, y, test) = small
    write(path, (x, y, test[::-1]))
    with pytest.raises(data.DataError, match="SHA-256"):
        uci.load("yacht")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(data.DataError, match="damaged"):
        uci.load("yacht")


@pytest.mark.parametrize("wrong", ["column", "twice", "outside", "all"])
def test_splits_that_do_not_fit_are_refused(wrong):
    x, y, test = table()
    y = y[:, None] if wrong == "column" else y
    test[0, 0] = {"twice": test[0, 1], "outside": len(y)}.get(wrong, test[0, 0])
    test = np.arange(len(y))[None] if wrong == "all" else test
    with pytest.raises(data.DataError, match=r"\[N, I\]"):
        uci.Repeated("toy", x, y, test, "here")


def test_a_table_is_parted_again():
    whole = data.load("diabetes")
    held = uci.repeat(whole, 3)
    first, second = held.split(0), held.split(1)
    assert (len(first.train), len(first.test)) == (398, 44)
    assert not np.array_equal(first.test.target, second.test.target)
    everything = np.concatenate([whole.train.target, whole.test.target])
    for split in (first, second):
        both = np.concatenate([split.train.target, split.test.target])
        np.testing.assert_array_equal(np.sort(both), np.sort(everything))
    parted = uci.repeat(data.load("diabetes", validation=42), 3).split(0)
    assert len(parted.train) + len(parted.test) == len(everything)
    with pytest.raises(data.DataError, match="numbers to predict"):
        uci.repeat(data.load("breast_cancer"), 3)
    with pytest.raises(data.DataError, match="once at least"):
        uci.repeat(whole, 0)


@functools.cache
def features(length=0.7, count=4000):
    """Features of some points, and the points."""
    x = random.normal(random.key(0), (12, 3), jnp.float32)
    net = Chain(steps=(Fourier("fourier1", count, length),))
    variables = net.init(random.key(1), x)
    assert set(variables) == {"frequencies"}
    return np.asarray(net.apply(variables, x), np.float64), np.asarray(x, np.float64)


def test_inner_products_of_features_are_a_kernel():
    phi, x = features()
    exact: Any = RBF(0.7 * np.sqrt(3))(x)
    np.testing.assert_allclose(np.diag(phi @ phi.T), 1.0, rtol=1e-5)
    assert np.abs(phi @ phi.T - exact).max() < 5 / np.sqrt(4000)
    assert shapes((Fourier("fourier1", 5),), (3,)) == [(3,), (10,)]


def test_a_normal_weight_on_features_predicts_as_a_gaussian_process():
    """The posterior of N(0, 1) weights in closed form, against scikit-learn's."""
    phi, x = features()
    y = np.sin(x @ np.array([1.0, -0.5, 0.3]))
    noise = 0.1
    seen, new = phi[:8], phi[8:]
    gram = seen @ seen.T + noise * np.eye(8)
    mean = new @ seen.T @ np.linalg.solve(gram, y[:8])
    fixed: Any = {"alpha": noise, "optimizer": None}
    exact = GaussianProcessRegressor(RBF(0.7 * np.sqrt(3)), **fixed)
    np.testing.assert_allclose(mean, exact.fit(x[:8], y[:8]).predict(x[8:]), atol=0.1)


def test_one_process_has_the_kernel_as_its_prior():
    net = DeepGP(
        classes=1,
        features=200,
        posteriors={"dense1": gaussian(0.0, init=jax.nn.initializers.zeros)},
    )
    x = random.normal(random.key(2), (4, 3), jnp.float32)
    variables: Any = net.init(random.key(3), x)
    draws = Predictor(Member(net, variables), samples=4000, link=as_is)
    seen = np.asarray(draws(x, random.key(4)))[..., 0]
    turns = np.asarray(x @ variables["frequencies"]["fourier1"])
    phi = np.concatenate([np.cos(turns), np.sin(turns)], 1) / np.sqrt(200)
    # Local reparameterization draws for each input by itself: variances alone are its.
    np.testing.assert_allclose(seen.var(0), np.sum(phi**2, 1), rtol=0.1)
    assert np.abs(seen.mean(0)).max() < 0.08


@pytest.mark.parametrize("wrong", [{"features": 0}, {"length": 0.0}])
def test_features_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Fourier("fourier1", **{"features": 3, **wrong})
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DeepGP(**wrong)


def test_no_file_holds_random_features():
    with pytest.raises(ValueError, match="no file holds a Fourier"):
        sequence_files.check_step(Fourier("fourier1", 3))


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_an_interval_holds_its_level(level):
    """Of a standard normal a number just inside counts, and one just outside not."""
    edge = stats.norm.ppf((1 + level) / 2)
    target = jnp.asarray([-0.999, 0.999, 1.001, -1.001]) * edge
    outputs = jnp.zeros((1, 4, 2), jnp.float32)
    assert Gaussian(level=level).metrics(outputs, target)["coverage"] == 0.5
    with pytest.raises(ValueError, match="level"):
        Gaussian(level=1.0)


def small_config(**changes):
    """A linear net of diabetes that learns nothing."""
    config = load_config("configs/uci.py:diabetes_one,quick")
    config.dataset.splits, config.epochs = 2, 1
    zero = {"kind": "point", "init": {"name": "zeros"}}
    config.model = {"name": "mlp", "widths": (), "posteriors": {"dense1": zero}}
    config.optimizer.learning_rate = ((0.0, 0.0),)
    for path, value in changes.items():
        *parents, last = path.split("__")
        functools.reduce(getattr, parents, config)[last] = value
    return config


def ran(config, seed=0):
    made = core.build(config)
    assert isinstance(made, core.Study)
    return made.measure({}, random.key(seed))


@functools.cache
def parted():
    return uci.repeat(data.load("diabetes"), 2)


@pytest.mark.parametrize("deviation", ["each", "one"])
def test_numbers_are_in_their_own_unit(deviation):
    """A net that says 0 and 1 of standardized numbers says mean and deviation."""
    config = small_config(deviation=deviation)
    found = ran(config)
    rmse, nll, coverage = [], [], []
    for number in range(2):
        split = parted().split(number)
        y, seen = split.test.target, split.train.target
        law: Any = stats.norm(seen.mean(), seen.std())
        rmse.append(np.sqrt(np.mean((y - seen.mean()) ** 2)))
        nll.append(-law.logpdf(y).mean())
        low, high = law.interval(0.9)
        coverage.append(np.mean((low < y) & (y < high)))
    curve, evals = found.curves["splits"], found.evals["test"]
    np.testing.assert_allclose(curve["rmse"], rmse, rtol=1e-5)
    np.testing.assert_allclose(curve["nll"], nll, rtol=1e-5)
    np.testing.assert_allclose(curve["coverage"], coverage, rtol=1e-5)
    assert evals["nll"] == pytest.approx(np.mean(nll))
    assert evals["rmse_se"] == pytest.approx(stats.sem(rmse), rel=1e-4)


def test_a_linear_net_finds_the_least_squares_and_splits_do_not_mix():
    config = small_config(deviation="one", epochs=400)
    config.optimizer.learning_rate = ((0.0, 0.02), (1.0, 0.0))
    both = ran(config).curves["splits"]["rmse"]
    for number in range(2):
        split = parted().split(number)
        exact = LinearRegression().fit(split.train.inputs, split.train.target)
        error = exact.predict(split.test.inputs) - split.test.target
        assert both[number] == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.01)
    config.dataset.splits = 1
    alone = ran(config).curves["splits"]["rmse"]
    assert alone[0] == pytest.approx(both[0], rel=1e-4)


def test_seeds_of_a_row_share_what_is_compiled_and_differ():
    study._program.cache_clear()
    config = load_config("configs/uci.py:diabetes_dropout,quick")
    config.dataset.splits, config.epochs, config.samples = 1, 1, 2
    made = [ran(config, s).evals["test"] for s in (0, 1)]
    assert study._program.cache_info().misses == 1
    assert made[0] != made[1]
    assert "nll_se" not in made[0]  # of one split there is none


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deviation": "two"}, ["config.deviation", "each", "one"]),
        ({"dataset__name": "digits"}, ["config.dataset.name", "boston", "diabetes"]),
        ({"dataset__splits": 0}, ["config.dataset.splits", "at least 1"]),
        ({"model__name": "nope"}, ["config.model.name", "deep_gp"]),
        ({"members": 0}, ["config.members", "at least 1"]),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        core.build(small_config(**changes))
    for word in words:
        assert word in str(caught.value)


def test_more_splits_than_were_published_are_refused(small):
    path, arrays = small
    write(path, arrays)
    config = small_config(dataset__name="yacht", dataset__splits=4)
    with pytest.raises(ConfigError, match="splits is 4, but yacht has 3"):
        core.build(config)


def test_a_net_that_is_not_finite_ends_the_run():
    config = small_config()
    config.optimizer.learning_rate = ((0.0, float(np.finfo(np.float32).max)),)
    config.epochs = 3
    with pytest.raises(ArithmeticError, match="of 2 nets"):
        ran(config)
