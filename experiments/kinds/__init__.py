"""Kinds of tasks: how one starts, its loss, and the columns it is tested by.

Each is a module with `build(config) -> Kind` and `fields(config)`, what it reads of a
config; the kind says its `loss`, and how a net is `tested` for a column.
`experiments.trained` trains any of them; what is watched beside the columns and
measured at the end has a name in `experiments.probes`. A method that is a node, a
prior, a projection or an edit needs no kind of its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
from jax import random

from experiments import points
from experiments import spec as parts
from vnets import data, train
from vnets.columns import EvalSpec, standard_evals
from vnets.loss import halving
from vnets.predictor import Member
from vnets.rng import stream
from vnets.types import Key, Params

# {column: {metric: number}} of a net.
Columns = Callable[[Params, dict, Key], dict[str, dict[str, float]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """A task, as a config describes it.

    Attributes:
      watched: the metric of a column that is shown while training.
      carried: collections that are the task's, and no part of the net.
      begun_by: the name, among the config's nets, of those that training begins with.
      config: as given.
      model: the net.
      init: key -> (params, collections). What a task carries beside its weights is one
        of the collections, which the loss hands on: a hidden state, a buffer of what
        was seen, the anchor that a former task left.
      source: of batches, for `train.fit`.
      dataset: as loaded; None where nothing is learned from a fixed set.
      prior: of the weights; None where there is none.
      sized: whether columns say, too, how many weights are left.
    """

    watched: ClassVar[str] = "accuracy"
    carried: ClassVar[tuple[str, ...]] = ()
    begun_by: ClassVar[str] = ""
    config: Any
    model: Any
    init: Callable[[Key], tuple[Params, dict]]
    source: Any
    dataset: data.Dataset | None = None
    prior: Any = None
    sized: bool = False

    def loss(self) -> Callable:
        """The loss, as `train.Task` takes it."""
        # Abstract: each kind says its own.
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def begin(self, nets: list, key: Key) -> tuple[Params, dict]:
        """What training starts from, by the nets that are named `begun_by`."""
        # Abstract: each kind that names some says its own.
        raise NotImplementedError(f"{type(self).__name__} has no begin")

    def specs(self, samples: int) -> dict[str, EvalSpec]:
        """All columns there are, at this many samples."""
        return standard_evals(samples)

    def tested(self, net: Member, spec: EvalSpec, split, key: Key) -> dict[str, float]:
        """What a column measures of a net on a split, by name."""
        # Abstract: each kind says its own.
        raise NotImplementedError(f"{type(self).__name__} has no tested")

    def columns(self, group: str, names: Sequence[str], split=None) -> Columns:
        """What tests a net in the ways that are named.

        Args:
          group: of the config's fields, "probe" while training or "evals" at the end.
          names: of columns.
          split: examples other than the group's own.

        Raises:
          ConfigError: a name that is no column's.
        """
        known = self.specs(self.config[group].samples) if names else {}
        specs = chosen(group, names, known)
        split = split or (self.probed if group == "probe" else self.test)

        def columns(params, collections, key):
            own = {k: v for k, v in collections.items() if k not in self.carried}
            net = Member(self.model, {"params": params, **own})
            return {
                name: self.tested(net, spec, split, stream(key, name))
                for name, spec in specs.items()
            }

        return columns

    @property
    def locate(self) -> Callable | None:
        """Which layer of a failed run ceased to be finite (`train.Task`)."""
        return train.first_nonfinite_layer(self.model)

    @property
    def recorded(self) -> data.Dataset | None:
        """The data set that a record describes; of what is made on the fly, none."""
        made = self.dataset is None or self.dataset.source == points.SOURCE
        return None if made else self.dataset

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return self.config.epochs * self.source.steps_per_epoch

    @property
    def beta(self) -> Callable:
        """The weight of the KL by the step: 1, unless the config's kl_weight says.

        In each batch of an epoch alike, or as the config's kl_shares say.
        """
        knots = self.config.get("kl_weight", ((0.0, 1.0),))
        weight = parts.schedule("kl_weight", knots, self.total_steps)
        shares = self.config.get("kl_shares", "even")
        if parts.pick("kl_shares", shares, ("even", "halving")) == "even":
            return weight
        share = halving(self.source.steps_per_epoch)
        return lambda step: weight(step) * share(step)

    @property
    def shapes(self) -> Params:
        """The parameters as shapes; a net that does not fit its data says so here."""
        return _shapes(self.init)

    @property
    def probed(self) -> data.Split:
        """What probes see while training: the validation split, if there is one."""
        return self.dataset.validation or self.dataset.test

    @property
    def test(self) -> data.Split:
        """What is evaluated at the end: what was probed, to tune on a validation split,
        but the test set where that split chose the epoch, or `evals.split` says so."""
        split = parts.pick(
            "evals.split", self.config.evals.get("split", "probed"), ("probed", "test")
        )
        chose = "early_stopping" in self.config or split == "test"
        return self.dataset.test if chose else self.probed


@functools.lru_cache(maxsize=1)
def _shapes(init: Callable) -> Params:
    """Traced once, however many parts of a kind ask."""
    return jax.eval_shape(init, random.key(0))[0]


def chosen(group: str, names: Sequence[str], columns: Mapping[str, Any]) -> dict:
    """Those of the columns that are named.

    Raises:
      ConfigError: a name that is no column's; the message lists them.
    """
    return {name: parts.pick(f"{group}.columns", name, columns) for name in names}


@dataclasses.dataclass(frozen=True)
class Training:
    """An experiment that trains a kind of task, by what is measured of it.

    Attributes:
      kind: module of this package.
      probed, tested: columns while training and at the end, unless the config's
        probe.columns and evals.columns say which.
      probes, measures: names in `experiments.probes`, unless the config's probes and
        measures say which.
      sized: see `Kind`.
    """

    kind: str
    probed: tuple[str, ...] = ()
    tested: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    sized: bool = False


USUAL, QUIET = ("det", "stoch", "ens"), ("det", "pruned")
TRAININGS = {
    "classify": Training("classify", USUAL, USUAL),
    "regress": Training("regress", USUAL, USUAL),
    "distill": Training("distill", ("det",), USUAL),
    "connect": Training("connect", ("det",), ("det",)),
    "continual": Training("continual", ("det",), USUAL, ("tasks",)),
    "autoencode": Training("autoencode", ("det",), ("det", "ens"), (), ("latents",)),
    "bottleneck": Training("bottleneck", ("ens",), ("ens",)),
    "policy_gradient": Training("policy", ("det",), USUAL),
    "bandit": Training("bandit", (), ("det", "stoch"), ("regret",), ("regret",)),
    "variance_networks": Training(
        "classify",
        USUAL,
        (*USUAL, "zero_mean", "permuted", "pruned"),
        ("log_alpha", "channels", "kappa"),
        ("elbo", "substitution", "prior_scale"),
    ),
    "sparsity": Training(
        "classify",
        QUIET,
        QUIET,
        ("left", "log_alpha"),
        ("train_columns",),
        sized=True,
    ),
    "text": Training("text", QUIET, QUIET, ("left",), sized=True),
    "transformer": Training(
        "transformer", QUIET, QUIET, ("left",), ("heads",), sized=True
    ),
    "language": Training("language", QUIET, QUIET, ("left",), sized=True),
    "learned_rates": Training(
        "classify", USUAL, USUAL, ("rate",), ("rates", "gradients")
    ),
    "toy_regression": Training("regress", probes=("band",), measures=("bands",)),
    "toy_four_classes": Training(
        "classify", USUAL, (), ("opposition",), ("four_classes",)
    ),
}
