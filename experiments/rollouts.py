"""Policies with noisy weights: CartPole and Acrobot by REINFORCE.

After Neklyudov et al. 2019, who compare a deterministic policy, one with a variance
layer and one with parameter noise in the manner of NoisyNet (Fortunato et al. 2018:
Gaussian weights whose scale is learned by the policy gradient alone; no KL).

A policy is a net that maps an observation to logits of actions; its noise is drawn
anew at each "step" (by local reparameterization) or once for each "episode" (a weight
sample, as NoisyNet-A3C keeps for a rollout). Either way the noise eps is no action: it
does not depend on the parameters, so the policy gradient is the mean of
grad log pi(a | s, eps) times the advantage, at the noise that the episode was played
with. Episodes are played in one compiled loop, and differentiated through it.

Actions are always sampled from the softmax, in the tests too. A variance layer must not
read the observation itself: y = sqrt(x^2 var) eps is the same for x and -x, and which
way to push is a question of sign. A deterministic layer comes before it, in all
policies alike.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments.classic_control import acrobot, cartpole
from jax import lax, random

from vnets import edits
from vnets.loss import ModelState
from vnets.predictor import Member, Predictor
from vnets.pytrees import pytree
from vnets.rng import stream
from vnets.sources import ALL
from vnets.types import Array, Key, Params

NOISE = ("step", "episode")  # once for each of which a policy's noise is drawn
UNEDITED = edits.chain()
COLUMNS = ("det", "stoch", "ens")
ADVANTAGE_FLOOR = 1e-8  # beside the spread: episodes that are all alike teach nothing


@dataclasses.dataclass(frozen=True)
class Game:
    """An environment of gymnax and the steps after which an episode is cut off.

    Attributes:
      environment: has `reset_env`, `step_env` and `default_params`.
      horizon: T; every reward lies in [-1, 1], so no return exceeds it.
    """

    environment: Any
    horizon: int

    @property
    def inputs(self) -> int:
        """I, the length of an observation."""
        return self.environment.obs_shape[0]

    @property
    def actions(self) -> int:
        """A, the number of actions."""
        return self.environment.num_actions


GAMES = {
    # Version 1 of CartPole differs from version 0 in the time limit only.
    "CartPole-v0": Game(cartpole.CartPole(), 200),
    "CartPole-v1": Game(cartpole.CartPole(), 500),
    "Acrobot-v1": Game(acrobot.Acrobot(), 500),
}


@dataclasses.dataclass(frozen=True)
class Policy:
    """A net that chooses actions, and how its noise is drawn.

    Attributes:
      model: observations [B, I] -> logits [B, A].
      edit: of the parameters, before anything is played.
      per: a name in `NOISE`.
      samples: S draws at each step whose probabilities are averaged.
    """

    model: Any
    edit: edits.Edit = UNEDITED
    per: str = "step"
    samples: int = 1

    def weights(self, params: Params, episodes: int, key: Key) -> Params:
        """What B episodes are played with: one tree, or B sampled ones, stacked."""
        params = self.edit(params, stream(key, "edit"))
        if self.per == "step":
            return params
        draw = functools.partial(edits.draw, params)
        return jax.vmap(draw)(random.split(stream(key, "draw"), episodes))

    def log_p(self, weights: Params, observation: Array, key: Key) -> Array:
        """Log probabilities of the actions, [B, I] -> [B, A]."""

        def one(weights, observation):
            nets = Member(self.model, {"params": weights})
            return Predictor(nets, samples=self.samples).log_mean(observation, key)

        if self.per == "step":
            return one(weights, observation)
        return jax.vmap(one)(weights, observation[:, None])[:, 0]


@pytree
class Played:
    """B episodes; one that has ended stands still and is rewarded no more.

    Attributes:
      observation: before each action, [T, B, I].
      action: int [T, B].
      log_p: log pi(a | s, eps) of the action, [T, B]; has a gradient.
      entropy: of pi(. | s, eps) in nats, [T, B].
      reward: [T, B].
      live: whether the step was taken before the end, bool [T, B].
    """

    observation: Array
    action: Array
    log_p: Array
    entropy: Array
    reward: Array
    live: Array

    @property
    def returns(self) -> Array:
        """Undiscounted, [B]."""
        return jnp.sum(self.reward, 0)


def play(
    game: Game, policy: Policy, params: Params, numbers: Array, key: Key
) -> Played:
    """Plays B episodes side by side, each to its end or to the horizon.

    Args:
      game: what is played.
      policy: who plays.
      params: of the policy, noise and all.
      numbers: of the episodes, int [B]; numbers that differ start differently.
      key: of the starts, the noise and the actions.
    """
    rules, batch = game.environment.default_params, len(numbers)
    weights = policy.weights(params, batch, stream(key, "weights"))

    def step(carry, time):
        observation, state, live = carry
        log_p = policy.log_p(weights, observation, stream(key, "noise", time))
        action = random.categorical(stream(key, "action", time), log_p)
        environment_keys = random.split(stream(key, "environment", time), batch)
        new_observation, new_state, reward, ended, _ = jax.vmap(
            functools.partial(game.environment.step_env, params=rules)
        )(environment_keys, state, action)

        def after(new, old):
            return jnp.where(live.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        now = Played(
            observation=observation,
            action=action,
            log_p=jnp.take_along_axis(log_p, action[:, None], 1)[:, 0],
            entropy=-jnp.sum(jnp.exp(log_p) * log_p, 1),
            reward=jnp.where(live, reward, 0).astype(jnp.float32),
            live=live,
        )
        kept = jax.tree.map(after, (new_observation, new_state), (observation, state))
        return (*kept, live & ~ended), now

    start_keys = jax.vmap(functools.partial(stream, key, "start"))(numbers)
    reset = functools.partial(game.environment.reset_env, params=rules)
    start = (*jax.vmap(reset)(start_keys), jnp.ones((batch,), jnp.bool_))
    times = jnp.arange(game.horizon, dtype=jnp.int32)
    return lax.scan(step, _strong(start), times)[1]


def _strong(tree):
    """Without weak types: environments start some counters as Python numbers."""
    return jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), tree)


def rewards_to_go(reward: Array, discount: float) -> Array:
    """sum over s >= t of discount^(s - t) reward_s, [T, B] -> [T, B]."""

    def step(later, now):
        total = now + discount * later
        return total, total

    return lax.scan(step, jnp.zeros_like(reward[0]), reward, reverse=True)[1]


def advantages(to_go: Array, live: Array) -> Array:
    """Rewards to go over those of the other episodes, at the scale of one.

    The baseline of an episode at time t is the mean over the others that still run
    then (leave-one-out; Kool, van Hoof and Welling 2019): its own actions do not change
    it, so the gradient stays unbiased. Where no other one runs there is nothing to
    compare with, and the advantage is 0. All are then divided by their root mean
    square.

    Args:
      to_go: [T, B].
      live: bool [T, B]; False where an episode has ended.

    Returns:
      advantages, [T, B], 0 where an episode has ended.
    """
    kept = jnp.where(live, to_go, 0)
    others = jnp.sum(live, 1, keepdims=True, dtype=jnp.int32) - live
    baseline = (jnp.sum(kept, 1, keepdims=True) - kept) / jnp.maximum(others, 1)
    advantage = jnp.where(live & (others > 0), to_go - baseline, 0)
    mean_square = jnp.sum(jnp.square(advantage)) / jnp.maximum(jnp.sum(live), 1)
    return advantage / (jnp.sqrt(mean_square) + ADVANTAGE_FLOOR)


def reinforce(game: Game, policy: Policy, discount: float):
    """The policy gradient as a loss in the form that `train.fit` takes.

    Williams 1992 with rewards to go and the `advantages` above; the mean is over the
    steps of the batch.

    Args:
      game: what is played.
      policy: who plays, with the noise of its weights.
      discount: of rewards, per step; the return that is reported has none.

    Returns:
      loss(params, state, batch, key) -> (loss, (state, metrics)), where batch has
      "episode", the numbers of the episodes [B], and metrics are scalars: loss; return
      and length, means over the episodes; entropy of a step's choice, in nats.
    """

    def loss(params, state: ModelState, batch, key):
        played = play(game, policy, params, batch["episode"], key)
        advantage = advantages(rewards_to_go(played.reward, discount), played.live)
        steps = jnp.sum(played.live)
        value = -jnp.sum(advantage * played.log_p) / steps
        metrics = {
            "loss": value,
            "return": jnp.mean(played.returns),
            "length": steps / len(batch["episode"]),
            "entropy": jnp.sum(jnp.where(played.live, played.entropy, 0)) / steps,
        }
        return value, (state, metrics)

    return loss


class Episodes:
    """A source for `train.fit` that only counts: what is learned from is played.

    An epoch is a number of updates, each from B new episodes.
    """

    arrays = ()

    def __init__(self, batch_size: int, updates: int):
        """Sets the sizes.

        Args:
          batch_size: B, episodes for an update.
          updates: in an epoch.

        Raises:
          ValueError: less than two episodes, which leaves no other to compare with.
        """
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, not {batch_size}")
        self.batch_size, self.steps_per_epoch = batch_size, updates
        self.n = batch_size * updates

    def chunks(
        self, key: Key, epoch: int, steps: int, rows: slice = ALL, first: int = 0
    ) -> Iterator[Any]:
        """The epoch's updates, `steps` at a time from `first` on, by their episodes."""
        del key, epoch  # the key of an update is the trainer's
        numbers = jnp.arange(self.n, dtype=jnp.int32)
        chunks = numbers.reshape(-1, steps, self.batch_size)[:, :, rows]
        yield from chunks[first // steps :]

    def batch(self, arrays, item, key: Key) -> dict[str, Array]:
        """Inside jit: the numbers of the episodes."""
        del arrays, key
        return {"episode": item}
