"""Laws of plans: nets run as written by hand, shapes and costs as counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random

from vnets import layers, plan, pooling
from vnets.layers import TEST, TRAIN
from vnets.nets import MLP, Chain, LeNet5, lenet_300_100
from vnets.nets.net import Net
from vnets.nodes import dropout, gaussian, multiplicative, variance
from vnets.plan import Cost

POSTERIORS = {
    "conv1": gaussian(-4.0),
    "conv2": variance(),
    "dense1": dropout(0.3, gaussian(-4.0)),
    "dense2": multiplicative(-3.0),
}


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'mish'; choose from \['abs', .*'tanh'\]"):
        plan.Activation("mish")
    assert set(plan.ACTIVATIONS) == set(pooling.ACTIVATIONS)


class LeNet5ByHand(nn.Module):
    """LeNet-5 as a list of calls: what `Net` makes of its plan."""

    batch_norm: bool
    activation: str

    @nn.compact
    def __call__(self, x, mode=TEST):
        def after(x, name):
            if self.batch_norm:
                x = layers.batch_norm(name, mode)(x)
            return x

        def options(name):
            bias = not self.batch_norm or name == "dense2"
            return {"name": name, "posterior": POSTERIORS[name], "use_bias": bias}

        conv1 = layers.Conv(20, (5, 5), padding="VALID", **options("conv1"))
        x = after(conv1(x, mode), "norm1")
        x = pooling.activate_max_pool(x, self.activation)
        conv2 = layers.Conv(50, (5, 5), padding="VALID", **options("conv2"))
        x = after(conv2(x, mode), "norm2")
        x = pooling.activate_max_pool(x, self.activation)
        x = x.reshape(x.shape[0], -1)
        x = after(layers.Dense(500, **options("dense1"))(x, mode), "norm3")
        x = pooling.ACTIVATIONS[self.activation](x)
        return layers.Dense(10, **options("dense2"))(x, mode)


@pytest.mark.parametrize(
    ("batch_norm", "activation"), [(True, "relu"), (False, "tanh")]
)
def test_a_plan_runs_as_the_net_written_by_hand(batch_norm, activation):
    """Same parameters, same draws, same outputs, to the bit."""
    x = random.normal(random.key(1), (3, 28, 28, 1))
    rngs = {"params": random.key(2), "noise": random.key(3)}
    by_hand = LeNet5ByHand(batch_norm, activation)
    net = LeNet5(batch_norm=batch_norm, activation=activation, posteriors=POSTERIORS)
    found = []
    for model in (by_hand, net):

        @jax.jit
        def run(x, model=model):
            variables = model.init(rngs, x)
            noise = {"noise": random.key(4)}
            y, state = model.apply(
                variables, x, TRAIN, rngs=noise, mutable=["batch_stats"]
            )
            return variables, y, state

        found.append(run(x))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_shapes_and_costs_of_lenet5():
    """Caffe's net: 430,500 weights; multiply-adds are weights times positions."""
    net = LeNet5()
    found = plan.shapes(net.plan, (28, 28, 1))
    assert found[1] == (24, 24, 20)
    assert found[-1] == (10,)
    costs = plan.costs(net.plan, (28, 28, 1))
    assert costs == {
        "conv1": Cost(500, 500 * 24 * 24),
        "conv2": Cost(25_000, 25_000 * 8 * 8),
        "dense1": Cost(400_000, 400_000),
        "dense2": Cost(5_000, 5_000),
    }
    live = {"conv1": (1, 5), "conv2": (5, 10), "dense1": (76, 16), "dense2": (16, 10)}
    pruned = plan.costs(net.plan, (28, 28, 1), live)
    assert pruned["conv1"] == Cost(125, 125 * 576)
    assert pruned["dense1"] == Cost(76 * 16, 76 * 16)
    # 158 thousand floating point operations are reported for 5-10-76-16.
    assert sum(cost.multiply_adds for cost in pruned.values()) == 153_376


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_shapes_are_those_of_flax(size, stride, padding):
    kernel = (3, 2) if padding == "SAME" else (1, 1)
    step = plan.Conv("conv", 4, kernel, (stride, stride), padding)
    x = jax.ShapeDtypeStruct((1, size, size, 2), jnp.float32)
    conv = nn.Conv(4, kernel, (stride, stride), padding)
    y, _ = jax.eval_shape(lambda x: conv.init_with_output(random.key(0), x), x)
    assert plan.shape_after(step, (size, size, 2)) == y.shape[1:]


