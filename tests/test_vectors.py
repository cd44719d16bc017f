"""Laws of stochastic biases and scales of normalization, and of the walks over them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import random

from experiments import build as parts
from vnets import (
    bits,
    checkpoint,
    compact,
    edits,
    estimators,
    layers,
    metrics,
    objectives,
    priors,
    projections,
    propagation,
    soft_sharing,
)
from vnets.layers import TRAIN, Mode, stochastic
from vnets.nets import MLP, LeNet5
from vnets.normal_priors import empirical_normal
from vnets.posteriors import (
    Gaussian,
    Point,
    dropout,
    gaussian,
    is_posterior,
    multiplicative,
    point,
    variance,
)
from vnets.pruning import masked

DRAWS = 2000
WEIGHT, VECTOR = gaussian(-1.0), gaussian(-0.5)
# Layer and input: a bias of each form.
CASES = {
    "dense": (layers.Dense(4, WEIGHT, bias_posterior=VECTOR), (3, 2)),
    "sequence": (layers.Dense(3, WEIGHT, bias_posterior=VECTOR), (2, 3, 2)),
    "conv": (
        layers.Conv(2, (2, 2), posterior=WEIGHT, bias_posterior=VECTOR),
        (2, 3, 3, 2),
    ),
}
SAMPLED = (
    ("dense", "lrt"),
    ("dense", "weight_sampling"),
    ("dense", "flipout"),
    ("dense", "antithetic"),
    ("sequence", "per_example_sampling"),
    ("conv", "lrt"),
    ("conv", "weight_sampling"),
)


def keys_of(seed=0, n=DRAWS):
    return random.split(random.key(seed), n)


def rngs(seed=0):
    return {"params": random.key(seed), "noise": random.key(seed + 1)}


def moved(params, name, by=0.7):
    """The parameters with the mean of a vector away from where it starts."""
    node = params[name]
    return {**params, name: node.replace(mean=node.mean + by)}


@functools.cache
def layer_draws(case, estimator):
    """Parameters, input and many outputs of a layer, [n, B, ..., O]."""
    layer, shape = CASES[case]
    x = random.normal(random.key(2), shape)
    params = moved(layer.init(rngs(), x)["params"], "bias")
    mode = Mode(getattr(estimators, estimator))

    @jax.jit
    def draw(params, keys):
        def one(key):
            return layer.apply({"params": params}, x, mode, rngs={"noise": key})

        return jax.vmap(one)(keys)

    return params, x, np.asarray(draw(params, keys_of())), draw


@pytest.mark.parametrize(("case", "estimator"), SAMPLED)
def test_a_bias_adds_its_moments_to_those_of_the_layer(case, estimator, assert_moments):
    layer, _ = CASES[case]
    params, x, draws, _ = layer_draws(case, estimator)
    (w_mean, w_var), (mean, var) = (params[n].moments() for n in ("kernel", "bias"))

    def linear(x, kernel, bias):
        return layer.apply({"params": {"kernel": Point(kernel), "bias": bias}}, x)

    expected = linear(x, w_mean, mean), linear(jnp.square(x), w_var, var)
    assert_moments(draws, *expected)


@pytest.mark.parametrize("estimator", ["lrt", "weight_sampling"])
def test_who_shares_the_draw_of_a_bias(estimator):
    _, _, _, draw = layer_draws("conv", estimator)
    params, *_ = layer_draws("conv", "lrt")
    kernel = Point(jnp.zeros(params["kernel"].shape, jnp.float32))
    [y] = np.asarray(draw({**params, "kernel": kernel}, keys_of(1, 1)))
    pixels = y.reshape(len(y), -1, y.shape[-1])
    np.testing.assert_array_equal(pixels, np.broadcast_to(pixels[:, :1], pixels.shape))
    same = np.array_equal(pixels[0], pixels[1])
    assert same == (estimator == "weight_sampling")  # one draw for the minibatch


@pytest.mark.parametrize(
    "mode",
    [Mode(norm="batch"), Mode(estimators.weight_sampling)],
    ids=["batch", "running"],
)
def test_batch_normalization_with_noisy_scale_and_bias(mode, assert_moments):
    both = {"scale": VECTOR, "bias": gaussian(-2.0)}
    norm = layers.batch_norm("norm", mode, posteriors=both)
    plain = layers.batch_norm("norm", mode, bias=False, scale=False)
    x = random.normal(random.key(3), (3, 2, 2, 2)) + 1.0
    variables = norm.init(rngs(), x)
    assert jax.tree.structure(variables["batch_stats"]) == jax.tree.structure(
        plain.init(rngs(), x)["batch_stats"]
    )
    scale = variables["params"]["scale"]
    np.testing.assert_array_equal(scale.mean, np.ones(2))  # where the array starts

    @jax.jit
    @jax.vmap
    def draw(key):
        return norm.apply(variables, x, rngs={"noise": key}, mutable=["batch_stats"])

    y, new = draw(keys_of())
    statistics = {"batch_stats": variables["batch_stats"]}
    h, kept = plain.apply(statistics, x, mutable=["batch_stats"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-6), new, kept)
    var = jnp.square(h) * jnp.exp(-0.5) + jnp.exp(-2.0)
    assert_moments(y, h, var)


@functools.cache
def net_and_params(**posteriors):
    net = MLP(
        (5, 4), 3, posteriors={k.replace("_", "/"): v for k, v in posteriors.items()}
    )
    x = random.normal(random.key(4), (6, 7))
    return net, net.init(rngs(), x)["params"], x


NOISY = {
    "dense1": WEIGHT,
    "dense1_bias": VECTOR,
    "dense3": WEIGHT,
    "dense3_bias": VECTOR,
}


def test_without_a_name_nothing_changes():
    """Kernels start and are drawn as before, and a quiet bias is the array's output."""
    default, params, x = net_and_params(dense1=WEIGHT)
    quiet, with_node, _ = net_and_params(dense1=WEIGHT, dense1_bias=gaussian(-jnp.inf))
    assert isinstance(params["dense1"]["bias"], jax.Array)
    assert isinstance(with_node["dense1"]["bias"], Gaussian)
    arrays = edits.carry_means(with_node, params)
    jax.tree.map(np.testing.assert_array_equal, arrays, params)
    y = [
        net.apply({"params": p}, x, rngs={"noise": random.key(5)})
        for net, p in ((default, params), (quiet, with_node))
    ]
    np.testing.assert_array_equal(*y)


