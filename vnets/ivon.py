"""IVON: variational inference at the cost of Adam, as an optimizer of Gaussian weights.

    model = nets.MLP((100,), 10, posteriors={"dense*": nodes.gaussian(-6.0)})
    loss = neg_elbo(forward(model), Categorical(), priors.standard_normal(0.3), n)
    task = train.Task(init, loss, ivon(0.1, n), source)

The improved variational online Newton method (Shen et al. 2024, algorithm 1) steps
along the natural gradient of the bound. With h a running mean of the Hessian's diagonal
per example, and 1 / (N delta) the variance of the prior,

    variance = 1 / (N (h + delta))
    h <- h + (1 - b2) (h' - h) + (1 - b2)^2 (h' - h)^2 / (2 (h + delta))
    mean <- mean - rate g / (h + delta)

where g is a running mean of gradients and h' = g (w - mean) / variance of a draw w. The
square keeps variances above 0. The loss holds all of it: a gradient d in a node's log
variance is variance (h' - h) / 2 of its bound, so that one step of the node is

    log variance <- log variance - log(1 + x + x^2 / 2),  x = 2 N (1 - b2) d

and h is held by the node itself: a net is edited and tested as any other with Gaussian
weights, and no gradient is taken twice. So every prior, every weight of the KL and
every estimator serves: `weight_sampling` draws once a batch, as there; `lrt`, the
default, has the same mean and less noise. One thing differs: the pull of the prior is
in the running mean of gradients, too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vnets import tree
from vnets.nodes import is_noisy
from vnets.types import Array, Params


class State(NamedTuple):
    """What IVON carries beside the variances of the nodes.

    Attributes:
      count: updates so far, int32 scalar.
      momentum: running means of the gradients of means, and of what has no noise.
      start: mean of 1 / variance of all weights before the first update; scalar.
    """

    count: Array
    momentum: Any
    start: Array


def ivon(
    learning_rate: optax.ScalarOrSchedule,
    n_train: int,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """The optimizer of a bound per example (`loss.neg_elbo`), prior included.

    What has no noise, such as biases, moves as a weight of the start's variance does:
    by gradient descent with momentum at the same rate.

    Args:
      learning_rate: as at the start, a number or a function of the update: the mean of
        h + delta over all weights before the first update is in it (the rescaling that
        the authors leave open). What suits gradient descent suits it.
      n_train: N, the number of training examples.
      b1: of the running mean of gradients, in [0, 1).
      b2: of the running mean of the Hessian, in [0, 1); it forgets after 1 / (1 - b2)
        updates, and the authors' is 0.99999.

    Raises:
      ValueError: a number outside of these; by `init`, no Gaussian weight, or noise of
        another kind; by `update`, no parameters.
    """
    if n_train < 1:
        raise ValueError(f"n_train must be at least 1, not {n_train}")
    if not (callable(learning_rate) or learning_rate >= 0):
        raise ValueError(f"a learning_rate is at least 0, not {learning_rate}")
    for name, value in {"b1": b1, "b2": b2}.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is in [0, 1), not {value}")

    def init(params: Params) -> State:
        start = _mean_precision(params)
        held = jax.tree.map(jnp.zeros_like, _without_variances(params))
        return State(jnp.zeros((), jnp.int32), held, start)

    def update(updates, state: Any, params: Params = None):
        if params is None:
            raise ValueError("ivon needs the parameters: update(grads, state, params)")
        count = state.count + 1
        rate: Any = learning_rate
        rate = rate(state.count) if callable(rate) else rate
        momentum = jax.tree.map(
            lambda held, new: b1 * held + (1 - b1) * new,
            *(state.momentum, _without_variances(updates)),
        )
        unbiased = rate / (1 - b1 ** count.astype(jnp.float32))

        def moved(place, gradient, node, held):
            del place
            step = jax.tree.map(lambda m: -unbiased * m, held)
            if not is_noisy(gradient):
                return step
            x = 2 * n_train * (1 - b2) * gradient.log_var
            narrower = -jnp.log1p(x + 0.5 * jnp.square(x))
            var = jnp.exp(node.log_var + narrower)
            return gradient.replace(mean=step * state.start * var, log_var=narrower)

        moves = tree.change(moved, updates, params, momentum)
        return moves, State(count, momentum, state.start)

    return optax.GradientTransformation(init, update)


def _without_variances(params: Params) -> Params:
    """The tree with the mean of each weight that has noise in its place."""
    return tree.change(
        lambda place, leaf: leaf.mean if is_noisy(leaf) else leaf, params
    )


def _mean_precision(params: Params) -> Array:
    """The mean of 1 / variance over all weights that have one."""
    total, count = (jnp.zeros((), jnp.float32) for _ in range(2))
    nodes: list[Any] = [pair for pair in tree.nodes(params) if pair[1].noisy]
    if not nodes:
        raise ValueError("ivon is of Gaussian weights, and there are none")
    for place, node in nodes:
        free = hasattr(node, "mean") and hasattr(node, "log_var")
        if not (free and node.noise == "normal"):
            raise ValueError(
                f"{place.leaf!r} is a {type(node).__name__}: ivon is of Gaussian "
                "weights (nodes.gaussian) and of what has no noise"
            )
        there = node.log_var > -jnp.inf  # what was pruned has no variance
        total += jnp.sum(jnp.where(there, jnp.exp(-node.log_var), 0.0))
        count += jnp.sum(there)
    return total / jnp.maximum(count, 1.0)
