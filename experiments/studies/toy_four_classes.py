"""Why a layer without means classifies: four classes through two noisy units.

After Neklyudov et al. 2019 (the authors' `toy-problem.ipynb`): a point's class passes a
variance layer of two units, y_j = sqrt(v_j(x)) eps_j + b_j, so all that the rest of the
net can know about x is how large y tends to be. The authors show solutions of two
kinds: both units repeat each other, or each tells what the other does not: one class at
the origin, one along each axis, one spread over the plane.

A net's kind is measured by its opposition: the largest amount, in nats of log sqrt(v),
by which one unit is louder for a class a than for b while the other unit is louder for
b than for a. Units that repeat each other order the classes alike: opposition 0, and
this however deep the class at the origin lies, which would dominate a correlation.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import random

from experiments import spec as parts
from experiments import transition
from experiments.core import Measured, Net, NetSpec, Study
from experiments.points import CENTRES, load
from vnets import edits, estimators, evaluate, ops, tree
from vnets.data import Dataset, Split
from vnets.nodes import ZeroMean
from vnets.predictor import as_is
from vnets.rng import stream
from vnets.types import Array, Key, Params

CLASSES = len(CENTRES)
UNITS = 2  # of the variance layer: what is drawn is a plane
COMPLEMENTARY = math.log(2.0)  # opposition from which on units complement each other
COLUMNS = ("det", "stoch", "ens")
DRAWN = ("evals.points", "evals.draws")
FIELDS = ("dataset", "nets.net", "evals.samples", "evals.batch_size", *DRAWN)
SQRT_2 = math.sqrt(2.0)


def build(config) -> Study:
    """The study of a config; see `configs/toy_four_classes.py` for its fields."""
    spec = NetSpec(**config.nets.net)
    measure = measure_of(config.evals, load(config))
    return Study({"net": spec}, functools.partial(_gallery, measure))


def opposition_probe(kind) -> Callable[..., dict[str, float]]:
    """What `experiments.probes` watches while a net trains."""
    name, _ = variance_layer(kind.shapes)
    test, given = kind.test, layer_input(kind.model, name)

    def probe(params, collections, key, columns):
        h = given(params, test.inputs)
        scales = log_scales(variance_layer(params)[1], h)
        return {"opposition": solution(scales, test.target)["opposition"]}

    return probe


def measure_of(settings, dataset: Dataset) -> Callable[[Net, Key], Measured]:
    """What is measured of one net, by `config.evals`."""
    return functools.partial(_measure, settings, dataset.test)


def variance_layer(params: Params) -> tuple[str, ZeroMean]:
    """Name and kernel [I, 2] of the layer that the experiment is about.

    Raises:
      ConfigError: the noisy layers are not one variance layer of two units.
    """
    noisy = [(at.name, node) for at, node in tree.nodes(params) if node.noisy]
    match noisy:
        case [(_, ZeroMean() as node)] if node.shape[-1] == UNITS:
            return noisy[0]
    kinds = {name: type(node).__name__ for name, node in noisy}
    raise parts.ConfigError(
        "config.model.posteriors must name one layer, of kind 'variance' and of "
        f"{UNITS} units (config.model.widths); noisy are {kinds or 'none'}"
    )


def layer_input(model, name: str) -> Callable[[Params, Array], Array]:
    """(params, x) -> what the variance layer is given, [B, I], without noise."""
    run = transition.layer_input(model, name)
    key = random.key(0)  # of nothing
    return lambda params, x: run({"params": edits.mean_only(params)}, x, key)


def log_scales(node: ZeroMean, h: Array) -> Array:
    """log sqrt(v_j(x)) of each unit, [B, 2], from the layer's input [B, I]."""
    _, var = node.moments()
    y_var = ops.DENSE.apply(jnp.square(h), var)
    return 0.5 * jnp.log(y_var + estimators.VAR_FLOOR)


def solution(log_scale: Array, label: Array) -> dict[str, float]:
    """The kind of solution, from log standard deviations [B, 2] and classes [B].

    Returns:
      opposition, in nats (see the module); complementary, 1 from `COMPLEMENTARY` on and
      0 below, so that its mean over nets is their share; redundancy, the squared
      correlation of the units' log standard deviations over the points.
    """
    log_scale, label = np.asarray(log_scale, np.float64), np.asarray(label)
    means = np.stack([log_scale[label == k].mean(0) for k in range(CLASSES)])
    first, second = np.moveaxis(means[:, None] - means[None], -1, 0)
    opposition = float(np.minimum(first, -second).max())
    return {
        "opposition": opposition,
        "complementary": float(opposition >= COMPLEMENTARY),
        "redundancy": float(np.corrcoef(log_scale.T)[0, 1] ** 2),
    }


