"""Does a net that makes the features of a Gaussian process help it, or overfit?

Processes with and without a net, of most evidence (`vnets.deep_kernels`), on a step,
which no smooth kernel fits, and on a small table, where there is much to overfit to.
Targets are standardized, so that nats of both are comparable.

Sources: Wilson et al. 2016 (deep kernels); Ober, Rasmussen and van der Wilk 2021 (they
overfit).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from experiments import ranges
from experiments import spec as parts
from experiments.core import Measured, Study
from experiments.datasets import load_data
from vnets import deep_kernels, nets
from vnets.likelihoods import NORMAL_95
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = ("dataset", "widths", "features", "updates", "learning_rate", "points")
STEP = ("name", "points", "noise")
TESTED = 1000  # new inputs of the step
Arrays = tuple[Array, Array]


def build(config) -> Study:
    """The study of a config; see `configs/deep_kernel.py` for its fields.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    for name in ("features", "updates", "points"):
        parts.positive(name, config[name])
    ranges.POSITIVE.check("config.learning_rate", config.learning_rate)
    dataset = None
    if config.dataset.name == "step":
        unknown = sorted(set(config.dataset) - set(STEP))
        if unknown:
            raise parts.ConfigError(f"config.dataset.{unknown[0]} is of no step")
        parts.positive("dataset.points", config.dataset.points)
        ranges.POSITIVE.check("config.dataset.noise", config.dataset.noise)
    else:
        dataset = load_data(config.dataset)
        if dataset.classes:
            raise parts.ConfigError(
                f"config.dataset.name: {config.dataset.name} has classes, not numbers"
            )
    return Study({}, functools.partial(_measure, config, dataset), dataset)


def step(key: Key, count: int, noise: float) -> Arrays:
    """Inputs [N, 1] in [-1, 1], and the sign of each with noise, [N]."""
    x = random.uniform(stream(key, "x"), (count, 1), minval=-1.0)
    drawn = noise * random.normal(stream(key, "noise"), (count,))
    return x, jnp.sign(x[:, 0]) + drawn


def _data(config, dataset, key: Key) -> tuple[Arrays, Arrays]:
    """What is learned from, and what is tested on, [N, I] and [N] each."""
    if dataset is None:
        spec = config.dataset
        train = step(stream(key, "train"), spec.points, spec.noise)
        return train, step(stream(key, "test"), TESTED, spec.noise)
    splits = dataset.train, dataset.validation or dataset.test
    (x, y), test = ((jnp.asarray(s.inputs), jnp.asarray(s.target)) for s in splits)
    mean, std = jnp.mean(y), jnp.std(y)
    return (x, (y - mean) / std), (test[0], (test[1] - mean) / std)


def process(widths, features: int, x: Array, key: Key):
    """The process, and its parameters before training; no widths, no net."""
    if not widths:
        return deep_kernels.plain, deep_kernels.plain.start({})
    net = nets.MLP(tuple(widths), features, activation="tanh")
    params = net.init({"params": key}, x[:1])["params"]
    deep = deep_kernels.DeepKernel(lambda w, x: net.apply({"params": w}, x))
    return deep, deep.start(params)


def _measure(config, dataset, nets_, key: Key) -> Measured:
    """Evidence of what was learned from, and what is said of the rest."""
    del nets_
    train, (new, truth) = _data(config, dataset, key)
    own = process(config.widths, config.features, train[0], stream(key, "net"))
    adam = optax.adam(config.learning_rate)
    best = deep_kernels.fit(*own, *train, adam, config.updates)
    predict = jax.jit(functools.partial(own[0].predict, best, *train))
    mean, var = predict(new)
    gap = truth - mean
    nll = 0.5 * (jnp.square(gap) / var + jnp.log(2 * math.pi * var))
    inside = jnp.abs(gap) <= NORMAL_95 * jnp.sqrt(var)
    evals = {
        "test": {
            "nll": float(jnp.mean(nll)),
            "rmse": float(jnp.sqrt(jnp.mean(jnp.square(gap)))),
            "coverage": float(jnp.mean(inside)),
        },
        "train": {
            "evidence": float(own[0].evidence(best, *train)) / len(train[1]),
            "noise": float(jnp.exp(best["log_noise"])),
        },
    }
    if dataset is not None:
        return Measured(evals)
    places = jnp.linspace(-1, 1, config.points)
    mean, var = predict(places[:, None])
    reach = NORMAL_95 * jnp.sqrt(var)
    line = {"x": places, "mean": mean, "lower": mean - reach, "upper": mean + reach}
    line["truth"] = jnp.sign(places)
    curves = {"band": {k: np.asarray(v, float).tolist() for k, v in line.items()}}
    curves["observed"] = {"x": train[0][:, 0].tolist(), "y": train[1].tolist()}
    return Measured(evals, curves)
