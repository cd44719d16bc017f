"""Variance of the minibatch gradient under each way of sampling: Kingma et al. 2015.

Their section 2.1: with one noise for the whole minibatch of M examples,

    Var = Var_i / M + (M - 1) / M Cov_ij,

where Var_i is the variance of one example's gradient, over examples and noise, and
Cov_ij is the covariance of two that share the noise, which no M makes small. It is zero
where examples have noises of their own (LRT; a weight sample for each), so their
variance at any M comes from single examples, a thousand of them in the place of a
minibatch. Of one example alone all that sample weights are the same; of those that
share a draw (one weight sample, flipout, antithetic pairs) whole minibatches are drawn.
So they are for the score function, which differentiates the density of two draws of the
measured layers' weights, each the other's baseline, and not the net.

Variances are totals over the weights of a layer, divided by their number, of the
gradient of N mean(log likelihood), N the training set's size, as in the paper's table.
They are unbiased estimates, with the standard error of a mean over draws; examples are
drawn with replacement, the same ones for all ways of sampling. The posterior is w =
theta (1 + sqrt(alpha) eps) = mu + sigma eps with theta = mu; what differs is what is
held:

    theta      alpha held: what the paper trains
    mu         sigma held
    log_var    of log sigma^2 with mu held, the same as of log alpha with theta held
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments import spec as parts
from experiments.core import Measured, Net, NetSpec, Study
from experiments.datasets import load_data
from experiments.studies.gradient_noise import additive, batch_loss
from vnets import backend, estimators, gradients
from vnets.data import Split
from vnets.edits import mean_only
from vnets.evaluate import to_float
from vnets.layers import Mode
from vnets.nodes import Point, is_noisy, is_posterior
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = (
    *("dataset", "nets.net", "gradient.batch_sizes", "gradient.examples"),
    "gradient.minibatches",
)

OWN_NOISE = {"lrt": estimators.lrt, "separate": estimators.per_example_sampling}
SHARED_NOISE = {
    "single": estimators.weight_sampling,
    "flipout": estimators.flipout,
    "antithetic": estimators.antithetic,
    "score": estimators.lrt,  # of the layers that are not measured
}
KINDS = ("theta", "mu", "log_var")
NORMAL_95 = 1.96  # standard errors on each side of a 95 % interval
AT_ONCE = 16  # single examples whose gradients are held together


@dataclasses.dataclass(frozen=True)
class Variance:
    """An estimate of a variance.

    Attributes:
      value: the estimate.
      squares: what it is the mean of, but for the centre's bias: one for each draw.
      batch_size: of the minibatches drawn; equal draws of equal size are of the same
        examples, whatever the way of sampling.
    """

    value: float
    squares: np.ndarray
    batch_size: int


# {layer: {kind: Variance}}
Variances = dict[str, dict[str, Variance]]


def build(config) -> Study:
    """The study of a config; see `configs/gradient_variance.py` for its fields."""
    spec = config.gradient
    for field in ("examples", "minibatches"):
        parts.several(f"gradient.{field}", spec[field])
    sizes = tuple(spec.batch_sizes)
    if not sizes or sizes[0] <= 1 or list(sizes) != sorted(set(sizes)):
        raise parts.ConfigError(
            f"config.gradient.batch_sizes must rise from 2 or more, not {sizes}"
        )
    dataset = load_data(config.dataset)
    nets = {"net": NetSpec(config.nets.net.run)}
    return Study(nets, functools.partial(_measure, spec, dataset), dataset)


def spread(
    net: Net,
    layers: Sequence[str],
    mode: Mode,
    split: Split,
    keys: tuple[Key, Key],
    batch_size: int,
    draws: int,
    centre: Mapping[str, Array] | None = None,
    by_score: bool = False,
) -> tuple[Variances, dict[str, Array]]:
    """Variance over examples and noise of N times the gradient of a minibatch's mean.

    Args:
      net: its `layers` have additive noise (`gradient_noise.additive`) or none.
      layers: names of those that are measured.
      mode: how weights are sampled.
      split: where minibatches come from.
      keys: of the examples, and of the noise.
      batch_size: M.
      draws: how many minibatches, at least 2.
      centre: near the mean gradient, as returned; it changes no estimate, but the
        standard error is that of the second moment around it. Zero by default.
      by_score: the gradient is that of the score function.

    Returns:
      The variances by layer and kind, and the mean gradients [kind, ..., I, O].
    """
    shapes = {name: net.params[name]["kernel"].shape for name in layers}
    if centre is None:
        centre = {
            name: jnp.zeros((len(KINDS), *shape), jnp.float32)
            for name, shape in shapes.items()
        }
    # How kernels start makes another model, but no other program.
    model = net.model.clone(posteriors={})
    # All arrays are arguments: as constants they would be a part of the program.
    run = _program(model, tuple(layers), mode, batch_size, draws, by_score)
    shift, squares = run(
        net.params,
        net.collections,
        dict(centre),
        jnp.asarray(split.inputs),
        jnp.asarray(split.target),
        *keys,
    )
    found = {
        name: _unbiased(
            np.asarray(squares[name], np.float64), np.asarray(shift[name]), batch_size
        )
        for name in layers
    }
    return found, jax.tree.map(jnp.add, dict(centre), shift)


@functools.lru_cache(maxsize=32)  # a table's rows differ in their nets' numbers only
def _program(
    model,
    layers: tuple[str, ...],
    mode: Mode,
    batch_size: int,
    draws: int,
    by_score: bool,
) -> Callable:
    """(params, collections, centre, images, labels, keys of examples and noise) -> the
    mean gradient's shift from the centre, and the mean square around it of each draw,
    [blocks, block, kind].
    """
    likelihood = batch_loss(model, mode)
    block = AT_ONCE if batch_size == 1 else 1
    blocks = -(-draws // block)

    def run(params, collections, centre, images, labels, key_rows, key_noise):
        n = len(images)
        kernels = {name: params[name]["kernel"] for name in layers}

        def loss(kernels, image, label, key):
            changed = {
                name: {**params[name], "kernel": kernels[name]} for name in layers
            }
            variables = {"params": {**params, **changed}, **collections}
            return n * likelihood(variables, image, label, key)

        def scored(kernels, image, label, key):
            def one(key):
                drawn = {
                    name: jax.lax.stop_gradient(node.sample(stream(key, name)))
                    for name, node in kernels.items()
                }
                log_q = sum(
                    jnp.sum(kernels[name].log_prob(drawn[name])) for name in drawn
                )
                points = {name: Point(weight) for name, weight in drawn.items()}
                return loss(points, image, label, stream(key, "rest")), log_q

            return jnp.mean(gradients.score(*jax.vmap(one)(jax.random.split(key))))

        cost = scored if by_score else loss

        def draw(number):
            at = stream(key_rows, number)
            rows = jax.random.randint(at, (batch_size,), 0, n)
            image, noise = to_float(images[rows]), stream(key_noise, number)
            bars = jax.grad(cost)(kernels, image, labels[rows], noise)
            return {name: _kinds(kernels[name], bar) for name, bar in bars.items()}

        def add(sums, numbers):
            found = jax.vmap(draw)(numbers)
            gaps = jax.tree.map(lambda g, c: g - c[None], found, centre)
            squares = {
                name: jnp.mean(jnp.square(gap), axis=tuple(range(2, gap.ndim)))
                for name, gap in gaps.items()
            }
            return jax.tree.map(lambda s, gap: s + gap.sum(0), sums, gaps), squares

        numbers = jnp.arange(blocks * block, dtype=jnp.int32).reshape(blocks, block)
        zero = jax.tree.map(jnp.zeros_like, centre)
        sums, squares = jax.lax.scan(add, zero, numbers)
        return jax.tree.map(lambda s: s / numbers.size, sums), squares

    return backend.jit(run)


def _kinds(node, bar) -> Array:
    """Gradients by theta, mu and log_var, [kind, ..., I, O], from those of a node."""
    if not is_noisy(node):
        return jnp.stack([bar.mean, bar.mean, jnp.zeros_like(bar.mean)])
    theta = bar.mean + 2 * bar.log_var / node.mean
    return jnp.stack([theta, bar.mean, bar.log_var])


def _unbiased(
    squares: np.ndarray, shift: np.ndarray, batch_size: int
) -> dict[str, Variance]:
    """From the squares [blocks, block, kind] around a centre, and the mean's shift."""
    squares = squares.reshape(-1, len(KINDS))
    n = len(squares)
    bias = np.square(shift, dtype=np.float64).reshape(len(KINDS), -1).mean(axis=1)
    value = (squares.mean(axis=0) - bias) * n / (n - 1)
    return {
        kind: Variance(float(value[i]), squares[:, i], batch_size)
        for i, kind in enumerate(KINDS)
    }


