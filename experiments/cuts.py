"""What is left of a net whose units were pruned: which go, and what stays of it."""

from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import spec as parts
from vnets import edits, plan
from vnets.columns import EvalSpec
from vnets.compact import Graph, capture, fold_norms, shrink
from vnets.layers import Mode
from vnets.nodes import is_noisy
from vnets.plan.sequences import Attention
from vnets.types import Params

CUTS = {"units": edits.prune_units, "weights": edits.prune}


def pruning(config) -> edits.Edit:
    """What goes before a net is made smaller: units above the threshold `cut.units`,
    weights above `cut.weights`, or both.

    A threshold is a number, or a mapping with one for each noisy layer.

    Raises:
      ConfigError: none of the two, or something else.
    """
    cut = {
        kind: value.to_dict() if isinstance(value, ConfigDict) else value
        for kind, value in config.cut.items()
    }
    if not cut or not set(cut) <= set(CUTS):
        raise parts.ConfigError(
            f"cut must have a threshold of units, of weights or of both: a number, or "
            f"one for each layer; it has {sorted(cut)}"
        )
    return edits.chain(*(CUTS[kind](cut[kind]) for kind in CUTS if kind in cut))


def check_cut(config, params: Params) -> None:
    """Refuses a cut that does not fit the posteriors of a net.

    Args:
      config: with a field `cut`, as `pruning` takes it.
      params: of the net, or their shapes.

    Raises:
      ConfigError: thresholds of other layers than the noisy ones; a threshold of
        weights in a net whose weights have no noise of their own.
    """
    change = pruning(config)
    parts.call("evals.cut", lambda: jax.eval_shape(change, params), {})
    noisy = edits.noisy_layers(params).values()
    weights = [node.bare for node in noisy]
    if "weights" in config.cut and not any(map(is_noisy, weights)):
        raise parts.ConfigError(
            "config.evals.cut.weights: no weight of this net has noise of its own; "
            "choose units"
        )


def columns(config, mode: Mode) -> dict[str, EvalSpec]:
    """The column "cut", the means of what is left, of a config that says what goes."""
    if "cut" not in config:
        return {}
    return {"cut": EvalSpec(edits.chain(pruning(config), edits.mean_only), 1, mode)}


def smaller(model, variables: Mapping, shape: tuple[int, ...]) -> Graph:
    """The same function without the units that do nothing, as arrays.

    Args:
      model: of `vnets.nets`.
      variables: "params" after whatever edit, and the model's other collections.
      shape: of one example.
    """
    return shrink(fold_norms(capture(model, variables, shape)))


def left(model, variables: Mapping, shape: tuple[int, ...]) -> dict[str, float]:
    """How much of a net is in use, from the zeros of its weights.

    Returns:
      units/<layer>: maps of a convolution, inputs of a dense layer, as both papers give
      architectures, and of attention its heads; flops, the multiply-adds of an example
      that are left, and flops_ratio, all of the net's over these.
    """
    small = smaller(model, variables, shape)
    model = getattr(model, "model", model)  # perhaps within `layers.stochastic`
    full = sum(cost.multiply_adds for cost in plan.costs(model.plan, shape).values())
    flops = sum(cost.multiply_adds for cost in live_costs(small).values())
    units = {}
    for name in plan.linear_layers(small.plan):
        kernel = small.kernels[name]
        inputs, outputs = _live(kernel)
        units[f"units/{name}"] = float(inputs if kernel.ndim == 2 else outputs)
    for name, kept in heads(small).items():
        units[f"units/{name}/heads"] = float(kept)
    return {"flops": float(flops), "flops_ratio": full / max(flops, 1), **units}


def live_costs(small: Graph) -> dict[str, plan.Cost]:
    """What each layer of a smaller net costs, by the units that have a weight."""
    own = plan.costs(small.plan, small.shape)
    steps = {s.name: s for s in plan.every(small.plan) if isinstance(s, plan.Linear)}
    live = {name: _live(small.kernels[name]) for name in steps}
    return {**own, **plan.costs(small.plan, small.shape, live)}


def heads(small: Graph) -> dict[str, int]:
    """How many heads each attention has left; one without weights is none."""
    found = {}
    for step in _attention(small.plan):
        value = step.layers[2].name
        found[step.name] = len(step.values) if small.kernels[value].any() else 0
    return found


def _attention(steps: plan.Plan) -> list[Attention]:
    """Those of a plan, in order of execution."""
    found = []
    for step in steps:
        if isinstance(step, plan.Residual):
            found += _attention(step.body) + _attention(step.shortcut)
        elif isinstance(step, Attention):
            found.append(step)
    return found


def _live(kernel: np.ndarray) -> tuple[int, int]:
    """Input and output units with a nonzero weight."""
    used = np.any(kernel.reshape(-1, *kernel.shape[-2:]), axis=0)
    return int(used.any(axis=1).sum()), int(used.any(axis=0).sum())
