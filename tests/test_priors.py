"""Laws of the KL terms: quadrature, Monte Carlo, reference values, gradients."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random
from scipy import integrate, special, stats

from vnets.nodes import (
    Gaussian,
    Multiplicative,
    Point,
    Scaled,
    ZeroMean,
    adaptive_dropout,
    dropout,
    gaussian,
    multiplicative,
    point,
    variance,
)
from vnets.priors import (
    WeightedPrior,
    ard,
    ard_kl,
    kl,
    log_uniform,
    log_uniform_2015,
    log_uniform_2015_kl,
    log_uniform_2016_kl,
    log_uniform_kl,
    log_uniform_rational_kl,
    standard_normal,
    student_t,
)
from vnets.priors.closed import ICML17, PRIORS

SHAPE = (3, 4)

# -KL, zero at alpha = infinity: (log alpha, exact, ICML 2017, ARD), from quadrature.
REFERENCE = [
    (-8, -4.6350, -4.6359, -4.0002),
    (-6, -3.6339, -3.6364, -3.0012),
    (-4, -2.6258, -2.6342, -2.0091),
    (-3, -2.1080, -2.1156, -1.5243),
    (-2, -1.5442, -1.5405, -1.0635),
    (-1, -0.9145, -0.9139, -0.6566),
    (0, -0.4267, -0.4312, -0.3466),
    (1, -0.1732, -0.1780, -0.1566),
    (2, -0.0662, -0.0684, -0.0635),
    (3, -0.0247, -0.0254, -0.0243),
    (4, -0.0091, -0.0093, -0.0091),
    (8, -0.0002, -0.0002, -0.0002),
]
# Kingma et al. 2015, shifted to meet the exact value at log alpha = 0.
REFERENCE_2015 = [
    (-8, -4.6720),
    (-6, -3.6695),
    (-4, -2.6516),
    (-3, -2.1182),
    (-2, -1.5413),
    (-1, -0.9192),
    (0, -0.4267),
]
PRINTED = 0.5e-4  # the table has four decimals


def f32(*values):
    return jnp.asarray(values, jnp.float32)


def exact_log_uniform(log_alpha):
    """KL to the log-uniform prior, zero at alpha = infinity, without quadrature.

    (1 + std eps)^2 / alpha is noncentral chi-square: a Poisson(1 / (2 alpha)) mixture
    of chi-squares with 2j + 1 degrees, whose mean logarithm is ln 2 + digamma(j + 1/2).
    """
    rate = 0.5 * np.exp(-log_alpha)
    j = np.arange(int(rate + 15 * np.sqrt(rate) + 40))
    terms = special.digamma(j + 0.5) - special.digamma(0.5)
    return 0.5 * np.sum(stats.poisson.pmf(j, rate) * terms)


def quadrature_log_uniform(log_alpha):
    """The same from its definition: E ln q - E ln p over eps."""
    std = np.exp(0.5 * log_alpha)

    def integrand(e):  # the logarithm is singular at eps = -1 / std
        return np.log(np.abs(1 + std * e) + 1e-300) * stats.norm.pdf(e)

    pole = min(max(-1 / std, -12.0), 12.0)
    expected = sum(
        integrate.quad(integrand, *ends, limit=100, epsabs=1e-7)[0]
        for ends in ((-12.0, pole), (pole, 12.0))
        if ends[0] < ends[1]
    )
    return -(0.5 * log_alpha - expected - 0.5 * (np.euler_gamma + np.log(2)))


@pytest.mark.parametrize(("log_alpha", "exact", "icml17", "ard_value"), REFERENCE)
def test_reference_values(log_alpha, exact, icml17, ard_value):
    assert -exact_log_uniform(log_alpha) == pytest.approx(exact, abs=PRINTED)
    quadrature = quadrature_log_uniform(log_alpha)
    assert quadrature == pytest.approx(exact_log_uniform(log_alpha), abs=1e-5)
    log_alpha = f32(log_alpha)
    assert -log_uniform_kl(log_alpha)[0] == pytest.approx(icml17, abs=PRINTED)
    assert -ard_kl(log_alpha)[0] == pytest.approx(ard_value, abs=PRINTED)


@pytest.mark.parametrize(("log_alpha", "expected"), REFERENCE_2015)
def test_reference_values_of_2015(log_alpha, expected):
    value = -log_uniform_2015_kl(f32(log_alpha))[0]
    assert value == pytest.approx(expected, abs=PRINTED)


def test_icml17_error_on_its_interval():
    """Promised: within 0.01 nats on [-10, 10]."""
    grid = np.linspace(-10, 10, 201)
    exact = np.array([exact_log_uniform(la) for la in grid])
    error = np.abs(np.asarray(log_uniform_kl(f32(*grid))) - exact)
    assert error.max() < 0.01
    assert error.max() > 0.008  # else it is not this fit


@pytest.mark.parametrize("order", [0, 1, 2])
def test_log_uniform_kl_is_the_fit_with_its_derivatives(order):
    def fit(log_alpha):
        k1, k2, k3 = ICML17
        kl = 0.5 * jax.nn.softplus(-log_alpha)
        return kl + k1 * jax.nn.sigmoid(-(k2 + k3 * log_alpha))

    def derivative(function):
        for _ in range(order):
            function = jax.grad(function)
        return np.asarray(jax.vmap(function)(grid))

    grid = f32(*np.linspace(-90, 90, 721), -np.inf, np.inf)
    ours, plain = derivative(log_uniform_kl), derivative(fit)
    np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=5e-7)


@pytest.mark.parametrize(
    ("approximation", "promised", "slope"),
    [(log_uniform_2016_kl, 0.02, 0.02), (log_uniform_rational_kl, 4e-4, 2e-3)],
)
def test_other_fits_are_as_near_as_they_promise(approximation, promised, slope):
    grid = np.linspace(-10, 10, 201)  # 0 is one of its points: no kink there
    error = np.asarray(approximation(f32(*grid))) - [exact_log_uniform(x) for x in grid]
    assert promised / 2 < np.abs(error).max() < promised
    x = np.sqrt(0.5) * np.exp(-0.5 * grid)
    exact_slope = -x * special.dawsn(x)
    error = np.asarray(jax.vmap(jax.grad(approximation))(f32(*grid))) - exact_slope
    assert slope / 2 < np.abs(error).max() < slope


def test_the_rational_fit_has_the_right_limits():
    below, above = f32(-80.0, -40.0, -20.0), f32(8.0, 10.0, 12.0)
    kl = np.asarray(log_uniform_rational_kl(below))
    limit = 0.5 * (np.euler_gamma + np.log(2))
    np.testing.assert_allclose(kl + 0.5 * np.asarray(below), limit, atol=4e-6)
    kl, alpha = log_uniform_rational_kl(above), np.exp(above)
    series = 0.5 / alpha - 1 / (12 * alpha**2)
    np.testing.assert_allclose(kl, series, rtol=2e-4)
    ends = f32(-np.inf, 90.0, np.inf)
    np.testing.assert_allclose(
        log_uniform_rational_kl(ends), [np.inf, 0, 0], atol=1e-15
    )
    slopes = jax.vmap(jax.grad(log_uniform_rational_kl))(ends)
    np.testing.assert_allclose(slopes, [-0.5, 0, 0], atol=1e-15)


def test_log_uniform_kl_by_monte_carlo(assert_mean):
    """KL = E ln q(w) - E ln p(w) up to a constant: differences are free of it."""
    n = 1_000_000
    eps = np.asarray(random.normal(random.key(0), (n,)), np.float64)
    tops = []
    for log_alpha in (-1.0, 2.0):
        w = 1 + np.exp(0.5 * log_alpha) * eps
        tops.append(np.log(np.abs(w)) - 0.5 * log_alpha)  # ln q - ln p, from eps's own
    difference = exact_log_uniform(-1.0) - exact_log_uniform(2.0)
    assert_mean(tops[0] - tops[1], difference)


def test_ard_is_the_best_gaussian_prior():
    """1/2 ln(1 + 1/alpha) = min over lambda of KL(N(mu, alpha mu^2) || N(0, l^2))."""
    mean, log_alpha = 0.7, -1.3
    var = np.exp(log_alpha) * mean**2
    scales = np.linspace(0.3, 3, 20_001)
    values = (mean**2 + var) / (2 * scales**2) + np.log(scales / np.sqrt(var)) - 0.5
    assert ard_kl(f32(log_alpha))[0] == pytest.approx(values.min(), rel=1e-6)


def normal_kl(mean_q, std_q, mean_p, std_p):
    """KL(q || p) by quadrature."""
    q, p = stats.norm(mean_q, std_q), stats.norm(mean_p, std_p)
    value, _ = integrate.quad(
        lambda w: q.pdf(w) * (q.logpdf(w) - p.logpdf(w)),
        mean_q - 12 * std_q,
        mean_q + 12 * std_q,
        limit=200,
    )
    return value


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_standard_normal_is_kl_of_posterior_from_prior(scale):
    """The direction is posterior || prior, and `scale` a standard deviation."""
    mean, std = 0.8, 0.4
    node = Gaussian(f32([mean]), f32([2 * np.log(std)]))
    value = float(standard_normal(scale)(node))
    assert value == pytest.approx(normal_kl(mean, std, 0, scale), rel=1e-5)
    assert value != pytest.approx(normal_kl(0, scale, mean, std), rel=0.1)
    if scale != 1:
        assert value != pytest.approx(normal_kl(mean, std, 0, scale**0.5), rel=0.1)


def test_standard_normal_by_monte_carlo(assert_mean):
    key = random.key(0)
    node = gaussian(-1.0)(key, SHAPE)
    scale = 0.6
    draws = np.asarray(node.sample(key, (20_000,)), np.float64)
    mean, var = (np.asarray(m, np.float64) for m in node.moments())
    q = stats.norm(mean, np.sqrt(var)).logpdf(draws)
    p = stats.norm(0, scale).logpdf(draws)
    assert_mean((q - p).sum(axis=(1, 2)), float(standard_normal(scale)(node)))


def test_standard_normal_of_every_node_that_has_moments():
    key = random.key(0)
    for make in (gaussian(-1.0), multiplicative(-1.0, "output"), variance()):
        node = make(key, SHAPE)
        mean, var = node.moments()
        mean = np.zeros(SHAPE) if mean is None else np.asarray(mean)
        expected = sum(
            normal_kl(m, s, 0, 0.5)
            for m, s in zip(mean.ravel(), np.sqrt(var).ravel(), strict=True)
        )
        assert float(standard_normal(0.5)(node)) == pytest.approx(expected, rel=1e-5)


def test_standard_normal_is_zero_at_the_prior():
    node = Gaussian(jnp.zeros(SHAPE, jnp.float32), jnp.full(SHAPE, -2.0, jnp.float32))
    assert abs(float(standard_normal(np.exp(-1.0))(node))) < 12 * 1e-6


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_prior_needs_a_positive_scale(scale):
    with pytest.raises(ValueError, match="must be positive"):
        standard_normal(scale)


@pytest.mark.parametrize("log_alpha", [1e-3, 1.0, 20.0])
def test_2015_is_held_outside_its_domain(log_alpha):
    value, slope = jax.value_and_grad(log_uniform_2015_kl)(jnp.float32(log_alpha))
    assert slope == 0
    assert value == log_uniform_2015_kl(jnp.float32(0))
    inside = jax.grad(log_uniform_2015_kl)(jnp.float32(-0.5))
    assert inside < 0  # more noise costs less


@pytest.mark.parametrize("prior", [log_uniform, log_uniform_2015, ard])
@pytest.mark.parametrize("per", ["layer", "output", "input", "weight"])
def test_a_shared_alpha_counts_once_for_each_weight(prior, per):
    shape = (2, 2, 3, 4)
    shared = multiplicative(-1.5, per)(random.key(0), shape)
    apart = multiplicative(-1.5, "weight")(random.key(0), shape)
    value_and_slopes = jax.jit(jax.value_and_grad(prior))
    (once, one), (each, all_) = value_and_slopes(shared), value_and_slopes(apart)
    assert float(once) == pytest.approx(float(each), rel=1e-5)
    slopes, many = one.log_alpha, all_.log_alpha
    assert float(slopes.sum()) == pytest.approx(float(many.sum()), rel=1e-5)


@pytest.mark.parametrize("prior", [log_uniform, log_uniform_2015, ard])
def test_additive_and_multiplicative_parameters_agree(prior):
    """Sparse VD's Gaussian with log_var = log alpha + log mean^2 is the same weight."""
    node = multiplicative(-1.5, "weight")(random.key(0), SHAPE)
    log_var = node.log_alpha + jnp.log(jnp.square(node.mean))
    value = float(prior(Gaussian(node.mean, log_var)))
    assert value == pytest.approx(float(prior(node)), rel=1e-5)


