"""Laws of nodes, priors and likelihoods where numbers are large, small or none."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every, frozen_kinds
from jax import random
from node_table import DENSE, node
from scipy import stats

from vnets import edits, estimators, nodes, priors
from vnets.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Grey,
    Heads,
    WithDeviation,
)
from vnets.likelihoods.classes import BINS
from vnets.likelihoods.gaussian import NORMAL_95
from vnets.nodes import Scaled, TruncatedLogNormal, log_alpha
from vnets.priors import fitted, soft_sharing
from vnets.priors.jensen import jensen_gap
from vnets.priors.sampled import has_density

LOW, HIGH = -20.0, 0.0


def truncated(*pairs):
    return TruncatedLogNormal(*jnp.asarray(pairs, jnp.float32).T)


RULES = {
    "moments": lambda q: q.moments(),
    "log_alpha": lambda q: q.shared_log_alpha(),
    "kl": lambda q: q.kl(),
    "draws": lambda q: q.sample(random.key(0), (9,)),
    "density": lambda q: q.log_prob(jnp.full(q.shape, 0.1, jnp.float32)),
}


@pytest.mark.parametrize("rule", RULES)
def test_beyond_the_bounds_of_the_authors_is_at_them(rule):
    """log sigma counts as in [-20, 5], mu as in [low, high + 5], to the bit."""
    beyond = truncated((-27.0, 0.0), (9.0, -1.0), (-1.0, 7.5), (-3.0, -22.5))
    bound = truncated((LOW, 0.0), (HIGH + 5, -1.0), (-1.0, 5.0), (-3.0, -20.0))
    found = jax.jit(RULES[rule])
    jax.tree.map(np.testing.assert_array_equal, found(beyond), found(bound))


def test_a_truncated_density_integrates_to_one():
    """Of log scales, over [low, high], with the mode within it, above and below."""
    units = truncated((-1.0, -1.0), (0.5, -1.0), (3.0, 0.5), (-6.0, 1.0), (-20.0, 2.0))
    grid = jnp.linspace(LOW, HIGH, 20_001, dtype=jnp.float32)
    values = jnp.broadcast_to(jnp.exp(grid)[:, None], (len(grid), *units.shape))
    log_p = jax.jit(jax.vmap(units.log_prob))(values)
    p = np.exp(np.asarray(log_p + grid[:, None], np.float64))  # of the logarithm
    np.testing.assert_allclose(np.trapezoid(p, grid, axis=0), 1, rtol=1e-3)
    mean = np.trapezoid(p * np.exp(grid)[:, None], grid, axis=0)
    np.testing.assert_allclose(units.moments()[0], mean, rtol=2e-3)


WITH_SCALE = ("standard_normal", "student_t", "group_ard")
WITH_SCALE += tuple(n for n in fitted.PRIORS if n != "empirical_each")  # costs nothing


@pytest.mark.parametrize("name", WITH_SCALE)
def test_a_weight_without_variance_costs_much_but_not_everything(name):
    """The logarithm of a zero variance is held where floats end, at -85 or so."""
    one = node("gaussian-normal")
    value = jax.jit(jax.value_and_grad(priors.PRIORS[name]()))
    (silent, slope), (quiet, _), (loud, _) = (
        value(one.replace(log_var=jnp.full(DENSE, log_var, jnp.float32)))
        for log_var in (-jnp.inf, -84.0, -80.0)
    )
    assert every(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
    assert float(quiet - loud) / one.mean.size == pytest.approx(2.0, rel=0.1)
    assert 0 < float(silent - quiet) / one.mean.size < 1.0


NAN = math.nan
BOUNDS = {  # what makes it, values that are taken, and those that are refused
    "normal": (priors.standard_normal, (1e-9,), (0.0, -1.0, NAN)),
    "student": (priors.student_t, (1e-9,), (0.0, -1.0, NAN)),
    "cauchy": (priors.half_cauchy, (1e-9,), (0.0, -1.0, NAN)),
    "unit": (lambda b: priors.ghosh_half_cauchy(b, 1.0), (1e-9,), (0.0, NAN)),
    "layer": (lambda b: priors.ghosh_half_cauchy(1.0, b), (1e-9,), (0.0, NAN)),
    "bernoulli": (priors.bernoulli, (1e-9, 1 - 1e-9), (0.0, 1.0, NAN)),
    "shape": (lambda a: priors.hierarchical_normal(a, 1.0), (1e-9,), (0.0, NAN)),
    "rate": (lambda b: priors.hierarchical_normal(1.0, b), (1e-9,), (0.0, NAN)),
    "mixture": (soft_sharing.mixture, (1, 2), (0, -1)),
    "dropout": (nodes.dropout, (0.0, 1 - 1e-9), (1.0, -1e-9, NAN)),
    "adaptive": (nodes.adaptive_dropout, (1e-9, 1 - 1e-9), (0.0, 1.0, NAN)),
    "binary": (nodes.adaptive_binary_dropout, (1e-9,), (0.0, 1.0, NAN)),
    "noise": (edits.scale_noise, (0.0, 1e9), (-1e-9, math.inf, NAN)),
    "smoothing": (Categorical, (0.0, 1 - 1e-9), (1.0, -1e-9, NAN)),
    "std": (Gaussian, (1e-9, None), (0.0, -1.0, NAN)),
    "level": (lambda p: Gaussian(level=p), (1e-9, 1 - 1e-9), (0.0, 1.0, NAN)),
    "drop": (lambda t: nodes.gaussian(drop_above=t), (-1, 0.5, None), (NAN, "3")),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_number_is_refused_from_the_bound_on(name):
    make, taken, refused = BOUNDS[name]
    for value in taken:
        make(value)
    for value in refused:
        with pytest.raises(ValueError, match=r"\d|nan"):
            make(value)


@pytest.mark.parametrize("package", ["nodes", "priors", "likelihoods"])
def test_what_nets_are_made_of_cannot_be_changed(package):
    assert frozen_kinds(package) >= 4


DEFAULTS = [
    (nodes.gaussian, {"log_var": -10.0}),
    (nodes.additive, {"log_var": -10.0, "noise": "normal"}),
    (nodes.multiplicative, {"log_alpha": -5.0, "per": "layer"}),
    (nodes.variance, {"noise": "normal", "gain": 1.0}),
    (nodes.masked, {"revivable": False}),
    (nodes.Masked, {"revivable": False}),
    (nodes.ZeroMean, {"noise": "normal", "gain": 1.0}),
    (nodes.Additive, {"noise": "normal"}),
    (nodes.Thresholded, {"noise": "normal", "threshold": 3.0}),
    (nodes.Multiplicative, {"noise": "normal"}),
    (nodes.Dropout, {"noise": "binary"}),
    (nodes.AdaptiveBinaryDropout, {"temperature": 0.0}),
    (nodes.Scaled, {"axis": "in", "per": "example"}),
    (TruncatedLogNormal, {"low": -20.0, "high": 0.0}),
    (nodes.dropout, {"noise": "binary", "axis": "in", "per": "position"}),
    (nodes.adaptive_dropout, {"alpha": "unit", "axis": "in", "per": "position"}),
    (nodes.structured, {"log_std": -5.0, "axis": "unit", "per": "batch"}),
    (nodes.group_normal_jeffreys, {"scale_log_var": -9.0, "log_var": -9.0}),
    (nodes.group_horseshoe, {"scale_log_var": -9.0, "log_var": -9.0}),
    (priors.standard_normal, {"scale": 1.0}),
    (priors.student_t, {"nu": 1e-8}),
    (priors.hierarchical_normal, {"shape": 1.0, "rate": 1e-2}),
    (priors.half_cauchy, {"scale": 1.0}),
    (priors.bernoulli, {"rate": 0.5}),
    (priors.scale_mixture, {"share": 0.5, "wide": 1.0, "narrow": math.exp(-6)}),
    (priors.laplace, {"scale": 1.0}),
    (priors.log_normal_scale, {"location": 0.0, "spread": 1.0}),
    (priors.horseshoe, {"scale": 1.0}),
    (priors.group_ard, {"axis": "unit"}),
    (priors.structured, {"weight_scale": 1.0}),
    (priors.group_normal_jeffreys, {"weight_scale": 1.0}),
    (priors.group_horseshoe, {"scale": 1.0, "weight_scale": 1.0}),
    (priors.ghosh_half_cauchy, {"b0": 1.0, "bg": 1.0}),
    (priors.ghosh_horseshoe, {"b0": 1.0, "bg": 1.0, "weight_scale": 1.0}),
    (priors.gamma_kl, {"scale": 1.0}),
    (priors.half_cauchy_bound, {"scale": 1.0}),
    (Categorical, {"smoothing": 0.0, "soft": False, "parts": "mean"}),
    (Heads, {"classes": 2, "parts": "mean"}),
    (Bernoulli, {"parts": "sum"}),
    (Gaussian, {"std": None, "parts": "sum", "level": 0.95}),
    (Grey, {"least": 1 / 255}),
    (WithDeviation, {"start": 1.0}),
    (soft_sharing.mixture, {"components": 16, "reach": 0.6, "std": 0.25}),
    (edits.edit, {"where": None, "vectors": True}),
    (edits.prune, {"threshold": 3.0}),
    (edits.prune_units, {"threshold": 0.0, "axis": "unit"}),
]


@pytest.mark.parametrize(("make", "values"), DEFAULTS)
def test_what_is_not_said_is_as_it_always_was(make, values):
    """Published numbers depend on it."""
    known = inspect.signature(make).parameters
    assert {name: known[name].default for name in values} == values


def test_constants_are_those_of_their_sources():
    """The tutorial of soft weight sharing, the authors' codes, Guo et al. 2017."""
    assert soft_sharing.ZERO_PRIOR == (5e3, 2.0)
    assert soft_sharing.OTHER_PRIOR == (250.0, 0.1)
    assert soft_sharing.ZERO_SHARE == 0.99
    assert estimators.VAR_FLOOR == nodes.base.LOG_FLOOR == 1e-16
    assert BINS == 15
    assert pytest.approx(stats.norm.ppf(0.975), abs=5e-7) == NORMAL_95


