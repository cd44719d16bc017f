"""`stochastic` makes layers of any Flax model stochastic, without rewriting it."""

import contextlib
import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.core import FrozenDict

from vnets import ops, vectors
from vnets.edits import VECTORS
from vnets.layers.convolutions import convolution
from vnets.layers.mode import TEST, Mode
from vnets.layers.modules import Factories, linear, where
from vnets.posteriors import Factory, is_posterior
from vnets.rng import stream
from vnets.types import Array, in_float32

KNOWN = nn.Dense | nn.Conv | nn.ConvTranspose | nn.BatchNorm


@dataclasses.dataclass(frozen=True)
class Stochastic:
    """A Flax model in which chosen layers have posterior kernels, biases or scales.

    It has the `init` and `apply` of the model, with a `mode` beside the inputs. A
    BatchNorm without a `use_running_average` of its own or of its caller's follows
    `mode.norm`; one that has it does what that says.
    """

    model: nn.Module
    posteriors: Mapping[str, Factory]

    def init(self, rngs: Any, *args, mode: Mode = TEST, **kwargs):
        """The model's `init`; `rngs` is a key, or a dict with "params" and "noise".

        Raises:
          ValueError: a path that matches nothing; the message lists what there is.
        """
        if not isinstance(rngs, dict):
            rngs = {"params": rngs, "noise": stream(rngs, "noise")}
        seen: dict[str, bool] = {}  # name to whether it is a vector's
        others: dict[str, str] = {}  # path of any other module to its kind
        with self._intercepted(mode, seen, others):
            variables = self.model.init(rngs, *args, **kwargs)
        unused = [
            pattern
            for pattern in self.posteriors
            if not any(_matches(pattern, *one) for one in seen.items())
        ]
        if unused:
            kinds = "".join(
                f"; {path!r} is a {kind}"
                for path, kind in others.items()
                if any(fnmatch.fnmatchcase(path, pattern) for pattern in unused)
            )
            raise ValueError(
                f"no Dense or Conv layer, bias or scale matches {unused}; there are "
                f"{sorted(seen, key=lambda name: (seen[name], name))}{kinds}"
            )
        return variables

    def apply(self, variables, *args, mode: Mode = TEST, **kwargs):
        """The model's `apply`; give `rngs={"noise": key}` while anything is noisy.

        In half precision (`mode.precision`) the outputs are float32 nevertheless.
        """
        with self._intercepted(mode, {}, {}):
            result = self.model.apply(variables, *args, **kwargs)
        if mode.precision == "float32":
            return result
        if kwargs.get("mutable", False) is False:
            return jax.tree.map(in_float32, result)
        outputs, collections = result
        return jax.tree.map(in_float32, outputs), collections

    @contextlib.contextmanager
    def _intercepted(self, mode: Mode, seen: dict, others: dict):
        def interceptor(call, args, kwargs, context):
            module = context.module
            path = call_path(context)
            known = isinstance(module, KNOWN)
            if path is None or not known or not _is_of_flax(context.orig_method):
                if path and not known:
                    others[path] = type(module).__name__
                return call(*args, **kwargs)
            if isinstance(module, nn.BatchNorm):
                args, kwargs = _switched(module, mode, args, kwargs)
            factories = {
                name: self._factory(f"{path}/{name}", vector=True)
                for name in vectors.learned(module)
            }
            if not isinstance(module, nn.BatchNorm):
                factories["kernel"] = self._factory(path, vector=False)
                seen[path] = False
            seen.update({f"{path}/{name}": True for name in vectors.learned(module)})
            named = {name: make for name, make in factories.items() if make}
            if not named and not any(_holds_posterior(module, n) for n in factories):
                return call(*args, **kwargs)
            if isinstance(module, nn.BatchNorm):
                how = named, mode.estimator
                return vectors.normalized(module, *how, *args, **kwargs)
            kernel = named.get("kernel", _own_kernel(module))
            return _stochastic_call(
                module, (kernel, named.get("bias")), mode, *args, **kwargs
            )

        with nn.intercept_methods(interceptor):
            yield

    def _factory(self, name: str, vector: bool) -> Factory | None:
        for pattern, factory in self.posteriors.items():
            if _matches(pattern, name, vector):
                return factory
        return None