def test_the_mean_of_a_noisy_vector_is_the_array():
    """Parameters fit a net that does not name their nodes, and the other way round."""
    named, params, x = net_and_params(**NOISY)
    plain, *_ = net_and_params()
    params = edits.mean_only(params)
    arrays = edits.carry_means(params, plain.init(rngs(), x)["params"])
    outputs = [
        net.apply({"params": p}, x) for net in (named, plain) for p in (params, arrays)
    ]
    for y in outputs[1:]:
        np.testing.assert_array_equal(y, outputs[0])
    noisy = edits.carry_means(arrays, named.init(rngs(9), x)["params"])
    np.testing.assert_array_equal(
        noisy["dense1"]["bias"].mean, arrays["dense1"]["bias"]
    )
    np.testing.assert_array_equal(noisy["dense1"]["bias"].log_var, np.full(5, -0.5))


def test_each_vector_has_its_own_kl_and_its_own_prior():
    _, params, _ = net_and_params(**NOISY)
    nodes = {
        f"{layer}{'/bias' if leaf == 'bias' else ''}": params[layer][leaf]
        for layer in ("dense1", "dense3")
        for leaf in ("kernel", "bias")
    }
    own = {"dense1": 1.0, "dense1/bias": 2.0, "dense3": 3.0, "dense3/bias": 4.0}
    prior = {name: priors.standard_normal(scale) for name, scale in own.items()}
    parts_of = [float(prior[name](node)) for name, node in nodes.items()]
    assert float(priors.kl(params, prior)) == pytest.approx(sum(parts_of), rel=1e-6)
    with pytest.raises(ValueError, match="no prior for layer 'dense1/bias'"):
        priors.kl(params, {name: p for name, p in prior.items() if "bias" not in name})
    doubled = priors.WeightedPrior(empirical_normal, {"dense3/bias": 2.0})
    more = priors.kl(params, doubled) - priors.kl(params, empirical_normal)
    expected = empirical_normal(params["dense3"]["bias"])
    np.testing.assert_allclose(more, expected, rtol=1e-3, atol=1e-5)


