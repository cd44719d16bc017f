"""A file's noise: deviations come back, and draws are those of the net."""

import jax
import numpy as np
import pytest
from compact_nets import SHAPE, Same, inputs, noisy
from jax import random

from vnets import compact, nodes, plan
from vnets.compact.graph import kernel_shapes
from vnets.edits import mean_only
from vnets.estimators import weight_sampling
from vnets.layers import Mode
from vnets.nets import MLP, LeNet5


def captured(model, shape, **options):
    x, mode = np.zeros((1, *shape), np.float32), Mode(weight_sampling)
    variables = model.init(random.key(0), x, mode=mode)
    graph = compact.capture(model, variables, shape, **options)
    return variables, compact.fold_norms(graph)


@pytest.mark.parametrize("name", ["lenet5", "sides", "mlp"])
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_noise_survives_shrinking_and_the_file(name, form):
    """With the same noise everywhere a draw is a function like any other."""
    graph = noisy(name)
    x = inputs(graph.shape, 5)
    wanted = compact.Predictor(graph, form)(x, Same())
    assert np.abs(wanted - compact.Predictor(graph, form)(x)).max() > 0.1
    small = compact.shrink(graph)
    shrunk = compact.Predictor(small, form)(x, Same())
    np.testing.assert_allclose(shrunk, wanted, rtol=1e-4, atol=1e-4 * np.ptp(wanted))
    net = compact.quantize(small, 8)
    loaded = compact.loads(compact.dumps(net))
    for layer, held in net.layers.items():
        back = loaded.layers[layer]
        assert (held.deviations is None) == (back.deviations is None)
        if held.deviations is not None:
            for field in ("positions", "levels", "step"):
                np.testing.assert_array_equal(
                    getattr(back.deviations, field), getattr(held.deviations, field)
                )
    dense = compact.Predictor(net.graph(), "dense")(x, Same())
    got = compact.Predictor(loaded, form)(x, Same())
    np.testing.assert_allclose(got, dense, rtol=1e-4, atol=1e-4 * np.ptp(dense))


def test_a_constant_unit_that_meets_noise_is_cut_where_that_is_of_no_consequence():
    """Units 0 to 2 are constant: 0 before noise, 2 before none, and 2 before noise."""
    steps = (plan.Dense("a", 4), plan.Activation("relu"), plan.Dense("b", 2))
    draw = np.random.default_rng(0)
    into, out, std = (draw.uniform(0.5, 1, s) for s in ((3, 4), (4, 2), (4, 2)))
    into[:, :3], std[1] = 0, 0
    kernels, biases = {"a": into, "b": out}, {"a": [-1.0, 2, 2, 0], "b": [0.5, 0]}
    graph = compact.Graph(
        *(steps, (3,), {k: np.float32(v) for k, v in kernels.items()}),
        biases={k: np.float32(v) for k, v in biases.items()},
        deviations={"b": np.float32(std)},
    )
    small = compact.shrink(graph)
    assert small.kernels["b"].shape == (2, 2)  # the third and the one that varies
    x = inputs((3,), 5)
    wanted = compact.Predictor(graph)(x, Same())
    np.testing.assert_allclose(compact.Predictor(small)(x, Same()), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "step",
    [
        plan.Dense("a", 3),
        plan.Conv("a", 3, (2, 3), (1, 2)),
        plan.Depthwise("a", (3, 2), (2, 1), "VALID"),
    ],
    ids=lambda step: type(step).__name__,
)
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_a_draw_is_the_mean_and_so_many_deviations(step, form):
    """Whose squares are the layer of squared deviations at the squared inputs."""
    dense = isinstance(step, plan.Dense)
    shape, steps = ((7,), (step,)) if dense else ((5, 4, 2), (step, plan.Flatten()))
    [(name, kernel)] = kernel_shapes(steps, shape).items()
    draw = np.random.default_rng(0)
    weights, std, bias, x = (
        (draw.normal(size=of) * (draw.random(of) > 1 / 3)).astype(np.float32)
        for of in (kernel, kernel, kernel[-1:], (3, *shape))
    )

    def predictor(weights, bias, **noise):
        graph = compact.Graph(steps, shape, {name: weights}, {name: bias}, **noise)
        return compact.Predictor(graph, form)

    noisy_one = predictor(weights, bias, deviations={name: np.abs(std)})
    off = np.sqrt(predictor(np.square(std), 0 * bias)(np.square(x)))
    assert off.any()
    for times in (0.5, -3.0):
        wanted = noisy_one(x) + times * off
        np.testing.assert_allclose(noisy_one(x, Same(times)), wanted, atol=1e-5)


