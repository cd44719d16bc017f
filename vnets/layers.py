"""Flax modules whose kernels are posterior nodes, and `stochastic` for any other model.

A layer reads its kernel as it finds it, before any shape check, so an edit may have
changed the node's type. Bias and normalization are ordinary parameters.

`Mode` holds two switches that one `train` flag would tie together: how weights are
sampled, and which statistics batch normalization uses. It is hashable and static.
"""

import contextlib
import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from vnets import estimators, ops
from vnets.posteriors import Factory, Point, is_noisy, is_posterior, point
from vnets.rng import stream
from vnets.types import Array, choose

PRECISIONS = ("float32", "bfloat16")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Mode:
    """How a net is run.

    Attributes:
      estimator: a module-level function of `vnets.estimators`.
      norm: statistics of the "batch" (updating the running ones, if they are mutable)
        or the "running" ones.
      precision: of the activations and of products with means: "float32" or
        "bfloat16". Parameters, variances, statistics and logits are float32 always.
      remat: of each layer keep its input alone for the gradient, and compute patches,
        variances and draws again: less memory, more time, the same numbers.
    """

    estimator: Callable = estimators.lrt
    norm: Literal["batch", "running"] = "running"
    precision: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def __post_init__(self):
        choose("norm", self.norm, ("batch", "running"))
        choose("precision", self.precision, PRECISIONS)
        choose("remat", self.remat, (False, True))
        if not callable(self.estimator):
            raise TypeError(
                f"estimator must be a function of vnets.estimators, such as "
                f"{sorted(estimators.ESTIMATORS)}, not {self.estimator!r}"
            )


TRAIN = Mode(norm="batch")
TEST = Mode()


class Dense(nn.Module):
    """A dense layer, [B, ..., I] -> [B, ..., features].

    Attributes:
      features: O.
      posterior: factory of the kernel [I, O] (`vnets.posteriors`).
      use_bias: adds a deterministic bias [O], zero at the start.
    """

    features: int
    posterior: Factory = point()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        shape = (x.shape[-1], self.features)
        return _linear(self, ops.DENSE, shape, self.posterior, x, mode)


class Conv(nn.Module):
    """A 2-D convolution, [B, H, W, I] -> [B, H', W', features].

    Attributes:
      features: O.
      kernel_size: kh, kw.
      strides: along H and W.
      padding: "SAME", "VALID" or (low, high) along H and W.
      posterior: factory of the kernel [kh, kw, I, O] (`vnets.posteriors`).
      use_bias: adds a deterministic bias [O], zero at the start.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    posterior: Factory = point()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        op = ops.conv(
            x.shape[1:3],
            self.kernel_size,
            (x.shape[-1], self.features),
            self.strides,
            self.padding,
        )
        shape = (*self.kernel_size, x.shape[-1], self.features)
        return _linear(self, op, shape, self.posterior, x, mode)


def _linear(module: nn.Module, op, shape, posterior: Factory, x: Array, mode: Mode):
    """Kernel, estimator and bias of a linear layer, within the module's own scope."""
    if module.has_variable("params", "kernel"):
        kernel = module.get_variable("params", "kernel")
    else:
        kernel = module.param("kernel", posterior, shape)
    q = kernel if is_posterior(kernel) else Point(jnp.asarray(kernel))
    if q.shape != tuple(shape):
        raise ValueError(
            f"layer {'/'.join(module.path)!r}: the kernel is {q.shape}, "
            f"the input needs {tuple(shape)}"
        )
    key = module.make_rng("noise") if is_noisy(q) else None
    estimate = mode.estimator
    if mode.remat:
        estimate = jax.checkpoint(estimate, static_argnums=0)
    y = estimate(op, q, x.astype(mode.precision), key)
    if module.use_bias:
        bias = module.param(
            "bias", nn.initializers.zeros_init(), shape[-1:], jnp.float32
        )
        y = y + bias.reshape((1,) * (y.ndim - 1) + bias.shape).astype(y.dtype)
    return y