def test_a_step_of_training_moves_the_noise_of_a_bias():
    net, params, x = net_and_params(**NOISY)
    loss = objectives.classification_loss(net, empirical_normal, n_train=6)
    state = objectives.ModelState(jnp.int32(0), {})
    batch = {"image": x, "label": jnp.arange(6, dtype=jnp.int32) % 3}
    grads = jax.grad(lambda p: loss(p, state, batch, random.key(0))[0])(params)
    new = optax.apply_updates(params, grads)
    for layer in ("dense1", "dense3"):
        for field in ("mean", "log_var"):
            before, after = (
                np.asarray(getattr(p[layer]["bias"], field)) for p in (params, new)
            )
            assert np.any(before != after)
            assert np.all(np.isfinite(after))


def test_pruning_and_sizes_are_of_weights():
    """A bias that starts at 0 has a huge log alpha: it would be the first to go."""
    _, params, _ = net_and_params(**NOISY)
    assert set(edits.noisy_layers(params)) == {"dense1", "dense3"}
    thresholds = {"dense1": -np.inf, "dense3": -np.inf}
    for threshold in (-np.inf, thresholds):
        pruned = edits.prune(threshold)(params)
        assert pruned["dense1"]["bias"] is params["dense1"]["bias"]
        assert not np.any(pruned["dense1"]["kernel"].mean)
        sizes = metrics.sizes(edits.mean_only(pruned))
        assert sizes["nonzero"] == 5 * 4  # dense2
        assert {k for k in sizes if "/" in k} == {
            f"sparsity/dense{i}" for i in (1, 2, 3)
        }
    small = {**params, "dense1": moved(params["dense1"], "bias", 1e-3)}
    dropped = projections.drop_idle_means(-50.0)(small, None)
    np.testing.assert_array_equal(
        dropped["dense1"]["bias"].mean, np.full(5, 1e-3, "f4")
    )
    assert not np.any(dropped["dense1"]["kernel"].mean)


def test_other_walks_over_weights_leave_vectors_alone():
    _, params, _ = net_and_params(**NOISY)
    params = {**params, "dense1": moved(params["dense1"], "bias", 1 / 3)}
    found = bits.layer_bits(params)
    assert set(found) == {"dense1", "dense2", "dense3"}
    rounded = bits.quantize(found)(params)["dense1"]["bias"]
    np.testing.assert_array_equal(rounded.mean, params["dense1"]["bias"].mean)
    mixed = {**params, soft_sharing.NAME: soft_sharing.mixture(4)}
    other = {**mixed, "dense1": moved(mixed["dense1"], "bias", 2.0)}
    assert soft_sharing.penalty(mixed) == soft_sharing.penalty(other)
    assert soft_sharing.share(mixed)["dense1"]["bias"] is params["dense1"]["bias"]
    spec = {"name": "sgd", "learning_rate": ((0.0, 1.0),), "weight_decay": 0.1}
    step = parts.optimizer(spec, 10)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = step.update(zero, step.init(params), params)
    assert np.any(updates["dense1"]["kernel"].mean)
    assert not np.any(updates["dense1"]["bias"].mean)


def test_an_edit_takes_a_vector_by_its_own_name():
    _, params, _ = net_and_params(**NOISY)
    edited = edits.edit(edits.mean_of, where=("dense1",).__contains__)(params)
    assert isinstance(edited["dense1"]["kernel"], Point)
    assert isinstance(edited["dense1"]["bias"], Gaussian)
    edited = edits.edit(edits.mean_of, where=("dense1/bias",).__contains__)(params)
    assert isinstance(edited["dense1"]["kernel"], Gaussian)
    assert isinstance(edited["dense1"]["bias"], Point)
    assert isinstance(edited["dense3"]["bias"], Gaussian)


