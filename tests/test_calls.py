"""Laws of ordinary Flax models: flags, dropout, streams, collections, inputs, lists."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import random
from train_tasks import fit, make_split

from vnets import compact, nets, nodes, priors, sources, train
from vnets.evaluate import EvalSpec, elbo, evaluate, standard_evals
from vnets.layers import TEST, TRAIN, Mode, call, deterministic, stochastic, training
from vnets.likelihoods import Categorical
from vnets.loss import forward, neg_elbo

KEY = random.key(0)
EXAMPLE = jnp.zeros((1, 4, 4, 1), jnp.float32)
GAUSSIAN = {"head": nodes.gaussian(-6.0)}


class Net(nn.Module):
    """Lists and arrays as attributes, and all that a mode has to switch."""

    widths: list
    shift: np.ndarray

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(x.shape[0], -1) + self.shift.reshape(1, -1)
        for number, width in enumerate(self.widths):
            x = nn.Dense(width, name=f"hidden{number}")(x)
            x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
            x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        calls = self.variable("count", "calls", lambda: jnp.zeros((), jnp.int32))
        if train:
            calls.value += 1
        self.sow("losses", "size", jnp.mean(x))
        return nn.Dense(4, name="head")(x)


def own(**flags):
    return stochastic(call(Net([8], np.ones(16, np.float32)), **flags), GAUSSIAN)


def trained(model, one_device, split=None, prepare=None, example=EXAMPLE, **how):
    split = split or make_split()
    options = {} if prepare is None else {"prepare": prepare}
    source = sources.Resident(split, 8, **options)
    task = train.Task(
        init=train.initializer(model, example),
        loss=neg_elbo(
            forward(model, **how), Categorical(), priors.log_uniform, source.n
        ),
        optimizer=optax.adam(1e-2),
        source=source,
        locate=train.first_nonfinite_layer(model),
    )
    [result] = fit(task, one_device, epochs=2)
    collections = result.state.model.collections
    return task, result, {"params": result.state.params, **collections}


def test_a_model_with_flags_trains_and_is_tested_at_any_batch_size(one_device):
    model = own(train=training)
    task, result, variables = trained(model, one_device, samples=2)
    assert result.failed is None
    assert variables["count"]["calls"] == 10
    assert len(variables["losses"]["size"]) == 1  # what one call sowed
    assert np.any(variables["batch_stats"]["norm"]["mean"])
    split, spec = make_split(), standard_evals(2)["det"]
    nll = [
        evaluate(
            own(train=training),  # equal, and so compiled already
            variables,
            split,
            spec,
            random.key(1),
            batch_size=size,
            mesh=one_device,
        )["nll"]
        for size in (3, 40)
    ]
    np.testing.assert_allclose(nll, nll[0], rtol=1e-5)
    options = {"samples": 2, "mesh": one_device}
    bound = elbo(model, variables, split, priors.log_uniform, KEY, **options)
    assert np.isfinite(bound["elbo"])
    batch = {"input": jnp.full((2, 4, 4, 1), jnp.nan)}
    state = result.state
    assert task.locate(state.params, state.model, batch, random.key(0)) == "hidden0"


def flagged(argument):
    """A model whose call has this argument."""
    scope = {"nn": nn, "__name__": __name__}
    exec(
        "class Flagged(nn.Module):\n"
        "    @nn.compact\n"
        f"    def __call__(self, x, {argument}):\n"
        "        return nn.Dense(2, name='head')(x)\n",
        scope,
    )
    return scope["Flagged"]()


class Attribute(nn.Module):
    deterministic: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(2, name="head")(x)
        return nn.Dropout(0.5, deterministic=self.deterministic)(x)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("train", r"layers.call\(model, train=layers.training\)"),
        ("train=True", r"layers.call\(model, train=layers.training\)"),
        ("*, is_training=False", r"is_training=layers.training"),
        ("*, deterministic", r"deterministic=layers.deterministic"),
        ("deterministic=None", r"deterministic=layers.deterministic"),
        ("mode='train'", r"takes 'mode'"),
        ("scale", r"needs 'scale', too"),
        (None, r"Attribute takes 'deterministic'"),
    ],
)
def test_a_flag_that_nobody_set_is_refused_with_the_cure(argument, words):
    model = Attribute() if argument is None else flagged(argument)
    net, x = stochastic(model, GAUSSIAN), jnp.ones((1, 3))
    with pytest.raises(ValueError, match=words):
        net.init(random.key(0), x)
    with pytest.raises(ValueError, match=words):
        net.apply({}, x)


@pytest.mark.parametrize("argument", ["x2=1.0", "return_features=False", "*rest"])
def test_other_arguments_with_a_default_are_left_alone(argument):
    net = stochastic(flagged(argument), GAUSSIAN)
    jax.eval_shape(net.init, random.key(0), jnp.ones((1, 3)))


class Told(nn.Module):
    """Answers with what it was told."""

    word: str = ""

    @nn.compact
    def __call__(self, x, train=None, mode="", *, deterministic=True):
        nn.Dense(1, name="head")(x)
        return self.word, train, mode, deterministic


def phase(mode):
    return mode.norm


def test_arguments_are_constants_or_follow_the_mode():
    flags = {"train": training, "deterministic": deterministic, "mode": phase}
    told = call(stochastic(Told(), GAUSSIAN), word="constant", **flags)
    x = jnp.ones((1, 3))
    variables = told.init(random.key(0), x)
    rngs = {"noise": random.key(1)}
    ask = lambda *a, **k: told.apply(variables, *a, rngs=rngs, **k)  # noqa: E731
    assert ask(x) == ("constant", False, "running", True)
    assert ask(x, mode=TRAIN) == ("constant", True, "batch", False)
    assert ask(x, "given", mode=TRAIN)[1] == "given"  # the caller comes first
    assert ask(x, train="given", mode=TRAIN)[1] == "given"
    with pytest.raises(ValueError, match=r"no argument .*'training'.*'deterministic'"):
        call(Told(), training=True)


class Quiet(nn.Module):
    """Dropout that nobody told anything, in a layer and in attention."""

    flag: bool | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=self.flag, name="drop")(x)
        x = nn.MultiHeadDotProductAttention(
            1, dropout_rate=0.5, deterministic=self.flag, name="attention"
        )(x)
        return nn.Dense(2, name="head")(x)


@pytest.mark.parametrize(
    ("flag", "mode", "noisy"),
    [
        (None, TRAIN, True),
        (None, TEST, False),
        (None, Mode(dropout=True), True),
        (None, Mode(norm="batch", dropout=False), False),
        (True, TRAIN, False),
        (True, Mode(dropout=True), True),
        (False, Mode(dropout=False), False),
    ],
)
def test_dropout_follows_the_mode(flag, mode, noisy):
    net = call(Quiet(flag))
    x = jnp.ones((2, 3, 4))
    variables = net.init(random.key(0), x)
    a, b = (
        net.apply(variables, x, mode=mode, rngs={"noise": random.key(i)})
        for i in (1, 2)
    )
    assert bool(np.any(a != b)) == noisy


def test_dropout_that_is_always_on_is_no_silent_noise_of_a_test():
    """A column without noise has none, and others say what to do."""
    net, x = call(Quiet(False)), jnp.ones((2, 3, 4))
    variables = net.init(random.key(0), x)
    with pytest.raises(ValueError, match=r"Mode\(dropout=True\).*Mode\(dropout=False"):
        net.apply(variables, x, rngs={"noise": random.key(1)})
    specs = standard_evals(2)
    assert {specs[name].mode.dropout for name in ("det", "pruned", "det_batch")} == {
        False
    }
    assert specs["ens"].mode == TEST
    tested = standard_evals(2, mode=Mode(dropout=True))
    assert tested["ens_batch"].mode.dropout
    assert not tested["det_batch"].mode.dropout


class Latent(nn.Module):
    @nn.compact
    def __call__(self, x):
        noise = random.normal(self.make_rng("latent"), x.shape)
        return nn.Dense(2, name="head")(x + noise)


def test_other_random_streams_are_named():
    x = jnp.ones((2, 3))
    net = stochastic(call(Latent(), rngs=["latent"]), {"head": nodes.point()})
    variables = net.init(random.key(0), x)
    ask = lambda n, i: n.apply(variables, x, rngs={"noise": random.key(i)})  # noqa: E731
    assert np.any(ask(net, 1) != ask(net, 2))
    np.testing.assert_array_equal(ask(net, 1), ask(net, 1))
    with pytest.raises(ValueError, match=r"latent.*layers.call\(model, rngs="):
        ask(stochastic(Latent(), {"head": nodes.point()}), 1)


class Two(nn.Module):
    @nn.compact
    def __call__(self, left, right):
        both = jnp.concatenate([left, right], axis=-1)
        return nn.Dense(4, name="head")(both.reshape(both.shape[0], -1))


def halves(image):
    """Pixels of several inputs to floats."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) / 255, image)