def ends(net: Net) -> dict[str, str]:
    """The bottom and the top layer of a net, both of them noisy in every weight.

    Raises:
      ConfigError: one of them has no noise of the kinds that are measured here.
    """
    found = {"top": net.model.layers[-1], "bottom": net.model.layers[0]}
    for name in found.values():
        node = additive(net.params[name]["kernel"])
        if not (is_noisy(node) and node.plain):
            raise parts.ConfigError(
                f"config.nets.net.run: layer {name!r} of this net is a "
                f"{type(node).__name__}; gaussian or multiplicative noise is measured"
            )
    return found


def _measure(spec, dataset, nets, key: Key) -> Measured:
    [net] = nets["net"]
    layers = ends(net)
    names = tuple(layers.values())
    noisy = jax.tree.map(additive, net.params, is_leaf=is_posterior)
    noisy = dataclasses.replace(net, params=noisy)
    quiet = dataclasses.replace(net, params=mean_only(net.params, None))
    sizes = tuple(spec.batch_sizes)

    def of(name: str, estimator: Callable, batch_size: int, centre=None):
        one = quiet if name == "none" else noisy
        draws = spec.examples if batch_size == 1 else spec.minibatches
        keys = stream(key, "examples", batch_size), stream(key, name, batch_size)
        split, mode = dataset.train, Mode(estimator)
        by_score = name == "score"
        return spread(
            one, names, mode, split, keys, batch_size, draws, centre, by_score
        )

    whole, centre = of("lrt", estimators.lrt, sizes[-1])
    ways = {"none": estimators.lrt, **OWN_NOISE}
    ways["score"] = SHARED_NOISE["score"]
    alone = {name: of(name, way, 1)[0] for name, way in ways.items()}
    shared = {
        name: {size: of(name, way, size, centre)[0] for size in sizes}
        for name, way in SHARED_NOISE.items()
    }
    evals, curves = {}, {}
    for place, layer in layers.items():
        single = {name: one[layer] for name, one in alone.items()}
        at = {
            # The mean of M independent examples varies by 1 / M of one.
            **{name: {m: _over(one, m) for m in sizes} for name, one in single.items()},
            **{name: {m: shared[name][m][layer] for m in sizes} for name in shared},
        }
        evals[place] = _metrics(at, single, whole[layer], sizes[-1])
        curves[place] = _curve(at, single, sizes)
    return Measured(evals, curves)


