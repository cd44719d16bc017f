"""Laws of the devices: their number changes neither the draws nor the results."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import backend, noise, parallel
from vnets.likelihoods import Categorical
from vnets.nets import LeNet5
from vnets.nodes import dropout, gaussian, multiplicative, variance

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
                logits = net.apply({"params": params}, batch["input"], rngs=rngs)
                return jnp.mean(Categorical().nll(logits, batch["target"]))

            draws = parallel.shard_batch(on, noise.normal(key, (BATCH, 6, 7)))
            return jax.value_and_grad(loss)(params), draws

        place = parallel.replicated(on)
        arguments = jax.device_put(
            (params, {"input": x, "target": labels}, random.key(2)), place
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


@pytest.mark.parametrize("size", [12, 5])
def test_a_batch_that_does_not_divide_is_whole_until_it_is_in_the_program(size):
    on = parallel.mesh()
    assert parallel.share(on, 1, size) == (range(1), slice(0, size))
    x = np.arange(2 * size, dtype=np.int32).reshape(2, size)
    placed = parallel.place_chunk(on, x, size)
    assert {shard.data.shape for shard in placed.addressable_shards} == {x.shape}
    split = jax.jit(lambda batch: parallel.shard_batch(on, batch) + 1)(placed[0])
    np.testing.assert_array_equal(split, x[0] + 1)


@pytest.mark.parametrize("seeds", [1, 2, 8])
def test_seeds_and_data_share_the_devices(seeds):
    on = parallel.mesh(seeds=seeds)
    assert on.shape == {parallel.SEEDS: seeds, parallel.DATA: 8 // seeds}
    assert parallel.flat(on) == parallel.mesh()


@pytest.mark.parametrize("seeds", [0, 3])
def test_a_mesh_that_does_not_come_out_even_is_refused(seeds):
    with pytest.raises(ValueError, match="try 1 or 2 or 4 or 8"):
        parallel.mesh(seeds=seeds)


def test_one_process_holds_all_seeds_and_rows():
    lanes, rows = parallel.share(parallel.mesh(seeds=2), 6, 16)
    assert (lanes, rows) == (range(6), slice(0, 16))


def test_chunks_are_split_over_seeds_and_rows():
    on = parallel.mesh(seeds=2)
    chunk = {
        "input": np.arange(2 * 3 * 16 * 5, dtype=np.float32).reshape(2, 3, 16, 5),
        "number": np.arange(6, dtype=np.int32).reshape(2, 3),
    }
    placed = parallel.place_chunk(on, chunk, 16, seeds=2)
    shapes = {
        name: {shard.data.shape for shard in leaf.addressable_shards}
        for name, leaf in placed.items()
    }
    assert shapes == {"input": {(1, 3, 4, 5)}, "number": {(1, 3)}}
    for name, leaf in placed.items():
        np.testing.assert_array_equal(leaf, chunk[name])
    with pytest.raises(ValueError, match="16 rows of a batch in place of 24, 0 to 23"):
        parallel.place_chunk(on, chunk, 24, seeds=2)


def test_a_seed_is_taken_and_owned():
    on = parallel.mesh(seeds=4)
    state = parallel.place_seeds(on, jnp.arange(8, dtype=jnp.float32))
    np.testing.assert_array_equal(parallel.fetch(on, state), np.arange(8))
    one = parallel.own(parallel.take(on, state, 5))
    assert one.sharding.device_set == {jax.devices()[0]}
    assert float(one) == 5


KNOWS = {"device_count", "devices", "local_devices", "process_count", "process_index"}


def test_nobody_else_knows_how_many_there_are():
    """Records tell what they ran on (`results`), and forms are chosen by it; everything
    else asks `parallel`."""
    root = Path(parallel.__file__).resolve().parents[2]
    files = [
        path
        for package in ("vnets", "experiments", "scripts")
        for path in (root / package).rglob("*.py")
    ]
    found = {
        path.relative_to(root).as_posix()
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in KNOWS
        and isinstance(node.value, ast.Name)
        and node.value.id == "jax"
    }
    parts = {"vnets/parallel/devices.py", "vnets/parallel/processes.py"}
    # The benchmark and the study of costs measure one device and say so.
    measure = {"experiments/bench/steps.py", "experiments/lrt_cost.py"}
    others = {"experiments/records/origin.py", "vnets/backend.py"}
    assert found == parts | measure | others
