"""Laws of the samplers: the moments of what they sample from, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax, random
from train_tasks import fit, make_split, make_task

from vnets import edits, nets, nodes, samplers, train
from vnets.predictor import Predictor, Stack

N = 50
MEAN = jnp.asarray([1.0, -2.0, 0.5])
STD = jnp.asarray([0.05, 0.2, 0.1])
WALKS = 400
# With these rates the slowest direction forgets in 40 updates, and the error of the
# step, rate / (4 N std^2) of the variance, is 5 % in the fastest.
RATES = {"sgld": 0.025, "sghmc": 0.0025, "sgnht": 0.0025}


def gradient(w):
    """Of the loss whose posterior is normal: N loss = (w - mean)^2 / (2 std^2)."""
    return (w - MEAN) / STD**2 / N


def walked(optimizer, steps, seed=0, walks=WALKS, gradient=gradient):
    """Where independent walks of some length end, [walks, 3]."""

    def one(key):
        def step(carry, number):
            w, state = carry
            moved, state = optimizer.update(
                gradient(w), state, w, key=random.fold_in(key, number)
            )
            return (w + moved, state), None

        start = jnp.zeros(3)
        (w, _), _ = lax.scan(
            step, (start, optimizer.init(start)), jnp.arange(steps, dtype=jnp.int32)
        )
        return w

    return jax.jit(jax.vmap(one))(random.split(random.key(seed), walks))


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("name", RATES)
def test_the_moments_are_those_of_a_normal_posterior(name, temperature):
    make = samplers.SAMPLERS[name]
    draws = walked(make(RATES[name], N, temperature), 2000)
    std = STD * temperature**0.5
    error = 5 / WALKS**0.5  # five standard errors
    np.testing.assert_array_less(np.abs(draws.mean(0) - MEAN), error * std)
    ratio = draws.var(0) / std**2
    np.testing.assert_array_less(np.abs(ratio - 1), 0.08 + error * 2**0.5)


def test_a_thermostat_takes_off_the_heat_of_noisy_gradients():
    """Gradients with noise as large as the sampler's own heat SGHMC, and not SGNHT."""
    rate, momentum, dims = 0.0025, 0.9, 200
    own = (2 * (1 - momentum) * rate / N) ** 0.5 / rate

    def run(make):
        optimizer = make(rate, N, momentum=momentum)

        def step(carry, number):
            w, state = carry
            key = random.fold_in(random.key(0), number)
            noise = own * random.normal(random.fold_in(key, 1), w.shape)
            grads = w / 0.1**2 / N + noise
            moved, state = optimizer.update(grads, state, w, key=key)
            return (w + moved, state), jnp.mean(w**2)

        start = jnp.zeros(dims)
        _, squares = lax.scan(
            step, (start, optimizer.init(start)), jnp.arange(6000, dtype=jnp.int32)
        )
        return float(squares[3000:].mean()) / 0.1**2

    assert run(samplers.sghmc) == pytest.approx(2, rel=0.15)
    assert run(samplers.sgnht) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_without_heat_it_is_gradient_descent(name):
    cold = walked(samplers.SAMPLERS[name](0.02, N, 0.0), 20, walks=2)
    np.testing.assert_array_equal(cold[0], cold[1])
    if name == "sgnht":  # the friction goes on changing
        return
    plain = optax.sgd(0.02, momentum=0.9 if name == "sghmc" else None)
    expected = walked(optax.with_extra_args_support(plain), 20, walks=2)
    np.testing.assert_allclose(cold, expected, rtol=1e-5)


def test_cycles_begin_again_and_noise_comes_late():
    rate, heat = samplers.cyclical(0.5, 100, 4), samplers.late(2.0, 100, 4, 0.8)
    rates = np.asarray([rate(step) for step in range(100)])
    np.testing.assert_allclose(rates.reshape(4, 25), [rates[:25]] * 4, rtol=1e-5)
    assert rates[0] == 0.5
    assert np.all(np.diff(rates[:25]) < 0)
    heats = np.asarray([heat(step) for step in range(25)])
    np.testing.assert_array_equal(heats, [0.0] * 20 + [2.0] * 5)


def test_what_is_left_over_by_cycles_is_the_end_of_the_last():
    """No peak for a last update, nor silence where a sampler was to be warm."""
    rate, heat = samplers.cyclical(0.1, 1000, 3), samplers.late(1.0, 1000, 3)
    assert float(rate(998)) < 1e-5
    assert float(rate(999)) == pytest.approx(0, abs=1e-8)
    assert float(heat(999)) == 1
    assert float(samplers.triangular(0.5, 0.1, 10, 3)(9)) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="of 2 updates of a cycle none is after"):
        samplers.late(1.0, 10, 4)


