"""Classifying pictures, tables or points by a net with noisy weights.

The columns are those of `vnets.columns.standard_evals`, any edit or draw by its name,
and "cut", what is left where `evals.cut` says which units or weights go.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from experiments import cuts, datasets, masks, points
from experiments import spec as parts
from experiments.kinds import Kind
from vnets import (
    edits,
    evaluate,
    learned_dropout,
    likelihoods,
    overview,
    propagation,
    svgd,
    train,
)
from vnets.evaluate import EvalSpec
from vnets.layers import Mode
from vnets.loss import forward, neg_elbo
from vnets.predictor import Member
from vnets.priors import soft_sharing
from vnets.rng import stream

FIELDS = (
    *("model", "prior", "kl_weight", "estimator", "precision", "remat"),
    *("label_smoothing", "train_samples", "train_average", "rate_gradient"),
    "train_by",
    "particles",
    *("evals.samples", "evals.batch_size", "evals.threshold", "evals.cut"),
    "probe.samples",
)
Kept = TypeVar("Kept", bound="Classify")
TRAIN_BY = ("draws", "moments")
OF_PICTURES = ("batch_size", "kl_shares", *datasets.FIELDS)
OF_POINTS = ("steps", "softmax_twice", "dataset.name", "dataset.seed")
OF_POINTS += ("dataset.per_class",)


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    made = config.dataset.name in points.MADE
    return (*FIELDS, *(OF_POINTS if made else OF_PICTURES))


@dataclasses.dataclass(frozen=True, eq=False)
class Classify(Kind):
    """A classifier, as a config describes it.

    Attributes:
      mode: its estimator in training and tests, with running statistics.
      rate_gradient: of rates of binary dropout that are learned, or None.
    """

    mode: Mode = dataclasses.field(default_factory=Mode)
    rate_gradient: learned_dropout.Gradient | None = None

    @property
    def likelihood(self) -> likelihoods.Likelihood:
        """Of the labels."""
        return likelihoods.Categorical(self.config.get("label_smoothing", 0.0))

    def loss(
        self, *, likelihood: likelihoods.Likelihood | None = None, **options
    ) -> Callable:
        """The loss of the config; `options` are of `loss.forward`.

        The likelihood is that of classes, unless one is given.
        """
        config, net = self.config, self.model
        several = isinstance(net, Particles)
        net = net.model if several else net
        if config.get("softmax_twice", False):
            net = WithSoftmax(net)
        samples = config.get("train_samples", 1)
        own = {"samples": samples, "rate_gradient": self.rate_gradient}
        average = config.get("train_average", "predictions")
        parts.pick("train_average", average, ("predictions", "losses"))
        by = parts.pick("train_by", config.get("train_by", "draws"), TRAIN_BY)
        if by == "moments":
            self._check_draws_nothing(options)
            predict, average = propagation.by_moments(net), "losses"
        else:
            mode = dataclasses.replace(self.mode, norm="batch")
            predict = forward(net, mode, **own | options)
        loss = neg_elbo(
            predict,
            likelihood or self.likelihood,
            self.prior,
            self.source.n,
            self.beta,
            average,
        )
        return svgd.per_particle(loss) if several else loss

    def _check_draws_nothing(self, options) -> None:
        """Refuses what is of draws, where moments are trained by."""
        own = ("train_samples", "train_average", "rate_gradient", "estimator")
        for name in (*own, *options):
            if name in self.config or name in options:
                raise parts.ConfigError(
                    f"config.{name} is of draws, and train_by 'moments' has none"
                )
        if self.mode.precision != "float32" or self.mode.remat:
            raise parts.ConfigError("config.train_by: moments are in float32, kept")

    @property
    def locate(self) -> Callable | None:
        """See `Kind`; of particles none is singled out."""
        return None if isinstance(self.model, Particles) else super().locate

    def specs(self, samples: int) -> dict[str, EvalSpec]:
        """All columns there are, at this many samples."""
        threshold = self.config.evals.get("threshold", 3.0)
        named = {
            name: EvalSpec(edit, samples, self.mode)
            for name, edit in edits.EDITS.items()
        } | {
            name: EvalSpec(samples=samples, mode=self.mode, draw=draw)
            for name, draw in edits.DRAWS.items()
        }
        specs = named | evaluate.standard_evals(samples, threshold, mode=self.mode)
        if "sharing" in self.config:  # components stand for weights
            share = edits.chain(edits.mean_only, soft_sharing.share)
            specs["pruned"] = EvalSpec(share, 1, self.mode)
        return specs | cuts.columns(self.config.evals, self.mode)

    def tested(self, net: Member, spec: EvalSpec, split, key) -> dict[str, float]:
        """See `Kind`; with the error, and where `sized` with what is left."""
        found = evaluate.evaluate(
            self.model,
            net.variables,
            split,
            spec,
            key,
            batch_size=self.config.evals.batch_size,
            prepare=datasets.prepare_of(split),
            likelihood=self.likelihood,
        )
        found["error"] = 1.0 - found["accuracy"]
        return found | self._left(net.variables, spec, key)

    def _left(self, variables: dict, spec: EvalSpec, key) -> dict[str, float]:
        """How many weights, and with `evals.cut` units, are left after an edit."""
        if not self.sized:
            return {}
        edited = spec.edit(variables["params"], stream(key, "edit"))
        found = overview.sizes(edited)
        if "cut" in self.config.evals:
            edited = {**variables, "params": edited}
            found |= cuts.left(self.model, edited, self.test.shape)
        return found


def build(config) -> Classify:
    """The parts that a config describes; see `configs/common.py` for its fields.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    return of_data(Classify, config)