def test_what_is_at_a_threshold_is_not_above_it():
    """Of weights, of units by their scales and by their weights, of idle means."""
    cut = 0
    for name in ("gaussian-normal", "alpha-weight", "alpha-output", "normal-jeffreys"):
        one = node(name)
        rules = {
            "prune": (log_alpha(one.bare), edits.prune),
            "units": (one.uselessness("in"), lambda t: edits.prune_units(t, "in")),
        }
        for values, rule in rules.values():
            at = float(np.sort(np.ravel(values))[np.size(values) // 2])
            kept = rule(at)({"a": {"kernel": one}})["a"]["kernel"]
            if name == "alpha-output":  # units of one alpha are alike
                values = jnp.min(values, keepdims=True)
                at = float(values[0, 0])
                kept = one.without_units(at, "in")
                assert kept.log_alpha.shape == one.log_alpha.shape
            gone = np.broadcast_to(np.asarray(values) > at, DENSE)
            np.testing.assert_array_equal(np.asarray(kept.bare.mean) == 0, gone)
            cut += gone.any()
    assert cut >= 4
    one = node("gaussian-normal")
    at = float(np.median(log_alpha(one).ravel()[:-1]))  # one of an odd number
    idle = np.asarray(one.without_idle_mean(at).mean) == 0
    np.testing.assert_array_equal(idle, np.asarray(log_alpha(one)) > at)


def test_units_without_weights_stay_as_they_are_balanced():
    half = jnp.arange(DENSE[0])[:, None] % 2 == 0
    for name in ("normal-jeffreys", "horseshoe"):
        one = node(name).kept(half)
        new = one.balanced()
        assert isinstance(new, Scaled)
        for before, after in zip(one.moments(), new.moments(), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-6)
        gone = ~np.ravel(half)
        scales = zip(one.scale.moments(), new.scale.moments(), strict=True)
        for before, after in scales:
            np.testing.assert_allclose(after.ravel()[gone], before.ravel()[gone])


def test_factories_are_listed_by_the_functions_that_made_them():
    made = {"a": nodes.gaussian(), "b": nodes.variance("sign"), "c": nodes.gaussian}
    assert nodes.listed(made) == "{'a': gaussian, 'b': variance, 'c': gaussian}"
    assert nodes.listed({}) == "{}"


def exact_gap(alpha, ratio):
    """log E z - E log z of z = t + (m + eps)^2, by the trapezoidal rule in w = m + eps,
    stretched around its singularity."""
    mean, t = np.exp(-0.5 * alpha), np.exp(ratio)
    low, high = np.arcsinh((mean + np.asarray([-10.0, 10.0])) / np.sqrt(t))
    u = np.linspace(low, high, 8001)
    w = np.sqrt(t) * np.sinh(u)
    density = np.exp(-0.5 * (w - mean) ** 2) * np.cosh(u)
    average = np.sum(density * np.log(t + w**2)) / np.sum(density)
    return np.log(t + 1 + mean**2) - average


def test_the_gap_of_jensen_and_its_slopes_are_those_of_the_integral():
    """Within cells of the table, at its points, and held outside of it."""
    draw = np.random.default_rng(0)
    alpha, ratio = draw.uniform(-4, 12, 60), draw.uniform(-28, 12, 60)
    ratio[:30] = draw.uniform(-8, 6, 30)  # where it varies most
    found = jax.jit(jax.vmap(jax.value_and_grad(jensen_gap, (0, 1))))
    value, slopes = found(jnp.float32(alpha), jnp.float32(ratio))
    pairs = list(zip(alpha, ratio, strict=True))
    exact = [exact_gap(a, r) for a, r in pairs]
    np.testing.assert_allclose(value, exact, atol=5e-5)
    for slope, (da, dr) in zip(slopes, ((1e-3, 0), (0, 1e-3)), strict=True):
        rise = [exact_gap(a + da, r + dr) - exact_gap(a - da, r - dr) for a, r in pairs]
        np.testing.assert_allclose(slope, np.asarray(rise) / 2e-3, atol=5e-4)
    beyond = jnp.float32([[-20.0, 0.0], [20.0, 0.0], [0.0, -40.0], [0.0, 30.0]])
    bound = jnp.float32([[-12.0, 0.0], [12.0, 0.0], [0.0, -28.0], [0.0, 12.0]])
    np.testing.assert_array_equal(jensen_gap(*beyond.T), jensen_gap(*bound.T))


def test_the_impossible_counts_only_where_it_is_looked_at():
    """log p = -inf of what is masked, weighs nothing, or has no probability."""
    logits = jnp.asarray([[0.0, 0.0], [-jnp.inf, 0.0]], jnp.float32)
    classes, mask = jnp.asarray([1, 0]), jnp.asarray([[1.0, 0.0]])
    one = Categorical()
    nll = one.nll(logits[None], classes[None], mask)
    np.testing.assert_allclose(nll, [math.log(2)], rtol=1e-6)
    found = one.metrics(logits[None, None], classes[None], mask)
    assert found["nll"] == pytest.approx(math.log(2), rel=1e-6)
    sure = jnp.asarray([[0.5, 0.5], [0.0, 1.0]], jnp.float32)
    nll = Categorical(soft=True).nll(logits, sure)
    np.testing.assert_allclose(nll, [math.log(2), 0.0], rtol=1e-6)


def test_yes_and_no_are_two_classes_where_they_are_even():
    outputs = jnp.asarray([0.0, 0.0, 0.0, 2.0, -2.0, 0.5, 0.5], jnp.float32)
    target = jnp.asarray([0.0, 0.5, 1.0, 0.5, 0.5, 1.0, 1.0], jnp.float32)
    pairs = jnp.stack([-outputs / 2, outputs / 2], -1)
    both = jnp.stack([1 - target, target], -1)
    found = Bernoulli().shown(outputs, target)
    assert found == Categorical(soft=True).shown(pairs, both)


def test_masks_cost_what_coins_say():
    """KL of coins of p from coins of r, by SciPy, for each unit once."""
    rates = np.asarray([1e-4, 0.2, 0.5, 0.9999])
    for prior in (0.5, 0.1, 0.99):
        for p in rates:
            masks = nodes.adaptive_binary_dropout(p)(random.key(0), (3, 4)).scale
            expected = 3 * stats.entropy([p, 1 - p], [prior, 1 - prior])
            assert float(priors.bernoulli(prior)(masks)) == pytest.approx(
                expected, rel=1e-3, abs=1e-5
            )


def test_weights_that_are_off_are_kept_but_not_used():
    mean, mask = jnp.ones((2, 2), jnp.float32), jnp.asarray([[0.0, 1e-9], [1.0, 0.0]])
    for revivable in (False, True):
        one = nodes.Masked(mean, mask, revivable)
        np.testing.assert_array_equal(one.sample(None), [[0, 1], [1, 0]])
        np.testing.assert_array_equal(one.mean, mean)


def test_units_lie_on_one_of_the_last_two_axes():
    for shape, unit in (((3, 4), 0), ((2, 3, 4), 2), ((2, 2, 3, 4), 3)):
        last = len(shape) - 1
        for axis, own in (("in", last - 1), ("out", last), ("unit", unit)):
            others = nodes.other_axes(axis, shape)
            assert others == tuple(i for i in range(len(shape)) if i != own)


def test_a_prior_has_a_density_if_a_part_of_it_has():
    density, closed = priors.scale_mixture(), priors.standard_normal()
    for pair in ((density, closed), (closed, density), (density, density)):
        both = priors.ScaledPrior(*pair)
        assert has_density(both)
        assert has_density({"a": closed, "b": priors.WeightedPrior(both, {})})
    assert not has_density(priors.ScaledPrior(closed, closed))
