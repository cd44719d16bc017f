"""How many labels a net needs that chooses its examples itself.

After Gal, Islam and Ghahramani 2017 ("Deep Bayesian Active Learning with Image Data").
A net is trained on a few labelled examples, an acquisition chooses which others are
labelled, and a net is trained on all of them from scratch, round by round. Each round
has as many updates, of batches drawn from what has a label, so that one compiled run
serves all rounds, all seeds, and all rows that differ in the acquisition alone.

The pool is the training set. The error is that of the test set, or of the validation
split where one is held out. `members` nets, and `samples` draws of each, are averaged,
for the error and for what the acquisition sees: a draw is of weights, for all images.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from experiments import datasets
from experiments import spec as parts
from experiments.core import Measured, Study
from vnets import active, backend, data, edits, parallel, train, uncertainty
from vnets.evaluate import on_device
from vnets.likelihoods import Categorical
from vnets.loss import forward, neg_elbo
from vnets.predictor import Predictor, Stack
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = (
    *("dataset", "model", "prior", "kl_weight", "optimizer", "batch_size", "updates"),
    *("members", "samples", "acquisition", "labels.per_class", "labels.per_round"),
    "labels.rounds",
)
LEVELS = {"labels_to_10": 0.1, "labels_to_5": 0.05}  # of the error
SHARED = ("acquisition", "variant", "seed")  # no part of what is compiled


def build(config) -> Study:
    """The study of a config; see `configs/active_learning.py` for its fields.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    names = tuple(active.ACQUISITIONS)
    number = names.index(parts.pick("acquisition", config.acquisition, names))
    dataset = datasets.load_data(config.dataset)
    if isinstance(dataset.train, data.Stream):
        raise parts.ConfigError(
            f"config.dataset.name: {dataset.name} is streamed, and a pool is in memory"
        )
    _check_labels(config.labels, dataset)
    fields = {k: v for k, v in config.to_dict().items() if k not in SHARED}
    run = _compiled(json.dumps(fields, sort_keys=True))
    return Study({}, functools.partial(_measure, run, number), dataset)


def _check_labels(labels, dataset: data.Dataset) -> None:
    """Refuses more labels than the pool has."""
    fewest = int(np.bincount(dataset.train.target, minlength=dataset.classes).min())
    if labels.per_class > fewest:
        raise parts.ConfigError(
            f"config.labels.per_class is {labels.per_class}, but a class of "
            f"{dataset.name} has {fewest} images"
        )
    first, whole = labels.per_class * dataset.classes, len(dataset.train)
    if first + labels.per_round * labels.rounds > whole:
        raise parts.ConfigError(
            f"config.labels: {labels.rounds} rounds of {labels.per_round} labels after "
            f"the first {first} are more than the {whole} images there are"
        )


@functools.lru_cache(maxsize=2)
def _compiled(fields: str) -> Callable[[int, Key], active.Rounds]:
    """The loop of a config, from the number of the acquisition and a key."""
    config: Any = ConfigDict(json.loads(fields))
    dataset = datasets.load_data(config.dataset)
    test = dataset.validation or dataset.test
    prepare = datasets.prepare_of(dataset.train)
    pool = parts.call(
        "batch_size",
        active.Pool,
        {"split": dataset.train, "prepare": prepare}
        | {"batch_size": config.batch_size},
    )
    train_net, model = _training(config, dataset, pool)

    def run(number, arrays: dict, held: dict, key: Key) -> active.Rounds:
        seen = jnp.concatenate([arrays["input"], held["input"]])

        def look(nets, key: Key):
            # A draw is one net for all images: BALD asks what the nets differ on.
            draws = {"samples": config.samples, "draw": edits.draw}
            predictor = Predictor(Stack(model, nets), **draws)
            log_p = predictor(prepare(seen), key)
            own = uncertainty.log_mean(log_p[:, pool.n :])
            wrong = jnp.argmax(own, -1) != held["target"]
            return log_p[:, : pool.n], jnp.mean(wrong.astype(jnp.float32))

        labels, of_first = config.labels, stream(key, "first")
        return active.learn(
            functools.partial(train_net, arrays),
            look,
            lambda *given: lax.switch(number, [*active.ACQUISITIONS.values()], *given),
            active.first(arrays["target"], labels.per_class, dataset.classes, of_first),
            key,
            count=labels.per_round,
            rounds=labels.rounds,
        )

    compiled, held = backend.jit(run), on_device(test)
    return lambda number, key: compiled(number, pool.arrays, held, key)


def _training(config, dataset: data.Dataset, pool: active.Pool):
    """(arrays, labelled, key) -> the members' variables, and the model of each."""
    model = parts.model(config.model, dataset.classes)
    init = train.initializer(model, datasets.example(dataset))
    jax.eval_shape(init, jax.random.key(0))  # says so if it does not fit the data
    optimizer = parts.optimizer(config.optimizer, config.updates)
    prior, mesh = parts.prior(config.prior), parallel.first_device()
    beta = parts.schedule("kl_weight", config.kl_weight, config.updates)

    def one(arrays: dict, labelled: Array, key: Key) -> dict:
        """The KL counts per labelled example, so its weight follows their number."""
        share = pool.n / jnp.sum(labelled)
        loss = neg_elbo(
            *(forward(model), Categorical(), prior, pool.n),
            beta=lambda step: beta(step) * share,
        )
        task = train.Task(init, loss, optimizer, pool)
        steps = jnp.arange(config.updates, dtype=jnp.int32)
        drawn = pool.labelled(arrays, labelled)
        state, _ = train.train_chunk(task, mesh, task.start(key), drawn, steps, key)
        return {"params": state.params, **state.model.collections}

    def members(arrays: dict, labelled: Array, key: Key) -> dict:
        numbers = jnp.arange(config.members, dtype=jnp.int32)
        keys = jax.vmap(functools.partial(stream, key, "member"))(numbers)
        return jax.vmap(functools.partial(one, arrays, labelled))(keys)

    return members, model


def _measure(run: Callable, number: int, nets: dict, key: Key) -> Measured:
    """The error by the number of labels, and the labels that a level of it took."""
    del nets  # none: the study trains its own
    made = jax.device_get(run(number, key))
    labels, error = made.labels, made.measured
    found = {
        name: active.labels_until(level, labels, error)
        for name, level in LEVELS.items()
    }
    found |= {"error": float(error[-1]), "mean_error": float(np.mean(error))}
    curve = {"labels": labels.tolist(), "error": error.tolist()}
    return Measured({"test": found}, {"labels": curve})