@pytest.mark.parametrize("named", [False, True])
def test_several_inputs_train_and_are_tested(named, one_device):
    whole = make_split()
    left, right = whole.inputs[:, :, :2], whole.inputs[:, :, 2:]
    image = {"right": right, "left": left} if named else (left, right)
    split = type(whole)(image, whole.target)
    model = stochastic(call(Two(), unpack=True), GAUSSIAN)
    _, result, variables = trained(
        model, one_device, split, halves, halves(split.take(np.arange(1)).inputs)
    )
    assert result.failed is None
    options = {"prepare": halves, "mesh": one_device, "batch_size": 16}
    seen = evaluate(model, variables, split, EvalSpec(), random.key(1), **options)
    again = model.apply(variables, halves(image), rngs={"noise": random.key(9)}).argmax(
        -1
    )
    assert abs(seen["accuracy"] - np.mean(again == whole.target)) <= 0.2
    with pytest.raises(ValueError, match="of several inputs: give a `prepare`"):
        evaluate(model, variables, split, EvalSpec(), random.key(1), mesh=one_device)
    with pytest.raises(ValueError, match=r"one tuple or one dict of inputs"):
        model.apply(variables, left, right)


@pytest.mark.parametrize(
    "model",
    [
        stochastic(
            nn.Sequential([lambda x: x.reshape(x.shape[0], -1), nn.Dense(4)]),
            {"layers_1": nodes.gaussian()},
        ),
        nets.MLP(widths=[3], classes=4, posteriors={"dense1": nodes.gaussian()}),
    ],
    ids=["sequential", "own net"],
)
def test_models_with_lists_are_tested(model, one_device):
    variables = model.init(random.key(0), EXAMPLE)
    seen = evaluate(
        model, variables, make_split(), EvalSpec(), random.key(1), mesh=one_device
    )
    assert np.isfinite(seen["nll"])


