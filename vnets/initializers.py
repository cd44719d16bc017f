"""How weights start, beside JAX's own initializers: (key, shape) -> array."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from vnets.nodes import fan_in_uniform
from vnets.types import Array, Initializer, Key, Shape


def dirac(rest: Initializer) -> Initializer:
    """A convolution that hands its inputs on: output i starts as input i.

    Of min(I, O) filters the middle tap of one input is 1, and all else is 0
    (`torch.nn.init.dirac_`); further ones start as `rest` says.

    Args:
      rest: of the whole kernel [kh, kw, I, O]; what it draws for the first filters is
        not used.

    Raises:
      ValueError: when called, a shape that is no 2-D convolution's.
    """

    def init(key: Key, shape: Shape, dtype=jnp.float32) -> Array:
        if len(shape) != 4:
            raise ValueError(f"dirac starts a kernel [kh, kw, I, O], not {list(shape)}")
        kh, kw, inputs, outputs = shape
        same = min(inputs, outputs)
        drawn = rest(key, shape).astype(dtype).at[..., :same].set(0)
        units = jnp.arange(same, dtype=jnp.int32)
        return drawn.at[kh // 2, kw // 2, units, units].set(1)

    return init


def whitening(images: np.ndarray, eps: float = 5e-4, patches: int = 400_000):
    """Filters that make the patches of images uncorrelated and of equal size.

    The eigenvectors of the patches' second moments, each divided by sqrt(value + eps),
    then the same with their signs turned: 2 kh kw C filters [kh, kw, C, O], the largest
    eigenvalue first (after the fast CIFAR-10 recipes of Page 2019 and Jordan 2024).

    Args:
      images: float [N, H, W, C], as the layer sees them.
      eps: added to the eigenvalues, so that what is nearly constant stays small.
      patches: at most so many are looked at, those of the first images.

    Raises:
      ValueError: when called, a shape that does not fit: other channels, or another
        number of filters than 2 kh kw C.
    """

    def init(key: Key, shape: Shape, dtype=jnp.float32) -> Array:
        del key  # the data decide
        kh, kw, channels, filters = shape
        fits = (images.shape[-1], 2 * kh * kw * images.shape[-1])
        if (channels, filters) != fits:
            raise ValueError(
                f"whitening of {list(images.shape[1:])} by {kh} x {kw} pixels has "
                f"{fits[1]} filters of {fits[0]} channels, not {filters} of {channels}"
            )
        places = (images.shape[1] - kh + 1) * (images.shape[2] - kw + 1)
        few = np.asarray(images[: max(1, patches // places)], np.float64)
        seen = np.lib.stride_tricks.sliding_window_view(few, (kh, kw), axis=(1, 2))
        flat = seen.transpose(0, 1, 2, 4, 5, 3).reshape(-1, kh * kw * channels)
        values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
        scaled = (vectors / np.sqrt(values + eps))[:, ::-1]
        kernel = np.concatenate([scaled, -scaled], axis=1).reshape(shape)
        return jnp.asarray(kernel, dtype)

    return init


def truncated_normal(mean: float, stddev: float) -> Initializer:
    """N(mean, stddev^2) without what is more than two deviations away."""
    centred = initializers.truncated_normal(stddev)
    return lambda key, shape, *dtype: mean + centred(key, shape, *dtype)


INITIALIZERS: dict[str, Callable[..., Initializer]] = {
    "lecun_normal": lambda: initializers.lecun_normal(),
    "fan_in_uniform": lambda: fan_in_uniform,
    "glorot_uniform": lambda: initializers.glorot_uniform(),
    "normal": lambda stddev: initializers.normal(stddev),
    "truncated_normal": truncated_normal,
    "zeros": lambda: initializers.zeros,
    "dirac": lambda: dirac(fan_in_uniform),
}
