"""Curvature of dense layers as Kronecker products: a factor of inputs, one of outputs.

    found, _ = kronecker.measured(model, variables, x, target)  # sums of N examples
    found = {layer: one.times(1 / N) for layer, one in found.items()}
    anchor = kronecker.start(params)                           # before the first task
    anchor = kronecker.laplace(anchor, params, found)          # after each
    loss += kronecker.pull(params, anchor)

A dense layer a = W^T x has, for each example, the Gauss-Newton matrix x x^T (x) G, with
G that of its pre-activations, J^T L J (J the Jacobian of the net's outputs in them, L
the Hessian of -log p in the outputs). The mean of these products is taken for the
product of the means: the curvature of N examples is N A (x) G, A = E[x x^T]. That is
exact where G is the same for all (a linear net with normal noise), or x is. A bias is
the weight of a further input that is always 1; layers are taken as independent.

Sums of Kronecker products are none. What a task adds to an anchor makes it the product
that is nearest to the sum, by the squared distance of all entries: so an anchor has the
same size after any number of tasks.

Sources: Martens and Grosse 2015 (the factors); Ritter, Botev and Barber 2018 (as a
posterior, and in turn); Van Loan and Pitsianis 1993 (the nearest product).
"""

import math

import jax
import jax.numpy as jnp

from vnets import tree
from vnets.layers import shifted
from vnets.likelihoods import Categorical, Likelihood, examples
from vnets.nodes import is_noisy, is_posterior
from vnets.pytrees import pytree
from vnets.types import Array, Params

CLASSES = Categorical()


@pytree
class Factors:
    """rows (x) cols: of w_ij and w_kl it has rows_ik cols_jl.

    Attributes:
      rows: of a layer's inputs and of its bias, [R, R].
      cols: of its outputs, [O, O].
    """

    rows: Array
    cols: Array

    def __add__(self, other: "Factors") -> "Factors":
        """Each factor of the sums over two batches; not the sum of the products."""
        return Factors(self.rows + other.rows, self.cols + other.cols)

    def times(self, factor: float) -> "Factors":
        """The product times a number, half of it in each factor."""
        return Factors(self.rows * factor**0.5, self.cols * factor**0.5)


@pytree
class Held:
    """A layer's part of an anchor: log p is -1/2 of the square of what is between.

    Attributes:
      mean: the weights, with the bias as their last row, [R, O].
      precision: their curvature.
    """

    mean: Array
    precision: Factors


Anchor = dict[str, Held]


def matrices(params: Params, where: tree.Patterns = None) -> dict[str, Array]:
    """The weights of dense layers without noise, by layer, [R, O].

    The rows are those of the kernel, then the bias, if it is there and named.

    Args:
      params: arrays and points.
      where: patterns of the weights, all by default.

    Raises:
      ValueError: weights with noise, or that are no dense layer's.
    """
    kernels: dict[str, Array] = {}
    biases: dict[str, Array] = {}
    for place, leaf in tree.each(params, where):
        if is_noisy(leaf):
            raise ValueError(f"{place.leaf!r} has noise: curvature is around points")
        value = leaf.sample(None) if is_posterior(leaf) else leaf
        if place.is_kernel and value.ndim == 2:
            kernels[place.layer] = value
        elif place.is_vector and place.leaf.endswith("bias"):
            biases[place.layer] = value
        else:
            raise ValueError(
                f"{place.leaf!r} {jnp.shape(value)} is no weight or bias of a dense "
                "layer, and has no Kronecker factors: leave it out of `where`"
            )
    lone = sorted(set(biases) - set(kernels))
    if lone:
        raise ValueError(f"layers {lone} have a bias in `where`, and no dense kernel")
    return {
        layer: jnp.concatenate([w, *(biases[k][None] for k in [layer] if k in biases)])
        for layer, w in kernels.items()
    }


