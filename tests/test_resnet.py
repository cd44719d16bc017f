"""Laws of ResNet: counts of the published net, blocks as written by hand, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from flax import linen as nn
from jax import random

from vnets import plan
from vnets.layers import TRAIN
from vnets.nets import ResNet
from vnets.nodes import gaussian

TINY = {"classes": 5, "stages": (1, 2), "width": 2}
X = (2, 33, 24, 3)


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_resnet_50_has_the_published_size():
    """25,557,032 parameters of the usual layout, 4.1e9 multiply-adds at 224 x 224."""
    net = ResNet()
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    logits, held = jax.eval_shape(
        lambda x: net.init_with_output(random.key(0), x), image
    )
    assert (logits.shape, logits.dtype) == ((1, 1000), jnp.float32)
    assert count(held["params"]) == 25_557_032
    assert len(net.layers) == len(set(net.layers)) == 54  # 53 convolutions
    costs = plan.costs(net.plan, (224, 224, 3))
    assert sum(c.weights for c in costs.values()) == 25_502_912
    assert sum(c.multiply_adds for c in costs.values()) == 4_089_184_256
    assert costs["stem"] == plan.Cost(49 * 3 * 64, 49 * 3 * 64 * 112**2)
    assert costs["stage2_block1_conv1"].multiply_adds == 256 * 128 * 56**2  # v1.5
    assert costs["stage2_block1_shortcut"].multiply_adds == 256 * 512 * 28**2


def test_a_tiny_net_runs_as_written_by_hand():
    """Stem, pooling with overlap, a projected and a plain shortcut, and the mean."""
    net = ResNet(**TINY, zero_last_scale=False, input_mean=(0.5,), input_std=(0.25,))

    def by_hand(params, x):
        def conv(h, name, strides=(1, 1)):
            kernel = params[name]["kernel"].mean
            h = jax.lax.conv_general_dilated(
                h, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return h / np.sqrt(1 + 1e-5)  # of running statistics as they start

        def block(h, name, strides, shortcut):
            body = nn.relu(conv(h, f"{name}_conv1"))
            body = nn.relu(conv(body, f"{name}_conv2", strides))
            body = conv(body, f"{name}_conv3")
            if shortcut:
                h = conv(h, f"{name}_shortcut", strides)
            return nn.relu(body + h)

        h = nn.relu(conv((x - 0.5) / 0.25, "stem", (2, 2)))
        h = nn.max_pool(h, (3, 3), (2, 2), "SAME")
        h = block(h, "stage1_block1", (1, 1), True)
        h = block(h, "stage2_block1", (2, 2), True)
        h = block(h, "stage2_block2", (1, 1), False)
        return h.mean((1, 2)) @ params["dense1"]["kernel"].mean

    @jax.jit
    def both():
        x = random.normal(random.key(0), X)
        logits, variables = net.init_with_output(random.key(1), x)
        return logits, by_hand(variables["params"], x)

    np.testing.assert_allclose(*both(), rtol=1e-4, atol=1e-5)
    assert plan.shapes(net.plan, X[1:])[-3:] == [(5, 3, 16), (16,), (5,)]


@pytest.mark.slow
def test_a_block_starts_as_its_shortcut_and_its_layers_learn_still():
    """With its last scale at 0 a body adds nothing, but that scale has a gradient."""
    noisy = dict.fromkeys(ResNet(**TINY).layers, gaussian(-6.0))
    net = ResNet(**TINY, posteriors=noisy)
    x = random.normal(random.key(0), X)

    @jax.jit
    def run(x):
        rngs = {"params": random.key(1), "noise": random.key(2)}
        variables = net.init(rngs, x)

        def loss(params):
            logits, _ = net.apply(
                {**variables, "params": params},
                x,
                TRAIN,
                rngs={"noise": random.key(3)},
                mutable=["batch_stats"],
            )
            return jnp.sum(logits[:, 0])

        return variables["params"], jax.grad(loss)(variables["params"])

    params, grads = run(x)
    last = "stage2_block2_norm3"
    assert not np.any(params[last]["scale"])
    assert np.any(grads[last]["scale"])
    assert np.all(params["stage2_block2_norm2"]["scale"] == 1)
    assert not np.any(grads["stage2_block2_conv1"]["kernel"].mean)  # behind the 0
    for layer in ("stem", "stage1_block1_shortcut", "dense1"):
        assert np.any(grads[layer]["kernel"].mean), layer
        assert np.any(grads[layer]["kernel"].log_var), layer
    assert every(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_live_units_are_counted_within_blocks():
    net = ResNet(**TINY)
    costs = plan.costs(net.plan, (32, 32, 3), {"stage1_block1_conv2": (1, 2)})
    assert costs["stage1_block1_conv2"] == plan.Cost(18, 18 * 8 * 8)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="stages must be one or more"):
        ResNet(stages=())
    with pytest.raises(ValueError, match="input_std must be positive"):
        ResNet(input_std=(0.0,))
    with pytest.raises(ValueError, match=r"unknown layers \['conv1'\].*stem"):
        ResNet(posteriors={"conv1": gaussian()})
    step = plan.Residual((plan.Dense("a", 3),))
    with pytest.raises(ValueError, match=r"adds \[3\] to a shortcut of \[2\]"):
        plan.shapes((step,), (2,))
    with pytest.raises(ValueError, match="SAME, VALID or"):
        plan.shape_after(plan.WindowMaxPool(padding="FULL"), (4, 4, 1))