def _matches(pattern: str, name: str, vector: bool) -> bool:
    """A pattern that ends with the name of a vector is of vectors, others of kernels.

    Unless it is the very name of a layer: one may be called "scale".
    """
    of_vectors = pattern.rpartition("/")[2] in VECTORS
    fits = of_vectors == vector or (pattern == name and not vector)
    return fits and fnmatch.fnmatchcase(name, pattern)


def stochastic(model: nn.Module, posteriors: Mapping[str, Factory]) -> Stochastic:
    """Makes layers of any Flax model stochastic without rewriting it.

    Args:
      model: a module made of `flax.linen.Dense`, `Conv` and `ConvTranspose` (over any
        number of axes, in groups, dilated, with any padding of Flax), whatever else
        there is between them; that stays as it is (`Embed`, `ConvLocal`, or
        `DenseGeneral`, which attention is made of). Of a stochastic layer strides,
        padding, dilations, groups, `use_bias`, `bias_init` and `dtype` count;
        `param_dtype` does not (parameters are float32), nor does `kernel_init` (the
        factory has its own), and other options that are set, such as `mask`, are
        refused with a ValueError. So is noise on the input units of a grouped
        convolution, whose kernel has only some of them.
      posteriors: layer path ("dense1", "block_0/conv", or a pattern like "*/conv") to
        the factory of its kernel; "dense1/bias", or of a BatchNorm "norm/scale" and
        "norm/bias", or a pattern that ends so, to that of a vector (`vnets.vectors`).
        The first match counts.

    Returns:
      An object with the model's `init(key, x)` and `apply(variables, x, mode=...,
      rngs={"noise": key})`. Parameters keep their paths: those of a trained model fit.

    Raises:
      ValueError: what is no mapping of names to factories.
    """
    named = isinstance(posteriors, Mapping) and all(
        isinstance(name, str) and callable(make) for name, make in posteriors.items()
    )
    if not named:
        raise ValueError(
            "posteriors map the names of layers to factories, such as "
            f"{{'dense1': posteriors.gaussian()}}; not so {posteriors!r}"
        )
    return Stochastic(model, FrozenDict(posteriors))


def call_path(context: nn.module.InterceptorContext) -> str | None:
    """The path of the module whose `__call__` an interceptor sees.

    Other methods give None: a net reads its plan through them before it has a path.
    """
    if context.method_name != "__call__":
        return None
    return "/".join(context.module.path)


def _is_of_flax(method: Any) -> bool:
    """False for a subclass's own call; that of Flax within it comes by itself."""
    return getattr(method, "func", method).__module__.startswith("flax.")


def _switched(module: nn.BatchNorm, mode: Mode, args: tuple, kwargs: dict):
    """The arguments of a batch normalization that leaves its statistics to the mode."""
    said = *args[1:2], kwargs.get("use_running_average"), module.use_running_average
    if all(one is None for one in said):
        running = mode.norm == "running"
        args, kwargs = args[:1], {**kwargs, "use_running_average": running}
    return args, kwargs


def _holds_posterior(module: nn.Module, name: str) -> bool:
    return module.has_variable("params", name) and is_posterior(
        module.get_variable("params", name)
    )


def _own_kernel(module: Any) -> Callable:
    """What makes the array of a kernel that is not stochastic, though its bias is."""
    return lambda key, shape: module.kernel_init(key, shape, module.param_dtype)


# Options of a Flax Dense or convolution that a stochastic one does not have.
PLAIN = (
    *("mask", "precision", "promote_dtype", "dot_general", "dot_general_cls"),
    *("conv_general_dilated", "conv_general_dilated_cls"),
    *("transpose_kernel", "preferred_element_type"),
)


def _stochastic_call(
    module: Any, factories: Factories, mode: Mode, inputs: Array
) -> Array:
    """What a Flax Dense or convolution computes, with posterior nodes."""
    x = inputs  # which is what Flax calls it, and callers may
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name in PLAIN and value is not field.default and value is not None:
            raise ValueError(
                f"{where(module)}: a stochastic {type(module).__name__} takes no "
                f"{field.name}"
            )
    if isinstance(module, nn.Dense):
        op, shape = ops.DENSE, (x.shape[-1], module.features)
    else:
        op, shape = convolution(module, x)
    return linear(module, op, shape, factories, x, mode)
