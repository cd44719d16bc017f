"""Laplace's posterior: normal around a trained net, by the curvature of its loss.

    fitted = laplace.full(model, variables, train_split, where="dense3")
    member = Member(model, fitted.posterior(fitted.best_precision()))
    Predictor(member, draw=edits.draw, samples=100)

The curvature is the generalized Gauss-Newton matrix, H = sum_n J_n^T L_n J_n with J the
Jacobian of the net's outputs and L the Hessian of -log p in them (of logits diag(p) - p
p^T), summed over the parts of targets that count. `full` has all of it, `diagonal` its
diagonal, and `factored` a Kronecker product for each dense layer (`vnets.kronecker`).
Under a prior N(0, 1 / precision) of the weights named by `where` their posterior is
N(w, (H + precision)^-1); all others stay points. H is that of the linearized net, so
what is nonlinear in the weights is to be predicted by `Linearized`, and not by putting
draws into the net itself. In the weights of the last layer alone every net is linear.

Sources: MacKay 1992 (evidence); Ritter, Botev and Barber 2018 (Kronecker factors);
Immer, Korzepa and Bauer 2021 (linearized); Daxberger et al. 2021 (the last layer).
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from vnets import backend, kronecker, tree
from vnets.data import Split
from vnets.edits import mean_only
from vnets.evaluate import CLASSES, on_device, to_float
from vnets.layers import TEST, checked
from vnets.likelihoods import Likelihood, counted, examples
from vnets.nodes import (
    Additive,
    Correlated,
    MatrixNormal,
    Point,
    Posterior,
    is_noisy,
    is_posterior,
)
from vnets.targets import are_classes, check, check_range
from vnets.types import Array

PRECISIONS = (1e-6, 1e8)  # among which evidence chooses
LARGEST = 12_000  # weights of a full H, 1.2 GB in float64
# Forms of H: sums over examples b and outputs k, or Kronecker factors.
WHOLE, EACH, FACTORS = "bkp,bkq->pq", "bkp,bkp->p", "factors"


@dataclasses.dataclass(frozen=True, eq=False)
class Laplace(abc.ABC):
    """What the curvature says; `posterior` makes a net of it.

    Attributes:
      variables: of the trained net.
      where: patterns of the weights that have a posterior.
      weights: these, as a vector of P.
      log_likelihood: sum of log p(target) of the split, nats.
      curvature: the eigenvalues of H, [P]; or its diagonal.
    """

    variables: dict
    where: tree.Patterns
    weights: np.ndarray
    log_likelihood: float
    curvature: np.ndarray

    def evidence(self, precision: float) -> float:
        """log p(targets) by Laplace's method, nats; exact where all is linear and
        normal, and the weights are the most likely ones under this prior.

        Args:
          precision: of the prior, 1 / variance.

        Raises:
          ValueError: it is not above 0.
        """
        if not precision > 0:
            raise ValueError(f"a precision is above 0, not {precision}")
        square = float(np.sum(np.square(self.weights)))
        volume = np.sum(np.log1p(self.curvature / precision))
        return self.log_likelihood - 0.5 * (precision * square + float(volume))

    def best_precision(self) -> float:
        """The precision of most evidence; no data but the split's are looked at.

        Raises:
          ValueError: an evidence that is no number.
        """
        import scipy.optimize

        if not math.isfinite(self.evidence(1.0)):
            raise ValueError(
                "the evidence is no number: the weights, the curvature or the log "
                "likelihood of the split is not finite"
            )
        low, high = map(math.log, PRECISIONS)
        found = scipy.optimize.minimize_scalar(
            lambda log: -self.evidence(math.exp(log)),
            bounds=(low, high),
            method="bounded",
        )
        return math.exp(float(found.x))

    def posterior(self, precision: float) -> dict:
        """The variables with nodes that vary as the posterior does.

        Args:
          precision: as in `evidence`.
        """
        made = self._nodes(precision)

        def visit(place: tree.Place, leaf):
            return made[place.leaf](_array(leaf)) if place.leaf in made else leaf

        params = tree.change(visit, self.variables["params"])
        return {**self.variables, "params": params}

    @abc.abstractmethod
    def _nodes(self, precision: float) -> dict[str, Callable[[Array], Posterior]]:
        """What makes the node around a mean, by the weight's path."""

    def _shaped(self, flat: Array) -> dict[str, Array]:
        return flatten_util.ravel_pytree(_chosen(self.variables, self.where))[1](flat)


