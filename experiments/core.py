"""What an experiment is, and which one a config describes: `build`.

`experiments.running` runs it.
"""

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterable
from typing import Any

from experiments import config_files, ranges
from experiments.config_files import load_config
from experiments.kinds import TRAININGS
from experiments.spec import ConfigError, pick
from vnets import data, train, tree
from vnets.evaluate import EvalSpec, evaluate
from vnets.predictor import Member

# Where the `build(config)` of a study is.
STUDIES = {
    **{
        name: f"experiments.studies.{name}"
        for name in (
            "active_learning",
            "adversarial",
            "artifact",
            "bit_precision",
            "comparators",
            "conv_lrt",
            "deep_kernel",
            "densities",
            "description_length",
            "diversity",
            "gradient_estimators",
            "gradient_noise",
            "horseshoe",
            "ising",
            "kl_approximations",
            "mean_propagation",
            "mode_connectivity",
            "noise_sources",
            "noisy_weights",
            "occam",
            "prior_shapes",
            "sparse_linear",
            "structured",
            "toy_four_classes",
            "toy_regression",
            "uci",
            "uncertainty",
        )
    },
    "gradient_variance": "experiments.gradient_variance",
    "lrt_cost": "experiments.lrt_cost",
}
# Of every config, whatever is done with it.
FIELDS = ("experiment", "variant", "scale", "seed")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an experiment found, as numbers.

    Attributes:
      evals: {evaluation: {metric: number}}, the cells of a table.
      curves: {curve: {axis: numbers}}, what figures are drawn from; the axes of a curve
        are equally long.
    """

    evals: dict[str, dict[str, float]]
    curves: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class NetSpec:
    """Trained nets that an experiment starts from: `members` seeds of a run.

    Attributes:
      run: "configs/<file>.py:<variant>"; the scale is the experiment's own.
      members: K; seed s of the experiment has the seeds s K ... s K + K - 1 of the run.
      first: added to these, for nets of a run whose others are measured.
    """

    run: str
    members: int = 1
    first: int = 0

    def seeds(self, seed: int) -> range:
        """The member seeds that belong to a seed of the experiment."""
        start = self.first + seed * self.members
        return range(start, start + self.members)


@dataclasses.dataclass(frozen=True)
class Net:
    """A trained net: `model.apply({"params": params, **collections}, x, ...)`.

    Attributes:
      collected: variables of the nets that its config's `collect` kept; None without.
      seconds: that its training took, and that of nets that it began from, without
        compiling; nan where nothing says it.
    """

    model: Any
    params: Any
    collections: dict
    collected: dict | None = None
    seconds: float = math.nan

    def variables(self, params=None) -> dict:
        """What the model is applied to, with other parameters where they are given."""
        return {"params": self.params if params is None else params, **self.collections}

    @property
    def noisy(self) -> bool:
        """Whether it has noise."""
        return any(node.noisy for _, node in tree.nodes(self.params))

    @property
    def member(self) -> Member:
        """As a member of a `predictor.Predictor`."""
        return Member(self.model, self.variables())

    def evaluate(self, split, spec: EvalSpec, key, params=None, **options) -> dict:
        """What `vnets.evaluate` finds of it, with other parameters where given."""
        return evaluate(self.model, self.variables(params), split, spec, key, **options)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a module's `build(config)` returns if it trains a net.

    Attributes:
      task: for `train.fit`.
      evaluations: (params, collections, key) -> what was measured on the test set.
      model: the net, for those who measure it further; None if it is not a Flax model.
      dataset: as loaded; None where data are made on the fly.
      start: nets that the training needs, trained first, and
      begin: (nets, key) -> (params, collections) that training starts from.
      carried: collections that are the task's, and no part of the net.
      early_stopping: by what a probe measures on a validation split; None: never.
    """

    task: train.Task
    evaluations: Callable[..., Measured]
    model: Any = None
    dataset: data.Dataset | None = None
    start: NetSpec | None = None
    begin: Callable[[list[Net], Any], tuple[Any, dict]] | None = None
    carried: tuple[str, ...] = ()
    early_stopping: train.EarlyStopping | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """What a module's `build(config)` returns if it measures nets of other configs.

    Attributes:
      nets: what it measures, by name; trained first where there is none yet.
      measure: ({name: the members}, key) -> what was measured.
      dataset: as loaded.
    """

    nets: dict[str, NetSpec]
    measure: Callable[[dict[str, list[Net]], Any], Measured]
    dataset: data.Dataset | None = None


def without_nets(measure: Callable[[Any], Measured]) -> Study:
    """A study of no net: key -> what was measured."""
    return Study({}, lambda nets, key: measure(key))


def build(config) -> Experiment | Study:
    """The experiment that a config describes: of a net that it trains, or of others.

    Raises:
      ConfigError: a value that does not fit, or a field that nothing reads; DataError:
        data that are not there.
    """
    pick("experiment", config.experiment, {**STUDIES, **TRAININGS})
    for field in ("variant", "scale"):  # parts of paths
        config_files.name(f"config.{field}", config[field])
    ranges.check_fields(config)
    made = _checked_module(config).build(config)
    _check_data(made, config)
    return made


def _checked_module(config):
    """What builds a config: a study has no net of its own.

    Raises:
      ConfigError: a field that it does not read.
    """
    name = config.experiment
    if name in TRAININGS and ("model" in config or name not in STUDIES):
        module = importlib.import_module("experiments.trained")
        known = module.fields(config)
    else:
        module = importlib.import_module(STUDIES[name])
        known = module.FIELDS
    check_known(config, (*FIELDS, *known))
    return module


def check_known(config, known: Iterable[str]) -> None:
    """Refuses fields that nothing reads.

    Args:
      config: as given.
      known: paths of fields, "evals.samples"; what is below one is for its reader.

    Raises:
      ConfigError: the message lists those known.
    """
    known = sorted({*known})
    paths = (path for path, _ in config_files.flat(config))
    unknown = [path for path in paths if not _below(path, known)]
    if unknown:
        raise ConfigError(
            f"config.{unknown[0]} is read by nothing in experiment "
            f"{config.experiment!r}; the fields are {', '.join(known)}"
        )


def _below(path: str, known: Iterable[str]) -> bool:
    """True of a field that is known, is within a known one, or holds some."""
    return any(
        f"{path}.".startswith(f"{k}.") or k.startswith(f"{path}.") for k in known
    )


def _check_data(made: Experiment | Study, config) -> None:
    """Refuses nets that know images they are tested on, or were trained on other data.

    The nets of a study have its data set, however they augment it. One to start from
    may have another, but not trained on what this config holds out for validation.
    """
    studied = isinstance(made, Study)
    nets = made.nets if studied else {}
    if isinstance(made, Experiment) and made.start:
        nets = dict.fromkeys(config.nets, made.start)
    for name, spec in nets.items():
        trained = load_config(f"{spec.run},{config.scale}")
        own, theirs = (
            {k: v for k, v in one.dataset.to_dict().items() if k != "augment"}
            for one in (config, trained)
        )
        held_out, theirs_held_out = (one.get("validation", 0) for one in (own, theirs))
        known = own["name"] == theirs["name"] and held_out not in (0, theirs_held_out)
        if known or (studied and own != theirs):
            raise ConfigError(
                f"config.dataset is {own}, but config.nets.{name}, {spec.run}, is "
                f"trained with {theirs}; give the same, or in config.nets.{name}.run a "
                "config that has it"
            )
