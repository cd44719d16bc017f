"""Variance of the gradient of the means: additive against multiplicative noise.

Both describe the same posterior, w = mean + sigma eps = mean (1 + sqrt(alpha) eps). In
the second the noise is in the gradient of the mean as well, with a variance that grows
with alpha; in the first it is not, which is why Molchanov, Ashukha and Vetrov (2017,
section 4.2) train log sigma^2. Measured here on a trained net: the variance of the
gradient over draws of the noise, for one batch, against log alpha.

Multiplicative noise cannot describe a weight whose mean is 0, as training may leave it
(`nodes.Thresholded`, `projections.drop_idle_means`). For the measurement such a mean
becomes `LEAST` in both forms, with the variance that it had, so that they are the same
posterior still; its log alpha says nothing, and it is left out of the curve and the
median.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import spec as parts
from experiments.core import Measured, Net, NetSpec, Study
from experiments.datasets import load_data
from experiments.thresholds import Layer, layers_of
from vnets import backend
from vnets.evaluate import to_float
from vnets.layers import TEST, Mode
from vnets.likelihoods import Categorical
from vnets.nodes import Additive, Multiplicative, Posterior, is_noisy, is_posterior
from vnets.rng import stream
from vnets.types import Array, Key, Params

FIELDS = (
    *("dataset", "nets.net", "gradient.images", "gradient.draws", "gradient.bins"),
    "gradient.range",
)

FORMS = ("additive", "multiplicative")
LEAST = 1e-6  # the least size of a mean that is divided by


def build(config) -> Study:
    """The study of a config; see `configs/sparse_vd.py` (gradient_noise)."""
    parts.several("gradient.draws", config.gradient.draws)
    low, high = config.gradient.range
    if not low < high:
        raise parts.ConfigError(f"config.gradient.range must rise, not {low}, {high}")
    dataset = load_data(config.dataset)
    nets = {"net": NetSpec(config.nets.net.run)}
    return Study(nets, functools.partial(_measure, config.gradient, dataset), dataset)


def additive(node: Posterior) -> Posterior:
    """The node with its log sigma^2 as the parameter; others as they are."""
    if not (is_noisy(node) and node.plain):
        return node
    return Additive(_divisor(node), node.log_variance(), node.noise)


def multiplicative(node: Posterior) -> Posterior:
    """The node with the log alpha of each weight as the parameter."""
    if not (is_noisy(node) and node.plain):
        return node
    mean = _divisor(node)
    log_alpha = node.log_variance() - 2 * jnp.log(jnp.abs(mean))
    return Multiplicative(mean, log_alpha, node.noise)


def _divisor(node: Posterior) -> Array:
    """The means that are used, none of them smaller than `LEAST`."""
    mean, _ = node.location_scale()
    return jnp.where(jnp.abs(mean) < LEAST, LEAST, mean)


def batch_loss(model, mode: Mode = TEST) -> Callable:
    """(variables, image [B, H, W, C], label [B], key) -> mean(nll), without the KL."""

    def loss(variables, image, label, key):
        logits = model.apply(variables, image, mode=mode, rngs={"noise": key})
        return jnp.mean(Categorical().nll(logits, label))

    return loss


def variance_per_weight(
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
    likelihood = batch_loss(net.model)

    def loss(params, key):
        return likelihood({"params": params, **net.collections}, image, label, key)

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
    layers = {layer.name: layer for layer in layers_of(net.params)}
    image = to_float(jnp.asarray(dataset.train.inputs[: spec.images]))
    label = jnp.asarray(dataset.train.target[: spec.images])
    edges = np.linspace(*spec.range, spec.bins + 1)
    curves: dict = {form: {"log_alpha": [], "variance": []} for form in FORMS}
    high: dict[str, float] = {}
    for form, change in zip(FORMS, (additive, multiplicative), strict=True):
        params = jax.tree.map(change, net.params, is_leaf=is_posterior)
        changed = Net(net.model, params, net.collections)
        spread = variance_per_weight(changed, image, label, key, spec.draws)
        x, y = _kept(layers, spread)
        index = np.digitize(x, edges)
        for bin_number in range(1, spec.bins + 1):
            inside = y[index == bin_number]
            if len(inside) < 10:
                continue
            centre = float(edges[bin_number - 1 : bin_number + 1].mean())
            curves[form]["log_alpha"].append(centre)
            curves[form]["variance"].append(float(np.median(inside)))
        high[form] = float(np.median(y[x > 0])) if np.any(x > 0) else float("nan")
    joined = _joined(curves)
    ratio = high["multiplicative"] / high["additive"]
    return Measured({"gradient": {"ratio": ratio, **high}}, {"gradient": joined})


def _kept(layers: dict[str, Layer], spread: Params) -> tuple[np.ndarray, np.ndarray]:
    """Log alpha and the variance of the gradient of the weights that say something.

    Weights on pixels that are always zero have no gradient, dropped ones no log alpha.
    """
    pairs = []
    for name, layer in layers.items():
        value = np.asarray(spread[name]["kernel"].mean)
        said = (value > 0) & (np.abs(layer.mean) >= LEAST)
        pairs.append((layer.log_alpha[said], value[said]))
    x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return x, y


def _joined(curves: dict) -> dict[str, list[float]]:
    """One curve over the bins that both forms have; there may be none."""
    tables = [
        dict(zip(c["log_alpha"], c["variance"], strict=True))
        for c in (curves[form] for form in FORMS)
    ]
    shared = sorted(set(tables[0]) & set(tables[1]))
    named = zip(FORMS, tables, strict=True)
    return {"log_alpha": shared, **{f: [t[x] for x in shared] for f, t in named}}