def measured(
    model,
    variables: dict,
    x: Array,
    target: Array,
    *,
    where: tree.Patterns = None,
    likelihood: Likelihood = CLASSES,
    weights: Array | None = None,
) -> tuple[dict[str, Factors], Array]:
    """The factors of dense layers, by layer, and the net's outputs [B, ...].

    Factors are sums over the batch, each for itself.

    Over N examples in all the curvature is their sum with `times(1 / N)`.

    Args:
      model: with `apply` as in `predictor.Member`, run as in a test.
      variables: "params" without noise in these layers, and other collections.
      x: inputs [B, ...].
      target: of each.
      where: as in `matrices`.
      likelihood: of the targets; that of classes has a Hessian that no label changes.
      weights: 1 where a part of a target counts, 0 where not, or its weight, [B, ...];
        all count by default.

    Raises:
      ValueError: as in `matrices`, or a layer that is called more than once.
    """
    sizes = {k: w.shape for k, w in matrices(variables["params"], where).items()}

    def one(x, target, weights):
        """Inputs [R] and the curvature of pre-activations [O, O], and the outputs."""

        def outputs(shifts):
            found, inputs = shifted(model, variables, x[None], shifts)
            return found[0], (found[0], inputs)

        def cost(out):
            return likelihood.total_nll(out[None], target[None], weights[None])

        zero = {k: jnp.zeros((1, cols), jnp.float32) for k, (_, cols) in sizes.items()}
        jacobians, (out, inputs) = jax.jacrev(outputs, has_aux=True)(zero)
        hessian = jax.hessian(cost)(out).reshape(out.size, out.size)
        found = {}
        for layer, (rows, cols) in sizes.items():
            own, h = jacobians[layer].reshape(out.size, cols), inputs[layer][0]
            h = jnp.concatenate([h, jnp.ones(rows - len(h), h.dtype)])
            found[layer] = h, own.T @ hessian @ own
        return found, out

    if weights is None:
        weights = jnp.ones(likelihood.shape(target), jnp.float32)
    each, outputs = jax.vmap(one)(x, target, weights)
    own = examples(weights)
    found = {
        layer: Factors((own[:, None] * h).T @ h, jnp.sum(bent, 0))
        for layer, (h, bent) in each.items()
    }
    return found, outputs


def nearest(one: Factors, other: Factors) -> Factors:
    """The Kronecker product that is nearest to the sum of two, in all entries' squares.

    It is the first singular pair of rows_1 cols_1^T + rows_2 cols_2^T, factors as
    vectors: a mixture of the rows and one of the columns, with no negative share where
    all four are curvature, so the product is, too. Two products with equal rows, or
    columns, are added exactly.
    """
    rows, row_sizes = _units(one.rows, other.rows)
    cols, col_sizes = _units(one.cols, other.cols)
    size = row_sizes * col_sizes
    largest = _above(jnp.max(size))
    size = size / largest  # whose squares stay in range
    row_angles, col_angles = (jnp.einsum("nij,mij->nm", x, x) for x in (rows, cols))
    (a, b), (c, d) = (jnp.outer(size, size) * col_angles) @ row_angles
    value = (a + d) / 2 + jnp.sqrt(jnp.square((a - d) / 2) + b * c)
    shares = jnp.where(a >= d, jnp.stack([value - d, c]), jnp.stack([b, value - a]))
    along = row_angles @ shares
    col_shares = largest * size * along / _above(shares @ along)
    mixed = Factors(jnp.tensordot(shares, rows, 1), jnp.tensordot(col_shares, cols, 1))
    even = jnp.sqrt(_above(_norm(mixed.cols)) / _above(_norm(mixed.rows)))
    return Factors(mixed.rows * even, mixed.cols / even)


def start(params: Params, scale: float = math.inf) -> Anchor:
    """The anchor N(0, scale^2) of every weight, as `continual.start` has it.

    Args:
      params: of dense layers alone, without noise.
      scale: a standard deviation; infinite, it holds nothing.

    Raises:
      ValueError: as in `matrices`, or a scale that is not above 0.
    """
    if not scale > 0:
        raise ValueError(f"a prior's standard deviation must be positive, not {scale}")

    def held(w):
        rows, cols = (jnp.eye(size, dtype=jnp.float32) / scale for size in w.shape)
        return Held(jnp.zeros_like(w), Factors(rows, cols))

    return {layer: held(w) for layer, w in matrices(params).items()}


def laplace(anchor: Anchor, params: Params, precision: dict[str, Factors]) -> Anchor:
    """The anchor around the weights as they are, with the curvature added to its own.

    Args:
      anchor: what the task was held to.
      params: what the task has left.
      precision: the task's curvature, by layer.
    """
    return {
        layer: Held(w, nearest(anchor[layer].precision, precision[layer]))
        for layer, w in matrices(params).items()
    }


def pull(params: Params, anchor: Anchor) -> Array:
    """-log p of the weights, up to a constant, in nats; scalar."""
    total = jnp.zeros((), jnp.float32)
    for layer, w in matrices(params).items():
        gap, held = w - anchor[layer].mean, anchor[layer].precision
        total += 0.5 * jnp.vdot(gap, held.rows @ gap @ held.cols)
    return total


def _units(one: Array, other: Array) -> tuple[Array, Array]:
    """Two matrices of norm 1, [2, n, n], and the norms that they had, [2]."""
    both = jnp.stack([one, other])
    sizes = jnp.stack([_norm(one), _norm(other)])
    return both / _above(sizes)[:, None, None], sizes


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _above(x: Array) -> Array:
    """What divides: 1 in the place of 0."""
    return jnp.where(x > 0, x, 1)
