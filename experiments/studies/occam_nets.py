"""Bounds and Laplace's evidence of nets by the units of their hidden layer.

A net of `made.size` sigmoid units and a linear output, whose weights are N(0,
`prior_scale`^2), makes targets with normal noise. Nets of each of `sizes` learn them,
with the prior and noise that made them, three ways: by the likelihood alone, by
likelihood and prior (the mode), and by the ELBO of independent normal weights. That is
exact, as `experiments.studies.noisy_weights` says; all are minimized by L-BFGS, the
best of `restarts`, and the last begins where the modes are. Measured, nats:

    elbo     peak, the size where it is largest; fall, from there to the largest size
    laplace  the same of the evidence by Kronecker factors around the mode
    whole    and by the whole Gauss-Newton matrix
    test     peak, the size of the least test NLL of the ELBO's posterior, `draws`
             draws; chosen, what the NLL of the size of its peak exceeds it by; rise, of
             the largest net that learned by the likelihood alone, above the least of
             these

Curves: sizes, the criteria and the likelihood; test, the NLL of all three.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments import spec as parts
from experiments.core import Measured
from experiments.studies.description_length import (
    SILENT,
    Layers,
    Posterior,
    with_ones,
)
from experiments.studies.noisy_weights import NO_NODES, Cases, expected, minimized
from experiments.studies.prior_shapes import LOG_ROOT
from vnets import laplace
from vnets.data import Split
from vnets.likelihoods import Gaussian
from vnets.nets import MLP
from vnets.nodes import Point
from vnets.predictor import as_is

FIELDS = ("iterations", "restarts", "draws")
START = -4.0  # of all log variances, around the mode
SHUT = -60.0  # the bias of a unit whose output is 0


class Task(NamedTuple):
    """What a net is to learn.

    Attributes:
      cases: to learn from.
      noise: standard deviation of the targets.
      scale: that of the weights a priori.
    """

    cases: Cases
    noise: float
    scale: float

    def log_p(self, square: float) -> float:
        """ln p of all targets by their mean expected squared error."""
        each = LOG_ROOT + math.log(self.noise) + 0.5 * square / self.noise**2
        return -len(self.cases.y) * each

    def by_square(self) -> float:
        """The slope of -ln p by the mean expected squared error."""
        return 0.5 * len(self.cases.y) / self.noise**2


def point_cost(task: Task, net: Layers, penalty: float, w: np.ndarray):
    """-ln p at weights [W], with a penalty of their squares, and its gradient."""
    found = expected(net, _silent(w), task.cases, NO_NODES)
    slope = task.by_square() * found.mean + penalty * w
    return 0.5 * penalty * w @ w - task.log_p(found.value), slope


def bound_cost(task: Task, net: Layers, theta: np.ndarray):
    """The negative ELBO at means and log variances [2 W], and its gradient."""
    q = Posterior(*np.split(theta, 2))
    found, precision = expected(net, q, task.cases), task.scale**-2
    var = np.exp(q.log_var)
    square = (np.square(q.mean) + var) * precision
    kl = 0.5 * np.sum(square - 1 - q.log_var) + net.size * math.log(task.scale)
    by_mean = task.by_square() * found.mean + precision * q.mean
    by_log_var = task.by_square() * found.log_var + 0.5 * (var * precision - 1)
    return kl - task.log_p(found.value), np.concatenate([by_mean, by_log_var])


def evidence(task: Task, net: Layers, w: np.ndarray, kind, units: int) -> float:
    """Laplace's evidence around weights [W], by `laplace.full` or `factored`.

    All sizes are compiled as one, a net of so many units. Those that are too many are
    shut: they have no curvature, and their weights are none.
    """
    more = units - net.hidden
    first, second = net.matrices(w)
    shut = np.zeros((len(first), more))
    shut[-1] = SHUT
    first = jnp.asarray(np.concatenate([first, shut], 1), jnp.float32)
    second = np.concatenate([second[:-1], np.zeros((more, 1)), second[-1:]])
    second = jnp.asarray(second, jnp.float32)
    params = {
        name: {"kernel": Point(part[:-1]), "bias": part[-1]}
        for name, part in (("dense1", first), ("dense2", second))
    }
    inputs, targets = task.cases.x[:, :-1], task.cases.y[:, None]
    found = kind(
        MLP(widths=(units,), classes=1, activation="sigmoid"),
        {"params": params},
        Split(inputs.astype(np.float32), targets.astype(np.float32)),
        likelihood=Gaussian(task.noise),
        prepare=as_is,
    )
    return dataclasses.replace(found, weights=w).evidence(task.scale**-2)


def measure(config, rng: np.random.Generator) -> Measured:
    """What is measured of nets of all sizes."""
    for field in FIELDS:
        parts.positive(field, config[field])
    task, test = made(config, rng)
    rows = [_of_size(config, task, test, int(size), rng) for size in config.sizes]
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    sizes, evals = np.array(config.sizes), {}
    for name in ("elbo", "laplace", "whole"):
        values = found[name]
        evals[name] = {
            "peak": sizes[values.argmax()],
            "fall": values.max() - values[-1],
        }
    nll = found["nll_elbo"]
    evals["test"] = {
        "peak": sizes[nll.argmin()],
        "chosen": nll[found["elbo"].argmax()] - nll.min(),
        "rise": found["nll_likelihood"][-1] - nll.min(),
    }
    tested = {name: name.startswith("nll_") for name in found}
    axes = {"size": sizes} | found
    curves = {
        "sizes": [name for name in axes if not tested.get(name)],
        "test": [name for name in axes if tested.get(name, True)],
    }
    return Measured(
        {n: {m: float(v) for m, v in one.items()} for n, one in evals.items()},
        {n: {a: axes[a].tolist() for a in names} for n, names in curves.items()},
    )


def made(config, rng: np.random.Generator) -> tuple[Task, Cases]:
    """What there is to learn and to be tested on, by a net that the prior drew."""
    spec = config.made
    net, n = Layers(spec.inputs, spec.size, 1), spec.train + spec.test
    x = with_ones(rng.standard_normal((n, spec.inputs)))
    first, second = net.matrices(config.prior_scale * rng.standard_normal(net.size))
    y = (with_ones(special.expit(x @ first)) @ second)[:, 0]
    y = y + spec.noise * rng.standard_normal(n)
    learn, test = Cases(x, y).parted(spec.test)
    return Task(learn, spec.noise, config.prior_scale), test


def _of_size(config, task: Task, test: Cases, size: int, rng) -> dict[str, float]:
    net = Layers(config.made.inputs, size, 1)
    starts = [rng.standard_normal(net.size) for _ in range(config.restarts)]
    likely, modes = (
        [_least(functools.partial(point_cost, task, net, c), w, config) for w in starts]
        for c in (0.0, task.scale**-2)
    )
    bound = functools.partial(bound_cost, task, net)
    level = np.full(net.size, START)
    bounds = [_least(bound, np.concatenate([w, level]), config) for _, w in modes]
    (loss, best), (_, mode), (cost, theta) = map(_first, (likely, modes, bounds))
    mean, log_var = np.split(theta, 2)
    noise = rng.standard_normal((config.draws, net.size))
    draws = mean + np.exp(0.5 * log_var) * noise
    return {
        "likelihood": -loss,
        "elbo": -cost,
        "laplace": evidence(task, net, mode, laplace.factored, config.sizes[-1]),
        "whole": evidence(task, net, mode, laplace.full, config.sizes[-1]),
        "nll_likelihood": _nll(task, net, best[None], test),
        "nll_mode": _nll(task, net, mode[None], test),
        "nll_elbo": _nll(task, net, draws, test),
    }


def _silent(w: np.ndarray) -> Posterior:
    return Posterior(w, np.full(len(w), SILENT))


def _least(cost, start: np.ndarray, config) -> tuple[float, np.ndarray]:
    w = minimized(cost, start, config.iterations)
    return cost(w)[0], w


def _first(found: list[tuple[float, np.ndarray]]) -> tuple[float, np.ndarray]:
    return min(found, key=lambda one: one[0])


def _nll(task: Task, net: Layers, draws: np.ndarray, test: Cases) -> float:
    """-ln of the mean of p(y) over weights [S, W], the mean of all test cases."""
    each = [expected(net, _silent(w), test, NO_NODES).predicted for w in draws]
    gap = (test.y - np.stack(each)) / task.noise
    log_p = -0.5 * np.square(gap) - LOG_ROOT - math.log(task.noise)
    mixed = special.logsumexp(log_p, axis=0) - math.log(len(draws))
    return -float(np.mean(mixed))
