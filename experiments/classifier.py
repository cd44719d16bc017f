"""A classifier of images whose weights are posterior nodes, from its config.

What experiments on such nets share: data, model, loss, optimizer, and evaluation by
columns. A module adds what it probes and what it measures (`Classifier.experiment`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from experiments import build as parts
from experiments.core import Experiment, NetSpec, load_data
from vnets import (
    data,
    edits,
    evaluate,
    objectives,
    projections,
    sources,
    train,
    tree,
)
from vnets.layers import Mode
from vnets.nodes import (
    AdaptiveDropout,
    Posterior,
    log_alpha,
)
from vnets.priors import kl
from vnets.rng import stream
from vnets.types import Params

COUNTS = (
    ("", "epochs"),
    ("", "batch_size"),
    ("", "chunk_steps"),
    ("evals", "batch_size"),
    ("evals", "samples"),
    ("probe", "samples"),
    ("probe", "every"),
)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The parts of an experiment that trains a classifier.

    Attributes:
      config: as given.
      dataset: as loaded.
      model: the net.
      prior: of its weights.
      mode: its estimator in training and tests, with running statistics.
      init: key -> (params, collections).
      source: of batches.
      total_steps: updates of the whole run.
    """

    config: Any
    dataset: data.Dataset
    model: Any
    prior: Any
    mode: Mode
    init: Callable
    source: Any
    total_steps: int

    @property
    def probed(self) -> data.Split:
        """What probes see while training: the validation split, if there is one."""
        return self.dataset.validation or self.dataset.test

    @property
    def test(self) -> data.Split:
        """What is evaluated at the end: what was probed, to tune on a validation split,
        but the test set where that split chose the epoch."""
        return self.dataset.test if self.early_stopping else self.probed

    @property
    def early_stopping(self) -> train.EarlyStopping | None:
        """When training ends before its last epoch, if `config.early_stopping` is."""
        if "early_stopping" not in self.config:
            return None
        spec = self.config.early_stopping
        return parts.call("early_stopping", train.EarlyStopping, spec)

    @property
    def shapes(self) -> Params:
        """The parameters as shapes; a net that does not fit its data says so here."""
        return jax.eval_shape(self.init, random.key(0))[0]

    def specs(self, samples: int) -> dict[str, evaluate.EvalSpec]:
        """The standard columns at this many samples."""
        threshold = self.config.evals.threshold
        return evaluate.standard_evals(samples, threshold, mode=self.mode)

    def columns(
        self, params, collections, key, specs: Mapping[str, evaluate.EvalSpec], **on
    ) -> dict[str, dict[str, float]]:
        """Evaluates by columns, errors too; `split` is another data set than `test`."""
        split = on.get("split", self.test)
        found = {
            name: evaluate.evaluate(
                self.model,
                {"params": params, **collections},
                split,
                spec,
                stream(key, name),
                batch_size=self.config.evals.batch_size,
            )
            for name, spec in specs.items()
        }
        return {
            name: {**one, "error": 1.0 - one["accuracy"]} for name, one in found.items()
        }

    def loss(self, **options) -> Callable:
        """The loss of `config`; `options` are of `objectives.classification_loss`."""
        return objectives.classification_loss(
            self.model,
            self.prior,
            self.source.n,
            parts.schedule("kl_weight", self.config.kl_weight, self.total_steps),
            mode=dataclasses.replace(self.mode, norm="batch"),
            label_smoothing=self.config.get("label_smoothing", 0.0),
            **options,
        )

    def experiment(
        self, probe, evaluations, loss=None, project=projections.nothing
    ) -> Experiment:
        """The experiment; it starts from another net if `config.nets.start` says so.

        Args:
          probe: (params, collections, key) -> {name: float}, while training.
          evaluations: (params, collections, key) -> Measured, at the end.
          loss: `self.loss()` by default.
          project: after each update, between the bounds of log alpha.
        """
        config = self.config
        bound = parts.projection(config.max_log_alpha, config.prior)
        clip = parts.clip(config.get("clip_log_alpha"))
        task = train.Task(
            init=self.init,
            loss=loss or self.loss(),
            optimizer=parts.optimizer(config.optimizer, self.total_steps),
            source=self.source,
            project=projections.chain(bound, project, clip),
            probe=probe,
            locate=objectives.first_nonfinite_layer(self.model),
        )
        # A prior that does not fit the posteriors says so here.
        divergence = partial(kl, prior=self.prior, key=random.key(0))
        parts.call("prior", lambda: jax.eval_shape(divergence, self.shapes), {})
        jax.eval_shape(task.optimizer.init, self.shapes)  # nor factors of no parameter
        start = config.get("nets", {}).get("start")
        return Experiment(
            task,
            evaluations,
            self.model,
            self.dataset,
            start=None if start is None else NetSpec(start.run),
            start_edit=None if start is None else self._start_edit(start),
            early_stopping=self.early_stopping,
        )

    def _start_edit(self, spec) -> edits.Edit:
        """How the parameters of another net become those of this one."""

        def carry(params, key):
            return edits.carry_means(params, self.init(key)[0])

        def carry_balanced(params, key):
            return edits.balance(carry(params, key))

        ways = {"carry_means": carry, "carry_means_balanced": carry_balanced}
        return parts.edit("nets.start", spec, ways)