def batch_norm(
    name: str,
    mode: Mode,
    momentum: float = 0.9,
    bias: bool = True,
    scale: bool = True,
    epsilon: float = 1e-5,
    zero: bool = False,
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
    """
    start = nn.initializers.zeros_init() if zero else nn.initializers.ones_init()
    return nn.BatchNorm(
        use_running_average=mode.norm == "running",
        momentum=momentum,
        epsilon=epsilon,
        dtype=jnp.dtype(mode.precision),
        use_scale=scale,
        use_bias=bias,
        scale_init=start,
        name=name,
    )


@dataclasses.dataclass(frozen=True)
class Stochastic:
    """A Flax model in which chosen Dense and Conv layers have posterior kernels.

    It has the `init` and `apply` of the model, with a `mode` beside the inputs.
    """

    model: nn.Module
    posteriors: Mapping[str, Factory]

    def init(self, rngs: Any, *args, mode: Mode = TEST, **kwargs):
        """The model's `init`; `rngs` is a key, or a dict with "params" and "noise".

        Raises:
          ValueError: a path that matches no Dense or Conv layer; the message lists
            those of the model.
        """
        if not isinstance(rngs, dict):
            rngs = {"params": rngs, "noise": stream(rngs, "noise")}
        seen: dict[str, set] = {}
        with self._intercepted(mode, seen):
            variables = self.model.init(rngs, *args, **kwargs)
        unused = [
            pattern
            for pattern in self.posteriors
            if not any(fnmatch.fnmatchcase(path, pattern) for path in seen)
        ]
        if unused:
            raise ValueError(
                f"no Dense or Conv layer matches {unused}; there are {sorted(seen)}"
            )
        return variables

    def apply(self, variables, *args, mode: Mode = TEST, **kwargs):
        """The model's `apply`; give `rngs={"noise": key}` while anything is noisy."""
        with self._intercepted(mode, {}):
            return self.model.apply(variables, *args, **kwargs)

    @contextlib.contextmanager
    def _intercepted(self, mode: Mode, seen: dict):
        def interceptor(call, args, kwargs, context):
            module = context.module
            path = call_path(context)
            if path is None or not _is_linear(module):
                return call(*args, **kwargs)
            seen.setdefault(path, set())
            factory = self._factory(path)
            if factory is None and not _holds_posterior(module):
                return call(*args, **kwargs)
            return _stochastic_call(module, factory or point(), mode, *args, **kwargs)

        with nn.intercept_methods(interceptor):
            yield

    def _factory(self, path: str) -> Factory | None:
        for pattern, factory in self.posteriors.items():
            if fnmatch.fnmatchcase(path, pattern):
                return factory
        return None


def stochastic(model: nn.Module, posteriors: Mapping[str, Factory]) -> Stochastic:
    """Makes layers of any Flax model stochastic without rewriting it.

    Args:
      model: a module made of `flax.linen.Dense` and `Conv` (2-D, one group).
      posteriors: layer path ("dense1", "block_0/conv", or a pattern like "*/conv") to
        the factory of its kernel; the first match counts.

    Returns:
      An object with the model's `init(key, x)` and `apply(variables, x, mode=...,
      rngs={"noise": key})`. Parameters keep their paths: those of a trained model fit.
    """
    return Stochastic(model, FrozenDict(posteriors))


def call_path(context: nn.module.InterceptorContext) -> str | None:
    """The path of the module whose `__call__` an interceptor sees.

    Other methods give None: a net reads its plan through them before it has a path.
    """
    if context.method_name != "__call__":
        return None
    return "/".join(context.module.path)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Dense | nn.Conv)


def _holds_posterior(module: nn.Module) -> bool:
    return module.has_variable("params", "kernel") and is_posterior(
        module.get_variable("params", "kernel")
    )


def _stochastic_call(module: nn.Module, factory: Factory, mode: Mode, x: Array):
    """What a Flax Dense or Conv computes, with a posterior kernel."""
    if isinstance(module, nn.Dense):
        shape = (x.shape[-1], module.features)
        return _linear(module, ops.DENSE, shape, factory, x, mode)
    kernel_size = tuple(module.kernel_size)
    plain = {
        "feature_group_count": (1,),
        "input_dilation": (1, None, (1, 1)),
        "kernel_dilation": (1, None, (1, 1)),
        "mask": (None,),
    }
    for name, allowed in plain.items():
        if getattr(module, name) not in allowed:
            raise ValueError(
                f"layer {'/'.join(module.path)!r}: a stochastic Conv takes no {name}"
            )
    if len(kernel_size) != 2 or x.ndim != 4:
        raise ValueError(
            f"layer {'/'.join(module.path)!r}: a stochastic Conv is 2-D, [B, H, W, C]"
        )
    strides, padding = (
        (value, value) if isinstance(value, int) else value
        for value in (module.strides or 1, module.padding)
    )
    if not isinstance(padding, str):
        padding = [(p, p) if isinstance(p, int) else p for p in padding]
    channels = x.shape[-1], module.features
    op = ops.conv(x.shape[1:3], kernel_size, channels, tuple(strides), padding)
    shape = (*kernel_size, x.shape[-1], module.features)
    return _linear(module, op, shape, factory, x, mode)
