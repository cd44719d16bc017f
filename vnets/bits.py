"""How many bits a weight is worth, from its posterior variance; and rounding to them.

A weight whose posterior is wide need not be stored exactly: Louizos, Ullrich and
Welling 2017 keep as many bits of the significand as bring the unit round-off
0.5 * 2^(1 - t) below the mean posterior variance of a layer's weights, and as many of
the exponent as their range needs.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from vnets import renamed, tree
from vnets.edits import Edit, mean_of
from vnets.nodes import Point, is_posterior
from vnets.types import Array, Params

MAX_SIGNIFICAND = 24  # of float32, its hidden bit included
MAX_EXPONENT = 8


@dataclasses.dataclass(frozen=True)
class Bits:
    """Bits of the weights of a layer.

    Attributes:
      significand: t, the leading bit included, as the authors count.
      exponent: of the power of two; one of its codes stands for zero.
    """

    significand: int
    exponent: int

    @property
    def total(self) -> int:
        """Bits of a weight, with its sign."""
        return 1 + self.exponent + self.significand


def unit_roundoff(significand: int) -> float:
    """The largest relative error of rounding to t bits: 0.5 * 2^(1 - t)."""
    return 0.5 * 2.0 ** (1 - significand)


def significand_bits(var: float) -> int:
    """The least t in [1, 24] whose unit round-off is not above a variance."""
    if not var > 0:
        return MAX_SIGNIFICAND
    return min(max(math.ceil(-math.log2(var)), 1), MAX_SIGNIFICAND)


def exponent_bits(values) -> int:
    """The bits of an exponent that tell apart zero and every power of two in use.

    Args:
      values: any shape; zeros have a code anyway.
    """
    values = np.abs(np.asarray(values, np.float64))
    values = values[values > 0]
    if not values.size:
        return 0
    _, exponents = np.frexp(values)
    return math.ceil(math.log2(int(exponents.max() - exponents.min()) + 2))


def layer_bits(params: Params) -> dict[str, Bits]:
    """The bits of each layer, from the posterior of those of its weights that are kept.

    Args:
      params: after whatever is pruned has mean zero; posteriors still have variances.
        A layer without any, or with nothing kept, gets all 24 bits of the significand.
    """
    found = {}
    for name, node in tree.weights(params):
        mean = np.asarray(mean_of(node).mean)
        _, var = node.moments()
        kept = mean != 0
        spread = 0.0
        if var is not None and kept.any():
            spread = float(np.mean(np.asarray(var, np.float64)[kept]))
        found[name] = Bits(significand_bits(spread), exponent_bits(mean))
    return found


def rounded(weights: Array, bits: Bits) -> Array:
    """Weights to the nearest number with so many bits; the largest exponent is kept.

    The relative error is at most the unit round-off for weights within the exponents'
    range. Below it a weight becomes zero or the smallest number of the range, whichever
    is nearer; without any exponent all are zero.
    """
    if not bits.exponent:
        return jnp.zeros_like(weights)
    fraction, exponent = jnp.frexp(weights)
    t = min(bits.significand, MAX_SIGNIFICAND)
    values = jnp.ldexp(jnp.round(jnp.ldexp(fraction, t)), exponent - t)
    if bits.exponent >= MAX_EXPONENT:
        return values
    _, exponent = jnp.frexp(values)
    lowest = jnp.finfo(jnp.float32).minexp
    top = jnp.max(jnp.where(values != 0, exponent, lowest))
    # frexp's fractions are in [1/2, 1): the smallest number is half a power of two.
    codes = 2**bits.exponent - 1
    smallest = jnp.ldexp(jnp.float32(0.5), top - codes + 1)
    below = jnp.where(jnp.abs(values) < 0.5 * smallest, 0.0, smallest)
    small = jnp.abs(values) < smallest
    return jnp.where(small, jnp.sign(values) * below, values)


def rounded_to(bits: Bits | Mapping[str, Bits]) -> Edit:
    """Replaces every weight by its mean, rounded; biases keep 32 bits, of their means.

    Args:
      bits: of all layers, or by layer (patterns).

    Raises:
      ValueError: fewer bits of a significand than 1 or of an exponent than 0; when
        applied, a mapping that misses a layer, or names one that is not there.
    """
    for one in bits.values() if isinstance(bits, Mapping) else (bits,):
        if one.significand < 1 or one.exponent < 0:
            raise ValueError(f"a weight needs 1 or more bits of significand: {one}")

    def apply(params: Params, key=None) -> Params:
        del key

        weights = [at for at, _ in tree.nodes(params) if not at.is_vector]
        if isinstance(bits, Mapping):
            own = tree.assigned(bits, weights, "bits", complete=True)
        else:
            own = {place.name: bits for place in weights}

        def visit(place: tree.Place, node):
            if not is_posterior(node):
                return node
            if place.is_vector:
                return mean_of(node)
            return Point(rounded(mean_of(node).mean, own[place.name]))

        return tree.change(visit, params)

    return apply


__getattr__ = renamed.getter("vnets.bits")
