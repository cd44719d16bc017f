"""Noise families of unit variance, symmetric around zero, as posterior nodes name them.

`normal` comes in two forms (`backend.py`). The Box-Muller form takes two normals from
each 32-bit word: 16 bits give the radius, 14 the angle within a quadrant, 2 the signs.
Its values are symmetric, its variance is 1 to 5e-6, its tails end at 4.86 sigma (a
normal exceeds that once in 800,000 draws), and both words of every Threefry block are
used, where `jax.random.bits` uses one. Counters are pairs (row, column), so the draws
do not depend on how the array is laid out over devices.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.extend.random import threefry2x32_p

from vnets import backend
from vnets.types import Array, Key, Shape, choose


def normal(key: Key, shape: Shape, dtype=jnp.float32) -> Array:
    """Standard normal draws of the given shape, in the backend's fastest form."""
    if backend.forms().normal == "box_muller":
        return box_muller(key, shape).astype(dtype)
    return random.normal(key, shape, dtype)


def sign(key: Key, shape: Shape, dtype=jnp.float32) -> Array:
    """-1 or +1 with equal probability (symmetric Bernoulli; Neklyudov et al. 2019)."""
    return random.rademacher(key, shape, dtype)


def uniform(key: Key, shape: Shape, dtype=jnp.float32) -> Array:
    """Uniform draws on [-sqrt(3), sqrt(3)), so that the variance is one."""
    bound = math.sqrt(3.0)
    return random.uniform(key, shape, dtype, -bound, bound)


@dataclasses.dataclass(frozen=True)
class Family:
    """Noise of mean 0 and variance 1, symmetric around 0.

    Attributes:
      sample: (key, shape, dtype) -> draws.
      log_prob: log density at any values, elementwise, in nats; None of noise without.
      lrt: whether weighted sums of draws are of the family again, so that local
        reparameterization is exact.
    """

    sample: Callable[..., Array]
    log_prob: Callable[[Array], Array] | None = None
    lrt: bool = False


FAMILIES = {
    "normal": Family(
        normal, lambda z: -0.5 * (jnp.square(z) + math.log(2 * math.pi)), lrt=True
    ),
    "sign": Family(sign),
    "uniform": Family(
        uniform,
        lambda z: jnp.where(jnp.abs(z) <= 3**0.5, -0.5 * math.log(12.0), -jnp.inf),
    ),
}


def sampler(family: str):
    """The sampler (key, shape, dtype) -> draws of a named family."""
    return choose("noise family", family, FAMILIES).sample


def log_density(family: str) -> Callable[[Array], Array]:
    """The log density of a named family.

    Raises:
      TypeError: it has none.
    """
    log_prob = choose("noise family", family, FAMILIES).log_prob
    if log_prob is None:
        raise TypeError(f"{family} noise has no density")
    return log_prob


def lrt_is_exact(noise: str) -> bool:
    """Whether a sum of weights with this noise is of its family, too."""
    return noise in FAMILIES and FAMILIES[noise].lrt


def box_muller(key: Key, shape: Shape) -> Array:
    """Float32 normals by Box and Muller's transform of the halves of 32-bit words."""
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    blocks = -(-columns // 4)  # one Threefry block makes four normals
    first, second = _words(key, rows, blocks)
    # Without the barrier XLA would hash again for each of the four quarters.
    first, second = lax.optimization_barrier((first, second))
    quarters = (*_pair(first), *_pair(second))
    return jnp.concatenate(quarters, axis=1)[:, :columns].reshape(shape)


def _words(key: Key, rows: int, blocks: int) -> tuple[Array, Array]:
    """Two words of random bits for each (row, block)."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if str(random.key_impl(key)) != "threefry2x32":
            return tuple(random.bits(key, (2, rows, blocks), jnp.uint32))
        key = random.key_data(key)
    row = lax.broadcasted_iota(jnp.uint32, (rows, blocks), 0)
    column = lax.broadcasted_iota(jnp.uint32, (rows, blocks), 1)
    return threefry2x32_p.bind(key[0], key[1], row, column)


def _pair(word: Array) -> tuple[Array, Array]:
    """Two independent normals from each 32-bit word."""
    radius_bits = (word >> 16).astype(jnp.int32).astype(jnp.float32)
    radius = jnp.sqrt(-2.0 * jnp.log((radius_bits + 0.5) * 2.0**-16))
    angle_bits = ((word >> 2) & 0x3FFF).astype(jnp.int32).astype(jnp.float32)
    # The angle is pi/4 + x with |x| < pi/4: short Taylor series are exact to 4e-6.
    x = (angle_bits + (0.5 - 2.0**13)) * (2.0**-14 * math.pi / 2)
    x2 = x * x
    sin = x * (1 + x2 * (-1 / 6 + x2 * (1 / 120 - x2 / 5040)))
    cos = 1 + x2 * (-1 / 2 + x2 * (1 / 24 - x2 / 720))
    radius = radius * math.sqrt(0.5)
    return (
        _flip(radius * (cos - sin), word << 31),
        _flip(radius * (cos + sin), (word << 30) & jnp.uint32(0x80000000)),
    )


def _flip(x: Array, sign_bit: Array) -> Array:
    bits = lax.bitcast_convert_type(x, jnp.uint32) ^ sign_bit
    return lax.bitcast_convert_type(bits, jnp.float32)