@pytest.mark.parametrize("name", sorted(PRIORS))
@pytest.mark.parametrize("kind", [Multiplicative, Gaussian])
def test_values_and_gradients_are_finite_at_the_ends(name, kind):
    value_and_slopes = jax.jit(jax.value_and_grad(PRIORS[name]()))
    for mean, log_alpha in itertools.product((0.0, 1e-3, 1.0), (-20.0, 0.0, 20.0)):
        node = kind(*(jnp.full(SHAPE, v, jnp.float32) for v in (mean, log_alpha)))
        for leaf in jax.tree.leaves(value_and_slopes(node)):
            assert np.all(np.isfinite(leaf)), (mean, log_alpha)


@pytest.mark.parametrize("name", ["log_uniform", "ard"])
def test_a_variance_layer_costs_nothing(name):
    for noise in ("normal", "sign", "uniform"):
        node = variance(noise)(random.key(0), SHAPE)
        assert float(PRIORS[name]()(node)) == 0
        slopes = jax.grad(PRIORS[name]())(node)
        assert not np.any(slopes.scale)


def test_points_and_fixed_dropout_count_zero():
    key = random.key(0)
    params = {
        "a": {"kernel": point()(key, SHAPE), "bias": jnp.ones(4, jnp.float32)},
        "b": {"kernel": dropout(0.5)(key, SHAPE)},
    }
    for prior in PRIORS.values():
        assert float(kl(params, prior())) == 0
    noisy = gaussian()(key, SHAPE)
    params["b"] = {"kernel": dropout(0.5, lambda key, shape: noisy)(key, SHAPE)}
    assert float(kl(params, log_uniform)) == float(log_uniform(noisy))


