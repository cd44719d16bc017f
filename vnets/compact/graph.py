"""A trained net as NumPy arrays, dense: what is folded, shrunk and quantized."""

import collections
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from vnets.plan import (
    Conv,
    Dense,
    Flatten,
    Norm,
    Plan,
    Shape,
    Step,
    every,
    placed,
    replaced,
    shapes,
)

LARGEST = 2**28  # weights of one layer, and units of one map of one example


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Batch normalization with running statistics, y = slope x + shift, each [C]."""

    slope: np.ndarray
    shift: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """One linear layer by its nonzero weights.

    Attributes:
      shape: of the kernel, [I, O] or [kh, kw, I, O].
      positions: of the nonzero weights in the flattened kernel, int64 [n], rising.
      values: float32 [n].
      bias: float32 [O].
    """

    shape: Shape
    positions: np.ndarray
    values: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A plan with dense arrays.

    Attributes:
      plan: the steps.
      shape: of one example, [H, W, C] or [I].
      kernels: layer to [I, O] or [kh, kw, I, O], float32.
      biases: layer to [O], float32; zero where a layer has none.
      norms: normalization to its slope and shift.
    """

    plan: Plan
    shape: Shape
    kernels: Mapping[str, np.ndarray]
    biases: Mapping[str, np.ndarray]
    norms: Mapping[str, Statistics] = dataclasses.field(default_factory=dict)

    def linear(self, name: str) -> Linear:
        """A layer by its nonzero weights."""
        flat = self.kernels[name].ravel()
        positions = np.flatnonzero(flat)
        return Linear(
            self.kernels[name].shape, positions, flat[positions], self.biases[name]
        )

    def nonzeros(self) -> dict[str, int]:
        """The number of nonzero weights of each layer."""
        return {name: int(np.count_nonzero(k)) for name, k in self.kernels.items()}

    def with_own_widths(self) -> "Graph":
        """The graph whose plan has as many units as the arrays."""

        def resized(step: Step) -> Step:
            if isinstance(step, Conv | Dense):
                units = self.biases[step.name].size
                return dataclasses.replace(step, features=units)
            return step

        return dataclasses.replace(self, plan=replaced(self.plan, resized))

    def to_flax(self):
        """The dense net in Flax: `(model, variables)`, the same function.

        `model.apply(variables, x)` takes what a predictor takes, as floats.

        Raises:
          ValueError: a normalization; `fold_norms` comes first.
        """
        import jax.numpy as jnp

        from vnets.nets.chain import Chain
        from vnets.nodes import Point

        if self.norms:
            raise ValueError("fold the normalization first")
        params = {
            name: {"kernel": Point(jnp.asarray(kernel)), "bias": jnp.asarray(bias)}
            for name, kernel in self.kernels.items()
            for bias in (self.biases[name],)
        }
        return Chain(steps=replaced(self.plan, biased)), {"params": params}


def biased(step: Step) -> Step:
    """The step with a bias, if it is linear."""
    linear = isinstance(step, Conv | Dense)
    return dataclasses.replace(step, bias=True) if linear else step


def kernel_shapes(plan: Plan, shape: Shape) -> dict[str, Shape]:
    """The kernel's shape of each linear layer.

    Raises:
      ValueError: a plan with two steps of a name, that does not end in a vector or fit
        the shape, or whose arrays would be too large; or a shape of other axes.
    """
    if len(shape) not in (1, 3):
        raise ValueError(f"an example is [I] or [H, W, C], not {list(shape)}")
    names = collections.Counter(
        step.name for step in every(plan) if isinstance(step, Conv | Dense | Norm)
    )
    repeated = sorted(name for name, times in names.items() if times > 1)
    if repeated:
        raise ValueError(f"several steps have the names {repeated}")
    found = {}
    for step, before, after in placed(plan, shape):
        if isinstance(step, Dense):
            if len(before) != 1:
                raise ValueError(f"layer {step.name!r} must come after Flatten")
            found[step.name] = (before[0], step.features)
        elif isinstance(step, Conv):
            found[step.name] = (*step.kernel, before[-1], step.features)
        sizes = [before, after]
        if isinstance(step, Conv | Dense):
            sizes.append(found[step.name])
        if max(map(math.prod, sizes)) > LARGEST:
            raise ValueError(f"{step} makes arrays of more than {LARGEST} numbers")
    if not found or len(shapes(plan, shape)[-1]) != 1:
        raise ValueError("a net needs a linear layer, and ends with a vector of units")
    return found