def test_every_step_has_its_place_in_a_net():
    """Steps that no net here uses: SAME, strides, pooling without an activation."""

    class Chain(Net):
        @property
        def plan(self):
            return (
                plan.Standardize((0.1, 0.2), (0.5,)),
                plan.Conv("conv", 3, (3, 3), (2, 2)),
                plan.MaxPool(),
                plan.Norm("norm", affine=False, epsilon=1e-3),
                plan.Activation("abs"),
                plan.Flatten(),
                plan.Dense("dense", 2, bias=False),
            )

    x = random.normal(random.key(0), (2, 9, 9, 2))
    net = Chain()
    variables = jax.jit(net.init)(random.key(1), x)
    params = variables["params"]
    h = nn.Conv(3, (3, 3), (2, 2)).apply(
        {"params": params["conv"] | {"kernel": params["conv"]["kernel"].mean}},
        (x - jnp.asarray([[[[0.1, 0.2]]]])) / 0.5,
    )
    h = jnp.abs(nn.max_pool(h, (2, 2), (2, 2)) / np.sqrt(1 + 1e-3))
    y = h.reshape(2, -1) @ params["dense"]["kernel"].mean
    np.testing.assert_allclose(net.apply(variables, x), y, rtol=1e-4, atol=1e-5)
    assert net.layers == ("conv", "dense")


def test_units_laid_out_as_positions_undo_flattening():
    x = random.normal(random.key(0), (2, 3, 4, 5))
    step, flat = plan.DepthToSpace((3, 4)), x.reshape(2, -1)
    np.testing.assert_array_equal(pooling.depth_to_space(flat, step), x)
    assert plan.shapes((plan.Flatten(), step), (3, 4, 5))[-1] == (3, 4, 5)


@pytest.mark.parametrize("block", [(1, 1), (2, 2), (3, 2), (1, 4)])
def test_channels_become_blocks_of_positions(block):
    """Each by hand. Of channels that are all alike: nearest neighbours, which pooling
    undoes."""
    (height, width), left = block, 3
    step = plan.DepthToSpace(block)
    x = random.normal(random.key(0), (2, 3, 2, height * width * left))
    y = pooling.depth_to_space(x, step)
    assert y.shape[1:] == plan.shape_after(step, x.shape[1:])
    for i, j in np.ndindex(block):
        first = left * (width * i + j)
        own = y[:, i::height, j::width]
        np.testing.assert_array_equal(own, x[..., first : first + left])
    few = random.normal(random.key(1), (2, 3, 2, left))
    large = pooling.depth_to_space(jnp.tile(few, height * width), step)
    nearest = np.repeat(np.repeat(few, height, 1), width, 2)
    np.testing.assert_array_equal(large, nearest)
    if height == width:
        small = pooling.window_max_pool(large, height, height, "VALID")
        np.testing.assert_array_equal(small, few)
        small = pooling.window_mean_pool(large, height, height, "VALID")
        np.testing.assert_allclose(small, few, rtol=1e-6)


def test_channels_that_fill_no_blocks_are_refused():
    """Before a net runs, and while it does."""
    step = plan.DepthToSpace((2, 3))
    with pytest.raises(ValueError, match="8 channels fill no blocks of 2 x 3"):
        plan.shapes((step,), (5, 5, 8))
    with pytest.raises(ValueError, match="8 channels fill no blocks of 2 x 3"):
        Chain(steps=(step,)).apply({}, jnp.zeros((1, 8)))
    with pytest.raises(ValueError, match=r"needs \[H, W, C\]"):
        plan.shapes((step,), (5, 6))
    with pytest.raises(ValueError, match="block of DepthToSpace must be a pair"):
        plan.DepthToSpace((2, 0))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="nothing is left"):
        plan.shapes(LeNet5().plan, (8, 8, 1))
    with pytest.raises(ValueError, match=r"needs \[H, W, C\]"):
        plan.shapes(LeNet5().plan, (64,))
    with pytest.raises(ValueError, match="SAME, VALID"):
        plan.pads((4,), (3,), (1,), "FULL")
    mlp = lenet_300_100().plan
    with pytest.raises(ValueError, match=r"\['conv1'\].*dense1"):
        plan.costs(mlp, (784,), {"conv1": (1, 1)})
    with pytest.raises(ValueError, match="784 input and 300 output"):
        plan.costs(mlp, (784,), {"dense1": (785, 1)})
    assert MLP((), 3).layers == ("dense1",)


DENSE = plan.Dense("d", 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plan.Conv("c", 8, 3), r"'c' must be a pair such as .* not 3"),  # pyright: ignore
        (lambda: plan.Conv("c", 8, (3, 3), 2), "strides of 'c' must be a pair"),  # pyright: ignore
        (lambda: plan.Conv("c", 8, (3, 0)), "kernel of 'c' must be a pair"),
        (lambda: plan.Residual(DENSE), "a tuple of steps, not Dense"),  # pyright: ignore
        (lambda: plan.Residual((), [DENSE]), "a tuple of steps, not"),  # pyright: ignore
        (lambda: plan.Residual((nn.relu,)), "no step of a plan.*'Activation'"),  # pyright: ignore
        (lambda: Chain(steps=(DENSE, nn.relu)), "no step of a plan.*'Dense'"),  # pyright: ignore
    ],
)
def test_what_is_no_step_is_refused_where_it_is_written(make, message):
    """A chain would take whatever it does not know for max pooling."""
    with pytest.raises(ValueError, match=message):
        make()


def test_plans_name_the_activations_that_layers_have():
    assert set(plan.ACTIVATIONS) == set(pooling.ACTIVATIONS)
