"""Regressions that are parted again and again, all nets of a method trained at once.

Each split of a set has `members` nets of its own; its test rows are predicted by the
mixture of all their draws. Inputs and numbers are standardized by the training part of
a split, and what is measured is in the numbers' own unit:

    rmse      of the mean prediction
    nll       -log density of a number, in nats: that of the mixture
    coverage  of the interval that holds 90 % of the normal law of its two moments

and, with "_se", the standard error of the mean over splits. All splits of a set have
equal sizes, so that one compiled program trains all their nets side by side.
"""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from experiments import spec as parts
from experiments.core import Measured, Study
from vnets import backend, data, parallel, sources, train
from vnets.data import uci
from vnets.likelihoods import Gaussian, WithDeviation
from vnets.loss import forward, neg_elbo
from vnets.predictor import Predictor, Stack, as_is
from vnets.rng import stream
from vnets.types import Key

FIELDS = (
    *("dataset", "model", "deviation", "prior", "kl_weight", "optimizer", "epochs"),
    *("batch_size", "members", "samples"),
)
OURS = ("diabetes",)  # tables that are parted here
LIKELIHOOD = Gaussian(level=0.9)
SHARED = ("variant", "seed")  # no part of what is compiled


def build(config) -> Study:
    """The study of a config; see `configs/uci.py` for its fields.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    held = load(config.dataset)
    net(config)
    fields = {k: v for k, v in config.to_dict().items() if k not in SHARED}
    run = functools.partial(_program, json.dumps(fields, sort_keys=True))
    first = held.split(0)
    whole = data.Dataset(
        *(held.name, first.train, None, first.test, 0, {"splits": held.checksum}),
        held.source,
    )
    return Study({}, lambda nets, key: measured(*run(), key), whole)


def load(spec) -> uci.Repeated:
    """The set of a config, at least as many splits as it asks for."""
    name = parts.pick("dataset.name", spec.name, (*uci.NAMES, *OURS))
    if name in OURS:
        return uci.repeat(data.load(name, validation=0), spec.splits)
    held = uci.load(name)
    if spec.splits > len(held):
        raise parts.ConfigError(
            f"config.dataset.splits is {spec.splits}, but {name} has {len(held)}"
        )
    return held


def net(config) -> Any:
    """The net of a config; its outputs are what `LIKELIHOOD` takes."""
    outputs = parts.pick("deviation", config.deviation, {"each": 2, "one": 1})
    made = parts.model(config.model, outputs)
    return WithDeviation(made) if config.deviation == "one" else made


def sides(held: uci.Repeated, count: int, column: bool) -> tuple[dict, dict, Any]:
    """Training and test rows of the first splits, standardized, and deviations [S].

    Rows are {"input": [S, n, I], "target": [S, n]}, or targets [S, n, 1] where a
    `column` is wanted; the deviations are those of the numbers before.
    """
    made: tuple[list, list, list] = ([], [], [])
    for number in range(count):
        split = data.with_standard_columns(held.split(number))
        y = np.asarray(split.train.target, np.float64)
        mean, std = y.mean(), y.std()
        for rows, side in zip(made, (split.train, split.test), strict=False):
            target = ((side.target - mean) / std).astype(np.float32)
            target = target[:, None] if column else target
            rows.append({"input": side.inputs, "target": target})
        made[2].append(std)
    learn, test = (jax.tree.map(lambda *x: np.stack(x), *rows) for rows in made[:2])
    return learn, test, np.array(made[2])


@functools.lru_cache(maxsize=2)
def _program(fields: str) -> tuple[Callable[[Key], tuple], np.ndarray]:
    """Key -> sums of each split and which nets stayed finite, and `sides`' deviations;
    compiled once for all seeds of a row."""
    config: Any = ConfigDict(json.loads(fields))
    one = config.deviation == "one"
    learn, test, std = sides(load(config.dataset), config.dataset.splits, one)
    model = net(config)
    first = data.Split(learn["input"][0], learn["target"][0])
    options = {"batch_size": config.batch_size, "prepare": as_is, "target": "numbers"}
    source = parts.call("batch_size", sources.Resident, {"split": first, **options})
    steps = config.epochs * source.steps_per_epoch
    beta = parts.schedule("kl_weight", config.kl_weight, steps)
    loss = neg_elbo(
        *(forward(model), LIKELIHOOD, parts.prior(config.prior), source.n, beta)
    )
    init = train.initializer(model, jnp.zeros((1, first.shape[0]), jnp.float32))
    optimizer = parts.optimizer(config.optimizer, steps)
    task = train.Task(init, loss, optimizer, source)
    mesh = parallel.first_device()

    def fitted(rows: dict, key: Key) -> tuple[dict, Any]:
        def epoch(state, number):
            [items] = source.chunks(key, number, source.steps_per_epoch)
            return train.train_chunk(task, mesh, state, rows, items, key)[0], None

        numbers = jnp.arange(config.epochs, dtype=jnp.int32)
        state, _ = lax.scan(epoch, task.start(key), numbers)
        return {"params": state.params, **state.model.collections}, state.alive

    def members(rows: dict, key: Key) -> tuple[dict, Any]:
        numbers = jnp.arange(config.members, dtype=jnp.int32)
        keys = jax.vmap(functools.partial(stream, key, "member"))(numbers)
        return jax.vmap(functools.partial(fitted, rows))(keys)

    def tested(of_split):
        nets, rows, key = of_split
        predictor = Predictor(Stack(model, nets), samples=config.samples, link=as_is)
        y = rows["target"]
        logs, values = predictor.means(
            rows["input"], key, lambda outputs: LIKELIHOOD.draw(outputs, y)
        )
        return LIKELIHOOD.sums(logs, values, y, jnp.ones_like(y))

    def run(learn: dict, test: dict, key: Key):
        numbers = jnp.arange(config.dataset.splits, dtype=jnp.int32)
        keys = jax.vmap(functools.partial(stream, key, "split"))(numbers)
        nets, alive = jax.vmap(members)(learn, keys)
        return lax.map(tested, (nets, test, keys)), alive

    compiled = backend.jit(run)
    return lambda key: compiled(learn, test, key), std


def measured(run: Callable[[Key], tuple], std: np.ndarray, key: Key) -> Measured:
    """What the nets of all splits predict, by split and on average.

    Raises:
      ArithmeticError: the loss of a net ceased to be finite.
    """
    sums, alive = jax.device_get(run(key))
    if not alive.all():
        raise ArithmeticError(
            f"the loss of {np.sum(~alive)} of {alive.size} nets ceased to be finite"
        )
    found: dict[str, list[float]] = {"rmse": [], "nll": [], "coverage": []}
    for number, scale in enumerate(std.tolist()):
        own = jax.tree.map(lambda x, number=number: x[number], sums).compute()
        found["rmse"].append(own["rmse"] * scale)
        found["nll"].append(own["nll"] + math.log(scale))
        found["coverage"].append(own["coverage"])
    evals = {name: float(np.mean(values)) for name, values in found.items()}
    root = math.sqrt(len(std))
    for name, values in found.items() if len(std) > 1 else ():
        evals[f"{name}_se"] = float(np.std(values, ddof=1) / root)
    curve = {"split": [float(n) for n in range(len(std))], **found}
    return Measured({"test": evals}, {"splits": curve})
