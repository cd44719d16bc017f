"""What each weight of a model became: a table for a terminal, and counts of zeros."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from vnets import priors, tree
from vnets.edits import mean_of
from vnets.layers import Stochastic
from vnets.nodes import Posterior, is_noisy, is_posterior, log_alpha
from vnets.types import Params

COLUMNS = ("layer", "posterior", "shape", "noisy", "log alpha", "KL", "zeros", "by")
LEFT = ("layer", "posterior", "shape", "by")  # the others are numbers


def summary(
    model,
    params: Params,
    prior: priors.AnyPrior | Mapping[str, priors.AnyPrior] | None = None,
) -> None:
    """Prints what each weight of a model became: a line each, and a last one of all.

    Columns: layer, posterior, shape, noisy or not, log alpha (the median), KL in nats,
    zeros (weights that are 0 whatever is drawn), and by which pattern of
    `layers.stochastic` it was made. Vectors that are arrays are in the last line only.

    Args:
      model: that the parameters are of; its name is printed, and its patterns are.
      params: tree with posterior nodes.
      prior: of `vnets.priors`, or a mapping from layers to priors; without one the KL
        is not known, and shown as "-".
    """
    by = {}
    if isinstance(model, Stochastic):
        found = model.matched(params)
        by = {name: pattern for pattern, names in found.items() for name in names}
    rows = [{**row, "by": by.get(row["layer"], "-")} for row in describe(params, prior)]
    shown = [{name: _text(row[name]) for name in COLUMNS} for row in rows]
    widths = {
        name: max(len(name), *(len(row[name]) for row in shown)) if shown else len(name)
        for name in COLUMNS
    }
    lines = [_line({name: name for name in COLUMNS}, widths)]
    lines += [_line(row, widths) for row in shown]
    print("\n".join((" ".join(repr(model).split()), *lines, _total(params, rows))))


def describe(params: Params, prior=None) -> Iterator[dict]:
    """A row for each weight, and for each vector that is a node.

    Args:
      params: tree with posterior nodes.
      prior: as in `summary`.

    Returns:
      Rows of layer, posterior ("array" of what is no node), shape, noisy, log alpha and
      KL (None where there is none), zeros (a fraction).
    """
    for place, leaf in tree.each(params):
        if is_posterior(leaf):
            yield _of_node(place, leaf, prior)
        elif not place.is_vector and jnp.ndim(leaf) > 1:
            yield {
                "layer": place.name,
                "posterior": "array",
                "shape": tuple(leaf.shape),
                "noisy": False,
                "log alpha": None,
                "KL": None,
                "zeros": float(jnp.mean(leaf == 0)),
            }


def sparsity(params: Params) -> float:
    """Fraction of exact zeros among the means of all weight nodes; 0 without any."""
    counts = _counts(params).values()
    total = sum(size for _, size in counts)
    return sum(zeros for zeros, _ in counts) / total if total else 0.0


def sizes(params: Params) -> dict[str, float]:
    """How many weights are left, as the pruning papers count: biases do not.

    Returns:
      nonzero (count of non-zero means), compression (weights / non-zeros; all weights
      if none is left), sparsity (fraction of zeros), and sparsity/<layer> for each.
    """
    counts = _counts(params)
    total = sum(size for _, size in counts.values())
    nonzero = total - sum(zeros for zeros, _ in counts.values())
    layers = {f"sparsity/{name}": z / size for name, (z, size) in counts.items()}
    return {
        "nonzero": nonzero,
        "compression": total / max(nonzero, 1),
        "sparsity": sparsity(params),
        **layers,
    }


def _counts(params: Params) -> dict[str, tuple[int, int]]:
    """Zeros among the means and their number, for each layer whose weight is a node."""
    counts = {}
    for name, node in tree.weights(params):
        mean = mean_of(node).mean
        counts[name] = int(jnp.sum(mean == 0)), mean.size
    return counts


def _of_node(place: tree.Place, node: Posterior, prior) -> dict:
    mean, var = node.moments()
    parts = [part == 0 for part in (mean, var) if part is not None]
    kl = None
    if prior is not None:
        key = random.key(0)  # of a density's estimate
        kl = float(priors.kl_of(place, node, prior, key))
    return {
        "layer": place.name,
        "posterior": node.kind,
        "shape": tuple(node.shape),
        "noisy": is_noisy(node),
        "log alpha": _median_log_alpha(node),
        "KL": kl,
        "zeros": float(jnp.mean(jnp.stack(parts).all(0))),
    }


def _median_log_alpha(node: Posterior) -> float | None:
    """None of a weight without noise of its own, and where there is no such number."""
    weight = node.bare
    try:
        return float(np.median(log_alpha(weight))) if is_noisy(weight) else None
    except TypeError:
        return None


def _text(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(row: Mapping[str, str], widths: Mapping[str, int]) -> str:
    cells = (
        row[name].ljust(width) if name in LEFT else row[name].rjust(width)
        for name, width in widths.items()
    )
    return "  ".join(cells).rstrip()


def _total(params: Params, rows: list[dict]) -> str:
    """All numbers, the weights and vectors that are noisy, and the sum of the KLs."""
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    noisy = sum(int(np.prod(row["shape"])) for row in rows if row["noisy"])
    kls = [row["KL"] for row in rows if row["KL"] is not None]
    kl = f", KL {sum(kls):.6g} nats" if kls else ""
    return f"{numbers:,} numbers, {noisy:,} noisy{kl}"
