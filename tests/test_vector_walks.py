"""Walks over weights know stochastic vectors: KL, edits, pruning, files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random
from vector_nets import (
    NOISY,
    WEIGHT,
    moved,
    net_and_params,
    normalized_net,
    rngs,
)

from experiments import spec as parts
from vnets import (
    bits,
    checkpoint,
    compact,
    edits,
    overview,
    priors,
    projections,
    propagation,
)
from vnets.likelihoods import Categorical
from vnets.loss import ModelState, forward, neg_elbo
from vnets.nodes import (
    Gaussian,
    Point,
    gaussian,
)
from vnets.priors import empirical_normal, soft_sharing


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
    # Two programs of XLA's, which may sum in another order or fuse a product and a sum:
    # three layers of at most eight terms each, a few roundings of the largest output.
    largest = np.abs(y[0]).max()
    np.testing.assert_allclose(*y, rtol=0, atol=8 * 2.0**-24 * largest)


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
    loss = neg_elbo(forward(net), Categorical(), empirical_normal, n_train=6)
    state = ModelState(jnp.int32(0), {})
    batch = {"input": x, "target": jnp.arange(6, dtype=jnp.int32) % 3}
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
        sizes = overview.sizes(edits.mean_only(pruned))
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
    rounded = bits.rounded_to(found)(params)["dense1"]["bias"]
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
    edited = edits.edit(edits.mean_of, where="dense1/kernel")(params)
    assert isinstance(edited["dense1"]["kernel"], Point)
    assert isinstance(edited["dense1"]["bias"], Gaussian)
    edited = edits.edit(edits.mean_of, where="dense1/bias")(params)
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