def test_draws_are_those_of_the_layer():
    """One dense layer of each posterior: mean and variance by the node's moments."""
    kinds = {
        "variance": nodes.variance(),
        "gaussian": nodes.gaussian(log_var=-3.0),
        "per unit": nodes.multiplicative(log_alpha=-1.0, per="output"),
    }
    x = inputs((30,), 1)
    for name, kind in kinds.items():
        model = MLP((), 4, posteriors={"dense1": kind})
        variables, graph = captured(model, (30,), noise=True)
        mean, var = variables["params"]["dense1"]["kernel"].moments()
        predictor = compact.Predictor(graph)
        draws = predictor(np.repeat(x, 20_000, 0), np.random.default_rng(0))
        wanted = np.square(x) @ np.asarray(var)
        means = 0 * wanted if mean is None else x @ np.asarray(mean)
        np.testing.assert_allclose(predictor(x), means, atol=1e-5, err_msg=name)
        error = 5 * np.sqrt(wanted[0] / 20_000)
        assert (np.abs(draws.mean(0) - means[0]) < error).all(), name
        np.testing.assert_allclose(draws.var(0), wanted[0], rtol=5 * np.sqrt(2 / 2e4))


def test_a_net_with_norms_predicts_as_in_jax():
    """Noise off; with noise the ensemble of the file and of the net agree."""
    net = LeNet5(
        batch_norm=True, widths=(4, 6, 50), posteriors={"dense1": nodes.variance()}
    )
    variables, graph = captured(net, SHAPE, noise=True)
    assert set(graph.deviations) == {"dense1"}
    x = inputs(SHAPE, 3)
    quiet = {**variables, "params": mean_only(variables["params"], random.key(0))}
    wanted = np.asarray(net.apply(quiet, x))
    predictor = compact.Predictor(compact.shrink(graph))
    np.testing.assert_allclose(predictor(x), wanted, rtol=1e-4, atol=1e-4)

    @jax.jit
    def draws(keys):
        def draw(key):
            logits = net.apply(variables, x, mode=Mode(), rngs={"noise": key})
            return jax.nn.softmax(logits)

        return jax.vmap(draw)(keys)

    found = np.asarray(draws(random.split(random.key(1), 400)))
    got = predictor.ensemble(x, 400, np.random.default_rng(0))
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)
    error = 5 * found.std(0) * np.sqrt(2 / 400)
    assert (np.abs(got - found.mean(0)) < error).all()


def test_an_ensemble_is_the_mean_of_draws_of_which_one_is_enough():
    predictor, x = compact.Predictor(noisy("mlp")), inputs((6, 6, 1), 3)
    draw = np.random.default_rng(0)
    each = [compact.operations.softmax(predictor(x, draw)) for _ in range(3)]
    for samples in (1, 3):
        found = predictor.ensemble(x, samples, np.random.default_rng(0))
        np.testing.assert_allclose(found, np.mean(each[:samples], 0), rtol=1e-6)


def test_without_noise_a_draw_is_the_prediction():
    graph = compact.shrink(noisy("mlp"))
    quiet = compact.Graph(graph.plan, graph.shape, graph.kernels, graph.biases)
    x = inputs(graph.shape, 4)
    predictor = compact.Predictor(quiet)
    np.testing.assert_array_equal(predictor(x), predictor(x, np.random.default_rng(0)))


def test_a_noisy_net_goes_back_to_flax():
    net = compact.quantize(noisy("mlp"), 8)
    model, variables = net.to_flax()
    kernels = {n: layer["kernel"] for n, layer in variables["params"].items()}
    for name, std in net.graph().deviations.items():
        _, var = kernels[name].moments()
        np.testing.assert_allclose(var, np.square(std), rtol=1e-5)
    x = inputs(net.shape, 3)
    quiet = {"params": mean_only(variables["params"], random.key(0))}
    wanted = compact.Predictor(net)(x)
    np.testing.assert_allclose(model.apply(quiet, x), wanted, rtol=1e-4, atol=1e-4)


def test_other_noise_is_refused():
    for kind in (nodes.dropout(0.5), nodes.variance(noise="sign")):
        model = MLP((), 4, posteriors={"dense1": kind})
        with pytest.raises(ValueError, match="dense1/kernel has noise of another kind"):
            captured(model, (30,), noise=True)
        captured(model, (30,))
    model = MLP((), 4, posteriors={"dense1/bias": nodes.gaussian()})
    with pytest.raises(ValueError, match="dense1/bias has noise"):
        captured(model, (30,), noise=True)
    predictor = compact.Predictor(noisy("mlp"))
    with pytest.raises(ValueError, match="at least one draw"):
        predictor.ensemble(inputs((6, 6, 1), 1), 0, np.random.default_rng(0))
