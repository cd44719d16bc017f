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
    Weighted,
    every,
    placed,
    replaced,
    shapes,
)
from vnets.sequence_steps import (
    Embedding,
    LayerNorm,
    Positions,
    Recurrent,
    embedding,
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
      shape: of the kernel, [I, O] or [kh, kw, I, O], or as a `Weighted` step says.
      positions: of the nonzero weights in the flattened kernel, int64 [n], rising.
      values: float32 [n].
      bias: float32 [O].
      deviations: positions and values of the weights' deviations that are not zero;
        None: it has no noise.
    """

    shape: Shape
    positions: np.ndarray
    values: np.ndarray
    bias: np.ndarray
    deviations: tuple[np.ndarray, np.ndarray] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A plan with dense arrays.

    Attributes:
      plan: the steps.
      shape: of one example, [H, W, C] or [I], of tokens [T].
      kernels: layer to [I, O] or [kh, kw, I, O], float32, or as a `Weighted` step says.
      biases: layer to [O], float32; zero where a layer has none.
      norms: normalization to its slope and shift, and recurrent layer to the scale
        of its units, of no shift.
      deviations: noisy layer to the standard deviation of each weight, as its kernel;
        the noise is normal.
    """

    plan: Plan
    shape: Shape
    kernels: Mapping[str, np.ndarray]
    biases: Mapping[str, np.ndarray]
    norms: Mapping[str, Statistics] = dataclasses.field(default_factory=dict)
    deviations: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def linear(self, name: str) -> Linear:
        """A layer by its nonzero weights."""
        kernel, noise = self.kernels[name], self.deviations.get(name)
        return Linear(
            kernel.shape,
            *_nonzero(kernel),
            self.biases[name],
            None if noise is None else _nonzero(noise),
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
            if isinstance(step, Weighted):
                return step.with_outputs(self.biases[step.name].size)
            return step

        return dataclasses.replace(self, plan=replaced(self.plan, resized))

    def to_flax(self):
        """The dense net in Flax: `(model, variables)`, the same function.

        `model.apply(variables, x)` takes what a predictor takes, as floats or tokens.

        Raises:
          ValueError: a normalization; `fold_norms` comes first.
        """
        import jax.numpy as jnp

        from vnets.nets.chain import Chain
        from vnets.nodes import Additive, Point, ZeroMean

        def node(name: str):
            kernel = jnp.asarray(self.kernels[name])
            if name not in self.deviations:
                return Point(kernel)
            deviations = jnp.asarray(self.deviations[name])
            if not self.kernels[name].any():
                return ZeroMean(deviations)
            return Additive(kernel, 2 * jnp.log(deviations))  # log 0: no noise

        if self.norms:
            raise ValueError("fold the normalization first")
        params = {
            name: {"kernel": node(name), "bias": jnp.asarray(bias)}
            for name, bias in self.biases.items()
        }
        for step in every(self.plan):
            if isinstance(step, Embedding | Positions):  # whose rows have the bias
                rows = self.kernels[step.name] + self.biases[step.name]
                params[step.name] = {"kernel": Point(jnp.asarray(rows))}
            elif isinstance(step, LayerNorm):
                scale = jnp.asarray(self.kernels[step.name].ravel())
                params[step.name] = {**params[step.name], "scale": scale}
                del params[step.name]["kernel"]
        return Chain(steps=replaced(self.plan, biased)), {"params": params}


def _nonzero(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the flattened kernel, and values."""
    flat = kernel.ravel()
    positions = np.flatnonzero(flat)
    return positions, flat[positions]


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
    states = embedding(plan) is not None
    names = collections.Counter(
        step.name
        for step in every(plan)
        if isinstance(step, Conv | Dense | Norm | Weighted)
    )
    repeated = sorted(name for name, times in names.items() if times > 1)
    if repeated:
        raise ValueError(f"several steps have the names {repeated}")
    found = {}
    for step, before, after in placed(plan, shape):
        if isinstance(step, Dense):
            if len(before) != 1 and not (states and len(before) == 2):
                raise ValueError(f"layer {step.name!r} must come after Flatten")
            found[step.name] = (before[-1], step.features)
        elif isinstance(step, Conv):
            found[step.name] = (*step.kernel, before[-1], step.features)
        elif isinstance(step, Weighted):
            found[step.name] = step.kernel(before)
        sizes = [before, after]
        if isinstance(step, Conv | Dense | Weighted):
            sizes.append(found[step.name])
        if max(map(math.prod, sizes)) > LARGEST:
            raise ValueError(f"{step} makes arrays of more than {LARGEST} numbers")
    if not found or len(shapes(plan, shape)[-1]) != 1:
        raise ValueError("a net needs a linear layer, and ends with a vector of units")
    return found


def capture(model, variables: Mapping, shape: Shape, *, noise: bool = False) -> Graph:
    """A net of `vnets.nets` as NumPy arrays, by the means of all that is a node.

    Args:
      model: a `nets.Net`, also within `layers.stochastic`: it has a plan. A step's name
        is the path of its module among the parameters, "block/conv1" where modules are
        nested.
      variables: "params" after whatever edit, and "batch_stats" where it normalizes.
      shape: of one example.
      noise: with the deviations of weights of independent normal noise.

    Raises:
      ValueError: a model without a plan, one that does not fit the shape, or one that
        names other modules than the parameters have; a kernel of another shape, as of a
        convolution that is 1-D, 3-D or grouped. One that is dilated, transposed or
        circular has no step either, and a kernel that looks like any other's. With
        `noise`, a weight whose noise is of another kind, or a noisy bias.
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
    kernels, biases, norms, deviations = {}, {}, {}, {}
    for step in every(plan):
        if isinstance(step, Conv | Dense | Weighted):
            layer, wanted = params[step.name], expected[step.name]
            kernels[step.name] = _flat(step, _mean(layer[_leaf(layer)]), wanted)
            if "scale" in layer and isinstance(step, Recurrent):
                scale = _mean(layer["scale"])
                norms[step.name] = Statistics(scale, np.zeros_like(scale))
            if kernels[step.name].shape != expected[step.name]:
                raise ValueError(
                    f"layer {step.name!r} has a kernel {kernels[step.name].shape}; "
                    f"examples of shape {shape} need {expected[step.name]} (a step's "
                    "convolution is 2-D, of one group)"
                )
            if noise:
                deviations |= _deviations(step, layer, expected[step.name])
            bias = layer.get("bias")
            if bias is not None and isinstance(step, Conv | Dense) and not step.bias:
                raise ValueError(f"layer {step.name!r} has a bias, its step has none")
            zero = np.zeros(expected[step.name][-1], np.float32)
            biases[step.name] = zero if bias is None else _mean(bias).ravel()
        elif isinstance(step, Norm):
            learned = {k: _mean(v) for k, v in params.get(step.name, {}).items()}
            affine = {"scale": 1.0, "bias": 0.0, **learned}
            norms[step.name] = _statistics(step, seen[step.name], affine)
    return Graph(plan, tuple(shape), kernels, biases, norms, deviations)


def _leaf(layer: Mapping) -> str:
    """What a layer calls its kernel: an embedding and a normalization of Flax have
    other names for it."""
    return next((n for n in ("kernel", "embedding", "scale") if n in layer), "kernel")


def _flat(step: Step, kernel: np.ndarray, shape: Shape) -> np.ndarray:
    """The kernel of an attention's layer, [I, heads, units] or [heads, units, O], as
    one of a dense layer, a scale as [1, I]; another one as it is."""
    ends = kernel.shape[:1] == shape[:1] or kernel.shape[-1:] == shape[-1:]
    heads = isinstance(step, Dense) and kernel.ndim == 3 and ends
    fits = kernel.size == math.prod(shape) and (heads or isinstance(step, LayerNorm))
    return kernel.reshape(shape) if fits else kernel


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
    linear = [
        step.name for step in every(plan) if isinstance(step, Conv | Dense | Weighted)
    ]
    norms = [step.name for step in every(plan) if isinstance(step, Norm)]
    missing = [
        name
        for name in linear
        if _leaf(params.get(name, {})) not in params.get(name, {})
    ]
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


def _deviations(step, layer: Mapping, shape: Shape) -> dict[str, np.ndarray]:
    """The deviations of a layer's kernel by its name, if it has any."""
    name, found = step.name, {}
    for leaf, node in layer.items():
        if not hasattr(node, "moments") or node.moments()[1] is None:
            continue
        if isinstance(step, Weighted):
            raise ValueError(f"a file holds no noise of {name!r}, a {step}")
        try:
            std, kind = node.location_scale()[1], node.noise
        except TypeError:  # noise that weights share, as that of units
            std, kind = None, "shared"
        if leaf != "kernel" or kind != "normal":
            raise ValueError(
                f"{name}/{leaf} has noise of another kind than a file can hold: "
                "independent and normal, of weights"
            )
        std = np.broadcast_to(np.abs(np.asarray(std, np.float32)), node.shape)
        found[name] = _flat(step, std, shape)
    return found


def _statistics(step: Norm, seen: Mapping, affine: Mapping) -> Statistics:
    mean, var = (np.asarray(seen[name], np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(affine[name], np.float64) for name in ("scale", "bias"))
    slope = scale / np.sqrt(var + step.epsilon)
    return Statistics(slope, bias - mean * slope)


def without_flatten(plan: Plan) -> Plan:
    """The steps that compute; Flatten only renames units."""
    return tuple(step for step in plan if not isinstance(step, Flatten))
