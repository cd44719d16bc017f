"""Whether a graph is the net that it was taken from: outputs of an example agree."""

import dataclasses
from collections.abc import Callable

import numpy as np

from vnets.compact import operations
from vnets.compact.graph import Graph
from vnets.compact.predict import Predictor
from vnets.compact.shrink import fold_norms
from vnets.plan import ACTIVATIONS, Activation, LayerNorm, Linear, Plan, Residual

# Of the range of the outputs: float32 sums in another order are far below, and the two
# GELUs are further apart.
TOLERANCE = 1e-4
TRIED = 16  # examples by which a forgotten activation is looked for


def verify(
    graph: Graph,
    inputs: np.ndarray,
    outputs: np.ndarray,
    *,
    probabilities: bool = False,
) -> None:
    """Holds a graph to what its net makes of some inputs.

    Args:
      graph: also one that is still normalized.
      inputs: [B, *shape], as a `Predictor` takes them.
      outputs: of the net, [B, K], without noise.
      probabilities: the outputs come after a softmax, which the graph has not.

    Raises:
      ValueError: other outputs. Where an activation in a place that has none mends it,
        the message names both.
    """
    folded = fold_norms(graph)
    inputs, outputs = np.asarray(inputs), np.asarray(outputs)

    def apart(graph: Graph, size: int | None = None) -> float:
        """The largest difference, by the range of what is wanted."""
        found, wanted = Predictor(graph)(inputs[:size]), outputs[:size]
        if found.shape != wanted.shape or not len(wanted):
            raise ValueError(
                f"the example has outputs {list(wanted.shape)}, the chain makes "
                f"{list(found.shape)}"
            )
        if probabilities:
            found = operations.softmax(found)
        scale = float(np.ptp(wanted)) or float(np.abs(wanted).max()) or 1.0
        return float(np.abs(found - wanted).max()) / scale

    difference = apart(folded)
    if not difference <= TOLERANCE:  # nor where it is not a number
        raise ValueError(
            "the chain is not the net of the example: its outputs are "
            f"{difference:.3g} of their range away. {_advice(folded, apart)}"
        )


def _advice(graph: Graph, apart: Callable[[Graph, int], float]) -> str:
    """Which activations would mend it, or else where there is none."""
    gaps = _gaps(graph.plan)
    last = tuple(place for place, before_layer in gaps.items() if before_layer)
    # `_gaps` are after layers, which have a name; of any step a checker knows none.
    names = {place: repr(graph.plan[place].name) for place in gaps}  # type: ignore
    for chosen in (last, *((gap,) for gap in gaps)):
        apart_by = {}
        for kind in ACTIVATIONS:
            plan: Plan = tuple(
                one
                for place, step in enumerate(graph.plan)
                for one in ((step, Activation(kind)) if place in chosen else (step,))
            )
            apart_by[kind] = apart(dataclasses.replace(graph, plan=plan), TRIED)
        nearest = min(apart_by, key=lambda kind: apart_by[kind])
        if apart_by[nearest] <= TOLERANCE:
            after = ", ".join(names[place] for place in chosen)
            return f"With {nearest} after {after} they agree: it was forgotten."
    if not last:
        return "Every two layers have an activation between them: is it the right one?"
    after = ", ".join(names[place] for place in last)
    return f"No activation stands between {after} and the layer that follows."


def _gaps(plan: Plan) -> dict[int, bool]:
    """Places of layers and layer normalizations that another of them follows with no
    activation between; and whether that is a layer."""
    found, last = {}, None
    for place, step in enumerate(plan):
        if isinstance(step, Linear | LayerNorm):
            if last is not None:
                found[last] = isinstance(step, Linear)
            last = place
        elif isinstance(step, Activation | Residual):
            last = None
    return found