def test_nodes_come_back_from_a_checkpoint(tmp_path):
    _, params, _ = net_and_params(**NOISY)
    saved = checkpoint.Checkpoints(tmp_path)
    saved.save(1, params)
    restored = saved.restore(1, params)
    saved.close()
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def normalized_net():
    """LeNet-5 with noise on all that its normalizations learn, and on the last bias."""
    names = [f"norm{i}/{v}" for i in (1, 2, 3) for v in ("scale", "bias")]
    posteriors = dict.fromkeys([*names, "dense2/bias"], gaussian(-3.0))
    net = LeNet5(batch_norm=True, posteriors=posteriors)
    x = random.uniform(random.key(7), (4, 28, 28, 1))
    variables = dict(jax.jit(net.init)(rngs(), x))
    # Statistics and means away from where they start.
    variables = jax.tree.map(
        lambda leaf: leaf + 0.1 if leaf.ndim == 1 else leaf, variables
    )
    return net, variables, x


def test_the_compact_form_has_the_means(one_device):
    del one_device
    net, variables, x = normalized_net()
    quiet = {**variables, "params": edits.mean_only(variables["params"])}
    expected = jax.jit(net.apply)(quiet, x)
    graph = compact.capture(net, variables, x.shape[1:])
    found = compact.Predictor(compact.fold_norms(graph))(np.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    logits = jax.jit(functools.partial(propagation.moments, net))(quiet, x)
    assert logits.cov is None
    np.testing.assert_allclose(logits.mean, expected, rtol=1e-4, atol=1e-5)


def test_a_perceptron_with_normalization():
    """In batch statistics the units of each hidden layer have moments 0 and 1."""
    net = MLP((5, 4), 3, batch_norm=True)
    x = random.normal(random.key(1), (50, 7))
    variables = net.init(rngs(), x)
    params = variables["params"]
    assert set(params) == {"dense1", "dense2", "dense3", "norm1", "norm2"}
    assert set(params["dense1"]) == {"kernel"}  # the normalization has the bias
    _, state = net.apply(
        variables, x, TRAIN, mutable=["batch_stats"], capture_intermediates=True
    )
    y = np.asarray(state["intermediates"]["norm2"]["__call__"][0])
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-2)
    moved = {"params": params, "batch_stats": state["batch_stats"]}
    logits = propagation.moments(net, moved, x)
    np.testing.assert_allclose(logits.mean, net.apply(moved, x), rtol=1e-4, atol=1e-5)


def test_moments_of_noisy_scales_and_biases_go_through_normalization(assert_moments):
    _, variables, _ = normalized_net()
    net = propagation.Layers(variables)
    h = propagation.Moments(
        random.normal(random.key(1), (2, 1, 1, 20)),
        random.uniform(random.key(2), (2, 1, 1, 20)),
    )
    y = net.norm("norm1", h)
    params, seen = (variables[n]["norm1"] for n in ("params", "batch_stats"))
    keys = random.split(random.key(3), 3)
    shape = (20_000, *h.mean.shape)
    x = h.mean[None] + jnp.sqrt(h.var)[None] * random.normal(keys[0], shape)
    scale, bias = (
        params[name].sample(key, (shape[0], 1, 1, 1))
        for name, key in zip(("scale", "bias"), keys[1:], strict=True)
    )
    slope = jax.lax.rsqrt(seen["var"] + 1e-5).reshape(1, 1, 1, 1, -1)
    x = (x - seen["mean"].reshape(1, 1, 1, 1, -1)) * slope
    assert_moments(x * scale + bias, y.mean, y.var)


def test_moments_of_logits_with_noisy_biases(assert_mean, assert_moments):
    """One hidden layer, whose units are Gaussian and positive: exact."""
    net = MLP(
        (3,), 2, posteriors={"dense1/bias": gaussian(-4.0), "dense2/bias": VECTOR}
    )
    x = random.normal(random.key(4), (2, 4))
    params = net.init(rngs(), x)["params"]
    params = {**params, "dense1": moved(params["dense1"], "bias", 9.0)}
    logits = propagation.moments(net, {"params": params}, x)

    @jax.jit
    @jax.vmap
    def draw(key):
        return net.apply({"params": params}, x, rngs={"noise": key})

    draws = np.asarray(draw(keys_of(2, 5000)))
    assert_moments(draws, logits.mean, logits.var)
    centred = draws - np.asarray(logits.mean)
    assert_mean(centred[..., 0] * centred[..., 1], logits.cov[:, 0, 1])