def test_a_triangle_is_low_at_the_ends_of_its_cycles():
    rate = samplers.triangular(0.5, 0.1, 40, 4)
    rates = np.asarray([rate(step) for step in range(40)]).reshape(4, 10)
    np.testing.assert_allclose(rates, [rates[0]] * 4, rtol=1e-5)
    np.testing.assert_allclose(rates[0, [0, 5]], [0.1, 0.5], rtol=1e-6)
    np.testing.assert_allclose(abs(np.diff(rates[0])), 0.08, rtol=1e-5)
    with pytest.raises(ValueError, match="low <= high"):
        samplers.triangular(0.1, 0.5, 40, 4)


def modes(optimizer, first, steps=50_000, cycle=None):
    """How many of 25 normals on a grid have 100 samples within three deviations.

    Zhang et al. 2020, figure 2: centres {-4, -2, 0, 2, 4}^2, covariance 0.03.
    """
    grid = jnp.arange(-4.0, 5.0, 2.0)
    centres = jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, 2)

    def loss(w):
        return -jax.nn.logsumexp(-jnp.sum((w[None] - centres) ** 2, -1) / 0.06)

    def step(carry, number):
        w, state = carry
        key = random.fold_in(random.key(first), number)
        moved, state = optimizer.update(jax.grad(loss)(w), state, w, key=key)
        return (w + moved, state), w + moved

    start = random.uniform(random.key(100 + first), (2,), minval=-10, maxval=10)
    _, walk = lax.scan(
        step, (start, optimizer.init(start)), jnp.arange(steps, dtype=jnp.int32)
    )
    if cycle is not None:
        walk = walk.reshape(-1, cycle, 2)[:, 50:].reshape(-1, 2)
    near = jnp.linalg.norm(walk[:, None] - centres[None], axis=-1) < 3 * 0.03**0.5
    return int(jnp.sum(near.sum(0) >= 100))


def test_cycles_find_modes_that_one_walk_does_not():
    """Claims set before: at least 18 of 25 modes, against at most 6."""
    steps, cycles = 49_980, 30

    def decay(step):
        return jnp.where(step < 500, 0.043, 0.043 * jnp.maximum(step - 500, 1) ** -0.55)

    for seed in range(2):
        plain = modes(samplers.sgld(decay, 1), seed, steps)
        cosine = samplers.cyclical(0.07, steps, cycles)
        many = modes(samplers.sgld(cosine, 1), seed, steps, steps // cycles)
        assert plain <= 6
        assert many >= 18


def sampling(**kwargs):
    split = make_split()
    return make_task(split, samplers.sghmc(1e-2, len(split)), **kwargs)


@pytest.mark.slow
def test_what_is_collected_is_where_training_was(one_device, tmp_path):
    """The net after the updates named, also beside others and after a stop."""
    collect = (3, 5, 10, 15)
    task = sampling(collect=collect)
    [whole] = fit(task, one_device)
    last = jax.tree.map(lambda x: x[-1], whole.state.collected)
    jax.tree.map(np.testing.assert_array_equal, last["params"], whole.state.params)
    [shorter] = fit(task, one_device, epochs=2)  # of five updates each
    third = jax.tree.map(lambda x: x[2], whole.state.collected)
    jax.tree.map(np.testing.assert_array_equal, third["params"], shorter.state.params)

    folder = tmp_path / "run"
    fit(task, one_device, epochs=1, workdir=folder)
    [resumed] = fit(task, one_device, workdir=folder)
    jax.tree.map(
        np.testing.assert_array_equal, resumed.state.collected, whole.state.collected
    )
    both = fit(task, one_device, seeds=[0, 1], vectorize=True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        *(both[0].state.collected, whole.state.collected),
    )
    one, other = (r.state.params["dense2"]["kernel"].mean for r in both)
    assert not np.allclose(one, other)


def test_a_chain_is_an_ensemble(one_device):
    [result] = fit(sampling(collect=train.spaced(15, 5, 0.3)), one_device)
    net = nets.MLP((16,), 4, posteriors={"dense1": nodes.multiplicative()})
    stack = Stack(net, result.state.collected)
    x = jnp.ones((7, 4, 4, 1))
    log_p = Predictor(stack, edits.mean_only)(x, random.key(0))
    assert log_p.shape == (5, 7, 4)
    assert len(np.unique(log_p, axis=0)) == 5


def test_spaced_ends_with_each_cycle():
    assert train.spaced(100, 1, cycles=4) == (25, 50, 75, 100)
    assert train.spaced(100, 3, 0.5) == (68, 84, 100)
    assert train.spaced(90, 3, 0.8, 3) == (26, 28, 30, 56, 58, 60, 86, 88, 90)
    with pytest.raises(ValueError, match="do not fit"):
        train.spaced(10, 6, 0.5)
    with pytest.raises(ValueError, match="rising order"):
        sampling(collect=(3, 3))
