"""Laws of the policy gradient: environments, credit, gradient, columns, refusals."""

import dataclasses
import functools
import importlib

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from ml_collections import ConfigDict

from experiments import config_files, core
from experiments import rollouts as pg
from experiments import spec as parts
from experiments.config_files import load_config
from vnets import train
from vnets.nets import MLP
from vnets.nodes import gaussian, variance
from vnets.pytrees import pytree

ROUNDING = 1e-5
KEY = random.key(0)
MIN_LENGTH = 8  # of an episode of CartPole: no sequence of pushes ends it sooner


@pytree
class BanditState:
    """The context, -1 or 1, and the steps so far."""

    context: jax.Array
    time: jax.Array


class Bandit:
    """Two steps; action 1 is rewarded by the context, action 0 by nothing."""

    obs_shape = (1,)
    num_actions = 2
    default_params = None

    def reset_env(self, key, params):
        del params
        context = random.rademacher(key, (1,), jnp.float32)
        return context, BanditState(context, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        del key, params
        reward = state.context[0] * action
        state = dataclasses.replace(state, time=state.time + 1)
        return state.context, state, reward, state.time >= 2, {}


BANDIT = pg.Game(Bandit(), 4)


def policy(kind, per="step", samples=1):
    nets = {
        "point": {},
        "variance": {"dense2": variance()},
        "gaussian": {"dense1": gaussian(-1.0), "dense2": gaussian(-1.0)},
    }
    model = MLP(widths=(4, 3), classes=2, posteriors=nets[kind])
    return pg.Policy(model, per=per, samples=samples)


def start(one, inputs=1):
    init = train.initializer(one.model, jnp.zeros((1, inputs), jnp.float32))
    return jax.jit(init)(random.key(7))[0]


def played(game, one, params, episodes, key=KEY):
    run = jax.jit(functools.partial(pg.play, game, one))
    return run(params, jnp.arange(episodes, dtype=jnp.int32), key)


@pytest.mark.parametrize(
    ("name", "version", "ranges"),
    [
        # Up to where an episode ends, so that some steps end it and some do not.
        ("CartPole-v0", "CartPole-v1", {"x": 2.4, "theta": 0.2, "theta_dot": 1.0}),
        ("Acrobot-v1", "Acrobot-v1", {"joint_angle1": 3.0, "velocity_2": 8.0}),
    ],
)
def test_environments_are_those_of_gymnasium(name, version, ranges):
    """Each step from one state for both, so that no difference accumulates."""
    environment = pg.GAMES[name].environment
    rules = environment.default_params
    step = jax.jit(functools.partial(environment.step_env, params=rules))
    reference = gymnasium.make(version).unwrapped
    reference.reset(seed=0)
    _, state = environment.reset_env(KEY, rules)
    names = [field.name for field in dataclasses.fields(state) if field.name != "time"]
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(120):
        values = np.asarray([ranges.get(n, 1.0) for n in names]) * rng.uniform(-1, 1, 4)
        values = values.astype(np.float32)
        reference.state, reference.steps_beyond_terminated = values.copy(), None
        state = state.replace(**dict(zip(names, jnp.asarray(values), strict=True)))
        action = int(rng.integers(environment.num_actions))
        seen, reward, ended, *_ = reference.step(action)
        found, _, own_reward, own_ended, _ = step(KEY, state, jnp.int32(action))
        # A Runge-Kutta step of Acrobot amplifies rounding by its velocities.
        np.testing.assert_allclose(found, seen, rtol=1e-4, atol=1e-4)
        assert (float(own_reward), bool(own_ended)) == (reward, ended)
        ends += ended
    assert 0 < ends < 120


def test_an_ended_episode_stands_still_and_earns_nothing():
    one = policy("point")
    game = dataclasses.replace(pg.GAMES["CartPole-v0"], horizon=60)
    found = jax.device_get(played(game, one, start(one, 4), 8))
    length = found.live.sum(0)
    assert length.min() >= MIN_LENGTH
    assert length.min() < 60
    assert np.array_equal(found.returns, length)
    assert np.all(np.diff(found.live.astype(int), axis=0) <= 0)  # never again alive
    for episode, end in enumerate(length):
        rest = found.observation[end:, episode]
        assert np.array_equal(rest, np.broadcast_to(rest[:1], rest.shape))
    # Different numbers are different episodes; the same key is the same ones.
    assert len(np.unique(found.observation[0], axis=0)) == 8
    again = jax.device_get(played(game, one, start(one, 4), 8))
    assert np.array_equal(again.action, found.action)


def test_rewards_to_go_are_their_definition():
    reward = random.normal(KEY, (7, 3), jnp.float32)
    expected = [
        sum(0.9 ** (s - t) * reward[s] for s in range(t, len(reward)))
        for t in range(len(reward))
    ]
    found = pg.rewards_to_go(reward, 0.9)
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=ROUNDING, atol=1e-6)


