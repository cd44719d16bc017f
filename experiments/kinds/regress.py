"""Regression on points under Gaussian noise of known deviation, by a standardized net.

The columns are those of `vnets.columns.standard_evals`: rmse, nll and coverage; and
"cut", what is left where `evals.cut` says which units go, with how many are left.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from experiments import cuts, datasets, points
from experiments import spec as parts
from experiments.kinds import Kind
from vnets import data, train
from vnets.columns import EvalSpec
from vnets.evaluate import score
from vnets.layers import TEST, Mode
from vnets.likelihoods import Gaussian
from vnets.loss import forward, neg_elbo
from vnets.predictor import Member, as_is
from vnets.rng import stream
from vnets.types import Array

FIELDS = (
    *("model", "prior", "kl_weight", "steps", "copies", "probe.samples"),
    *("dataset.name", "dataset.seed", "dataset.size"),
    *("evals.samples", "evals.batch_size", "evals.test_points", "evals.cut"),
)


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    del config
    return FIELDS


@dataclasses.dataclass(frozen=True, eq=False)
class Regress(Kind):
    """A regression, as a config describes it."""

    watched: ClassVar[str] = "rmse"

    @property
    def likelihood(self) -> Gaussian:
        """Noise of the curve's own deviation."""
        return Gaussian(points.CURVES[self.config.dataset.name].noise)

    def loss(self) -> Callable:
        """The negative ELBO under the true noise."""
        return neg_elbo(
            forward(self.model), self.likelihood, self.prior, self.source.n, self.beta
        )

    def specs(self, samples: int) -> dict[str, EvalSpec]:
        """See `Kind`; with "cut"."""
        return super().specs(samples) | cuts.columns(self.config.evals, TEST)

    def tested(self, net: Member, spec: EvalSpec, split, key) -> dict[str, float]:
        """See `Kind`; with `evals.cut` the units that are left after an edit."""
        found = score(
            spec.predictor(net, link=as_is),
            split,
            key,
            self.likelihood,
            batch_size=self.config.evals.batch_size,
            prepare=as_is,
        )
        if "cut" not in self.config.evals:
            return found
        params = spec.edit(net.variables["params"], stream(key, "edit"))
        edited = {**net.variables, "params": params}
        return found | cuts.left(self.model.net, edited, self.test.shape)


def build(config) -> Regress:
    """The regression that a config describes; see `configs/toy_regression.py`.

    Raises:
      ConfigError: a value that does not fit.
    """
    parts.pick("dataset.name", config.dataset.name, points.CURVES)
    dataset = datasets.load(config)
    learn = dataset.train
    model = Standardized(parts.model(config.model, classes=1), *statistics(learn))
    kind = Regress(
        config=config,
        model=model,
        init=train.initializer(model, datasets.example(dataset)),
        source=datasets.source(config, dataset),
        dataset=dataset,
        prior=parts.prior(config.prior),
    )
    if "cut" in config.evals:
        cuts.check_cut(config.evals, kind.shapes)
    return kind


def statistics(points: data.Split) -> tuple[float, float, float, float]:
    """Mean and standard deviation of the inputs, then those of the targets."""
    x, y = points.inputs, points.target
    return tuple(float(value) for value in (x.mean(), x.std(), y.mean(), y.std()))


@dataclasses.dataclass(frozen=True)
class Standardized:
    """A net of one output between inputs and targets in their own units.

    Without it the first layers would start with targets far out of their reach.

    Attributes:
      net: [B, 1] -> [B, 1], of inputs and outputs of mean 0 and standard deviation 1.
      x_mean, x_std, y_mean, y_std: `statistics` of the training set.
    """

    net: Any
    x_mean: float
    x_std: float
    y_mean: float
    y_std: float

    def init(self, rngs, x: Array):
        """The net's `init`."""
        return self.net.init(rngs, (x - self.x_mean) / self.x_std)

    def apply(self, variables, x: Array, mode: Mode = TEST, **kwargs):
        """The net's `apply` with `mutable` given: [B] and the collections."""
        x = (x - self.x_mean) / self.x_std
        y, collections = self.net.apply(variables, x, mode=mode, **kwargs)
        return self.y_mean + self.y_std * y[:, 0], collections
