"""Bayesian averages by other means beside variance nets: what a reader compares with.

Each method makes a bag of nets of trained ones, for one `Predictor`: seeds, snapshots,
a chain of samples, draws of a normal law, particles. All are measured alike, on the
test set and on images from elsewhere (`studies.uncertainty`), with what they cost.
"""

import functools
import math
import time
from collections.abc import Callable

import jax
import numpy as np

from experiments import datasets, ranges
from experiments import spec as parts
from experiments.config_files import load_config
from experiments.core import Measured, Net, NetSpec, Study
from experiments.kinds.classify import Particles
from experiments.predictions import detection, scores, summary_of, unit_range
from experiments.studies.uncertainty import shifted_images, test_images
from vnets import data, edits, laplace, samplers, svgd
from vnets.predictor import Member, Predictor, Stack
from vnets.rng import stream
from vnets.swag import average, swag
from vnets.types import Key

FIELDS = (
    *("dataset", "nets.net", "method", "samples", "images", "batch_size", "shift.name"),
    *("rank", "laplace.where", "laplace.batch_size"),
)

Nets = list[Net]
# What a method makes: the predictor, and further numbers of it.
Made = tuple[Predictor, dict[str, float]]


def build(config) -> Study:
    """The study of a config; see `configs/comparators.py` for its fields.

    Raises:
      ConfigError: a method that does not exist, or a value that does not fit.
    """
    make = parts.pick("method", config.method, METHODS)
    dataset, test = test_images(config)
    shifted = shifted_images(config, test)
    spec = parts.call("nets.net", NetSpec, config.nets.net)
    known = _temperature(load_config(f"{spec.run},{config.scale}").optimizer)
    known["passes"] = float(_passes(spec.run, config.scale, spec.members))
    make = functools.partial(make, config, dataset.train)
    measure = functools.partial(_measure, config, test, shifted, make, known)
    return Study({"net": spec}, measure, dataset)


def _passes(run: str, scale: str, members: int = 1) -> int:
    """How often a net's gradient is taken of each training image, in all members and
    in the nets that they begin from: what training costs on any machine."""
    config = load_config(f"{run},{scale}")
    own = config.epochs * config.get("particles", 1) * config.get("train_samples", 1)
    starts = config.get("nets", {}).values()
    began = sum(_passes(one.run, scale, one.get("members", 1)) for one in starts)
    return members * (own + began)


def _temperature(optimizer) -> dict[str, float]:
    """That of the posterior that a run samples, by name; none where it does not."""
    if optimizer.name not in samplers.SAMPLERS:
        return {}
    value = optimizer.get("temperature", 1.0)
    if hasattr(value, "items"):
        value = value["temperature"]
    return {"temperature": float(value)}


def _members(config, train: data.Split, nets: Nets) -> Made:
    """The nets, and draws of the noise that they have."""
    del train
    return Predictor([net.member for net in nets], samples=config.samples), {}


def _collected(config, train: data.Split, nets: Nets) -> Made:
    """All nets that were kept along a run: snapshots, or a chain of samples."""
    del config, train
    return Predictor([Stack(net.model, net.collected) for net in nets]), {}


def _average(config, train: data.Split, nets: Nets) -> Made:
    """The one net with the means of their weights."""
    del config, train
    return Predictor([Member(net.model, average(net.collected)) for net in nets]), {}


def _swag(config, train: data.Split, nets: Nets) -> Made:
    """Draws of a normal law that varies as they do."""
    del train
    members = [Member(net.model, swag(net.collected, config.rank)) for net in nets]
    return Predictor(members, draw=edits.draw, samples=config.samples), {}


def _laplace(fit: Callable, linearized: bool, config, train, nets: Nets) -> Made:
    """Draws of the normal law of the curvature, with the prior of most evidence."""
    [net] = nets
    found = fit(
        *(net.model, net.member.variables, train),
        where=tuple(config.laplace.where),
        batch_size=config.laplace.batch_size,
        prepare=datasets.prepare_of(train),
    )
    precision = found.best_precision()
    model, variables = net.model, found.posterior(precision)
    if linearized:
        model = laplace.Linearized(model)
        variables = model.around(variables)
    member = Member(model, variables)
    numbers = {"precision": precision, "evidence": found.evidence(precision)}
    return Predictor(member, draw=edits.draw, samples=config.samples), numbers


def _particles(config, train: data.Split, nets: Nets) -> Made:
    """Nets that were trained together, and how much they repel each other."""
    del config, train
    [net] = nets
    if not isinstance(net.model, Particles):
        raise parts.ConfigError("config.method: particles are nets of a run that has")
    stack = Stack(net.model.model, net.member.variables)
    return Predictor(stack), {"kernel": float(svgd.mean_kernel(net.params))}


METHODS: dict[str, Callable[..., Made]] = {
    "members": _members,
    "collected": _collected,
    "average": _average,
    "swag": _swag,
    # The last layer, in whose weights a net is linear.
    "laplace": functools.partial(_laplace, laplace.full, False),
    "laplace_diagonal": functools.partial(_laplace, laplace.diagonal, True),
    "laplace_kronecker": functools.partial(_laplace, laplace.factored, True),
    # What not to do: draws put into the net that is not linear in them.
    "laplace_sampled": functools.partial(_laplace, laplace.diagonal, False),
    "particles": _particles,
}


def _measure(
    config, test: data.Split, shifted, make, known, nets, key: Key
) -> Measured:
    """All of it for one predictor, made of the members of "net"."""
    ranges.COUNT.check("config.samples", config.samples)
    began = time.monotonic()
    predictor, numbers = make(nets["net"])
    cost = {"making": time.monotonic() - began}

    def summarized(images: np.ndarray, name: str):
        own = stream(key, name)
        return summary_of(predictor, unit_range(images), own, config.batch_size)

    inside = summarized(test.inputs, "inside")
    began = time.monotonic()  # what is compiled by now
    outside = summarized(shifted, "outside")
    seconds = time.monotonic() - began
    sizes = (leaf.nbytes for leaf in jax.tree.leaves(predictor.nets))
    cost |= {"seconds": seconds, "megabytes": sum(sizes) / 2**20}
    trained = sum(net.seconds for net in nets["net"])
    if not math.isnan(trained):
        cost["train_seconds"] = trained
    evals = {
        "inside": scores(inside, test.target),
        "outside": scores(outside) | detection(inside, outside),
        "made": {**known, **numbers, **cost, "draws": float(len(predictor))},
    }
    return Measured(evals)
