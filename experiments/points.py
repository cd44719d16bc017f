"""Points that are made on the fly, as data sets by name; all are in every batch."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import random

from vnets.data import Dataset, Split
from vnets.rng import stream
from vnets.types import Array, Key

CENTRES = ((3.0, 3.0), (3.0, 10.0), (10.0, 3.0), (10.0, 10.0))
SOURCE = "made on the fly"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A function of one number, of which values with noise are seen.

    Attributes:
      seen: (x, eps) -> the value at x with the noise eps; without it the truth.
      inside: the ends of the interval in which x is uniform.
      shown: the ends of a wider one, of figures.
      eps: standard deviation of eps.
      noise: that of a value around the truth, its root mean square over x inside.
    """

    seen: Callable[[Array, Array | float], Array]
    inside: tuple[float, float]
    shown: tuple[float, float]
    eps: float
    noise: float

    def truth(self, x: Array) -> Array:
        """The function."""
        return self.seen(x, 0.0)

    def observe(self, n: int, key: Key) -> Split:
        """n observations: [n, 1] and [n]."""
        key_x, key_noise = random.split(key)
        x = random.uniform(key_x, (n, 1), jnp.float32, *self.inside)
        noise = self.eps * random.normal(key_noise, (n,), jnp.float32)
        return Split(x, self.seen(x[:, 0], noise))


def _sines(x: Array, eps: Array | float) -> Array:
    turns = 2 * math.pi * (x + eps)
    return x + 0.3 * jnp.sin(turns) + 0.3 * jnp.sin(2 * turns) + eps


CURVES = {
    # x^3 (Hernandez-Lobato and Adams 2015).
    "cubic": Curve(lambda x, eps: x**3 + eps, (-4.0, 4.0), (-6.0, 6.0), 3.0, 3.0),
    # x + 0.3 sin 2 pi (x + eps) + 0.3 sin 4 pi (x + eps) + eps (Blundell et al. 2015),
    # whose slope by eps has the mean square 1 + (0.6^2 + 1.2^2) pi^2 / 2 in [0, 1 / 2].
    "sines": Curve(
        *(_sines, (0.0, 0.5), (-0.2, 1.2), 0.02),
        noise=0.02 * math.sqrt(1 + 0.9 * math.pi**2),
    ),
}


def four_classes(per_class: int, key: Key) -> Split:
    """Normal clouds of unit variance around `CENTRES`, [4 per_class, 2], by class."""
    label = jnp.repeat(jnp.arange(len(CENTRES), dtype=jnp.int32), per_class)
    centres = jnp.asarray(CENTRES, jnp.float32)
    draws = random.normal(key, (len(label), centres.shape[1]), jnp.float32)
    return Split(centres[label] + draws, label)


MADE = {
    **{name: curve.observe for name, curve in CURVES.items()},
    "four_classes": four_classes,
}
CLASSES = {"four_classes": len(CENTRES)}


def load(config) -> Dataset:
    """The data set of a config, one of `MADE`; its seed says which points."""
    spec = config.dataset
    key, make = stream(random.key(spec.seed), spec.name), MADE[spec.name]
    if spec.name in CURVES:
        train, test = spec.size, config.evals.test_points
    else:
        train = test = spec.per_class
    splits = make(train, stream(key, "train")), make(test, stream(key, "test"))
    classes = CLASSES.get(spec.name, 0)
    return Dataset(spec.name, splits[0], None, splits[1], classes, {}, SOURCE)
