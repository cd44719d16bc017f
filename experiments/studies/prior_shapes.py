"""Priors as scale mixtures, p(w) = integral of N(w; 0, l^2) p(l) dl, and what they do.

Given its scale l a weight is normal, so all of a prior is one integral over u = ln l,
which a sum on an even grid has to all digits (`Mixing`). For y = w + N(0, 1) the
shrinkage is kappa = 1 / (1 + l^2): E[w | y] = (1 - E[kappa | y]) y.

    density      largest error of our log density, in nats, against that integral; its
                 value at AT_CENTRE and AT_TAIL
    draws        p-value of a Kolmogorov-Smirnov test of draws of l, then of w
    shrinkage    what is left of an effect of `effects.small` and one of `effects.large`
    average      the largest mean of the first n draws, n in the second half of them:
                 the median over walks, and the share of walks where it is above 1
    digits       of the log-uniform prior: slope of its KL, in bits, by log2(|m| / s)
    improper     of the log-uniform prior, cut at e^-a and e^a: the share of the
                 posterior of a logistic regression with |w| < NOTHING
    gradient     of the spike and slab: |d ln p / dw| at 3 spikes and at AT_SLAB, and
                 the |w| where spike and slab have the same density
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from scipy import special, stats

from experiments import spec as parts
from experiments.core import Measured, Study, without_nets
from experiments.studies import kl_approximations
from vnets import priors
from vnets.rng import stream
from vnets.types import Key

FIELDS = ("dataset.name", "prior", "nu", "spike", "slab", "points")
FIELDS += ("effects", "average", "draws", "cuts")
GRID = np.linspace(-40.0, 40.0, 1601)  # of u = ln l
STEP = GRID[1] - GRID[0]
LOG_ROOT = 0.5 * math.log(2 * math.pi)
AT_CENTRE, AT_TAIL, AT_SLAB = 0.01, 10.0, 0.1
NOTHING = 1e-3  # a weight below it is taken for 0
SIGNIFICANT = (8.0, 1024.0)  # |m| / s where the slope of the digits is measured


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The law of a scale l, and the prior that it makes.

    Attributes:
      log_scales: values of ln l, [n].
      masses: of each, [n]; they sum to 1, if the law is proper.
      density: the prior in the library, values -> log density in nats.
      draw: (generator, shape) -> scales; None of an improper law.
    """

    log_scales: np.ndarray
    masses: np.ndarray
    density: Callable
    draw: Callable | None

    def log_prob(self, w: np.ndarray, noise: float = 0.0) -> np.ndarray:
        """Log density of w + N(0, noise^2), float64, by the integral; elementwise."""
        return special.logsumexp(self._joint(w, noise), axis=-1)

    def kept(self, y: np.ndarray, noise: float = 1.0) -> np.ndarray:
        """E[w | y] / y for y = w + N(0, noise^2), elementwise."""
        joint = self._joint(y, noise)
        posterior = np.exp(joint - joint.max(-1, keepdims=True))
        share = special.expit(2 * (self.log_scales - math.log(noise)))
        return posterior @ share / posterior.sum(-1)

    def _joint(self, y: np.ndarray, noise: float) -> np.ndarray:
        log_noise = math.log(noise) if noise else -math.inf
        log_std = 0.5 * np.logaddexp(2 * self.log_scales, 2 * log_noise)
        with np.errstate(divide="ignore", over="ignore"):
            fit = -0.5 * np.square(np.asarray(y)[..., None] * np.exp(-log_std))
            return fit - log_std - LOG_ROOT + np.log(self.masses)


HORSESHOE = Mixing(
    GRID,
    STEP / (np.pi * np.cosh(GRID)),  # l is half-Cauchy
    priors.horseshoe().log_prob,
    lambda rng, shape: np.abs(rng.standard_cauchy(shape)),
)


def build(config) -> Study:
    """The study of a config; see `configs/prior_shapes.py` for its fields."""
    mixing = parts.pick("prior", config.prior, mixings(config))
    parts.several("average.draws", config.average.draws)
    parts.several("draws", config.draws)
    if min(config.cuts) <= -math.log(NOTHING):
        raise parts.ConfigError(
            f"config.cuts must be above {-math.log(NOTHING):.2f}, so that some of the "
            f"prior is within {NOTHING} of 0: {config.cuts}"
        )

    return without_nets(functools.partial(_measure, config, mixing))


def mixings(config) -> dict[str, Mixing]:
    """The laws of scales, by the name of the prior that each makes.

    Each has a scale of 1: l = 1 or, where l varies, a law in units of it.
    """
    nu, half, spike, slab = config.nu, config.nu / 2, config.spike, config.slab

    def student(w):
        return jax.scipy.stats.t.logpdf(w, nu)

    def normal(w):
        return jax.scipy.stats.norm.logpdf(w)

    def log_uniform(w):
        return -jnp.log(2 * jnp.abs(w))

    def squared(law):
        """Of l^2: the density of u = ln l is 2 l^2 times that of l^2."""
        with np.errstate(over="ignore", under="ignore"):
            return 2 * np.exp(2 * GRID) * law.pdf(np.exp(2 * GRID))

    exponential, inverse = stats.expon(scale=2.0), stats.invgamma(half, scale=half)

    def of_square(law):
        return lambda rng, shape: np.sqrt(law.rvs(shape, random_state=rng))

    def atoms(density, *scales):
        def draw(rng, shape):
            return rng.choice(scales, shape)

        masses = np.full(len(scales), 1 / len(scales))
        return Mixing(np.log(scales), masses, density, draw)

    def on_grid(density, law, draw):
        return Mixing(GRID, STEP * law, density, draw)

    return {
        "normal": atoms(normal, 1.0),
        "laplace": on_grid(
            priors.laplace().log_prob, squared(exponential), of_square(exponential)
        ),
        "student": on_grid(student, squared(inverse), of_square(inverse)),
        "log_normal": on_grid(
            priors.log_normal_scale().log_prob,
            stats.norm.pdf(GRID),
            lambda rng, shape: rng.lognormal(size=shape),
        ),
        "horseshoe": HORSESHOE,
        "log_uniform": on_grid(log_uniform, np.ones_like(GRID), None),
        "spike_slab": atoms(
            priors.scale_mixture(0.5, slab, spike).log_prob, spike, slab
        ),
    }


