"""Which weights need their noise: kappa, curvature of the likelihood times variance.

    kappa_ij = -sigma_ij^2 sum_n d^2 log p(y_n | x_n, W) / dw_ij^2     at W = the means

Where kappa is small, the log likelihood is flat over the spread of the weight, and the
weight may be replaced by its mean: mean propagation. It was in a draft and in the
slides of Neklyudov, Molchanov, Ashukha and Vetrov (Variance Networks, 2018; dropped
from the ICLR version). Neither says which images are summed over, nor whether the sign
is kept. Here the images are the caller's, and the sign is kept: where the log
likelihood is convex, kappa is negative and so below every threshold.

A dense layer h -> a = h W has d^2 / dw_ij^2 = h_i^2 d^2 / da_j^2 for each image, so the
diagonal over its I x O weights needs the diagonal over its O pre-activations only. That
one comes from products of the Hessian with unit vectors, through whatever follows the
layer: exact, nothing is taken as diagonal, positive or piecewise linear.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vnets import backend, tree
from vnets.data import Split
from vnets.edits import Edit, mean_only
from vnets.evaluate import to_float
from vnets.layers import checked, shifted
from vnets.likelihoods import Categorical
from vnets.nodes import Posterior, around, is_noisy
from vnets.targets import check
from vnets.types import Array, Params, choose

REPLACEMENTS = ("mean", "zero")


def kappa(
    model,
    variables: dict,
    layer: str,
    split: Split,
    *,
    n: int | None = None,
    batch_size: int = 100,
    directions: int = 20,
    prepare: Callable[[Array], Array] = to_float,
) -> Array:
    """-sigma^2 d^2 log p / dw^2 at the mean of all weights, summed over images, [I, O].

    Args:
      model: as in `second_derivatives`.
      variables: "params" with posterior nodes, and the model's other collections.
      layer: path of a dense layer with noisy weights, such as "dense1".
      split: the images and labels of the sum.
      n: how many images the sum shall stand for; a sum over fewer is scaled up to it
        (a part of the training set for the whole). Those of `split` by default.
      batch_size, directions, prepare: as in `second_derivatives`.

    Raises:
      ValueError: a layer that is not there, is not dense, or has no weight noise.
    """
    node = _noisy_weight(variables["params"], layer)
    curvature = second_derivatives(
        model,
        variables,
        layer,
        split,
        batch_size=batch_size,
        directions=directions,
        prepare=prepare,
    )
    _, var = node.moments()
    return -(1.0 if n is None else n / len(split)) * var * curvature


def second_derivatives(
    model,
    variables: dict,
    layer: str,
    split: Split,
    *,
    batch_size: int = 100,
    directions: int = 20,
    prepare: Callable[[Array], Array] = to_float,
) -> Array:
    """sum_n d^2 log p(y_n | x_n, W) / dw_ij^2 of a dense layer at the means, [I, O].

    Batch normalization runs on running statistics. Some ten arrays of batch_size x
    directions x O numbers are in memory at a time, whatever the number of images.

    Args:
      model: with `apply` as in `predictor.Member`; compiled once per layer.
      variables: "params" with posterior nodes, and the model's other collections.
      layer: path of a dense layer.
      split: the images, uint8 [N, ...], and labels [N] of the sum.
      batch_size: images at once.
      directions: unit vectors at once.
      prepare: pixels to inputs.

    Raises:
      ValueError: a layer that is not there or shares its weights between positions, or
        targets that are no classes.
    """
    check(split)
    outputs = dense_weight(variables["params"], layer).shape[-1]
    variables = {**variables, "params": mean_only(variables["params"], None)}
    run = _batch_sum(
        *(checked(model), layer, outputs),
        *(min(directions, outputs), prepare, backend.forms()),
    )
    images, labels = jnp.asarray(split.inputs), jnp.asarray(split.target)
    batch_size = min(batch_size, len(labels))
    parts = (
        run(variables, images, labels, np.int32(i), batch_size=batch_size)
        for i in range(-(-len(labels) // batch_size))
    )
    return functools.reduce(jnp.add, parts)


@functools.lru_cache(maxsize=16)
def _batch_sum(
    model: Any,
    layer: str,
    outputs: int,
    directions: int,
    prepare: Callable,
    forms: backend.Forms,
) -> Callable:
    """Compiled sum of the second derivatives over batch number i of a split."""
    del forms  # what is traced depends on them, so the cache must too

    def run(variables, images, labels, index, batch_size):
        n = images.shape[0]
        rows = index * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
        inside = rows < n
        rows = jnp.minimum(rows, n - 1)  # the rows outside count for nothing
        x, label = prepare(images[rows]), labels[rows]

        def log_likelihood(shift):
            """Of the batch, with `shift` [B, O] on the pre-activations; and h."""
            logits, inputs = shifted(model, variables, x, {layer: shift})
            nll = jnp.where(inside, Categorical().nll(logits, label), 0)
            return -jnp.sum(nll), inputs[layer]

        # Images do not see each other, so one product serves a whole batch of them.
        zero = jnp.zeros((batch_size, outputs), jnp.float32)
        _, hessian, h = jax.vjp(
            jax.grad(log_likelihood, has_aux=True), zero, has_aux=True
        )

        def along(unit):
            direction = jnp.broadcast_to(
                jax.nn.one_hot(unit, outputs, dtype=jnp.float32), zero.shape
            )
            return jnp.sum(hessian(direction)[0] * direction, axis=-1)

        units = jnp.arange(outputs, dtype=jnp.int32)
        second = lax.map(along, units, batch_size=directions)  # [O, B]
        return jnp.square(h).T @ second.T

    return backend.jit(run, static_argnames="batch_size")


def propagate_mean(
    kappas: Mapping[str, Array],
    threshold: float,
    replacement: Literal["mean", "zero"] = "mean",
) -> Edit:
    """Takes the noise from weights of kappa below a threshold; the others keep theirs.

    Args:
      kappas: layer to kappa [I, O]; other layers stay as they are.
      threshold: kappa0 itself, not its logarithm. -inf changes nothing that a test can
        see, +inf leaves no noise.
      replacement: what such a weight becomes, its "mean" or "zero". For a variance
        layer they are the same.

    Raises:
      ValueError: another replacement; in use: kappa of another shape than the weight.
    """
    choose("replacement", replacement, REPLACEMENTS)

    def apply(params: Params, key=None) -> Params:
        del key

        def visit(place: tree.Place, node):
            if not is_noisy(node) or place.name not in kappas:
                return node
            return _quietened(node, kappas[place.name] >= threshold, replacement)

        return tree.change(visit, params)

    return apply


def stochastic_fraction(kappas: Array, threshold: float) -> float:
    """The fraction of weights with kappa at or above a threshold: they stay noisy."""
    return float(jnp.mean(kappas >= threshold))


def _quietened(node: Posterior, noisy: Array, replacement: str) -> Posterior:
    """The node without the noise outside the mask `noisy` [I, O]."""
    if node.bare is not node:
        raise ValueError("propagate_mean: noise on units belongs to no weight")
    if node.shape != noisy.shape:
        raise ValueError(f"kappa is {noisy.shape}, the weight {node.shape}")
    mean, std = node.location_scale()
    if replacement == "zero" and mean is not None:
        mean = jnp.where(noisy, mean, 0)
    return around(mean, jnp.where(noisy, std, 0), node.noise)


def _noisy_weight(params: Params, layer: str) -> Posterior:
    node = dense_weight(params, layer)
    if node.bare is not node or not node.noisy:
        raise ValueError(
            f"layer {layer!r} has {type(node).__name__} weights; kappa needs noise "
            "that is each weight's own: Gaussian, Multiplicative or ZeroMean"
        )
    return node


def dense_weight(params: Params, layer: str) -> Posterior:
    """The weight [I, O] of a dense layer, by the layer's path.

    Raises:
      ValueError: a layer that is not there, or is not dense.
    """
    node = tree.weight(params, layer)
    if len(node.shape) != 2:
        named = ((at.name, leaf) for at, leaf in tree.each(params) if at.is_kernel)
        raise ValueError(
            f"layer {layer!r} is no dense layer: its weight is {node.shape}. A "
            "convolution shares weights between positions, so that the diagonal needs "
            "every pair of them; choose from "
            f"{sorted(name for name, leaf in named if len(leaf.shape) == 2)}"
        )
    return node