def build(config) -> Classifier:
    """The parts that a config describes; see `configs/lenet5_mnist.py` for its fields.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    for group, field in COUNTS:
        value = config[group][field] if group else config[field]
        parts.positive(f"{group}.{field}" if group else field, value)
    dataset = load_data(config.dataset)
    streamed = isinstance(dataset.train, data.Stream)
    make, batches = sources.Resident, {"split": dataset.train}
    if streamed:
        make = sources.Pictures
        if "augment" in config.dataset:
            raise parts.ConfigError(
                f"config.dataset.augment: {dataset.name} is streamed, and cut at "
                "random as it is read; leave it out"
            )
    else:
        batches["augment"] = parts.augment(config.dataset.get("augment"))
    batches["batch_size"] = config.batch_size
    source = parts.call("batch_size", make, batches)
    images = None if streamed else np.asarray(dataset.train.image)
    model = parts.model(config.model, dataset.classes, images)
    mode = parts.mode(
        config.get("estimator", "lrt"),
        config.get("precision", "float32"),
        config.get("remat", False),
    )
    example = jnp.zeros((1, *dataset.train.shape), jnp.float32)
    classifier = Classifier(
        config=config,
        dataset=dataset,
        model=model,
        prior=parts.prior(config.prior),
        mode=mode,
        init=train.initializer(model, example, mode=mode),
        source=source,
        total_steps=config.epochs * source.steps_per_epoch,
    )
    jax.eval_shape(classifier.init, random.key(0))
    _check_early_stopping(classifier)
    return classifier


def _check_early_stopping(classifier: Classifier) -> None:
    early, config = classifier.early_stopping, classifier.config
    if early is None:
        return
    if classifier.dataset.validation is None:
        raise parts.ConfigError(
            "config.early_stopping needs a split to watch: set dataset.validation to "
            "as many images"
        )
    parts.pick("early_stopping.metric", early.metric, config.probe.columns)


def chosen(field: str, names: Iterable[str], specs: Mapping) -> dict:
    """Those of `specs` that a config names; the error lists all."""
    return {name: parts.pick(field, name, specs) for name in names}


def _log_alpha(node: Posterior):
    """Of the weight, or of noise on units that learns its rate."""
    scale = getattr(node, "scale", None)
    return log_alpha(scale if isinstance(scale, AdaptiveDropout) else node)


def log_alphas(params) -> dict[str, float]:
    """The mean log alpha of each noisy layer that has one, as "log_alpha/<layer>"."""
    means = {
        f"log_alpha/{place.name}": float(jnp.mean(_log_alpha(node)))
        for place, node in tree.nodes(params)
        if node.noisy
    }
    return {name: value for name, value in means.items() if jnp.isfinite(value)}