def _measure(config, mixing: Mixing, key: Key) -> Measured:
    w = np.geomspace(AT_CENTRE, AT_TAIL, config.points)
    exact = mixing.log_prob(w)
    ours = np.asarray(mixing.density(jnp.asarray(w, jnp.float32)), np.float64)
    evals = {
        "density": {
            "error": np.abs(ours - exact).max(),
            "centre": np.exp(exact[0]),
            "tail": np.exp(exact[-1]),
        }
    }
    curves = {"density": {"w": w, "log_prob": exact}}
    if mixing.draw:
        rng = np.random.default_rng(np.asarray(random.key_data(stream(key, "draws"))))
        evals["draws"] = {"p": agreement(mixing, rng, config.draws)}
        evals["average"] = _averages(mixing, rng, config.average)
        effects = np.array([config.effects.small, config.effects.large])
        small, large = mixing.kept(effects) * effects
        evals["shrinkage"] = {"small": small, "large": large}
        y = np.linspace(0, 1.25 * config.effects.large, config.points)
        curves["shrinkage"] = {"y": y, "mean": mixing.kept(y) * y}
    if config.prior == "log_uniform":
        slope, curves["digits"] = digits(config.points)
        evals["digits"] = {"slope": slope}
        shares = [cut_share(cut) for cut in config.cuts]
        evals["improper"] = {"first": shares[0], "last": shares[-1]}
        curves["improper"] = {"cut": list(config.cuts), "share": shares}
    if config.prior == "spike_slab":
        evals["gradient"] = missing_gradient(mixing.density, config.spike, config.slab)
    return Measured(
        {n: {m: float(v) for m, v in one.items()} for n, one in evals.items()},
        {n: {a: list(map(float, v)) for a, v in c.items()} for n, c in curves.items()},
    )


def agreement(mixing: Mixing, rng: np.random.Generator, draws: int) -> float:
    """The p-value of draws of l, then of w, against the law that the integral has."""
    w = mixing.draw(rng, draws) * rng.standard_normal(draws)

    def below(x):
        z = np.asarray(x)[:, None] * np.exp(-mixing.log_scales)
        return special.ndtr(np.clip(z, -40, 40)) @ mixing.masses

    return stats.kstest(w, below).pvalue


def _averages(mixing: Mixing, rng: np.random.Generator, settings) -> dict[str, float]:
    n = np.arange(1, settings.draws + 1)[settings.draws // 2 :]
    largest = []
    for _ in range(settings.walks):
        w = mixing.draw(rng, settings.draws) * rng.standard_normal(settings.draws)
        largest.append(np.abs(np.cumsum(w)[settings.draws // 2 :] / n).max())
    return {"largest": np.median(largest), "share": np.mean(np.array(largest) > 1)}


def digits(points: int) -> tuple[float, dict]:
    """The KL from the log-uniform prior in bits, by log2(|m| / s), and its slope.

    The KL is known up to a constant: 0 where m is 0, so that it counts the binary
    digits of a weight that its noise leaves.
    """
    log_ratio = np.linspace(-3.0, math.log2(SIGNIFICANT[1]), points)
    kl, _ = kl_approximations.exact(-2 * math.log(2) * log_ratio)
    ends, _ = kl_approximations.exact(-2 * np.log(np.array(SIGNIFICANT)))
    low, high = np.log2(SIGNIFICANT)
    slope = (ends[1] - ends[0]) / math.log(2) / (high - low)
    return slope, {"log_ratio": log_ratio, "bits": kl / math.log(2)}


def cut_share(cut: float, points: int = 20_001) -> float:
    """The share of |w| < NOTHING in a posterior under 1 / |w|, e^-cut < |w| < e^cut.

    Of a logistic regression on 20 even inputs in [-2, 2], whose labels are the inputs'
    signs but for four near 0: no weight fits them all. In t = ln |w| the prior is even,
    and the likelihood at 0 is 2^-20, not 0: what lies below NOTHING grows with the cut.
    """
    x = np.linspace(-2, 2, 20)
    sign = np.where((np.abs(x) < 0.5) == (x > 0), -1.0, 1.0)

    def mass(low, high):
        t = np.linspace(low, high, points)
        each = [
            np.exp(special.log_expit(np.exp(t)[:, None] * side * sign * x).sum(-1))
            for side in (1.0, -1.0)
        ]
        return np.trapezoid(sum(each), t)

    middle = math.log(NOTHING)
    # Beyond e^7 what is left of the likelihood is 0 to all digits.
    nothing, rest = mass(-cut, middle), mass(middle, min(cut, 7.0))
    return nothing / (nothing + rest)


def missing_gradient(density: Callable, spike: float, slab: float) -> dict[str, float]:
    """|d ln p / dw| within the spike and in the slab, and where the two meet."""
    at = jnp.array([3 * spike, AT_SLAB], jnp.float32)
    within, beyond = np.abs(np.asarray(jax.vmap(jax.grad(density))(at), np.float64))
    meet = math.sqrt(2 * math.log(slab / spike) / (spike**-2 - slab**-2))
    return {"spike": within, "slab": beyond, "meet": meet}
