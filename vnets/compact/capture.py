"""From a trained net of Flax to a graph."""

import math
from collections.abc import Mapping

import numpy as np

from vnets.compact.graph import Graph, Statistics, kernel_shapes
from vnets.compact.verify import verify
from vnets.plan import (
    Dense,
    Kernel,
    LayerNorm,
    Linear,
    Norm,
    Plan,
    Shape,
    Weighted,
    every,
    linear_layers,
)
from vnets.plan.sequences import Recurrent


def capture(
    model,
    variables: Mapping,
    shape: Shape,
    *,
    noise: bool = False,
    example: tuple[np.ndarray, np.ndarray] | None = None,
) -> Graph:
    """A net of `vnets.nets` as NumPy arrays, by the means of all that is a node.

    Args:
      model: a `nets.Net`, also within `layers.stochastic`: it has a plan. A step's name
        is the path of its module among the parameters, "block/conv1" where modules are
        nested.
      variables: "params" after whatever edit, and "batch_stats" where it normalizes.
      shape: of one example.
      noise: with the deviations of weights of independent normal noise.
      example: inputs [B, *shape] and what the net makes of them without noise, [B, K]:
        the plan is held to it (`verify`). Modules say nothing of what stands between
        them, such as an activation that the plan forgot.

    Raises:
      ValueError: a model without a plan, one that does not fit the shape, or one that
        names other modules than the parameters have; a kernel of another shape, as of a
        convolution that is 1-D, 3-D or of a few groups. One that is dilated, transposed
        or circular has no step either, and a kernel that looks like any other's. With
        `noise`, a weight whose noise is of another kind, or a noisy bias. Other outputs
        than those of the example.
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
        if isinstance(step, Kernel):
            layer = params[step.name]
            kernel = _mean(layer[_leaf(layer)])
            kernels[step.name] = _flat(step, kernel, expected[step.name])
            if isinstance(step, Recurrent) and "scale" in layer:
                scale = _mean(layer["scale"])
                norms[step.name] = Statistics(scale, np.zeros_like(scale))
            if kernels[step.name].shape != expected[step.name]:
                raise ValueError(
                    f"layer {step.name!r} has a kernel {kernels[step.name].shape}; "
                    f"examples of shape {shape} need {expected[step.name]} (a step's "
                    "convolution is 2-D, of one group or of as many as channels)"
                )
            if noise:
                deviations |= _deviations(step, layer, expected[step.name])
            bias = layer.get("bias")
            if bias is not None and isinstance(step, Linear) and not step.bias:
                raise ValueError(f"layer {step.name!r} has a bias, its step has none")
            zero = np.zeros(expected[step.name][-1], np.float32)
            biases[step.name] = zero if bias is None else _mean(bias).ravel()
        elif isinstance(step, LayerNorm):
            learned = params.get(step.name, {})
            scale, bias = (
                _mean(learned.get(name, np.full(expected[step.name][-1], start)))
                for name, start in (("scale", 1.0), ("bias", 0.0))
            )
            kernels[step.name], biases[step.name] = scale[None], bias
        elif isinstance(step, Norm):
            learned = {k: _mean(v) for k, v in params.get(step.name, {}).items()}
            affine = {"scale": 1.0, "bias": 0.0, **learned}
            norms[step.name] = _statistics(step, seen[step.name], affine)
    graph = Graph(plan, tuple(shape), kernels, biases, norms, deviations)
    if example is not None:
        verify(graph, *example)
    return graph


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
    linear = linear_layers(plan)
    scales = [step.name for step in every(plan) if isinstance(step, LayerNorm)]
    norms = [step.name for step in every(plan) if isinstance(step, Norm)]
    missing = [n for n in linear if _leaf(params.get(n, {})) not in params.get(n, {})]
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
    unused = sorted(set(params) - {*linear, *scales, *norms})
    if unused:
        raise ValueError(
            f"no step of the plan has the parameters of {unused}: it is not the net "
            "that they are of"
        )


def _leaf(layer: Mapping) -> str:
    """What a layer calls its kernel; `nn.Embed` has another name for it."""
    return "embedding" if "embedding" in layer else "kernel"


def _flat(step: Kernel, kernel: np.ndarray, shape: Shape) -> np.ndarray:
    """The kernel of an attention's layer, [I, heads, units] or [heads, units, O], as
    one of a dense layer; another one as it is."""
    ends = kernel.shape[:1] == shape[:1] or kernel.shape[-1:] == shape[-1:]
    heads = isinstance(step, Dense) and kernel.ndim == 3 and ends
    return (
        kernel.reshape(shape) if heads and kernel.size == math.prod(shape) else kernel
    )


def _mean(node) -> np.ndarray:
    """A posterior node's mean, or an array as it is."""
    if not hasattr(node, "moments"):
        return np.asarray(node, np.float32)
    mean, _ = node.moments()
    return np.zeros(node.shape, np.float32) if mean is None else np.asarray(mean)


def _deviations(step: Kernel, layer: Mapping, shape: Shape) -> dict[str, np.ndarray]:
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
    return Statistics.of(mean, var, scale, bias, step.epsilon)