def of_data(kind: type[Kept], config) -> Kept:
    """A kind of classifier of the config's data set, in random batches.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    dataset = datasets.with_classes(config)
    example = datasets.example(dataset)
    return built(kind, config, dataset, datasets.source(config, dataset), example)


def built(
    kind: type[Kept], config, dataset, source, example, held: bool = True
) -> Kept:
    """A kind of classifier of a data set, from a source of batches and an input.

    Weights are `held` to the config's prior, or the kind's loss has one of its own.

    Raises:
      ConfigError: a value that does not fit.
    """
    pictures = getattr(dataset.train, "inputs", None)  # of a stream, none
    model = parts.model(config.model, dataset.classes, pictures)
    mode = parts.mode(
        config.get("estimator", "lrt"),
        config.get("precision", "float32"),
        config.get("remat", False),
    )
    init = train.initializer(model, example, mode=mode)
    if "particles" in config:
        init = parts.call(
            "particles", svgd.particles, {"init": init, "count": config.particles}
        )
        model = Particles(model)
    net = kind(
        config=config,
        model=model,
        init=init,
        source=source,
        dataset=dataset,
        prior=parts.prior(config.prior) if held else None,
        mode=mode,
    )
    if "cut" in config.evals:
        cuts.check_cut(config.evals, net.shapes)
    return dataclasses.replace(
        net, rate_gradient=masks.rate_gradient(config, net.shapes)
    )


@dataclasses.dataclass(frozen=True)
class Particles:
    """Several nets of a model, trained together, as the one that they are on average.

    Attributes:
      model: of each; variables have a first axis of nets, as a `predictor.Stack`.
    """

    model: Any

    def apply(self, variables, x, *, mutable, **kwargs):
        """Logits of the mean of their probabilities, [B, K], and the collections."""

        def one(own):
            return self.model.apply(own, x, mutable=mutable, **kwargs)

        logits, collections = jax.vmap(one)(variables)
        return likelihoods.Categorical().averaged(logits), collections


@dataclasses.dataclass(frozen=True)
class WithSoftmax:
    """A net that gives its probabilities where a loss expects logits.

    The net of Neklyudov et al.'s toy problem ends in a softmax and their
    `CrossEntropyLoss` takes another one. The loss then stays above
    ln(1 + 3 / e) = 0.744 nats and flattens long before.
    """

    model: Any

    def apply(self, *args, **kwargs):
        """The model's `apply` with `mutable` given, [B, K] and the collections."""
        logits, collections = self.model.apply(*args, **kwargs)
        return jax.nn.softmax(logits), collections
