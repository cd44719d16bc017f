"""Laws of the VGG-like net: its shapes and counts, its noise, one compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from vnets import data, plan, sources, train
from vnets.likelihoods import Categorical
from vnets.loss import forward, neg_elbo
from vnets.nets import VGG
from vnets.nodes import dropout, gaussian, is_noisy
from vnets.priors import log_uniform

X = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
CONVOLUTIONS = [f"conv{i}" for i in range(1, 14)]


def variables(net, x=X):
    rngs = {"params": random.key(0), "noise": random.key(1)}
    return jax.eval_shape(lambda x: net.init_with_output(rngs, x), x)


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_layers_and_shapes():
    net = VGG()
    assert list(net.layers) == [*CONVOLUTIONS, "dense1", "dense2"]
    logits, held = variables(net)
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
    assert held["params"]["conv13"]["kernel"].shape == (3, 3, 512, 512)
    assert held["params"]["dense1"]["kernel"].shape == (512, 512)
    with_bias = {n for n, layer in held["params"].items() if "bias" in layer}
    assert with_bias == {*(f"norm{i}" for i in range(1, 15)), "dense2"}
    # 1,728 + 36,864 + 73,728 + 147,456 + 294,912 + 2 x 589,824 + 1,179,648
    # + 5 x 2,359,296 + 512^2 + 5,120 weights, 10 biases, 2 x 4,736 of normalization
    weights = 14_977_728
    assert count(held["params"]) == weights + 10 + 2 * 4_736
    costs = plan.costs(net.plan, X.shape[1:])
    assert sum(cost.weights for cost in costs.values()) == weights


@pytest.mark.parametrize(
    ("width", "first", "last"), [(0.25, 16, 128), (1.5, 96, 768), (0.001, 1, 1)]
)
def test_width_scales_all_layers(width, first, last):
    logits, held = variables(VGG(width=width, classes=20))
    assert logits.shape == (2, 20)
    assert held["params"]["conv1"]["kernel"].shape == (3, 3, 3, first)
    assert held["params"]["dense1"]["kernel"].shape == (last, last)
    assert held["params"]["dense2"]["kernel"].shape == (last, 20)


def test_fewer_blocks_for_smaller_images():
    net = VGG(blocks=2)
    assert list(net.layers) == [*CONVOLUTIONS[:4], "dense1", "dense2"]
    _, held = variables(net, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    assert held["params"]["dense1"]["kernel"].shape == (2 * 2 * 128, 512)
    assert "norm5" in held["params"]


def test_bad_widths_depths_sizes_and_layers_are_refused():
    for blocks in (0, 6):
        with pytest.raises(ValueError, match="blocks must be 1 to 5"):
            VGG(blocks=blocks)
    for width in (0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"width must be positive, not {width}"):
            VGG(width=width)
    with pytest.raises(ValueError, match="input_std must be positive"):
        VGG(input_std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"unknown layers \['conv14'\].*conv13"):
        VGG(posteriors={"conv14": gaussian()})
    with pytest.raises(ValueError, match="nothing is left"):
        plan.shapes(VGG().plan, (28, 28, 1))


def test_normalization_is_the_authors():
    norms = [step for step in VGG().plan if isinstance(step, plan.Norm)]
    assert {norm.epsilon for norm in norms} == {1e-3}
    _, held = variables(VGG(width=0.1, norm_scale=False))
    assert set(held["params"]["norm3"]) == {"bias"}
    _, held = variables(VGG(width=0.1, norm_affine=False))
    assert not any(name.startswith("norm") for name in held["params"])


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 5])
def test_one_compiled_step_with_noise_on_every_layer(blocks, one_device):
    """Sparse VD on all layers but two, which have dropout: all of them move."""
    posteriors = dict.fromkeys(VGG(blocks=blocks).layers, gaussian(-10.0))
    posteriors |= {"conv2": dropout(0.3), "dense2": dropout(0.5)}
    net = VGG(width=0.05, blocks=blocks, posteriors=posteriors)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    source = sources.Resident(data.Split(image, np.arange(8) % 10), 8)
    task = train.Task(
        init=train.initializer(net, jnp.zeros(X.shape, jnp.float32)),
        loss=neg_elbo(forward(net), Categorical(), log_uniform, 50_000),
        optimizer=optax.adam(1e-3),
        source=source,
    )
    [result] = train.fit(task, epochs=1, seeds=[0], mesh=one_device)
    assert result.failed is None
    assert np.isfinite(result.history[0]["loss"])
    before = task.start(random.key(0))
    for layer in net.layers:
        one, other = (s.params[layer]["kernel"] for s in (before, result.state))
        assert is_noisy(other)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert np.all(np.isfinite(b))
            assert np.any(a != b)