def half_normal(node: ZeroMean, h: Array, draws: int, key: Key) -> dict[str, float]:
    """Holds ReLU(y) of a layer without bias to its law, |N(0, v)| Bernoulli(1/2).

    The weights themselves are drawn, for each example anew, so nothing here assumes
    that their sum is normal, as the local reparameterization does.

    Args:
      node: kernel of the variance layer, [I, O].
      h: its inputs, [B, I].
      draws: of the weights for each example.
      key: of the draws.

    Returns:
      zeros, the fraction of exact zeros (law: 1/2); mean and second, the mean of
      ReLU(y) over sqrt(v / (2 pi)) and that of its square over v / 2 (law: 1); ks, the
      Kolmogorov-Smirnov distance of the positive part over sqrt(v) from |N(0, 1)|, and
      ks_scaled, this times the root of their number n (law: below 1.95 with
      probability 0.999); n.
    """
    h = jnp.tile(h, (draws, 1))
    y = _drawn_weights(node, h, key)
    z = np.asarray(nn.relu(y) / jnp.exp(log_scales(node, h)), np.float64).ravel()
    positive = np.sort(z[z > 0])
    n = len(positive)
    law = np.asarray(jax.lax.erf(jnp.asarray(positive / SQRT_2, jnp.float32)))
    steps = np.arange(n + 1) / n
    ks = float(max(np.max(steps[1:] - law), np.max(law - steps[:-1])))
    return {
        "zeros": float(np.mean(z == 0)),
        "mean": float(np.mean(z)) * math.sqrt(2 * math.pi),
        "second": float(np.mean(z**2)) * 2,
        "ks": ks,
        "ks_scaled": ks * math.sqrt(n),
        "n": n,
    }


@jax.jit
def _drawn_weights(node: ZeroMean, h: Array, key: Key) -> Array:
    return estimators.per_example_sampling(ops.DENSE, node, h, key)


def _measure(settings, test: Split, net: Net, key: Key) -> Measured:
    """Accuracies, kind of solution and activations of one net on the test points."""
    name, node = variance_layer(net.params)
    specs = evaluate.standard_evals(settings.samples)
    size = {"batch_size": settings.batch_size, "prepare": as_is}
    columns = {n: net.evaluate(test, specs[n], stream(key, n), **size) for n in COLUMNS}
    h = layer_input(net.model, name)(net.params, test.inputs)
    evals = {
        **columns,
        "solution": solution(log_scales(node, h), test.target),
        "half_normal": half_normal(node, h, settings.draws, stream(key, "half_normal")),
    }
    per_class = len(test) // CLASSES
    shown = np.arange(len(test)) % per_class < settings.points
    y = estimators.lrt(ops.DENSE, node, h[shown], stream(key, "activations"))
    curves = {
        "activations": by_class(y + net.params[name]["bias"][None], test.target[shown]),
        "scales": by_class(log_scales(node, h[shown]), test.target[shown]),
    }
    return Measured(evals, curves)


def by_class(plane: Array, label: Array) -> dict[str, list[float]]:
    """A curve of points [B, 2] and their classes [B].

    The scales of the classes differ by powers of ten. asinh_x and asinh_y keep the sign
    and are linear near zero and logarithmic far from it, so that a figure shows them.
    """
    x, y = np.asarray(plane, np.float64).T
    axes = {"x": x, "y": y, "asinh_x": np.arcsinh(x), "asinh_y": np.arcsinh(y)}
    curve = {axis: values.tolist() for axis, values in axes.items()}
    return {**curve, "class": label.tolist()}


def _gallery(
    measure: Callable[[Net, Key], Measured], nets: dict[str, list[Net]], key: Key
) -> Measured:
    """Means over trained nets, and the activations of the two extreme ones."""
    found = [measure(net, stream(key, i)) for i, net in enumerate(nets["net"])]
    evals = jax.tree.map(lambda *each: float(np.mean(each)), *(m.evals for m in found))
    found.sort(key=lambda measured: measured.evals["solution"]["opposition"])
    extremes = {"least_opposed": found[0], "most_opposed": found[-1]}
    curves = {name: one.curves["activations"] for name, one in extremes.items()}
    return Measured(evals, curves)
