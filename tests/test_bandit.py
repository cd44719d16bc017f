"""Laws of the contextual bandit: rewards and regret, the ring, agents in the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import random

from experiments import bandits, core
from experiments.config_files import load_config
from experiments.kinds import bandit
from experiments.spec import ConfigError
from vnets import train

EDIBLE = jnp.asarray([True, True, False])
ACTIONS = jnp.asarray([[bandits.LEAVE] * 3, [bandits.EAT] * 3], jnp.int32)


def test_the_oracle_alone_has_no_regret_and_nobody_has_less():
    np.testing.assert_array_equal(
        bandits.expected_regret(EDIBLE, bandits.best(EDIBLE)), 0.0
    )
    regret = np.asarray([bandits.expected_regret(EDIBLE, a) for a in ACTIONS])
    np.testing.assert_array_equal(regret, [[5.0, 5.0, 0.0], [0.0, 0.0, 15.0]])
    assert bandits.random_regret(EDIBLE) == pytest.approx((2 * 5 / 2 + 15 / 2) / 3)


@pytest.mark.parametrize("action", ACTIONS)
def test_rewards_have_their_means(action, assert_mean):
    keys = random.split(random.key(0), 4000)
    draw = jax.vmap(functools.partial(bandits.reward, EDIBLE, action))
    drawn = np.asarray(draw(keys))
    assert set(np.unique(drawn)) <= {0.0, bandits.GOOD, bandits.BAD}
    expected = np.asarray(bandits.expected_reward(EDIBLE, action))
    certain = drawn.std(0) == 0
    np.testing.assert_array_equal(drawn[0][certain], expected[certain])
    for place in np.flatnonzero(~certain):
        assert_mean(drawn[:, place], expected[place])


@pytest.mark.parametrize("count", [2, 4, 11])
def test_the_memory_is_a_ring_of_the_last(count):
    capacity, memory = 4, bandits.Memory.empty(4, 11)
    for number in range(count):
        at = jnp.int32(number)
        action = jnp.int32(number % 2)
        memory = memory.after(at, jnp.asarray(True), action, random.key(number))
    last = range(max(0, count - capacity), count)
    assert int(memory.held) == len(last)
    held = sorted(np.asarray(memory.row)[: len(last)].tolist())
    assert held == list(last)
    row, action, reward = memory.batch(random.key(0), 200)
    assert set(np.asarray(row)) == set(last)
    np.testing.assert_array_equal(action, row % 2)
    np.testing.assert_array_equal(reward, bandits.GOOD * (row % 2))
    regret = np.asarray(memory.regret)
    np.testing.assert_array_equal(
        regret[:count], [5.0, 0.0] * (count // 2) + [5.0] * (count % 2)
    )
    np.testing.assert_array_equal(regret[count:], 0.0)


def config(variant="greedy", **changes):
    made = load_config(f"configs/bandit.py:{variant},quick")
    with made.unlocked(), made.ignore_type():
        made.model.widths, made.epochs, made.evals.columns = (4,), 2, ("det",)
        made.bandit.update({"interactions": 600, "updates": 1, **changes})
    return made


def played(made, mesh, seeds=(0,)):
    """What seeds measured, and their states."""
    experiment = core.build(made)
    results = train.fit(
        experiment.task, epochs=made.epochs, seeds=seeds, mesh=mesh, show_progress=False
    )
    for result in results:
        state = result.state
        model = state.model.collections
        yield experiment.evaluations(state.params, model, random.key(0)), result


def test_a_random_agent_pays_as_the_formula_says(one_device):
    [(measured, result)] = played(config(epsilon=1.0), one_device)
    memory = result.state.model.collections[bandit.MEMORY]
    paid, kind = np.asarray(memory.expected), bandit.build(config())
    edible = np.asarray(kind.edible)
    expected = bandits.random_regret(jnp.asarray(edible))
    assert abs(paid.mean() - expected) < 5 * paid.std() / np.sqrt(len(paid))
    # Drawn rewards cost as much on average.
    gap = np.asarray(memory.regret) - paid
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap))
    assert gap.std() > 1.0
    found = measured.evals["regret"]
    assert found["of_random"] == pytest.approx(paid.mean() / expected, rel=1e-4)
    assert found["poisoned"] == np.count_nonzero(paid == 15)
    assert found["left"] == np.count_nonzero(paid == 5)
    curve = measured.curves["regret"]
    assert np.all(np.diff(curve["expected"]) >= 0)
    assert curve["expected"][-1] == pytest.approx(found["expected"])
    assert curve["interaction"][-1] == len(paid)
    assert result.history[-1]["expected_regret"] == pytest.approx(found["expected"])


def test_a_net_that_knows_pays_nothing(one_device):
    """Values by the context's own class: the oracle, in the loop."""

    class Knows:
        """The first column is a mushroom's kind."""

        def init(self, rngs, x, **kwargs):
            del rngs, x, kwargs
            return {"params": {"scale": jnp.ones((), jnp.float32)}}

        def apply(self, variables, x, mode, mutable, rngs=None):
            del mode, mutable, rngs
            value = variables["params"]["scale"] * x[:, 0]
            return jnp.stack([jnp.zeros_like(value), value], axis=1), {}

    kind = bandit.build(config())
    net = bandit.Values(Knows())
    shown = jnp.where(kind.edible, 1.0, -1.0)[:, None]
    memory = bandits.Memory.empty(8, 50)
    known = bandit.Bandit(
        **{**vars(kind), "model": net, "contexts": shown, "edible": kind.edible}
    )
    for number in range(50):
        key = random.key(number)
        params = {"scale": jnp.ones((), jnp.float32)}
        memory = known.met(memory, params, jnp.int32(number), key)
    np.testing.assert_array_equal(memory.expected, 0.0)
    np.testing.assert_array_equal(memory.regret, 0.0)
    assert set(np.asarray(memory.reward)) == {0.0, bandits.GOOD}