def _over(kinds: dict[str, Variance], m: int) -> dict[str, Variance]:
    return {
        kind: Variance(one.value / m, one.squares / m, one.batch_size)
        for kind, one in kinds.items()
    }


def _metrics(at, alone, whole, size: int) -> dict[str, float]:
    """The cells of a table: at minibatches of `size`, and for one example."""
    here = {name: by_size[size] for name, by_size in at.items()}
    lrt = here.pop("lrt")
    metrics = {"lrt": lrt["theta"].value}
    # What the theory says is 1: minibatches of LRT drawn, over examples alone.
    metrics |= _ratio("independence", whole["theta"], lrt["theta"])
    for name, kinds in here.items():
        metrics |= _ratio(name, kinds["theta"], lrt["theta"])
    for name in SHARED_NOISE:
        one, other = here[name]["theta"], here["separate"]["theta"]
        metrics[f"{name}_covariance"] = 1 - other.value / one.value
        metrics |= _ratio(f"{name}_of_separate", one, other)
    for kind in KINDS:
        metrics |= _ratio(f"one_{kind}", alone["separate"][kind], alone["lrt"][kind])
        if kind != "theta":
            for name in ("single", "score"):
                metrics |= _ratio(f"{name}_{kind}", here[name][kind], lrt[kind])
    return metrics


def _ratio(name: str, one: Variance, other: Variance) -> dict[str, float]:
    """The ratio of two variances and its 95 % interval."""
    value = one.value / other.value
    width = math.exp(NORMAL_95 * _relative_error(one, other))
    return {name: value, f"{name}_low": value / width, f"{name}_high": value * width}


def _relative_error(one: Variance, other: Variance) -> float:
    """Of the ratio: the standard error of its logarithm.

    Some examples vary far more than others, under any way of sampling; where both
    variances are of the same examples, that cancels.
    """
    a, b = (each.squares / each.value for each in (one, other))
    if one.batch_size == other.batch_size and len(a) == len(b):
        return float((a - b).std(ddof=1)) / math.sqrt(len(a))
    errors = (float(each.std(ddof=1)) / math.sqrt(len(each)) for each in (a, b))
    return math.hypot(*errors)


def _curve(at, alone, sizes: Sequence[int]) -> dict[str, list[float]]:
    """Variance of the gradient of theta against the size of the minibatch.

    "single_formula" is what the variance of single examples and the covariance, both
    as found at the largest minibatches, give for the others.
    """
    curve: dict[str, list[float]] = {"batch_size": [1.0, *map(float, sizes)]}
    for name, by_size in at.items():
        first = alone.get(name, alone["separate"])["theta"]
        curve[name] = [first.value, *(by_size[size]["theta"].value for size in sizes)]
    variance, largest = alone["separate"]["theta"].value, sizes[-1]
    last = at["single"][largest]["theta"].value
    covariance = (largest * last - variance) / (largest - 1)
    curve["single_formula"] = [
        variance / m + (m - 1) / m * covariance for m in curve["batch_size"]
    ]
    return curve