@dataclasses.dataclass(frozen=True, eq=False)
class Full(Laplace):
    """By the whole H; the nodes are `Correlated`.

    Attributes:
      vectors: the eigenvectors, [P, P], in columns.
    """

    vectors: np.ndarray

    def _nodes(self, precision: float) -> dict[str, Callable[[Array], Posterior]]:
        std = 1 / np.sqrt(self.curvature + precision)
        rows = jnp.asarray((self.vectors * std).T, jnp.float32)

        def node(factor, mean):
            return Correlated(mean, jnp.zeros_like(mean), factor)

        factors = jax.vmap(self._shaped)(rows)
        return {k: functools.partial(node, one) for k, one in factors.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Diagonal(Laplace):
    """By the diagonal of H; the nodes are Gaussian."""

    def _nodes(self, precision: float) -> dict[str, Callable[[Array], Posterior]]:
        log_var = -np.log(self.curvature + precision)

        def node(own, mean):
            return Additive(mean, own)

        each = self._shaped(jnp.asarray(log_var, jnp.float32))
        return {k: functools.partial(node, one) for k, one in each.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Factored(Laplace):
    """By a Kronecker product for each layer; the nodes are `MatrixNormal`.

    The evidence is that of the products and the prior. Their sum has no Kronecker
    factors, so the posterior has damped ones: the root of the precision is added to the
    diagonal of each, which makes it narrower than the sum would be.

    Attributes:
      factors: eigenvalues [R] and eigenvectors [R, R] of the rows, then of the columns,
        by layer.
    """

    factors: dict[str, tuple[tuple[np.ndarray, np.ndarray], ...]]

    def _nodes(self, precision: float) -> dict[str, Callable[[Array], Posterior]]:
        damping = math.sqrt(precision)
        roots = {
            layer: [
                jnp.asarray(vectors / np.sqrt(values + damping), jnp.float32)
                for values, vectors in pair
            ]
            for layer, pair in self.factors.items()
        }

        def node(layer, mean):
            rows, cols = roots[layer]
            own = rows[: len(mean)] if mean.ndim > 1 else rows[-1:]
            return MatrixNormal(mean, own, cols, layer)

        params = self.variables["params"]
        return {
            place.leaf: functools.partial(node, place.layer)
            for place, _ in tree.each(params, self.where)
        }


def full(model, variables: dict, split: Split, **options) -> Full:
    """The posterior by the whole H of some weights: of the last layer, or a small net.

    Args:
      model: with `apply` as in `predictor.Member`, run on running statistics.
      variables: "params", of points where it counts, and the model's collections.
      split: the training set: inputs uint8 [N, ...], or what `prepare` takes, with
        targets and perhaps a mask.
      **options: as in `diagonal`.

    Raises:
      ValueError: as in `diagonal`, or more weights than `LARGEST`.
    """
    matrix, weights, log_p = _curvature(model, variables, split, WHOLE, **options)
    values, vectors = _spectrum(np.asarray(matrix, np.float64))
    return Full(variables, options.get("where"), weights, log_p, values, vectors)


def diagonal(model, variables: dict, split: Split, **options) -> Diagonal:
    """The posterior by the diagonal of H: each weight by itself.

    Args:
      model, variables, split: as in `full`.
      **options: where, patterns of the weights, all by default; likelihood, of
        classes by default; batch_size, whose Jacobians, batch_size x outputs x P
        numbers, are in memory at once, 50 by default; prepare, from what the split has
        to inputs, `evaluate.to_float` by default.

    Raises:
      ValueError: a pattern of nothing, weights with noise, targets that are not there
        or do not fit, or a batch_size below 1.
    """
    values, weights, log_p = _curvature(model, variables, split, EACH, **options)
    curvature = np.maximum(np.asarray(values, np.float64), 0)
    return Diagonal(variables, options.get("where"), weights, log_p, curvature)


def factored(model, variables: dict, split: Split, **options) -> Factored:
    """The posterior by Kronecker factors of dense layers, with their biases.

    Args:
      model, variables, split: as in `full`.
      **options: as in `diagonal`.

    Raises:
      ValueError: as in `diagonal`, or weights that are no dense layer's.
    """
    summed, weights, log_p = _curvature(model, variables, split, FACTORS, **options)
    scale = math.sqrt(_counting(split))
    factors = {
        layer: tuple(
            _spectrum(np.asarray(part, np.float64) / scale)
            for part in (one.rows, one.cols)
        )
        for layer, one in summed.items()
    }
    each = (np.outer(rows, cols) for (rows, _), (cols, _) in factors.values())
    curvature = np.concatenate([one.ravel() for one in each])
    where = options.get("where")
    return Factored(variables, where, weights, log_p, curvature, factors)


def _counting(split: Split) -> float:
    """Examples of which a part counts, by their weights."""
    return len(split) if split.mask is None else float(examples(split.mask).sum())


def _spectrum(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, with none below 0 by rounding, and eigenvectors."""
    values, vectors = np.linalg.eigh(matrix)
    return np.maximum(values, 0), vectors


@dataclasses.dataclass(frozen=True)
class Linearized:
    """The net as its first-order expansion around its trained weights.

    f(x; w0) + J (w - w0), for draws w of a posterior around w0: what H is exact of. Its
    variables have w0 as a further collection (`around`).

    Attributes:
      model: the net.
    """

    model: Any

    def around(self, variables: dict) -> dict:
        """The variables of a posterior with its mean as what is expanded around."""
        return {**variables, "around": mean_only(variables["params"], None)}

    def apply(self, variables: dict, x, *, mutable=(), **kwargs):
        """Outputs [B, ...] and the collections, as `model.apply` gives them."""
        rest = {k: v for k, v in variables.items() if k not in ("params", "around")}
        centre = variables["around"]

        def net(params):
            given = {**rest, "params": params}
            return self.model.apply(given, x, mutable=list(rest), **kwargs)[0]

        def moved(place, leaf, drawn):
            del place
            gap = _array(drawn) - _array(leaf)
            return Point(gap) if is_posterior(leaf) else gap

        # J v as the transpose of v^T J: the net's own gradients are in reverse mode.
        outputs, back = jax.vjp(net, centre)
        _, forward = jax.vjp(lambda u: back(u)[0], jnp.zeros_like(outputs))
        [change] = forward(tree.change(moved, centre, variables["params"]))
        return outputs + change, {name: variables[name] for name in mutable}


def _array(leaf) -> Array:
    return leaf.sample(None) if is_posterior(leaf) else leaf


def _chosen(variables: dict, where: tree.Patterns) -> dict[str, Array]:
    """The weights that are named, by path."""
    found = dict(tree.each(variables["params"], where))
    for place, leaf in found.items():
        if is_noisy(leaf):
            raise ValueError(f"{place.leaf!r} has noise: Laplace is around points")
    return {place.leaf: _array(leaf) for place, leaf in found.items()}


def _curvature(
    model,
    variables: dict,
    split: Split,
    form: str,
    *,
    where: tree.Patterns = None,
    likelihood: Likelihood = CLASSES,
    batch_size: int = 50,
    prepare: Callable[[Array], Array] = to_float,
):
    """H in a form, the weights [P], and log p(targets)."""
    if split.target is None or not len(split) or batch_size < 1:
        raise ValueError(
            "a curvature is of examples with targets, in batches of 1 at least, not of "
            f"{len(split)} with targets {type(split.target)} by {batch_size}"
        )
    largest = check(split, likelihood.kind)
    weights, _ = flatten_util.ravel_pytree(_chosen(variables, where))
    if form == WHOLE and len(weights) > LARGEST:
        raise ValueError(
            f"H of {len(weights):,} weights is too large, {LARGEST:,} at most: name "
            "the last layer in `where`, or take `factored` or `diagonal`"
        )
    named = where if where is None or isinstance(where, str) else tuple(where)
    run = _batch(
        *(checked(model), form, named, likelihood, prepare, backend.forms()),
    )
    given = on_device(split)
    if are_classes(likelihood.kind):
        seen = jax.tree.map(lambda a: a[:1], given["input"])
        others = [name for name in variables if name != "params"]
        net = functools.partial(checked(model).apply, mode=TEST, mutable=others)
        outputs, _ = jax.eval_shape(lambda x: net(variables, prepare(x)), seen)
        check_range(largest, outputs.shape[-1])
    size = min(batch_size, len(split))
    total: Any = None
    log_p = 0.0
    for start in range(0, len(split), size):
        rows = np.arange(start, start + size, dtype=np.int32)
        part, log = run(variables, given, rows)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
        log_p += float(log)
    return total, np.asarray(weights, np.float64), log_p


@functools.lru_cache(maxsize=16)
def _batch(model, form, where, likelihood, prepare, forms) -> Callable:
    """Compiled: H in a form, and log p of some rows of a split."""
    del forms  # what is traced depends on them, so the cache must too

    def run(variables, given, rows):
        count = len(given["target"])
        # Of a last batch what is beyond the end counts for nothing.
        own = jax.tree.map(lambda a: a[jnp.minimum(rows, count - 1)], given)
        x, y = prepare(own["input"]), own["target"]
        weights = own.get("mask", jnp.ones(likelihood.shape(y), jnp.float32))
        inside = (rows < count).reshape(-1, *(1,) * (weights.ndim - 1))
        weights = jnp.where(inside, weights, 0).astype(jnp.float32)
        y = counted(y, weights)
        if form == FACTORS:
            options = {"where": where, "likelihood": likelihood, "weights": weights}
            found, out = kronecker.measured(model, variables, x, y, **options)
            return found, -likelihood.total_nll(out, y, weights)
        flat, shaped = flatten_util.ravel_pytree(_chosen(variables, where))

        def outputs(flat, x):
            own = shaped(flat)

            def visit(place: tree.Place, leaf):
                new = own.get(place.leaf)
                if new is None:
                    return leaf
                return Point(new) if is_posterior(leaf) else new

            params = tree.change(visit, variables["params"])
            others = [name for name in variables if name != "params"]
            given = {**variables, "params": params}
            return model.apply(given, x[None], mode=TEST, mutable=others)[0][0]

        def one(x, y, weights):
            def nll(out):
                return likelihood.total_nll(out[None], y[None], weights[None])

            out = outputs(flat, x)
            jacobian = jax.jacrev(outputs)(flat, x).reshape(out.size, -1)
            hessian = jax.hessian(nll)(out).reshape(out.size, out.size)
            return jacobian, hessian, -nll(out)

        jacobians, hessians, log_p = jax.vmap(one)(x, y, weights)
        weighted = jnp.einsum("bkl,blp->bkp", hessians, jacobians)
        return jnp.einsum(form, jacobians, weighted), jnp.sum(log_p)

    return backend.jit(run)
