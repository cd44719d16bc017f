"""Laws of the test-time modes: what is averaged, what is computed once, exactness."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import backend, edits, parallel, predictor
from vnets.data import Split
from vnets.evaluate import EvalSpec, elbo, evaluate, standard_evals
from vnets.layers import Mode
from vnets.likelihoods import Gaussian
from vnets.nets import MLP
from vnets.nodes import Point, gaussian, variance
from vnets.predictor import Member, Predictor
from vnets.priors import kl, log_uniform
from vnets.rng import stream

N, SHAPE, K = 53, (4, 5, 1), 3
WIDE = 256


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (N, *SHAPE), np.uint8)
    return Split(image, rng.integers(0, K, N).astype(np.uint8))


def predict(net, variables, x, spec, key):
    return spec.predictor(Member(net, variables)).log_mean(x, key)


def build(posteriors):
    net = MLP((WIDE, WIDE), K, posteriors=posteriors)
    rngs = {"params": random.key(0), "noise": random.key(0)}
    return net, jax.jit(net.init)(rngs, jnp.zeros((1, *SHAPE), jnp.float32))


@pytest.fixture(scope="module")
def noisy():
    return build({"dense3": gaussian(-2.0)})


@pytest.fixture(scope="module")
def quiet():
    return build({})


def test_an_ensemble_is_the_mean_of_probabilities(noisy, split):
    net, variables = noisy
    x = split.inputs.astype(np.float32) / 255
    key, samples = random.key(3), 7
    ensemble = jax.jit(lambda v: predict(net, v, x, EvalSpec(samples=samples), key))(
        variables
    )

    @jax.jit
    def one(sample):
        rngs = {"noise": stream(key, "sample", sample)}
        return jax.nn.softmax(net.apply(variables, x, rngs=rngs))

    each = np.stack([one(jnp.int32(s)) for s in range(samples)])
    np.testing.assert_allclose(
        np.exp(ensemble), each.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    assert each.std(axis=0).max() > 0.01
    np.testing.assert_allclose(np.exp(ensemble).sum(axis=1), 1, rtol=1e-5)
    # Sample number 0 is what a test with one sample sees.
    first = jax.jit(lambda v: predict(net, v, x, EvalSpec(), key))(variables)
    np.testing.assert_allclose(np.exp(first), each[0], rtol=1e-4, atol=1e-6)


def flops(net, variables, samples):
    x = jnp.zeros((16, *SHAPE), jnp.float32)

    def run(variables, key):
        return predict(net, variables, x, EvalSpec(samples=samples), key)

    lowered = jax.jit(run).lower(variables, random.key(0))
    return lowered.compile().cost_analysis()["flops"]


def test_what_precedes_the_noise_is_computed_once(noisy):
    """Only the last of three layers is noisy: 20 samples cost nothing like 20 nets."""
    one, many = (flops(*noisy, samples) for samples in (1, 20))
    prefix = 2 * 16 * (20 + WIDE) * WIDE  # multiplications and additions
    last = 2 * 2 * 16 * WIDE * K  # LRT: two products
    assert one > prefix
    # Twenty last layers and one prefix; as much again for draws and softmax.
    assert many < 2 * (prefix + 20 * last)
    assert many < 5 * one
    # With a noisy first layer everything behind it is computed for each sample.
    net, variables = build({"dense1": gaussian(-2.0)})
    assert flops(net, variables, 20) > 10 * flops(net, variables, 1)


def test_floats_are_not_taken_for_pixels(quiet, split):
    """Divided by 255 once more they would be nearly black, in silence."""
    floats = Split(split.inputs / np.float32(255), split.target)
    key = random.key(0)
    with pytest.raises(ValueError, match="pixels are uint8, not float32: give"):
        evaluate(*quiet, floats, EvalSpec(), key)
    got = evaluate(*quiet, floats, EvalSpec(), key, prepare=jnp.asarray)
    assert got == pytest.approx(evaluate(*quiet, split, EvalSpec(), key), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 10, N, 500])
def test_any_batch_size_is_exact(batch_size, quiet, split):
    net, variables = quiet
    x = split.inputs.astype(np.float32) / 255
    log_p = jax.nn.log_softmax(jax.jit(net.apply)(variables, x))
    got = evaluate(net, variables, split, EvalSpec(), random.key(0), batch_size)
    assert got["accuracy"] == pytest.approx(
        np.mean(np.argmax(log_p, 1) == split.target)
    )
    nll = -np.mean(np.asarray(log_p)[np.arange(N), split.target])
    assert got["nll"] == pytest.approx(nll, rel=1e-4)
    assert got["samples"] == 1


def test_the_key_decides_the_draws(noisy, split):
    net, variables = noisy
    a, same, b = (
        evaluate(net, variables, split, EvalSpec(), random.key(i)) for i in (1, 1, 2)
    )
    assert a == same
    assert a["nll"] != b["nll"]


def test_batches_draw_apart(noisy):
    """Two equal halves as two batches do not see the same noise."""
    net, variables = noisy
    image = np.zeros((20, *SHAPE), np.uint8) + 128
    zeros = np.zeros(20, np.uint8)
    halves = Split(image[:10], zeros[:10])
    both = evaluate(net, variables, Split(image, zeros), EvalSpec(), random.key(1), 10)
    half = evaluate(net, variables, halves, EvalSpec(), random.key(1), 10)
    assert both["nll"] != pytest.approx(half["nll"], rel=1e-6)


def test_standard_columns(split):
    net, variables = build({"dense2": variance()})
    evals = standard_evals(samples=5)
    assert set(evals) == {
        *("det", "stoch", "ens", "zero_mean", "zero_mean_ens", "permuted"),
        *("permuted_ens", "pruned", "det_batch", "stoch_batch", "ens_batch"),
        *("det_mirrored", "ens_mirrored"),
    }
    results = {
        name: evaluate(net, variables, split, spec, random.key(0))
        for name, spec in evals.items()
    }
    assert results["ens"]["samples"] == 5
    # A variance layer: no mean, so det is the constant net, and pruned is too.
    most = max(np.mean(split.target == k) for k in range(K))
    assert results["det"]["accuracy"] <= most
    assert results["det"] == {**results["pruned"], "samples": 1}
    # There is no mean to drop.
    assert results["zero_mean"] == results["stoch"]
    assert results["permuted"]["nll"] != results["stoch"]["nll"]


def test_the_edit_is_made_once_for_all_batches(noisy, split):
    net, variables = noisy
    calls = []

    def edit(params, key):
        calls.append(key)
        return edits.draw(params, key)

    evaluate(net, variables, split, EvalSpec(edit=edit), random.key(0), 10)
    assert len(calls) == 1


def test_evaluating_changes_no_parameters(noisy, split):
    net, variables = noisy
    before = jax.tree.map(np.array, variables)
    evaluate(net, variables, split, EvalSpec(edit=edits.mean_only), random.key(0))
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    assert not isinstance(variables["params"]["dense3"]["kernel"], Point)


def test_other_forms_are_traced_anew(noisy, split):
    """The compiled sums are cached; another backend form must not find them."""
    net, variables = noisy
    default = evaluate(net, variables, split, EvalSpec(), random.key(0))
    with backend.use(normal="inverse_cdf"):
        other = evaluate(net, variables, split, EvalSpec(), random.key(0))
    assert default["nll"] != other["nll"]


@pytest.mark.parametrize("samples", [0, -1])
def test_at_least_one_sample(samples):
    with pytest.raises(ValueError, match="at least 1"):
        EvalSpec(samples=samples)


def test_specs_are_hashable_and_equal_by_value():
    assert hash(EvalSpec(samples=3)) == hash(EvalSpec(samples=3))
    assert EvalSpec(mode=Mode(norm="batch")) != EvalSpec()


def test_batch_columns_use_the_statistics_of_the_batch():
    batch = {name for name, s in standard_evals().items() if s.mode.norm == "batch"}
    assert batch == {"det_batch", "stoch_batch", "ens_batch"}
    for name in batch:
        plain = standard_evals(7)[name.removesuffix("_batch")]
        changed = standard_evals(7)[name]
        assert (plain.samples, plain.edit) == (changed.samples, changed.edit)


def test_a_batch_that_is_not_full_has_the_statistics_of_other_images(split):
    net = MLP((8,), K, batch_norm=True)
    variables = net.init(random.key(0), jnp.zeros((1, *SHAPE), jnp.float32))
    spec, size = EvalSpec(mode=Mode(norm="batch")), 40
    found = evaluate(net, variables, split, spec, random.key(1), batch_size=size)
    total = 0.0
    for rows in (np.arange(size), np.r_[size:N, : 2 * size - N]):
        x = jnp.asarray(split.inputs[rows], jnp.float32) / 255
        log_p = predict(net, variables, x, spec, random.key(1))
        inside = len(rows) if rows[0] == 0 else N - size
        total -= np.sum(
            np.asarray(log_p)[np.arange(inside), split.target[rows[:inside]]]
        )
    assert found["nll"] == pytest.approx(total / N, rel=1e-5)


@pytest.mark.parametrize("batch_size", [7, N])
def test_the_elbo_is_the_sum_over_the_split_less_the_kl(split, batch_size):
    net, variables = build({"dense2": gaussian(-30.0)})  # noise below rounding
    got = elbo(
        net,
        variables,
        split,
        log_uniform,
        random.key(0),
        samples=3,
        batch_size=batch_size,
    )
    det = evaluate(net, variables, split, EvalSpec(), random.key(0))
    assert got["data_term"] == pytest.approx(-N * det["nll"], rel=1e-4)
    assert got["kl"] == pytest.approx(float(kl(variables["params"], log_uniform)))
    assert got["elbo"] == pytest.approx(got["data_term"] - got["kl"])
    assert got["accuracy"] == det["accuracy"]


def test_the_elbo_is_of_any_likelihood(split):
    """With what a test of it measures, such as the rmse of numbers."""
    net, variables = build({"dense2": gaussian(-3.0)})
    numbers = Split(split.inputs, np.eye(K, dtype=np.float32)[split.target])
    given = net, variables, numbers
    key, options = random.key(0), {"likelihood": Gaussian(0.5)}
    got = elbo(*given, log_uniform, key, samples=3, **options)
    tested = evaluate(*given, EvalSpec(samples=3), key, **options)
    assert set(tested) - {"sparsity"} == set(got) - {"data_term", "kl", "elbo"}
    assert got["rmse"] > 0
    assert np.isfinite(got["elbo"])


def test_the_data_term_averages_logarithms_not_probabilities(split):
    """By Jensen it is below the log of the averaged prediction."""
    net, variables = build({"dense1": variance()})
    got = elbo(net, variables, split, log_uniform, random.key(0), samples=20)
    ens = evaluate(net, variables, split, EvalSpec(samples=20), random.key(0))
    assert got["data_term"] < -N * ens["nll"]


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("batch_size", [16, 7])
def test_the_number_of_devices_changes_nothing(
    noisy, split, one_device, count, batch_size
):
    net, variables = noisy
    spec, key = EvalSpec(samples=3), random.key(5)
    mesh = parallel.mesh(jax.devices()[:count])
    expected, found = (
        evaluate(net, variables, split, spec, key, batch_size, mesh=on)
        for on in (one_device, mesh)
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_mirrored_predictions_are_the_mean_of_both_sides():
    net, variables = build({"dense1": variance()})
    x = random.uniform(random.key(0), (4, *SHAPE))
    key = random.key(5)
    both = predict(net, variables, x, EvalSpec(samples=3, mirrored=True), key)
    keys = key, stream(key, "mirrored")
    sides = [
        predict(net, variables, view, EvalSpec(samples=3), k)
        for view, k in zip((x, x[:, :, ::-1]), keys, strict=True)
    ]
    np.testing.assert_allclose(
        jnp.exp(both), (jnp.exp(sides[0]) + jnp.exp(sides[1])) / 2, rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"images .* are mirrored"):
        predict(net, variables, x.reshape(4, -1), EvalSpec(mirrored=True), key)


@pytest.mark.parametrize("at_once", [1, 3])  # of 7 draws: a last chunk is not full
def test_predictions_in_chunks_are_those_at_once(noisy, split, at_once):
    net, variables = noisy
    x, key = split.inputs.astype(np.float32) / 255, random.key(3)

    @functools.partial(jax.jit, static_argnums=1)
    def predictions(variables, at_once):
        spec = EvalSpec(samples=7, at_once=at_once)
        draws = Predictor(Member(net, variables), samples=7, at_once=at_once)(x, key)
        return predict(net, variables, x, spec, key), draws

    whole, parts = predictions(variables, None), predictions(variables, at_once)
    assert parts[1].shape == (7, N, K)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)


def test_tests_in_chunks_are_those_at_once(noisy, split):
    net, variables = noisy
    key, counts = random.key(3), (None, 3)
    whole, parts = (
        evaluate(net, variables, split, EvalSpec(samples=7, at_once=n), key)
        for n in counts
    )
    assert parts == pytest.approx(whole, rel=1e-6)
    whole, parts = (
        elbo(net, variables, split, log_uniform, key, samples=7, at_once=n)
        for n in counts
    )
    assert parts == pytest.approx(whole, rel=1e-6)


def memory(at_once, samples, net, variables):
    x = jnp.zeros((16, *SHAPE), jnp.float32)
    spec = EvalSpec(samples=samples, at_once=at_once)
    run = jax.jit(lambda v, key: predict(net, v, x, spec, key))
    compiled = run.lower(variables, random.key(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_number_of_draws():
    net, variables = build({"dense1": gaussian(-2.0)})
    few, many = (memory(4, samples, net, variables) for samples in (8, 80))
    assert many < 1.1 * few
    assert memory(80, 80, net, variables) > 4 * many


def test_many_draws_of_many_inputs_are_in_chunks_by_themselves(noisy, monkeypatch):
    net, variables = noisy
    monkeypatch.setattr(predictor, "AT_ONCE", 64)  # 4 draws of 16 inputs
    assert memory(None, 80, net, variables) == memory(4, 80, net, variables)


def test_what_precedes_the_noise_is_computed_once_for_all_chunks(noisy):
    """The compiler takes it out of the loop over chunks."""
    net, variables = noisy
    x = jnp.zeros((16, *SHAPE), jnp.float32)
    spec = EvalSpec(samples=8, at_once=2)
    run = jax.jit(lambda v, key: predict(net, v, x, spec, key))
    text = run.lower(variables, random.key(0)).compile().as_text()
    found = re.findall(r"^(?:ENTRY )?%([\w.]+) \(.*?^}", text, re.M | re.S)
    parts = re.split(r"^(?:ENTRY )?%[\w.]+ \(", text, flags=re.M)[1:]
    calls = dict(zip(found, parts, strict=True))
    inside, left = set(), re.findall(r"body=%([\w.]+)", text)
    assert left
    while left:
        name = left.pop()
        if name in calls and name not in inside:
            inside.add(name)
            left += re.findall(r"%([\w.]+)", calls[name])
    wide = f"f32[16,{WIDE}]"  # of the two layers before the noise
    products = {n for n, body in calls.items() if re.search(r" dot\(", body)}
    assert any(wide in calls[name] for name in products)
    assert not any(wide in calls[name].split("->")[1] for name in products & inside)


@pytest.mark.parametrize("at_once", [0, -1])
def test_at_least_one_draw_at_once(at_once):
    with pytest.raises(ValueError, match="at_once must be at least 1"):
        EvalSpec(at_once=at_once)
