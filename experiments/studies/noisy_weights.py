"""Nets kept simple by noise in their weights, and no draw (Hinton, van Camp 1993).

One hidden layer of sigmoid units, a linear output and normal noise on every weight: the
expected squared error is exact, since a sum of independent weights times inputs is
normal, the mean and variance of its sigmoid are a quadrature, and those of the output
are sums. So the cost of 105 numbers, N/2 ln(mean expected squared error) + the price of
the weights (`vnets.priors.coding`), is a plain function, minimized by L-BFGS. Its price
counts little at first, and more by stages: else all weights collapse onto the prior.

Their peptides are not public. Ours are made: 128 inputs, which are mixtures of a few
factors and some noise of their own, and a number that a net of 4 sigmoid units with one
weight of ten gives, with noise. `method` is "linear", "ridge", "points" (a net whose
weights have a decay, chosen on `held_out` cases among `decays`, or none), or "noisy".
Measured:

    test    relative, the mean squared error over that of the test set's mean
    bits    errors, N/2 log2 of the mean expected squared error, of targets whose
            variance is 1; weights, their price; total, both. Of noisy weights alone
    starts  of all restarts, of which that of the least cost is tested: collapsed, the
            share whose weights say nothing (a test error of COLLAPSED or more); least,
            the least total

Curve: stages, the same bits after each stage.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import random
from scipy import optimize, special

from experiments import spec as parts
from experiments.core import Measured, Study, without_nets
from experiments.studies.description_length import (
    LN_2,
    SILENT,
    Layers,
    Posterior,
    log_softmax,
    with_ones,
)
from vnets.moments import NODES, WEIGHTS
from vnets.priors import coding
from vnets.rng import stream
from vnets.types import Key

FIELDS = ("dataset.name", "made", "method", "width", "decays", "held_out", "iterations")
FIELDS += ("components", "stages", "updates", "restarts", "start")
COLLAPSED = 0.9
NO_NODES = np.zeros(1), np.ones(1)  # a quadrature without noise
STRENGTHS = np.geomspace(1e-2, 1e4, 25)  # of ridge regression


class Cases(NamedTuple):
    """Inputs with a one, [N, inputs + 1], and numbers [N]."""

    x: np.ndarray
    y: np.ndarray

    def error(self, predicted: np.ndarray) -> float:
        """Relative to that of the mean."""
        return float(np.mean((self.y - predicted) ** 2) / self.y.var())

    def parted(self, held_out: int) -> tuple["Cases", "Cases"]:
        last = len(self.y) - held_out
        return Cases(self.x[:last], self.y[:last]), Cases(self.x[last:], self.y[last:])


class Mixture(NamedTuple):
    """The numbers of a `coding.Mixture`, each [K]."""

    means: np.ndarray
    log_std: np.ndarray
    logits: np.ndarray


def build(config) -> Study:
    """The study of a config; see `configs/noisy_weights.py` for its fields."""
    method = parts.pick("method", config.method, METHODS)
    for field in ("width", "components", "updates", "restarts", "iterations"):
        parts.positive(field, config[field])
    if not 0 < config.held_out < config.made.train:
        raise parts.ConfigError(
            f"config.held_out must be from 1 to {config.made.train - 1}, not "
            f"{config.held_out}"
        )
    return without_nets(functools.partial(_measure, config, method))


def _measure(config, method: Callable, key: Key) -> Measured:
    seed = np.asarray(random.key_data(stream(key, "data"))).tolist()
    learn, test = made(config.made, np.random.default_rng(seed))
    predict, found = method(config, learn, test, np.random.default_rng([*seed, 1]))
    evals = {"test": {"relative": test.error(predict(test.x))}} | found.evals
    return Measured(evals, found.curves)


def made(spec, rng: np.random.Generator) -> tuple[Cases, Cases]:
    """Cases to learn from and to test on, both scaled by the former."""
    n, d = spec.train + spec.test, spec.inputs
    mixing = rng.standard_normal((spec.factors, d)) / math.sqrt(spec.factors)
    x = rng.standard_normal((n, spec.factors)) @ mixing
    x = x + spec.own * rng.standard_normal((n, d))
    some = np.arange(d)[:, None] < max(1, round(spec.share * d))
    sparse = rng.permuted(np.broadcast_to(some, (d, spec.units)), axis=0)
    pre = x @ (sparse * rng.standard_normal((d, spec.units)))
    pre = spec.gain * pre / pre.std(0) + rng.standard_normal(spec.units)
    y = special.expit(pre) @ rng.choice([-1.0, 1.0], spec.units)
    y = y / y.std() + spec.noise * rng.standard_normal(n)
    seen = slice(spec.train)
    x, y = ((a - a[seen].mean(0)) / a[seen].std(0) for a in (x, y))
    x = with_ones(x)
    return Cases(x[seen], y[seen]), Cases(x[spec.train :], y[spec.train :])


class Expected(NamedTuple):
    """The mean expected squared error and its gradients [W]; predictions [N]."""

    value: float
    mean: np.ndarray
    log_var: np.ndarray
    predicted: np.ndarray


def expected(net: Layers, q: Posterior, cases: Cases, quadrature=(NODES, WEIGHTS)):
    """The squared error that noisy weights are expected to have, exact.

    Args:
      net: with one output.
      q: of its weights.
      cases: to predict.
      quadrature: nodes and weights of the standard normal law.
    """
    (m1, m2), (v1, v2) = net.matrices(q.mean), net.matrices(np.exp(q.log_var))
    x, square = cases.x, np.square(cases.x)
    std = np.sqrt(square @ v1)
    nodes, weights = (a[:, None, None] for a in quadrature)
    each = special.expit(x @ m1 + std * nodes)  # [nodes, N, hidden]
    slope = weights * each * (1 - each)
    mean = (weights * each).sum(0)
    off = each - mean
    var = (weights * np.square(off)).sum(0)
    h, h_var = with_ones(mean), np.pad(var, ((0, 0), (0, 1)))
    gap = (h @ m2)[:, 0] - cases.y
    spread = ((np.square(h) + h_var) @ v2 + h_var @ np.square(m2))[:, 0]
    n = len(gap)
    to_out = 2 * gap[:, None] / n
    by_m2 = h.T @ to_out + 2 * m2 * h_var.mean(0)[:, None]
    by_v2 = (np.square(h) + h_var).mean(0)[:, None] * v2
    to_mean = (to_out @ m2.T + 2 * h * v2[:, 0] / n)[:, :-1]
    to_var = (v2 + np.square(m2))[:-1, 0] / n
    to_each = slope * (to_mean + 2 * to_var * off)
    to_std = (to_each * nodes).sum(0)
    by_m1 = x.T @ to_each.sum(0)
    by_v1 = square.T @ (0.5 * to_std / std) * v1
    return Expected(
        float(np.mean(np.square(gap) + spread)),
        np.concatenate([by_m1.ravel(), by_m2.ravel()]),
        np.concatenate([by_v1.ravel(), by_v2.ravel()]),
        gap + cases.y,
    )


def price(q: Posterior, own: Mixture) -> tuple[float, Posterior, Mixture]:
    """What `coding.Mixture` charges for all weights, nats, and its gradients."""
    var, gap = np.exp(q.log_var)[:, None], q.mean[:, None] - own.means
    precision = np.exp(-2 * own.log_std)
    square = (var + np.square(gap)) * precision
    kl = 0.5 * (square - 1 - q.log_var[:, None]) + own.log_std
    log_share = log_softmax(own.logits)
    log_r = log_softmax(log_share - kl)
    r = np.exp(log_r)
    pull = r * gap * precision
    by_weight = pull.sum(1), 0.5 * (r * (var * precision - 1)).sum(1)
    by_logits = len(r) * np.exp(log_share) - r.sum(0)
    by_mixture = -pull.sum(0), (r * (1 - square)).sum(0), by_logits
    cost = float(np.sum((log_r + kl - log_share)[:, 0]))
    return cost, Posterior(*by_weight), Mixture(*by_mixture)


def minimized(function: Callable, start: np.ndarray, updates: int) -> np.ndarray:
    """Where L-BFGS is after so many updates, or earlier if nothing changes any more."""
    options = {"maxiter": updates, "maxfun": 3 * updates}
    found = optimize.minimize(
        function, start, jac=True, method="L-BFGS-B", options=options
    )
    return found.x


NOTHING = Measured({})


def linear(config, learn: Cases, test: Cases, rng):
    """Least squares, of the least norm if there are more inputs than cases."""
    del config, test, rng
    weights = np.linalg.lstsq(learn.x, learn.y)[0]
    return lambda x: x @ weights, NOTHING


def ridge(config, learn: Cases, test: Cases, rng):
    """Least squares with a penalty, chosen on cases held out."""
    del test, rng

    def fit(cases: Cases, strength: float):
        penalized = np.append(np.ones(cases.x.shape[1] - 1), 0)
        gram = cases.x.T @ cases.x + strength * np.diag(penalized)
        weights = np.linalg.solve(gram, cases.x.T @ cases.y)
        return lambda x: x @ weights

    return fit(learn, _chosen(fit, STRENGTHS, learn, config.held_out)), NOTHING


def points(config, learn: Cases, test: Cases, rng):
    """A net whose weights have no noise, with the best of some decays, or none."""
    del test
    net, start = _start(config, rng)
    silent = np.full(net.size, SILENT)

    def fit(cases: Cases, decay: float):
        def cost(w):
            found = expected(net, Posterior(w, silent), cases, NO_NODES)
            half = 0.5 * len(cases.y)
            value = half * found.value + 0.5 * decay * w @ w
            return value, half * found.mean + decay * w

        q = Posterior(minimized(cost, start().mean, config.iterations), silent)
        return functools.partial(_predicted, net, q, NO_NODES)

    decays = list(config.decays)
    several = len(decays) > 1
    best = _chosen(fit, decays, learn, config.held_out) if several else decays[0]
    return fit(learn, best), NOTHING


def noisy(config, learn: Cases, test: Cases, rng):
    """A net with noisy weights, the restart of the least cost."""
    net, start = _start(config, rng)
    own = coding.mixture(config.components, config.start.reach)
    own = Mixture(*(np.asarray(part, np.float64) for part in dataclasses.astuple(own)))
    runs = [
        _descended(config, net, start(), own, learn) for _ in range(config.restarts)
    ]
    errors = [test.error(_predicted(net, q, (NODES, WEIGHTS), test.x)) for q, _ in runs]
    totals = [stages[-1]["total"] for _, stages in runs]
    q, stages = runs[int(np.argmin(totals))]
    last = {name: stages[-1][name] for name in ("errors", "weights", "total")}
    collapsed = float(np.mean([error >= COLLAPSED for error in errors]))
    curve = {name: [stage[name] for stage in stages] for name in stages[0]}
    found = Measured(
        {"bits": last, "starts": {"collapsed": collapsed, "least": min(totals)}},
        {"stages": curve},
    )
    return functools.partial(_predicted, net, q, (NODES, WEIGHTS)), found


METHODS = {"linear": linear, "ridge": ridge, "points": points, "noisy": noisy}


def _start(config, rng) -> tuple[Layers, Callable[[], Posterior]]:
    net, spec = Layers(config.made.inputs, config.width, 1), config.start

    def start():
        level = np.full(net.size, 2 * math.log(spec.std))
        return Posterior(spec.mean * rng.standard_normal(net.size), level)

    return net, start


def _chosen(fit: Callable, choices, learn: Cases, held_out: int):
    """What errs least on the cases held out."""
    rest, judges = learn.parted(held_out)
    return min(choices, key=lambda one: judges.error(fit(rest, one)(judges.x)))


def _predicted(net: Layers, q: Posterior, quadrature, x: np.ndarray) -> np.ndarray:
    return expected(net, q, Cases(x, np.zeros(len(x))), quadrature).predicted


def _descended(config, net: Layers, q: Posterior, own: Mixture, learn: Cases):
    """The posterior after all stages, and the bits after each."""
    sizes = np.cumsum([net.size, net.size, *(len(part) for part in own)])[:-1]
    half, stages = 0.5 * len(learn.y), []

    def parted(theta):
        mean, log_var, *mixture = np.split(theta, sizes)
        return Posterior(mean, log_var), Mixture(*mixture)

    def cost(theta, weight):
        q, own = parted(theta)
        misfit, (value, by_weight, by_mixture) = expected(net, q, learn), price(q, own)
        factor = half / misfit.value
        slope = np.concatenate(
            [
                factor * misfit.mean + weight * by_weight.mean,
                factor * misfit.log_var + weight * by_weight.log_var,
                *(weight * part for part in by_mixture),
            ]
        )
        return half * math.log(misfit.value) + weight * value, slope

    theta = np.concatenate([*q, *own])
    for number, weight in enumerate(config.stages, start=1):
        last = number == len(config.stages)
        updates = config.iterations if last else config.updates
        theta = minimized(lambda theta, w=weight: cost(theta, w), theta, updates)
        q, own = parted(theta)
        errors = half * math.log(expected(net, q, learn).value) / LN_2
        weights = price(q, own)[0] / LN_2
        stages.append(
            {
                "weight": float(weight),
                "errors": errors,
                "weights": weights,
                "total": errors + weights,
            }
        )
    return q, stages