def test_models_are_compared_by_what_their_attributes_hold():
    one = own(train=training)
    assert hash(one) == hash(own(train=training))
    assert one == own(train=training)
    assert one != own(train=deterministic)
    other = call(Net([8], np.zeros(16, np.float32)), train=training)
    assert stochastic(other, one.posteriors) != one
    assert stochastic(call(Net([9], np.ones(16, np.float32))), one.posteriors) != one


def test_a_module_without_a_mode_is_refused_everywhere(one_device):
    plain = flagged("*rest")
    for use in (
        lambda: train.initializer(plain, EXAMPLE),
        lambda: neg_elbo(forward(plain), Categorical(), priors.log_uniform, 4),
        lambda: train.first_nonfinite_layer(plain),
        lambda: evaluate(plain, {"params": {}}, make_split(), EvalSpec(), KEY),
    ):
        with pytest.raises(ValueError, match=r"Flagged takes no mode: give layers.st"):
            use()


def test_capture_takes_a_net_within_stochastic():
    chain = nets.MLP(widths=(3,), classes=4)
    variables = chain.init(random.key(0), EXAMPLE)
    graph = compact.capture(call(chain), variables, (4, 4, 1))
    assert graph.nonzeros() == {"dense1": 48, "dense2": 12}


def test_a_net_of_ours_within_call_gets_the_mode():
    net = call(nets.MLP((3,), 2, batch_norm=True))
    x = random.normal(random.key(1), (4, 5))
    variables = jax.jit(net.init)(random.key(0), x)
    _, new = net.apply(variables, x, mode=TRAIN, mutable=["batch_stats"])
    assert np.any(new["batch_stats"]["norm1"]["mean"])