@pytest.mark.parametrize("name", ["log_uniform", "log_uniform_2015", "ard"])
@pytest.mark.parametrize("shape", [SHAPE, (2, 2, 3, 4)])
def test_adaptive_dropout_counts_for_each_weight_of_a_unit(name, shape):
    """As an alpha that the weights of a unit, or of a layer, share (type A and B)."""
    key, log_alpha = random.key(0), math.log(0.3 / 0.7)
    for alpha, per in (("unit", "input"), ("layer", "layer")):
        correlated = {"a": {"kernel": adaptive_dropout(0.3, alpha)(key, shape)}}
        independent = {"a": {"kernel": multiplicative(log_alpha, per)(key, shape)}}
        prior = PRIORS[name]()
        assert float(kl(correlated, prior)) == pytest.approx(
            float(kl(independent, prior)), rel=1e-6
        )
        assert correlated["a"]["kernel"].scale.log_alpha.size == (
            shape[-2] if alpha == "unit" else 1
        )


def test_a_scaled_node_costs_the_sum_of_its_parts():
    key = random.key(0)
    scale = Multiplicative(jnp.ones(3, jnp.float32), jnp.zeros(1, jnp.float32))
    weight = gaussian(-3.0)(key, SHAPE)
    total = kl({"a": {"kernel": Scaled(scale, weight)}}, log_uniform)
    expected = log_uniform(scale) + log_uniform(weight)
    assert float(total) == pytest.approx(float(expected), rel=1e-6)


