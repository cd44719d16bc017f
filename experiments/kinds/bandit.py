"""A contextual bandit: an agent acts, observes a reward, and learns, in one loop.

Every `bandit.updates` updates it meets a context and takes the action of the largest
value in a draw of its net (Thompson sampling; in the mean of `bandit.draws` draws), or
with probability `bandit.epsilon` any. It remembers what it got, and each update is of a
batch from that memory, a collection beside the weights. A net without noise has no
draws: it is greedy.

The likelihood of a reward is normal around the value of the action that was taken, of
deviation `bandit.noise`. The KL counts 1 / n per example with n interactions in the
memory: as of so many data, early and late.

Columns are of the net at the end, choosing without a chance among all contexts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments import bandits, datasets
from experiments import spec as parts
from experiments.kinds import Kind
from vnets import data, evaluate, train
from vnets.columns import EvalSpec
from vnets.layers import TEST, Mode
from vnets.likelihoods import Gaussian
from vnets.loss import ModelState, forward, neg_elbo
from vnets.predictor import Member, Predictor, as_is
from vnets.rng import stream
from vnets.types import Array, Key, Params

MEMORY = "memory"  # the collection
UNIT = 10.0  # of reward, that a net gives: its outputs are then about one
FIELDS = (
    *("model", "prior", "kl_weight", "estimator", "batch_size", "evals.samples"),
    *(
        f"bandit.{name}"
        for name in ("interactions", "updates", "capacity", "epsilon", "draws", "noise")
    ),
)


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    del config
    return (*FIELDS, *datasets.FIELDS)


@dataclasses.dataclass(frozen=True)
class Values:
    """A net as it is used here: contexts -> the values of their actions, in rewards.

    Attributes:
      net: contexts [B, I] -> [B, A] in `UNIT` of reward.
    """

    net: Any

    def init(self, rngs, x: Array, **kwargs):
        """The net's `init`."""
        return self.net.init(rngs, x, **kwargs)

    def apply(self, variables, x: Any, **kwargs):
        """[B, A]; or of {"context", "action"} the value of each action, [B]."""
        taken = x["action"] if isinstance(x, dict) else None
        contexts = x if taken is None else x["context"]
        y, collections = self.net.apply(variables, contexts, **kwargs)
        if taken is not None:
            y = jnp.take_along_axis(y, taken[:, None], axis=1)[:, 0]
        return UNIT * y, collections


@dataclasses.dataclass(frozen=True, eq=False)
class Bandit(Kind):
    """An agent and what it meets, as a config describes them.

    Attributes:
      contexts: of all splits, [N, I].
      edible: bool [N].
      mode: estimator in learning and acting.
    """

    watched: ClassVar[str] = "regret"
    carried: ClassVar[tuple[str, ...]] = (MEMORY,)
    locate: ClassVar[None] = None  # by inputs of a batch, and here are none
    contexts: Any = None
    edible: Any = None
    mode: Mode = TEST

    def loss(self) -> Callable:
        """The bound on what is remembered, after the interaction that is due."""
        spec, size = self.config.bandit, self.config.batch_size
        bound = neg_elbo(
            forward(self.model, self.mode),
            Gaussian(spec.noise),
            self.prior,
            self.source.n,
            self.data_weight,
        )

        def loss(params, state: ModelState, batch, key):
            memory = lax.cond(
                state.step % spec.updates == 0,
                lambda memory: self.met(memory, params, batch["input"][0], key),
                as_is,
                state.collections[MEMORY],
            )
            row, action, reward = memory.batch(stream(key, "rows"), size)
            seen = {"context": self.contexts[row], "action": action}
            given = {"input": seen, "target": reward}
            plain = state.replace(collections={})  # the net has none
            value, (new, metrics) = bound(params, plain, given, stream(key, "learn"))
            return value, (new.replace(collections={MEMORY: memory}), metrics)

        return loss

    def data_weight(self, step: Array) -> Array:
        """The weight of KL / C, so that it is KL / n of n interactions in the ring."""
        seen = step // self.config.bandit.updates + 1
        return self.beta(step) * self.source.n / jnp.minimum(seen, self.source.n)

    def met(self, memory, params: Params, row: Array, key: Key) -> bandits.Memory:
        """The memory after an interaction with the context of a row."""
        params, spec = lax.stop_gradient(params), self.config.bandit
        net = Member(self.model, {"params": params})
        agent = Predictor(net, samples=spec.draws, mode=self.mode, link=as_is)
        drawn = agent(self.contexts[row][None], stream(key, "act"))  # [S, 1, A]
        values = jnp.mean(drawn[:, 0], 0)
        action = bandits.greedy(values, spec.epsilon, stream(key, "explore"))
        return memory.after(row, self.edible[row], action, stream(key, "reward"))

    def specs(self, samples: int) -> dict[str, EvalSpec]:
        """All columns there are, at this many samples."""
        return evaluate.standard_evals(samples, mode=self.mode)

    def tested(self, net: Member, spec: EvalSpec, split, key) -> dict[str, float]:
        """See `Kind`: regret for a context, and the share of wrong actions."""
        del split  # it learns on line, and no context is held out
        drawn = spec.predictor(net, link=as_is)(self.contexts, key)
        action = jnp.argmax(jnp.mean(drawn, 0), axis=-1)
        regret = bandits.expected_regret(self.edible, action)
        return {"regret": float(regret.mean()), "wrong": float((regret > 0).mean())}


def build(config) -> Bandit:
    """The bandit that a config describes; see `configs/bandit.py` for its fields.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    dataset, spec = datasets.load(config), config.bandit
    contexts, edible = _contexts(dataset)
    if spec.interactions % config.epochs:
        raise parts.ConfigError(
            f"config.bandit.interactions is {spec.interactions}, in {config.epochs} "
            "epochs: give a multiple of config.epochs"
        )
    sizes = {"contexts": len(contexts), "updates": spec.updates}
    sizes |= {"interactions": spec.interactions // config.epochs}
    source = parts.call(
        "bandit", bandits.Interactions, {**sizes, "capacity": spec.capacity}
    )
    mode = parts.mode(config.get("estimator", "lrt"))
    model = Values(parts.model(config.model, bandits.ACTIONS))
    plain = train.initializer(model, contexts[:1], mode=mode)

    def init(key: Key) -> tuple[Params, dict]:
        params, _ = plain(key)
        return params, {MEMORY: bandits.Memory.empty(spec.capacity, spec.interactions)}

    if jax.eval_shape(plain, jax.random.key(0))[1]:
        raise parts.ConfigError(
            "config.model: batch normalization has no batch of contexts that an agent "
            "acts on; choose a net without"
        )
    return Bandit(
        config=config,
        model=model,
        init=init,
        source=source,
        dataset=dataset,
        prior=parts.prior(config.prior),
        contexts=contexts,
        edible=edible,
        mode=mode,
    )


def _contexts(dataset: data.Dataset) -> tuple[Array, Array]:
    """The rows of all splits, and whether each is edible."""
    if dataset.classes != 2 or np.ndim(dataset.train.inputs) != 2:
        raise parts.ConfigError(
            f"config.dataset.name: {dataset.name} is no table of two classes; choose "
            "breast_cancer or mushroom"
        )
    splits = [dataset.train, dataset.test]
    x = np.concatenate([np.asarray(split.inputs, np.float32) for split in splits])
    y = np.concatenate([np.asarray(split.target) for split in splits])
    return jnp.asarray(x), jnp.asarray(y == 1)
