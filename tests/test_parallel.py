"""Laws of the devices: their number changes neither the draws nor the results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import backend, noise, parallel
from vnets.nets import LeNet5
from vnets.objectives import cross_entropy
from vnets.posteriors import dropout, gaussian, multiplicative, variance

COUNTS = (1, 2, 8)
BATCH = 16


def meshes():
    return {count: parallel.mesh(jax.devices()[:count]) for count in COUNTS}


@pytest.fixture(scope="module")
def by_count():
    """Loss, gradients and draws of LeNet-5 under LRT on 1, 2 and 8 devices."""
    net = LeNet5(
        posteriors={
            "conv1": gaussian(-3.0),
            "conv2": multiplicative(-2.0, "output"),
            "dense1": variance(),
            "dense2": dropout(0.5),
        }
    )
    x = random.normal(random.key(1), (BATCH, 28, 28, 1))
    labels = jnp.arange(BATCH, dtype=jnp.int32) % 10
    rngs = {"params": random.key(0), "noise": random.key(0)}
    params = jax.jit(net.init)(rngs, x)["params"]

    def run(on):
        def step(params, batch, key):
            batch = parallel.shard_batch(on, batch)

            def loss(params):
                rngs = {"noise": key}
                logits = net.apply({"params": params}, batch["image"], rngs=rngs)
                return jnp.mean(cross_entropy(logits, batch["label"]))

            draws = parallel.shard_batch(on, noise.normal(key, (BATCH, 6, 7)))
            return jax.value_and_grad(loss)(params), draws

        place = parallel.replicated(on)
        arguments = jax.device_put(
            (params, {"image": x, "label": labels}, random.key(2)), place
        )
        (value, grads), draws = backend.jit(step)(*arguments)
        assert len(draws.sharding.device_set) == on.size
        return np.asarray(value), jax.tree.map(np.asarray, grads), np.asarray(draws)

    return {count: run(on) for count, on in meshes().items()}


@pytest.mark.parametrize("count", COUNTS[1:])
def test_draws_are_bit_equal(count, by_count):
    np.testing.assert_array_equal(by_count[count][2], by_count[1][2])


@pytest.mark.parametrize("count", COUNTS[1:])
def test_losses_and_gradients_are_the_same(count, by_count):
    value, grads, _ = by_count[count]
    expected, expected_grads, _ = by_count[1]
    assert abs(value - expected) < 1e-5
    for a, b in zip(
        jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True
    ):
        # Sums over the batch come in another order.
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())


def test_mesh_takes_all_devices_or_those_given(one_device):
    assert parallel.mesh().size == jax.device_count()
    assert one_device.size == 1
    assert parallel.mesh(jax.devices()[2:4]).devices.tolist() == [jax.devices()[2:4]]


def test_batches_are_split_and_parameters_are_not():
    on = parallel.mesh()
    batch = {"x": jnp.zeros((16, 3), jnp.float32), "y": jnp.zeros(16, jnp.int32)}
    split = jax.jit(lambda batch: parallel.shard_batch(on, batch))(batch)
    for leaf in split.values():
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {2}
    whole = jax.device_put(batch["x"], parallel.replicated(on))
    assert {shard.data.shape for shard in whole.addressable_shards} == {(16, 3)}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (12, "12 cannot be split over 8 devices; try 8 or 16"),
        (5, "5 cannot be split over 8 devices; try 8$"),
    ],
)
def test_uneven_batches_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        parallel.check_batch(parallel.mesh(), size)


def test_even_batches_pass(one_device):
    parallel.check_batch(parallel.mesh(), 24)
    parallel.check_batch(one_device, 7)