def test_an_agent_learns_and_meets_others_than_another_seed(one_device):
    made = config("bbb", interactions=300, updates=4)
    made.model.widths = (20,)
    del made.model.posteriors["dense3"]
    found = list(played(made, one_device, (0, 1)))
    states = [result.state.model.collections[bandit.MEMORY] for _, result in found]
    assert not np.array_equal(states[0].row, states[1].row)
    for measured, result in found:
        memory = result.state.model.collections[bandit.MEMORY]
        assert int(memory.seen) == 300
        assert measured.evals["regret"]["of_random"] < 0.8
        assert measured.evals["det"]["regret"] < bandits.random_regret(
            jnp.asarray(bandit.build(made).edible)
        )


def test_the_kl_counts_as_with_the_data_that_are_held():
    made = config("bbb", interactions=600, updates=2, capacity=100)
    del made.model.posteriors["dense3"]
    made.kl_weight = ((0.0, 0.5),)
    kind = bandit.build(made)
    steps = jnp.asarray([0, 1, 2, 19, 198, 199, 500], jnp.int32)
    per_example = np.asarray(kind.data_weight(steps)) / kind.source.n
    np.testing.assert_allclose(
        per_example, 0.5 / np.minimum(np.asarray(steps) // 2 + 1, 100), rtol=1e-6
    )


def test_each_context_is_met_for_all_of_its_updates():
    source = bandits.Interactions(contexts=50, interactions=6, updates=4, capacity=9)
    whole = np.concatenate(list(source.chunks(random.key(0), 1, 8)))
    assert whole.shape == (24, 1)
    assert np.all(whole.reshape(6, 4) == whole.reshape(6, 4)[:, :1])
    again = np.concatenate(list(source.chunks(random.key(0), 1, 8, first=8)))
    np.testing.assert_array_equal(again, whole[8:])
    with pytest.raises(ValueError, match="updates must be at least 1, not 0"):
        bandits.Interactions(50, 6, 0, 9)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("dataset.name", "digits", ["dataset.name", "mushroom"]),
        ("bandit.interactions", 601, ["bandit.interactions", "multiple"]),
        ("bandit.epsilon", 1.5, ["bandit.epsilon"]),
        ("bandit.noise", 0.0, ["bandit.noise"]),
        ("bandit.greed", 1.0, ["bandit.greed", "epsilon"]),
        ("model.batch_norm", True, ["config.model", "batch normalization"]),
    ],
)
def test_what_does_not_fit_is_refused(field, value, words):
    made = config()
    *parents, last = field.split(".")
    with made.unlocked(), made.ignore_type():
        of = functools.reduce(lambda node, name: node[name], parents, made)
        of[last] = value
        if value == "digits":
            made.dataset.standard = False
    with pytest.raises(ConfigError) as caught:
        core.build(made)
    assert every(word in str(caught.value) for word in words)
