"""One test of many noises: of units, of weights, of images, of batch statistics.

A stochastic net is f(x, w, noise), whatever the noise is of. Each net is tested with
its noise off, by one draw and by the average of many draws; where the noise is of units
or weights, by moments in place of draws, too (`vnets.propagation`), and with the
variances of its weights shuffled.

Sources: Teye et al. 2018 (statistics of batches as a noise); Wang and Manning 2013
(moments through dropout).
"""

import functools
import math

import jax.numpy as jnp

from experiments import datasets, ranges
from experiments import spec as parts
from experiments.core import Measured, Net, NetSpec, Study
from vnets import data, edits, statistics
from vnets.augment import Augmented
from vnets.evaluate import score
from vnets.predictor import Member, Predictor, Stack
from vnets.propagation import SamplingFree
from vnets.rng import stream
from vnets.types import Key

FIELDS = ("dataset", "nets.net", "samples", "batch_size", "also")
FIELDS += ("noise.augment", "noise.batch_size")
MANY = 200  # draws, beside moments
ALSO = ("moments", "permuted")


def build(config) -> Study:
    """The study of a config; see `configs/noise_sources.py` for its fields.

    Raises:
      ConfigError: a value that does not fit.
    """
    ranges.COUNT.check("config.samples", config.samples)
    for name in config.also:
        parts.pick("also", name, ALSO)
    spec = parts.call("nets.net", NetSpec, config.nets.net)
    augment = parts.augment(config.noise.get("augment"))
    changed = augment and functools.partial(Augmented, augment=augment)
    dataset = datasets.load(config)
    measure = functools.partial(_measure, config, dataset, changed)
    return Study({"net": spec}, measure, dataset)


def _measure(config, dataset: data.Dataset, changed, nets, key: Key) -> Measured:
    """A net in each of these ways."""
    [net] = nets["net"]
    model = changed(net.model) if changed else net.model
    test = dataset.validation or dataset.test

    def tested(name: str, predictor: Predictor) -> dict[str, float]:
        found = score(
            predictor,
            test,
            stream(key, name),
            batch_size=config.batch_size,
            prepare=datasets.prepare_of(test),
        )
        # The mean over draws of the NLL of one.
        return {**found, "nll_of_one": -found.pop("expected_log_p") / len(test)}

    def noisy(name: str, samples: int, **options) -> dict[str, float]:
        return tested(name, drawn(config, net, model, dataset, samples, key, **options))

    off = Member(net.model, net.variables())
    evals = {
        "det": tested("det", Predictor(off, edit=edits.mean_only)),
        "stoch": noisy("stoch", 1),
        "ens": noisy("ens", config.samples),
    }
    if "moments" in config.also:
        quick = Member(SamplingFree(net.model), net.variables())
        evals["moments"] = tested("moments", Predictor(quick))
        evals["many"] = noisy("many", MANY)
    if "permuted" in config.also:
        shuffled = {"edit": edits.permute_variance}
        evals["permuted"] = noisy("permuted", 1, **shuffled)
        evals["permuted_ens"] = noisy("permuted_ens", config.samples, **shuffled)
    if not math.isnan(net.seconds):
        evals["training"] = {"seconds": net.seconds}
    return Measured(evals)


def drawn(
    config, net: Net, model, dataset: data.Dataset, samples: int, key: Key, **options
) -> Predictor:
    """So many draws of all of a net's noise."""
    if "batch_size" not in config.noise:
        member = Member(model, net.variables())
        return Predictor(member, samples=samples, **options)
    seen = dataset.train
    several = parts.call(
        "noise.batch_size",
        functools.partial(statistics.of_batches, model, net.variables()),
        {
            "inputs": datasets.prepare_of(seen)(jnp.asarray(seen.inputs)),
            "key": stream(key, "statistics"),
            "batch_size": config.noise.batch_size,
            "draws": samples,
        },
    )
    return Predictor(Stack(model, several), **options)
