"""`Dense`, `Conv` and batch normalization, the layers that our nets are made of."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from vnets import ops, vectors
from vnets.layers.mode import TEST, Mode
from vnets.nodes import Factory, check_factory, is_noisy, point
from vnets.types import Array

Factories = tuple[Factory, Factory | None]  # of a kernel, and of a stochastic bias


class Dense(nn.Module):
    """A dense layer, [B, ..., I] -> [B, ..., features].

    Attributes:
      features: O.
      posterior: factory of the kernel [I, O] (`vnets.nodes`).
      use_bias: adds a bias [O], zero at the start.
      bias_posterior: factory of the bias; deterministic where None.

    Raises:
      ValueError: an input without a batch, [I].
    """

    features: int
    posterior: Factory = point()
    use_bias: bool = True
    bias_posterior: Factory | None = None

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        shape = (x.shape[-1], self.features)
        factories = self.posterior, self.bias_posterior
        return linear(self, ops.DENSE, shape, factories, x, mode)


class Conv(nn.Module):
    """A 2-D convolution, [B, H, W, I] -> [B, H', W', features].

    Attributes:
      features: O.
      kernel_size: kh, kw.
      strides: along H and W.
      padding: "SAME", "VALID" or (low, high) along H and W.
      posterior: factory of the kernel [kh, kw, I, O] (`vnets.nodes`).
      use_bias: adds a bias [O], zero at the start.
      bias_posterior: factory of the bias; deterministic where None.

    Raises:
      ValueError: a kernel_size or strides that are no pair, a padding that does not
        exist, or an input that is not [B, H, W, I].
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    posterior: Factory = point()
    use_bias: bool = True
    bias_posterior: Factory | None = None

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        _check_maps(self, x)
        op = ops.conv(
            x.shape[1:3],
            self.kernel_size,
            (x.shape[-1], self.features),
            self.strides,
            self.padding,
        )
        shape = (*self.kernel_size, x.shape[-1], self.features)
        factories = self.posterior, self.bias_posterior
        return linear(self, op, shape, factories, x, mode)


class Depthwise(nn.Module):
    """A convolution of each channel by itself, [B, H, W, C] -> [B, H', W', C].

    Attributes:
      kernel_size: kh, kw.
      strides: along H and W.
      padding: "SAME", "VALID" or (low, high) along H and W.
      posterior: factory of the kernel [kh, kw, 1, C] (`vnets.nodes`).
      use_bias: adds a bias [C], zero at the start.
      bias_posterior: factory of the bias; deterministic where None.

    Raises:
      ValueError: as of `Conv`.
    """

    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    posterior: Factory = point()
    use_bias: bool = True
    bias_posterior: Factory | None = None

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        _check_maps(self, x)
        op = ops.GeneralConv(
            self.strides, self.padding, (1, 1), (1, 1), groups=x.shape[-1]
        )
        shape = (*self.kernel_size, 1, x.shape[-1])
        factories = self.posterior, self.bias_posterior
        return linear(self, op, shape, factories, x, mode)


def _check_maps(module: Conv | Depthwise, x: Array) -> None:
    if x.ndim != 4:
        raise ValueError(f"{where(module)} takes [B, H, W, I], not {list(x.shape)}")
    for name in ("kernel_size", "strides"):
        value = getattr(module, name)
        if isinstance(value, int) or len(value) != 2:
            raise ValueError(
                f"{where(module)}: {name} is a pair, for H and W, not {value!r}"
            )


def linear(module: nn.Module, op, shape, factories: Factories, x: Array, mode: Mode):
    """Kernel, estimator and bias of a linear layer, within the module's own scope.

    A Flax module's own `dtype` comes before the mode's, and its bias starts as it says.
    """
    posterior, bias_posterior = factories
    check_factory(posterior, "/".join((*module.path, "kernel")))
    if x.ndim < 2:
        raise ValueError(
            f"{where(module)} takes a batch, [B, ..., I], not {list(x.shape)}"
        )
    if jnp.iscomplexobj(x):
        raise ValueError(f"{where(module)} takes real numbers, not {x.dtype}")
    if module.has_variable("params", "kernel"):
        kernel = module.get_variable("params", "kernel")
    else:
        kernel = module.param("kernel", posterior, shape)
    q = vectors.as_node(kernel, "/".join((*module.path, "kernel")))
    if q.shape != tuple(shape):
        raise ValueError(
            f"{where(module)}: the kernel is {q.shape}, the input needs {tuple(shape)}"
        )
    key = vectors.noise_key(module) if is_noisy(q) else None
    estimate = mode.estimator
    if mode.remat:
        estimate = jax.checkpoint(estimate, static_argnums=0)
    dtype = getattr(module, "dtype", None) or mode.precision
    y = estimate(op, q, x.astype(dtype), key)
    if module.use_bias:
        start = getattr(module, "bias_init", nn.initializers.zeros_init())
        if isinstance(op, ops.General) and len(op.outputs) > 1:  # no vector
            bias = module.param("bias", start, op.outputs, jnp.float32).astype(y.dtype)
            return y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
        bias = vectors.parameter(module, "bias", bias_posterior, start, shape[-1])
        y = y + vectors.drawn(module, bias, mode.estimator, y).astype(y.dtype)
    return y


def where(module: nn.Module) -> str:
    return f"layer {'/'.join(module.path)!r}"


def batch_norm(
    name: str,
    mode: Mode,
    momentum: float = 0.9,
    bias: bool = True,
    scale: bool = True,
    epsilon: float = 1e-5,
    zero: bool = False,
    posteriors: Mapping[str, Factory] | None = None,
) -> nn.BatchNorm:
    """Flax's batch normalization, switched by `mode.norm` and by nothing else.

    Args:
      name: of the module.
      mode: says which statistics count, and the type of the output.
      momentum: of the running statistics.
      bias: with a learned bias.
      scale: with a learned scale.
      epsilon: added to the variance.
      zero: the scale starts at 0, so that nothing comes through at first, not at 1.
      posteriors: factories of "scale" and "bias" where they are stochastic.
    """
    start = nn.initializers.zeros_init() if zero else nn.initializers.ones_init()
    kind = nn.BatchNorm
    if posteriors:
        kind = functools.partial(
            vectors.BatchNorm,
            posteriors=FrozenDict(posteriors),
            estimator=mode.estimator,
        )
    return kind(
        use_running_average=mode.norm == "running",
        momentum=momentum,
        epsilon=epsilon,
        dtype=jnp.dtype(mode.precision),
        use_scale=scale,
        use_bias=bias,
        scale_init=start,
        name=name,
    )


def layer_norm(name: str, mode: Mode, epsilon: float) -> nn.LayerNorm:
    """Flax's normalization of each example over its last axis, scale and bias learned.

    Args:
      name: of the module.
      mode: says the type of the output.
      epsilon: added to the variance, which is of the centred units.
    """
    dtype = jnp.dtype(mode.precision)
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)