class Theirs(nn.Module):
    """Somebody's model with a normalization."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(3, (2, 2), name="stem")(x)
        x = nn.BatchNorm(name="norm")(x, use_running_average=not train)
        return nn.Dense(2, name="head")(nn.relu(x).reshape(x.shape[0], -1))


class Modulated(nn.Module):
    """Layers may be called what vectors are called."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="scale")(x) * nn.Dense(2, name="bias")(x)


@pytest.mark.parametrize(
    ("pattern", "noisy"),
    [
        ("*", {"scale", "bias"}),
        ("scale", {"scale"}),
        ("*/bias", {"scale/bias", "bias/bias"}),
    ],
)
def test_a_layer_may_be_called_scale(pattern, noisy):
    net = stochastic(Modulated(), {pattern: VECTOR})
    params = net.init(random.key(0), jnp.ones((1, 3)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    found = {edits.path_name(path) for path, node in leaves if is_posterior(node)}
    assert found == noisy


def test_any_model_takes_noisy_vectors(assert_moments):
    x = random.normal(random.key(1), (3, 3, 3, 1))
    net = stochastic(Theirs(), {"norm/*": VECTOR, "*/scale": VECTOR, "*/bias": VECTOR})
    with pytest.raises(ValueError, match=r"'norm/\*'.*'head', 'stem', 'head/bias'"):
        net.init(random.key(0), x)
    net = stochastic(Theirs(), {"*/scale": VECTOR, "head/bias": VECTOR})
    variables = net.init(random.key(0), x)
    params = variables["params"]
    assert isinstance(params["norm"]["scale"], Gaussian)
    assert isinstance(params["head"]["bias"], Gaussian)
    theirs = Theirs().init(random.key(0), x)
    for one in (params["stem"]["bias"], params["norm"]["bias"]):
        assert isinstance(one, jax.Array)
    arrays = edits.carry_means(params, theirs["params"])
    jax.tree.map(np.testing.assert_array_equal, arrays, theirs["params"])
    quiet = {**variables, "params": edits.mean_only(params)}
    for train in (False, True):
        y, new = (
            one.apply(v, x, train=train, mutable=["batch_stats"])
            for one, v in ((net, quiet), (Theirs(), theirs))
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), y, new)

    @jax.jit
    @jax.vmap
    def draw(key):
        return net.apply(
            {**variables, "params": {**arrays, "head": params["head"]}},
            x,
            rngs={"noise": key},
        )

    expected = Theirs().apply(theirs, x)
    assert_moments(draw(keys_of()), expected, jnp.full_like(expected, jnp.exp(-0.5)))


def test_unknown_names_list_the_vectors():
    with pytest.raises(
        ValueError, match=r"dense9/bias.*'dense1', 'dense2'.*dense1/bias"
    ):
        MLP((3,), 2, posteriors={"dense9/bias": VECTOR})
    # Before a normalization there is no bias to name.
    with pytest.raises(ValueError, match=r"conv1/bias.*norm1/scale.*dense2/bias"):
        LeNet5(batch_norm=True, posteriors={"conv1/bias": VECTOR})
    with pytest.raises(ValueError, match=r"norm1/scale.*'conv1/bias'"):
        LeNet5(posteriors={"norm1/scale": VECTOR})


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (dropout(0.5), "'dense1/bias' is a vector"),
        (variance(), "not ZeroMean"),
        (masked(), "not Masked"),
        (multiplicative(-3.0, per="input"), "alpha per layer, output or weight"),
        (point(jax.nn.initializers.lecun_normal()), "an init of vectors"),
    ],
)
def test_what_no_vector_can_be_is_refused(factory, words):
    net = MLP((3,), 2, posteriors={"dense1/bias": factory})
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(net.init, rngs(), jnp.zeros((1, 2), jnp.float32))


def test_estimators_of_variance_layers_refuse_a_vector_with_a_mean():
    net, params, x = net_and_params(dense1_bias=VECTOR)
    mode = Mode(estimators.magnitude_mean)
    with pytest.raises(ValueError, match="magnitude_mean are of variance layers"):
        net.apply({"params": params}, x, mode, rngs={"noise": random.key(0)})
