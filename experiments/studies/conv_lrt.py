"""Convolutions under LRT: what its independent pixels neglect, and what they save.

The pixels of an output map share the weights of their channel, so that the noise of a
weight sample is correlated between them:

    Cov(y_p, y_q) = sum_k x_(p+k) x_(q+k) sigma_k^2,

for pixels of one image and one output channel. LRT draws each pixel by itself: its
variances are these, its covariances 0, a mean field over pixels that Kingma et al.
(2015) leave to dense layers and Molchanov et al. (2017) took to convolutions. Measured
on a trained net: the covariance by its formula, the predictions of the same net under
either kind of draw, and the time of a step of training.
"""

import functools

import jax.numpy as jnp
from jax import lax, random
from ml_collections import ConfigDict

from experiments import lrt_cost, transition
from experiments import spec as parts
from experiments.bench import timing
from experiments.core import Measured, Net, NetSpec, Study
from experiments.kinds import classify
from experiments.kinds.classify import Classify
from vnets import backend, estimators
from vnets.edits import mean_only
from vnets.evaluate import EvalSpec, to_float
from vnets.layers import Mode
from vnets.nodes import is_noisy
from vnets.ops import DIMENSIONS
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = (
    *("dataset", "nets.net", "way", "training", "evals.samples", "evals.batch_size"),
    *("covariance.images", "covariance.offsets", "cost.rounds"),
)

WAYS = {**lrt_cost.SAMPLED, "flipout": estimators.flipout}
# How a net is tested: its layers by LRT, or by weights, as they are in one image.
TESTS = {"lrt": estimators.lrt, "sampled": estimators.weight_sampling}


def build(config) -> Study:
    """The study of a config; see `configs/conv_lrt.py` for its fields."""
    parts.pick("way", config.way, WAYS)
    if config.covariance.offsets < 2:
        raise parts.ConfigError(
            "config.covariance.offsets must be at least 2, for a pixel and its "
            f"neighbour, not {config.covariance.offsets}"
        )
    net = classify.build(ConfigDict(config.training))
    nets = {"net": NetSpec(config.nets.net.run)}
    return Study(nets, functools.partial(_measure, config, net), net.dataset)


def _measure(config, trained: Classify, nets, key: Key) -> Measured:
    [net] = nets["net"]
    spec, split = config.covariance, trained.dataset.train
    evals = {}
    for name, estimator in TESTS.items():
        for column, samples in (("one", 1), ("ens", config.evals.samples)):
            evals[f"{name}_{column}"] = net.evaluate(
                trained.dataset.test,
                EvalSpec(samples=samples, mode=Mode(estimator)),
                stream(key, name, column),
                batch_size=config.evals.batch_size,
            )
    curves = {}
    image = to_float(jnp.asarray(split.inputs[: spec.images]))
    for layer in noisy_convolutions(net):
        kernel = net.params[layer]["kernel"]
        x = inputs(net, layer, image)
        correlation = correlations(x, kernel.moments()[1], spec.offsets)
        evals[layer] = {
            "neighbour": correlation[1],
            "variance_of_mean": variance_of_mean(x, kernel.moments()[1]),
        }
        offsets = [float(offset) for offset in range(len(correlation))]
        curves[layer] = {"offset": offsets, "correlation": correlation}
    evals["step"] = _cost(config, trained, key)
    return Measured(evals, curves)


def _cost(config, trained: Classify, key: Key) -> dict[str, float]:
    """A step of training, this way and by LRT, in turns."""
    ways = {"this": WAYS[config.way], "lrt": estimators.lrt}
    steps = {
        name: lrt_cost.training_step(trained, way, key)[0] for name, way in ways.items()
    }
    times = timing.interleave(steps, config.cost.rounds, warmup=1)
    ms = timing.summary(times["this"])["median"]
    return {"ms": ms, "of_lrt": timing.ratio(times, "this", "lrt")}


def noisy_convolutions(net: Net) -> list[str]:
    """Names of the convolutions whose weights have independent noise.

    Raises:
      ConfigError: there is none.
    """
    found = []
    for layer in net.model.layers:
        kernel = net.params[layer]["kernel"]
        plain = is_noisy(kernel) and kernel.bare is kernel
        if plain and len(kernel.shape) == 4:
            found.append(layer)
    if not found:
        raise parts.ConfigError(
            "config.nets.net.run: none of this net's layers "
            f"{list(net.model.layers)} is a convolution with noise on its weights"
        )
    return found


def inputs(net: Net, layer: str, image: Array) -> Array:
    """What a layer sees if the noise before it is off, [B, H, W, I]."""
    variables = net.variables(mean_only(net.params, None))
    return transition.layer_input(net.model, layer)(variables, image, random.key(0))


def correlations(x: Array, var: Array, offsets: int) -> list[float]:
    """Correlation of a weight sample's noise between pixels, by how far they are apart.

    The covariance of all pairs of an offset (down and to the right alike), examples and
    channels, over what it would be if they were correlated fully: pairs count by their
    standard deviations, so that blank patches, which have no noise, do not.

    Args:
      x: inputs of a convolution with stride 1 and no padding, [B, H, W, I].
      var: variances of its weights, [kh, kw, I, O].
      offsets: how many, from 0 on, fewer if the map is smaller.
    """
    height, width = (n - k + 1 for n, k in zip(x.shape[1:3], var.shape, strict=False))
    most = min(offsets, height, width)

    @backend.jit
    def run(x, var):
        std = jnp.sqrt(jnp.maximum(_valid(jnp.square(x), var), 0))

        def sums(axis: int, offset: int):
            def ahead(a):
                return lax.slice_in_dim(a, offset, None, axis=axis)

            def behind(a):
                return lax.slice_in_dim(a, 0, a.shape[axis] - offset, axis=axis)

            cov = _valid(ahead(x) * behind(x), var)
            return jnp.stack([jnp.sum(cov), jnp.sum(ahead(std) * behind(std))])

        pairs = [sums(1, offset) + sums(2, offset) for offset in range(most)]
        return jnp.stack([cov / full for cov, full in pairs])

    return [float(value) for value in run(x, var)]


def variance_of_mean(x: Array, var: Array) -> float:
    """Variance of the noise's mean over a map, under a weight sample over under LRT.

    Correlated pixels do not average out: the ratio is how many of them count as one.
    Arguments as of `correlations`.
    """

    @backend.jit
    def run(x, var):
        height, width = (
            n - k + 1 for n, k in zip(x.shape[1:3], var.shape, strict=False)
        )
        pixels = height * width
        # The mean over pixels sees each weight times the mean of what it is applied to.
        everywhere = jnp.full((height, width, 1, 1), 1 / pixels, jnp.float32)
        maps = x.transpose(0, 3, 1, 2).reshape(-1, *x.shape[1:3], 1)
        seen = _valid(maps, everywhere).reshape(x.shape[0], x.shape[3], *var.shape[:2])
        sampled = jnp.einsum("nikl,klio->", jnp.square(seen), var)
        alone = jnp.sum(_valid(jnp.square(x), var)) / pixels**2
        return sampled / alone

    return float(run(x, var))


def _valid(x: Array, w: Array) -> Array:
    """The convolution without padding, [B, H - kh + 1, W - kw + 1, O]."""
    return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=DIMENSIONS)
