"""Points that are made on the fly, as data sets by name; all are in every batch."""

import jax.numpy as jnp
from jax import random

from vnets.data import Dataset, Split
from vnets.rng import stream
from vnets.types import Key

INSIDE = 4.0  # inputs of "cubic" lie in [-4, 4]
NOISE = 3.0  # standard deviation of its observations
CENTRES = ((3.0, 3.0), (3.0, 10.0), (10.0, 3.0), (10.0, 10.0))
SOURCE = "made on the fly"


def cubic(n: int, key: Key) -> Split:
    """n observations of x^3 with noise, at x uniform in [-4, 4]: [n, 1] and [n]."""
    key_x, key_noise = random.split(key)
    x = random.uniform(key_x, (n, 1), jnp.float32, -INSIDE, INSIDE)
    noise = NOISE * random.normal(key_noise, (n,), jnp.float32)
    return Split(x, x[:, 0] ** 3 + noise)


def four_classes(per_class: int, key: Key) -> Split:
    """Normal clouds of unit variance around `CENTRES`, [4 per_class, 2], by class."""
    label = jnp.repeat(jnp.arange(len(CENTRES), dtype=jnp.int32), per_class)
    centres = jnp.asarray(CENTRES, jnp.float32)
    draws = random.normal(key, (len(label), centres.shape[1]), jnp.float32)
    return Split(centres[label] + draws, label)


MADE = {"cubic": cubic, "four_classes": four_classes}
CLASSES = {"cubic": 0, "four_classes": len(CENTRES)}


def load(config) -> Dataset:
    """The data set of a config, one of `MADE`; its seed says which points."""
    spec = config.dataset
    key, make = stream(random.key(spec.seed), spec.name), MADE[spec.name]
    if spec.name == "cubic":
        train, test = spec.size, config.evals.test_points
    else:
        train = test = spec.per_class
    splits = make(train, stream(key, "train")), make(test, stream(key, "test"))
    classes = CLASSES[spec.name]
    return Dataset(spec.name, splits[0], None, splits[1], classes, {}, SOURCE)