def capture(model, variables: Mapping, shape: Shape) -> Graph:
    """A net of `vnets.nets` as NumPy arrays, by the means of all that is a node.

    Args:
      model: a `nets.Net`, also within `layers.stochastic`: it has a plan. A step's name
        is the path of its module among the parameters, "block/conv1" where modules are
        nested.
      variables: "params" after whatever edit, and "batch_stats" where it normalizes.
      shape: of one example.

    Raises:
      ValueError: a model without a plan, one that does not fit the shape, or one that
        names other modules than the parameters have; a kernel of another shape, as of a
        convolution that is 1-D, 3-D or grouped. One that is dilated, transposed or
        circular has no step either, and a kernel that looks like any other's.
    """
    if not hasattr(model, "plan"):  # perhaps within `layers.stochastic`
        model = getattr(model, "model", model)
    if not hasattr(model, "plan"):
        raise ValueError(
            f"{type(model).__name__} has no plan, as the nets of vnets.nets have; "
            "write its layers down as a nets.Chain, which takes the same parameters"
        )
    if "params" not in variables:
        raise ValueError(
            'variables need "params", and "batch_stats" where the net normalizes; '
            f"there are {sorted(variables)}"
        )
    plan, expected = model.plan, kernel_shapes(model.plan, shape)
    params = _by_path(variables["params"])
    seen = _by_path(variables.get("batch_stats", {}))
    _check_names(plan, params, seen)
    kernels, biases, norms = {}, {}, {}
    for step in every(plan):
        if isinstance(step, Conv | Dense):
            kernels[step.name] = _mean(params[step.name]["kernel"])
            if kernels[step.name].shape != expected[step.name]:
                raise ValueError(
                    f"layer {step.name!r} has a kernel {kernels[step.name].shape}; "
                    f"examples of shape {shape} need {expected[step.name]} (a step's "
                    "convolution is 2-D, of one group)"
                )
            bias = params[step.name].get("bias")
            if bias is not None and not step.bias:
                raise ValueError(f"layer {step.name!r} has a bias, its step has none")
            zero = np.zeros(step.features, np.float32)
            biases[step.name] = zero if bias is None else _mean(bias)
        elif isinstance(step, Norm):
            learned = {k: _mean(v) for k, v in params.get(step.name, {}).items()}
            affine = {"scale": 1.0, "bias": 0.0, **learned}
            norms[step.name] = _statistics(step, seen[step.name], affine)
    return Graph(plan, tuple(shape), kernels, biases, norms)


def _by_path(collection: Mapping, path: str = "") -> dict[str, Mapping]:
    """What each module holds itself, by its path; of one that holds something."""
    found = {}
    for name, held in collection.items():
        if isinstance(held, Mapping):
            own = {k: v for k, v in held.items() if not isinstance(v, Mapping)}
            found |= {path + name: own} if own else {}
            found |= _by_path(held, f"{path}{name}/")
    return found


def _check_names(plan: Plan, params: Mapping, seen: Mapping) -> None:
    """Refuses a plan whose steps are not the modules that there are, one by one."""
    linear = [step.name for step in every(plan) if isinstance(step, Conv | Dense)]
    norms = [step.name for step in every(plan) if isinstance(step, Norm)]
    missing = [name for name in linear if "kernel" not in params.get(name, {})]
    if missing:
        raise ValueError(
            f"the plan's layers {missing} are not among the parameters of "
            f"{sorted(params)}: a chain takes those of a net with the same names"
        )
    unseen = [name for name in norms if name not in seen]
    if unseen:
        raise ValueError(
            f'the plan\'s normalizations {unseen} are not among the "batch_stats" of '
            f"{sorted(seen)}"
        )
    unused = sorted(set(params) - {*linear, *norms})
    if unused:
        raise ValueError(
            f"no step of the plan has the parameters of {unused}: it is not the net "
            "that they are of"
        )


def _mean(node) -> np.ndarray:
    """A posterior node's mean, or an array as it is."""
    if not hasattr(node, "moments"):
        return np.asarray(node, np.float32)
    mean, _ = node.moments()
    return np.zeros(node.shape, np.float32) if mean is None else np.asarray(mean)


def _statistics(step: Norm, seen: Mapping, affine: Mapping) -> Statistics:
    mean, var = (np.asarray(seen[name], np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(affine[name], np.float64) for name in ("scale", "bias"))
    slope = scale / np.sqrt(var + step.epsilon)
    return Statistics(slope, bias - mean * slope)


def without_flatten(plan: Plan) -> Plan:
    """The steps that compute; Flatten only renames units."""
    return tuple(step for step in plan if not isinstance(step, Flatten))
