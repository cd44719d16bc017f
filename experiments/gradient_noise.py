"""Variance of the gradient of the means: additive against multiplicative noise.

Both describe the same posterior, w = mean + sigma eps = mean (1 + sqrt(alpha) eps). In
the second the noise is in the gradient of the mean as well, with a variance that grows
with alpha; in the first it is not, which is why Molchanov, Ashukha and Vetrov (2017,
section 4.2) train log sigma^2. Measured here on a trained net: the variance of the
gradient over draws of the noise, for one batch, against log alpha.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build as parts
from experiments.core import Measured, Net, NetSpec, Study, load_data
from experiments.thresholds import layers_of
from vnets import backend
from vnets.evaluate import to_float
from vnets.objectives import cross_entropy
from vnets.posteriors import Gaussian, Multiplicative, Posterior, is_posterior
from vnets.posteriors import log_alpha as node_log_alpha
from vnets.rng import stream
from vnets.types import Array, Key, Params

FORMS = ("additive", "multiplicative")


def build(config) -> Study:
    """The study of a config; see `configs/sparse_vd.py` (gradient_noise)."""
    for field in ("images", "draws", "bins"):
        parts.positive(f"gradient.{field}", config.gradient[field])
    low, high = config.gradient.range
    if not low < high:
        raise parts.ConfigError(f"config.gradient.range must rise, not {low}, {high}")
    dataset = load_data(config.dataset)
    nets = {"net": NetSpec(config.nets.net.run)}
    return Study(nets, functools.partial(_measure, config.gradient, dataset), dataset)


def additive(node: Posterior) -> Posterior:
    """The node with its log sigma^2 as the parameter; others as they are."""
    if not isinstance(node, Multiplicative):
        return node
    log_var = node_log_alpha(node) + 2 * jnp.log(jnp.abs(node.mean))
    return Gaussian(node.mean, log_var, node.noise)


def multiplicative(node: Posterior) -> Posterior:
    """The node with the log alpha of each weight as the parameter."""
    if not isinstance(node, Gaussian):
        return node
    return Multiplicative(node.mean, node_log_alpha(node), node.noise)


def gradient_variance(
    net: Net, image: Array, label: Array, key: Key, draws: int
) -> Params:
    """Variance over the noise of d mean(nll) / d mean for each weight.

    Args:
      net: with the posteriors in the form that the gradient is of.
      image: one batch, [B, H, W, C].
      label: [B].
      key: of the draws.
      draws: how many, at least 2.

    Returns:
      A tree like the parameters; in the place of each node's mean, its variance.
    """

    def loss(params, key):
        logits = net.model.apply(
            {"params": params, **net.collections}, image, rngs={"noise": key}
        )
        return jnp.mean(cross_entropy(logits, label))

    def add(sums, number):
        grads = jax.grad(loss)(net.params, stream(key, number))
        first, second = sums
        return (
            jax.tree.map(jnp.add, first, grads),
            jax.tree.map(lambda a, g: a + jnp.square(g), second, grads),
        ), None

    def run():
        zero = jax.tree.map(jnp.zeros_like, net.params)
        numbers = jnp.arange(draws, dtype=jnp.int32)
        (first, second), _ = jax.lax.scan(add, (zero, zero), numbers)
        return jax.tree.map(
            lambda a, b: (b - jnp.square(a) / draws) / (draws - 1), first, second
        )

    return backend.jit(run)()


def _measure(spec, dataset, nets, key: Key) -> Measured:
    [net] = nets["net"]
    layers = {layer.name: layer.log_alpha for layer in layers_of(net.params)}
    image = to_float(jnp.asarray(dataset.train.image[: spec.images]))
    label = jnp.asarray(dataset.train.label[: spec.images])
    edges = np.linspace(*spec.range, spec.bins + 1)
    curves: dict = {}
    high: dict[str, float] = {}
    for form, change in zip(FORMS, (additive, multiplicative), strict=True):
        params = jax.tree.map(change, net.params, is_leaf=is_posterior)
        changed = Net(net.model, params, net.collections)
        spread = gradient_variance(changed, image, label, key, spec.draws)
        # Weights on pixels that are always zero have no gradient, and say nothing.
        pairs = [
            (log_alpha.ravel(), np.asarray(spread[name]["kernel"].mean).ravel())
            for name, log_alpha in layers.items()
        ]
        x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
        x, y = x[y > 0], y[y > 0]
        index = np.digitize(x, edges)
        for bin_number in range(1, spec.bins + 1):
            inside = y[index == bin_number]
            if len(inside) < 10:
                continue
            centre = float(edges[bin_number - 1 : bin_number + 1].mean())
            curve = curves.setdefault(form, {"log_alpha": [], "variance": []})
            curve["log_alpha"].append(centre)
            curve["variance"].append(float(np.median(inside)))
        high[form] = float(np.median(y[x > 0])) if np.any(x > 0) else float("nan")
    joined = _joined(curves)
    ratio = high["multiplicative"] / high["additive"]
    return Measured({"gradient": {"ratio": ratio, **high}}, {"gradient": joined})


def _joined(curves: dict) -> dict[str, list[float]]:
    """One curve over the bins that both forms have."""
    tables = [
        dict(zip(c["log_alpha"], c["variance"], strict=True))
        for c in (curves[form] for form in FORMS)
    ]
    shared = sorted(set(tables[0]) & set(tables[1]))
    named = zip(FORMS, tables, strict=True)
    return {"log_alpha": shared, **{f: [t[x] for x in shared] for f, t in named}}
