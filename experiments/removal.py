"""What weights of little signal are worth: Blundell et al. 2015, their section on
pruning.

The signal to noise of a weight is |mean| / deviation. Weights are ranked by it, those
of all layers together, and the lowest are removed; the net is tested without noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import spec as parts
from experiments.core import Measured
from vnets import edits
from vnets.columns import EvalSpec
from vnets.nodes import log_alpha
from vnets.predictor import Member
from vnets.rng import stream

EDGES = np.arange(-80.0, 61.0, 2.0)  # of the histogram, the same for all nets, dB
DECIBEL = 10 / np.log(10)  # of the square, in a neper of it


def measure_of(kind) -> Callable | None:
    """What removing the shares `evals.removed` costs: a column and a point for each.

    None where the config names no share.

    Raises:
      ConfigError: a net without noisy weights, or a share outside of [0, 1).
    """
    shares = tuple(kind.config.evals.get("removed", ()))
    if not shares:
        return None
    changes = {
        share: parts.call("evals.removed", edits.prune_share, {"share": share})
        for share in shares
    }
    some = changes[shares[0]]
    parts.call("evals.removed", lambda: jax.eval_shape(some, kind.shapes), {})

    def measure(params, collections, key) -> Measured:
        net = Member(kind.model, {"params": params, **collections})
        evals = {}
        for share, change in changes.items():
            spec = EvalSpec(edits.chain(change, edits.mean_only), 1, kind.mode)
            own = stream(key, "removed")
            name = f"removed_{100 * share:g}"
            evals[name] = kind.tested(net, spec, kind.test, own)
        curve = {
            "removed": [100.0 * share for share in shares],
            "error": [100.0 * one["error"] for one in evals.values()],
        }
        return Measured(evals, {"removed": curve, "signal": histogram(params)})

    return measure


def histogram(params) -> dict[str, list[float]]:
    """Of the signal to noise of all noisy weights: decibel, and the share in each bin.

    What lies beyond the `EDGES` counts in the bins at the ends.
    """
    found = [node.bare for node in edits.noisy_layers(params).values()]
    logs = [jnp.ravel(log_alpha(node)) for node in found if node.noisy]
    decibel = -DECIBEL * np.asarray(jnp.concatenate(logs), np.float64)
    count, _ = np.histogram(np.clip(decibel, EDGES[0], EDGES[-1]), EDGES)
    middle = (EDGES[:-1] + EDGES[1:]) / 2
    return {"decibel": middle.tolist(), "share": (count / len(decibel)).tolist()}
