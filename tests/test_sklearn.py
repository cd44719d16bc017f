"""Laws of the estimators for scikit-learn: its own checks, and ours of the draws."""

import pickle

import documents
import numpy as np
import pytest
from claims import every
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import estimator_checks_generator

from vnets.sklearn import ROWS, BayesClassifier, BayesRegressor

CENTRES = np.asarray([[0.0, 0.0], [4.0, 0.0], [2.0, 4.0]])
FEW = {"hidden": (8,), "updates": 100, "random_state": 0}  # a fit is mostly compiling


@pytest.fixture(scope="module")
def classes():
    """Three overlapping clouds, with labels that are words."""
    x, y = make_blobs(300, centers=CENTRES, cluster_std=2.0, random_state=0)
    return x, np.asarray(["ash", "beech", "oak"])[y]


def least(x, y):
    """The accuracy of who knows the centres, less five standard errors of the share of
    examples, a tenth, that two good classifiers may differ on."""
    nearest = np.linalg.norm(x[:, None] - CENTRES, axis=-1).argmin(-1)
    right = np.mean(np.asarray(["ash", "beech", "oak"])[nearest] == y)
    return right - 5 * np.sqrt(0.1 / len(x))


@pytest.fixture(scope="module")
def classifier(classes):
    return BayesClassifier(random_state=0).fit(*classes)


@pytest.fixture(scope="module")
def line():
    """y = 100 + 20 x + noise of deviation 5, and a useless second input."""
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (400, 2))
    return x, 100 + 20 * x[:, 0] + 5 * draw.normal(size=400)


@pytest.fixture(scope="module")
def regressor(line):
    return BayesRegressor(random_state=0).fit(*line)


def test_classifier_knows_the_classes_and_its_doubt(classes, classifier):
    x, y = classes
    assert classifier.score(x, y) >= least(x, y)
    assert classifier.classes_.tolist() == ["ash", "beech", "oak"]
    p = classifier.predict_proba(x)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    np.testing.assert_array_equal(
        classifier.predict(x), classifier.classes_[p.argmax(-1)]
    )
    sure = p.max(-1)
    right = classifier.predict(x) == y
    assert sure[right].mean() > sure[~right].mean() + 0.1
    error = right.std() / np.sqrt(len(x))  # of the share that is right
    assert abs(sure.mean() - right.mean()) < 5 * error


def test_draws_average_to_the_prediction_and_differ(classes, classifier):
    x, _ = classes
    draws = classifier.predict_draws(x, draws=7)
    assert draws.shape == (7, 300, 3)
    np.testing.assert_allclose(classifier.predict_proba(x, draws=7), draws.mean(0))
    assert draws.std(0).max() > 0.01
    # The first draws are the same, however many are asked for.
    # Some processors sum a batch of three draws in another order than one of seven.
    few = classifier.predict_draws(x, draws=3)
    np.testing.assert_allclose(few, draws[:3], rtol=1e-4, atol=1e-6)


def test_a_prediction_does_not_depend_on_its_company(classes, classifier):
    x, _ = classes
    whole = classifier.predict_proba(x)
    assert len(x) > ROWS  # two parts, the second filled up
    np.testing.assert_allclose(classifier.predict_proba(x[123:130]), whole[123:130])
    np.testing.assert_allclose(classifier.predict_proba(x[::-1]), whole[::-1])


def test_regressor_finds_line_and_noise(line, regressor):
    x, y = line
    mean, std = regressor.predict(x, return_std=True)
    assert np.abs(mean - (100 + 20 * x[:, 0])).mean() < 2
    assert regressor.noise_ == pytest.approx(5, abs=1)
    functions = regressor.predict_draws(x)
    np.testing.assert_allclose(mean, functions.mean(0))
    np.testing.assert_allclose(std**2, functions.var(0) + regressor.noise_**2)
    covered = np.mean(np.abs(y - mean) <= 1.96 * std)
    assert 0.9 <= covered <= 0.99
    _, far = regressor.predict(10 * x[:5], return_std=True)
    assert far.min() > std.max()  # it knows that it does not know


def test_predictions_follow_the_units_of_the_targets(line, regressor):
    x, y = line
    other = BayesRegressor(random_state=0).fit(x, 1e-3 * y - 7)
    np.testing.assert_allclose(
        other.predict(x[:9]), 1e-3 * regressor.predict(x[:9]) - 7, rtol=1e-3
    )
    assert other.noise_ == pytest.approx(1e-3 * regressor.noise_, rel=1e-2)


@pytest.mark.parametrize("kind", ["sparse", "variance"])
@pytest.mark.slow
def test_other_kinds_classify_as_well(kind, classes):
    x, y = classes
    model = BayesClassifier(kind=kind, random_state=0).fit(x, y)
    assert model.score(x, y) >= least(x, y)
    assert pickle.loads(pickle.dumps(model)).score(x, y) == model.score(x, y)
    names = {type(node["kernel"]).__name__ for node in model.params_.values()}
    assert ("ZeroMean" in names) == (kind == "variance")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "best"}, "gaussian.*sparse.*variance"),
        ({"kind": "variance", "hidden": (50,)}, r"\(50, 50\)"),
        ({"hidden": (0,)}, "widths from 1 on"),
        ({"updates": 0}, "updates is at least 1"),
        ({"draws": 0}, "draws is at least 1"),
        ({"kl_weight": -1.0}, "kl_weight is at least 0"),
    ],
)
def test_parameters_that_are_no_choice_are_refused(parameters, message, classes):
    with pytest.raises(ValueError, match=message):
        BayesClassifier(**parameters).fit(*classes)


ABSENT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "sklearn" else find(name)
from vnets import extras, sklearn
sys.modules["sklearn"] = None
for estimator in (sklearn.BayesClassifier, sklearn.BayesRegressor):
    try:
        estimator()
    except extras.MissingExtra as error:
        print(error)
"""


def test_a_column_of_one_value_says_nothing():
    """Though its deviation is not 0 in floating point."""
    x = np.c_[np.linspace(-1, 1, 97), np.full(97, 0.1)]
    assert 0 < x[:, 1].std() < 1e-15
    plain = BayesRegressor(**FEW).fit(x, np.full(97, 0.1))
    assert plain.scale_[1] == plain.target_scale_ == 1
    x[0, 1] += 1e-9  # of another measurement
    np.testing.assert_allclose(plain.predict(x), 0.1, atol=3)


def test_without_scikit_learn_the_module_loads_and_the_extra_is_named(tmp_path):
    lines = documents.printed(ABSENT, tmp_path)
    assert len(lines) == 2
    assert every("vnets[sklearn]" in line for line in lines)


CHECKS = [
    (estimator, check)
    for model in (BayesClassifier(**FEW), BayesRegressor(**FEW))
    for estimator, check in estimator_checks_generator(model)
]


@pytest.mark.slow  # some two hundred fits
@pytest.mark.parametrize(
    ("estimator", "check"),
    CHECKS,
    ids=[f"{type(e).__name__}-{c.func.__name__}" for e, c in CHECKS],
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)
