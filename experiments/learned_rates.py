"""Where learned rates of binary dropout end, and how much their gradients vary.

The rates of a net are learned by one of the gradients of `vnets.learned_dropout`; both
are then drawn at the end of training, at the same parameters, for the same batch: what
varies is the masks alone. Variances are totals over the trained log alphas, divided by
their number, of the gradient of the loss.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build as parts
from experiments import classifier
from experiments.core import Experiment, Measured
from vnets import backend, evaluate, learned_dropout, tree
from vnets.evaluate import to_float
from vnets.objectives import ModelState
from vnets.rng import stream
from vnets.types import Array, Key, Params

# What is compared at the end of training.
COMPARED = {
    "score": learned_dropout.score_function(),
    "score_plain": learned_dropout.score_function("none"),
    "concrete": learned_dropout.concrete(),
}


def build(config) -> Experiment:
    """The experiment of a config; see `configs/learned_rates.py` for its fields."""
    net = classifier.build(config)
    gradient = _rate_gradient(config, net)
    probed = classifier.chosen(
        "probe.columns",
        config.probe.columns,
        evaluate.standard_evals(config.probe.samples, mode=net.mode),
    )
    tested = classifier.chosen(
        "evals.columns", config.evals.columns, net.specs(config.evals.samples)
    )

    def probe(params, collections, key):
        measured = net.columns(params, collections, key, probed, split=net.probed)
        values = {name: column["accuracy"] for name, column in measured.items()}
        return values | {f"rate/{name}": p for name, p in rates(params).items()}

    def evaluations(params, collections, key):
        measured = net.columns(params, collections, key, tested)
        found = rates(params)
        measured["rates"] = {**found, "mean": float(np.mean(list(found.values())))}
        if gradient:
            at = params, ModelState(jnp.int32(net.total_steps), collections)
            draws = config.gradient.draws
            measured["gradients"] = variances(net, *at, stream(key, "masks"), draws)
        return Measured(measured)

    return net.experiment(probe, evaluations, loss=net.loss(rate_gradient=gradient))


def _rate_gradient(config, net) -> learned_dropout.Gradient | None:
    spec = dict(config.get("rate_gradient", {}))
    if bool(spec) != learned_dropout.is_learned(net.shapes):
        raise parts.ConfigError(
            "config.rate_gradient is for layers of kind adaptive_binary_dropout in "
            "config.model.posteriors: give both or neither"
        )
    if not spec:
        return None
    parts.several("gradient.draws", config.gradient.draws)
    kind = spec.pop("kind", "")
    make = parts.pick("rate_gradient.kind", kind, learned_dropout.GRADIENTS)
    return parts.call("rate_gradient", make, spec)


def rates(params: Params) -> dict[str, float]:
    """The mean rate of each layer with binary dropout, learned or fixed."""
    found = {}
    for place, node in tree.nodes(params):
        rate = getattr(getattr(node, "scale", None), "drop_rate", None)
        if rate is not None:
            found[place.name] = float(jnp.mean(rate))
    return found


def variances(
    net: classifier.Classifier, params: Params, state: ModelState, key: Key, draws: int
) -> dict[str, float]:
    """Variance over the masks of each way's gradient of log alpha, and their ratios."""
    size = net.config.batch_size
    batch = {
        "image": to_float(jnp.asarray(net.dataset.train.image[:size])),
        "label": jnp.asarray(net.dataset.train.label[:size]),
    }
    found = {}
    for name, way in COMPARED.items():
        spread = _spread(net.loss(rate_gradient=way), draws)
        found[name] = float(spread(params, state, batch, stream(key, name)))
    found["score_of_concrete"] = found["score"] / found["concrete"]
    found["plain_of_score"] = found["score_plain"] / found["score"]
    return found


def _spread(loss: Callable, draws: int) -> Callable:
    """(params, state, batch, key) -> the mean variance of the gradient's log alphas."""

    def run(params, state, batch, key):
        def one(params, number):
            return loss(params, state, batch, stream(key, number))[0]

        def add(sums, number):
            grads = _log_alphas(jax.grad(one)(params, number))
            return (sums[0] + grads, sums[1] + jnp.square(grads)), None

        zero = jnp.zeros_like(_log_alphas(params))
        numbers = jnp.arange(draws, dtype=jnp.int32)
        (first, second), _ = jax.lax.scan(add, (zero, zero), numbers)
        return jnp.mean(second - jnp.square(first) / draws) / (draws - 1)

    return backend.jit(run)


def _log_alphas(params: Params) -> Array:
    """All log alphas that are trained, as one vector."""
    scales = (learned_dropout.learned_scale(node) for _, node in tree.nodes(params))
    return jnp.concatenate([scale.log_alpha for scale in scales if scale is not None])