def test_advantages_compare_with_the_other_live_episodes():
    to_go = jnp.asarray([[3.0, 1.0, 2.0], [5.0, 1.0, 9.0], [4.0, 0.0, 0.0]])
    live = jnp.asarray([[True] * 3, [True, True, False], [True, False, False]])
    # By hand: 3 - 1.5, 1 - 2.5, 2 - 2; 5 - 1, 1 - 5; alone at the end.
    expected = np.asarray([[1.5, -1.5, 0.0], [4.0, -4.0, 0.0], [0.0, 0.0, 0.0]])
    expected /= np.sqrt(np.sum(expected**2) / 6)
    found = pg.advantages(to_go, live)
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=1e-6)
    # Episodes that are all alike teach nothing, and do not divide by zero.
    alike = pg.advantages(jnp.ones((3, 3), jnp.float32), live)
    assert np.array_equal(alike, np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("kind", "per"),
    [("gaussian", "step"), ("gaussian", "episode")],
)
def test_the_gradient_is_that_of_the_mean_return(kind, per, assert_mean):
    """Score function at the episode's noise, against the return's own derivative.

    The bandit's mean return is 2 E[context pi(1 | context, eps)] / 2 contexts, which
    reparameterization differentiates with no action sampled at all.
    """
    one = policy(kind, per)
    params = start(one)
    draws, batch = 400, 8
    keys = random.split(KEY, draws)

    def score(params, key):
        episodes = pg.play(BANDIT, one, params, jnp.arange(batch, dtype=jnp.int32), key)
        to_go = pg.rewards_to_go(episodes.reward, 1.0)
        return jnp.sum(jax.lax.stop_gradient(to_go) * episodes.log_p) / batch

    def mean_return(params, key):
        contexts = jnp.asarray([[-1.0], [1.0]] * (batch // 2), jnp.float32)
        weights = one.weights(params, batch, key)
        p = jnp.exp(one.log_p(weights, contexts, random.fold_in(key, 1)))[:, 1]
        return 2 * jnp.mean(contexts[:, 0] * p)

    def gradients(function):
        grads = jax.jit(jax.vmap(jax.grad(function), (None, 0)))(params, keys)
        return np.concatenate(
            [np.asarray(g).reshape(draws, -1) for g in jax.tree.leaves(grads)], 1
        )

    by_score, exact = gradients(score), gradients(mean_return)
    assert np.abs(exact.mean(0)).max() > 0.05  # there is something to find
    assert_mean(by_score - exact, np.zeros(exact.shape[1]))


def test_noise_for_an_episode_is_one_function_and_for_a_step_is_not():
    """At equal observations, pi repeats itself within an episode only if drawn so."""
    for per, repeats in (("episode", True), ("step", False)):
        one = policy("gaussian", per)
        weights = jax.jit(one.weights, static_argnums=1)(start(one), 5, KEY)
        x = jnp.ones((5, 1), jnp.float32)
        log_p = jax.jit(functools.partial(one.log_p, weights, x))
        first, second = (log_p(random.key(i)) for i in (1, 2))
        assert np.array_equal(first, second) == repeats
        assert len(np.unique(np.asarray(first)[:, 0])) == 5  # episodes differ


def test_a_variance_layer_on_the_observation_is_blind_to_its_sign(assert_mean):
    """Why a deterministic layer comes first; with it, the sign gets through."""

    def gap(layer):
        model = MLP(widths=(4, 3), classes=2, posteriors={layer: variance()})
        one = pg.Policy(model, samples=1)
        params = start(one)
        x = jnp.ones((1, 1), jnp.float32)

        def difference(key):
            here, there = random.split(key)
            return (
                jnp.exp(one.log_p(params, x, here))[0, 1]
                - jnp.exp(one.log_p(params, -x, there))[0, 1]
            )

        return np.asarray(jax.jit(jax.vmap(difference))(random.split(KEY, 4000)))

    assert_mean(gap("dense1"), 0.0)
    seen = gap("dense2")
    assert abs(seen.mean()) > 5 * seen.std() / np.sqrt(len(seen))


def test_training_solves_the_bandit(one_device):
    """The trainer, the source and the loss together; 2 contexts, best return 1."""
    one = policy("variance")
    source = pg.Episodes(batch_size=32, updates=10)
    init = train.initializer(one.model, jnp.zeros((1, 1), jnp.float32))
    optimizer = parts.optimizer({"name": "adam", "learning_rate": ((0.0, 0.03),)}, 1)
    task = train.Task(init, pg.reinforce(BANDIT, one, 1.0), optimizer, source)
    [result] = train.fit(
        task, epochs=15, seeds=[0], chunk_steps=10, mesh=one_device, show_progress=False
    )
    assert result.failed is None
    first, last = result.history[0], result.history[-1]
    # A guess returns 0 on average, the best policy 2 in one context of two: 1.
    assert abs(first["return"]) < 0.5
    assert last["return"] > 0.8
    assert last["entropy"] < first["entropy"] <= np.log(2) + ROUNDING
    assert last["length"] == 2.0


def config(policy="variance", **changes) -> ConfigDict:
    found = load_config(f"configs/rl.py:cartpole_{policy},quick")
    with found.unlocked():
        for path, value in changes.items():
            *parents, last = path.split("__")
            functools.reduce(lambda node, name: node[name], parents, found)[last] = (
                value
            )
    return found


@pytest.mark.slow
def test_one_step_on_eight_devices_and_every_column():
    """Without noise in its weights, a policy plays the same episodes in all columns."""
    experiment = core.build(
        config("deterministic", batch_size=8, updates=1, evals__episodes=8)
    )
    [result] = train.fit(experiment.task, epochs=1, seeds=[0], show_progress=False)
    assert result.failed is None
    [row] = result.history
    assert MIN_LENGTH <= row["return"] == row["length"] <= 200
    assert MIN_LENGTH <= row["det"] <= 200
    found = experiment.evaluations(result.state.params, {}, KEY).evals
    assert set(found) == {"det", "stoch", "ens"}
    assert MIN_LENGTH <= found["det"]["return"] <= 200
    assert found["det"] == found["stoch"]
    # The average of equal probabilities may round otherwise, and an action then differ.
    assert MIN_LENGTH <= found["ens"]["return"] <= 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset__name": "CartPole"}, ["config.dataset.name", "CartPole-v0"]),
        ({"noise": "batch"}, ["config.noise", "episode", "step"]),
        ({"discount": 1.5}, ["config.discount", "above 0 and at most 1", "1.5"]),
        ({"batch_size": 1}, ["config.batch_size", "at least 2"]),
        ({"updates": 0}, ["config.updates", "at least 1"]),
        ({"evals__samples": 0}, ["config.evals.samples"]),
        ({"probe__episodes": 0}, ["config.probe.episodes"]),
    ],
)
def test_bad_values_name_the_field_and_the_valid_ones(changes, words):
    with pytest.raises(parts.ConfigError) as caught:
        core.build(config(**changes))
    for word in words:
        assert word in str(caught.value)


def test_all_policies_of_a_game_differ_in_their_posteriors_and_noise_only():
    rl = importlib.import_module("configs.rl")
    for game in rl.GAMES:
        for scale in config_files.SCALES:
            found = [rl.get_config(f"{game}_{p},{scale}") for p in rl.POSTERIORS]
            with_same = []
            for one in found:
                plain = one.to_dict()
                for name in ("variant", "noise"):
                    plain.pop(name)
                plain["model"].pop("posteriors")
                with_same.append(plain)
            assert with_same[0] == with_same[1] == with_same[2]