def test_priors_by_layer():
    key = random.key(0)
    first, second = gaussian(-3.0)(key, SHAPE), gaussian(-1.0)(key, SHAPE)
    params = {
        "dense1": {"kernel": first},
        "block": {"conv": {"kernel": second}},
        "head": {"kernel": point()(key, SHAPE), "bias": jnp.ones(4, jnp.float32)},
    }
    priors = {"dense1": log_uniform, "block/conv": standard_normal(0.2)}
    expected = log_uniform(first) + standard_normal(0.2)(second)
    assert float(kl(params, priors)) == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(ValueError, match=r"'block/conv'.*dense1"):
        kl(params, {"dense1": log_uniform})
    with pytest.raises(ValueError, match=r"given for \['conv'\].*'block/conv'"):
        kl(params, {**priors, "block/conv": WeightedPrior(log_uniform, {"conv": 5.0})})


@pytest.mark.parametrize("prior", ["ard", {"dense1": "ard"}])
def test_the_name_of_a_prior_is_no_prior(prior):
    params = {"dense1": {"kernel": ZeroMean(jnp.ones(SHAPE, jnp.float32))}}
    with pytest.raises(ValueError, match=r"a prior is a function of .* not 'ard'"):
        kl(params, prior)


ONES = jnp.ones(SHAPE, jnp.float32)


@pytest.mark.parametrize(
    ("prior", "node", "message"),
    [
        (log_uniform_2015, ZeroMean(ONES), "log_uniform_2015.*ZeroMean.*around a mean"),
        (log_uniform, Point(ONES), "log_uniform.*Point.*normal noise"),
        (log_uniform, Gaussian(ONES, ONES, "sign"), "log_uniform.*sign"),
        (ard, Multiplicative(ONES, ONES, "uniform"), "ard.*uniform"),
        (standard_normal(), Point(ONES), "standard_normal.*Point.*normal noise"),
        (standard_normal(), ZeroMean(ONES, "sign"), "standard_normal.*sign"),
    ],
)
def test_a_prior_refuses_a_node_it_does_not_fit(prior, node, message):
    with pytest.raises(TypeError, match=message):
        prior(node)
    if not isinstance(node, Point):
        with pytest.raises(TypeError, match=message):
            kl({"a": {"kernel": node}}, prior)


@pytest.mark.parametrize("nu", [1e-8, 1e-3, 1.0, 5.0])
@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 0.3), (0.1, 0.05), (0.5, 0.01), (2.0, 3.0), (1e-3, 0.2)]
)
def test_student_t_is_the_integral(nu, mean, std):
    node = Gaussian(f32([[mean]]), f32([[2 * np.log(std)]]))

    def gap(eps):
        w = mean + std * eps
        log_ratio = stats.norm.logpdf(w, mean, std) - stats.t.logpdf(w, nu)
        return stats.norm.pdf(eps) * log_ratio

    # To either side of the prior's peak, which is as good as singular for a small nu.
    peak = np.clip(-mean / std, -10, 10)
    sides = ((-10, peak), (peak, 10))
    expected = sum(integrate.quad(gap, *side, limit=500)[0] for side in sides)
    assert float(student_t(nu)(node)) == pytest.approx(
        expected, abs=5e-4 * (nu + 1), rel=1e-5
    )


@pytest.mark.parametrize("nu", [1e-8, 1e-4, 1.0])
@pytest.mark.parametrize("mean", [0.02, 0.3])
def test_student_t_has_the_slope_of_the_integral(nu, mean):
    """Training follows the slope, which for a large alpha is a small difference.

    E[1 / (z + eps)] is -i sqrt(pi / 2) w(z / sqrt 2), w Faddeeva's function.
    """
    log_alpha = np.linspace(-6.0, 11.0, 47)
    std = np.exp(log_alpha / 2) * mean
    z = (mean + 1j * np.sqrt(nu)) / std
    inverse = -1j * np.sqrt(np.pi / 2) * special.wofz(z / np.sqrt(2))
    # d E[log |z + eps|^2] / d log alpha, with d z / d log alpha = -z / 2.
    slope = (nu + 1) / 2 * (1 - (z * inverse).real) - 0.5

    def divergence(log_alpha):
        node = Multiplicative(f32([mean]), log_alpha.reshape(1, 1))
        return student_t(nu)(node)

    ours = jax.jit(jax.vmap(jax.grad(divergence)))(jnp.float32(log_alpha))
    np.testing.assert_allclose(ours, slope, rtol=0.02, atol=2e-6)


def test_student_t_tends_to_log_uniform_up_to_a_constant():
    """Neklyudov et al. 2019: the log-uniform prior is the limit nu -> 0."""
    log_alphas = np.arange(-6.0, 7.0, 1.5)
    nodes = [Multiplicative(f32([[0.3]]), f32([[a]])) for a in log_alphas]
    differences = [float(student_t(1e-12)(n)) - float(log_uniform(n)) for n in nodes]
    # The two fits are within 0.01 each.
    assert np.ptp(differences) < 0.04


def test_student_t_takes_layers_and_refuses_what_it_does_not_fit():
    node = multiplicative(-1.0)(random.key(0), SHAPE)
    each = [
        float(student_t(0.1)(Multiplicative(m.reshape(1, 1), node.log_alpha)))
        for m in node.mean.ravel()
    ]
    assert float(student_t(0.1)(node)) == pytest.approx(sum(each), rel=1e-4)
    grads = jax.grad(lambda n: student_t(1e-8)(n))(node)
    assert every(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))
    assert np.isfinite(float(student_t()(variance()(random.key(0), SHAPE))))
    with pytest.raises(TypeError, match="sign noise"):
        student_t()(variance("sign")(random.key(0), SHAPE))
    with pytest.raises(ValueError, match="must be positive"):
        student_t(0.0)


@pytest.mark.parametrize(
    ("prior", "error"),
    [
        ("log_uniform", ValueError),
        (1.0, ValueError),
        (None, ValueError),
        (lambda node: lambda inner: 0.0, TypeError),
        (lambda node: node.mean, TypeError),
    ],
)
def test_what_is_no_prior_is_refused(prior, error):
    params = {"dense": {"kernel": gaussian()(random.key(0), SHAPE)}}
    with pytest.raises(error, match=r"a prior is a function|the prior of 'dense'"):
        kl(params, prior)
