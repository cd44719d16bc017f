"""Laws of nets that were pruned: what is gone counts for nothing and stays gone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import train_tasks
from jax import random

from vnets import edits, nodes, priors, projections, pruning
from vnets.evaluate import elbo
from vnets.nodes import (
    Gaussian,
    Multiplicative,
    Point,
    adaptive_dropout,
    dropout,
    gaussian,
    log_alpha,
    multiplicative,
    variance,
)
from vnets.train import Task

SHAPE = (6, 4)
HALF = jnp.arange(6)[:, None] % 2 == 0  # the input units that are kept
SPREAD = jnp.where(HALF, -4.0, 6.0) * jnp.ones(SHAPE, jnp.float32)


def wide(node):
    """Half of a node's log alphas are above every threshold."""
    mean = jnp.where(node.mean < 0, -1.0, 1.0)
    name = "log_var" if isinstance(node, Gaussian) else "log_alpha"
    return node.replace(mean=mean, **{name: SPREAD})


def made(make, seed=0):
    return make(random.key(seed), SHAPE)


def scaled(node):
    """Half of the units of a Scaled node are above every threshold."""
    scale = node.scale
    mark = {
        "location": jnp.where(HALF[:, 0], 0.0, -10.0),
        "log_std": jnp.where(HALF[:, 0], -5.0, 3.0),
        "log_alpha": SPREAD[:, 0],
        "log_var": SPREAD[:, 0],
    }
    return node.replace(
        scale=scale.replace(**{k: v for k, v in mark.items() if k in vars(scale)})
    )


BY_WEIGHT = {
    "gaussian": wide(made(gaussian())),
    "multiplicative": wide(made(multiplicative(per="weight"))),
    "input": made(multiplicative(per="input")).replace(log_alpha=SPREAD[:, :1]),
    "layer": made(multiplicative(9.0)),
    "variance": made(variance()),
    "dropout": made(dropout(0.5, gaussian())).replace(weight=wide(made(gaussian()))),
}
BY_UNIT = {
    "group": wide(made(gaussian())),
    "structured": scaled(made(nodes.structured())),
    "structured-layer": scaled(made(nodes.structured(weight=multiplicative()))),
    "normal-jeffreys": scaled(made(nodes.group_normal_jeffreys())),
    "adaptive": scaled(made(adaptive_dropout(0.4))),
}


def trees():
    weights = {name: {"kernel": node} for name, node in BY_WEIGHT.items()}
    groups = {name: {"kernel": node} for name, node in BY_UNIT.items()}
    return edits.prune(3.0)(weights) | edits.prune_units(1.0)(groups)


PRUNED = trees()


def zeros(params, name):
    node = params[name]["kernel"]
    mean, var = (0.0 if m is None else np.asarray(m) for m in node.moments())
    return np.broadcast_to((mean == 0) & (var == 0), SHAPE)


def loss_of(params):
    """Pulls means and deviations away from zero."""
    own = (layer["kernel"] for layer in params.values())
    weights = (getattr(node, "weight", node) for node in own)
    parts = (part for node in weights for part in node.location_scale())
    fit = sum(jnp.sum(jnp.square(x - 2.0)) for x in parts if x is not None)
    return fit + priors.kl({"": params["gaussian"]}, priors.log_uniform)


def loss(params, state, batch, key):
    value = loss_of(params)
    return value, (state, {"loss": value})


def assert_same_zeros(params):
    for name in PRUNED:
        gone = zeros(PRUNED, name)
        np.testing.assert_array_equal(zeros(params, name) & gone, gone, err_msg=name)
        mean = edits.mean_of(params[name]["kernel"]).mean
        assert np.all(np.isfinite(mean))
        before = edits.mean_of(PRUNED[name]["kernel"]).mean
        if not gone.all():
            assert np.all((mean != before)[~gone]), name


def test_fit_keeps_zeros_at_zero(one_device):
    """Under weight decay, and clips of log alpha, too; all else is trained."""
    source = train_tasks.make_task(train_tasks.make_split()).source
    task = Task(
        init=lambda key: (trees(), {}),
        loss=loss,
        optimizer=optax.adamw(1e-2, weight_decay=0.1),
        source=source,
        project=projections.clip_log_alpha(-8.0, 8.0, additive=True),
    )
    start = {"warm_start": lambda seed: (PRUNED, {})}
    [result] = train_tasks.fit(task, one_device, epochs=1, **start)
    assert result.failed is None
    assert_same_zeros(result.state.params)


def test_without_it_they_grow_back():
    grads = jax.jit(jax.grad(loss_of))(PRUNED)
    adam = optax.adam(1e-2)
    updates, _ = adam.update(grads, adam.init(PRUNED), PRUNED)
    grown = optax.apply_updates(PRUNED, updates)
    assert np.any(grown["gaussian"]["kernel"].mean[1::2] != 0)
    assert np.any(grown["structured"]["kernel"].weight.mean[1::2] != 0)
    kept = pruning.keep_zeros(adam)
    updates, _ = kept.update(grads, kept.init(PRUNED), PRUNED)
    assert_same_zeros(optax.apply_updates(PRUNED, updates))
    with pytest.raises(ValueError, match="needs the parameters"):
        kept.update(grads, kept.init(PRUNED))


def test_zeros_that_are_no_pruned_weights_learn():
    """Biases, points, and kernels that start at zero."""
    zero = jnp.zeros(SHAPE, jnp.float32)
    params = {
        "a": {"kernel": Gaussian(zero, zero), "bias": jnp.zeros(4)},
        "b": {"kernel": Point(zero)},
        "c": {"kernel": Multiplicative(zero, zero)},
        "d": {"kernel": edits.scale_noise(0.0)({"": Gaussian(zero + 1, zero)})[""]},
    }
    assert not pruning.has_pruned(params)
    assert pruning.has_pruned(PRUNED)


def test_silencing_the_noise_of_pruned_weights_changes_nothing():
    params = {name: PRUNED[name] for name in BY_WEIGHT}
    silent = edits.scale_noise(0.0)(params)
    for name in params:
        gone = zeros(params, name)
        np.testing.assert_array_equal(zeros(silent, name) & gone, gone)


def test_means_are_carried_with_what_was_pruned():
    names = ("gaussian", "multiplicative")
    fresh = {
        "nodes": made(gaussian(-3.0)),
        "shared": made(multiplicative()),
        "masked": made(nodes.masked()),
        "points": made(dropout(0.5)),
    }
    for source in names:
        trained = PRUNED[source]["kernel"]
        for name, node in fresh.items():
            into = {"a": {"kernel": node}}
            got = edits.carry_means({"a": {"kernel": trained}}, into)["a"]["kernel"]
            np.testing.assert_array_equal(edits.mean_of(got).mean, trained.mean)
            if name == "masked":
                np.testing.assert_array_equal(got.mask, trained.mean != 0)
            elif name != "points":
                gone = np.broadcast_to(got.pruned(), SHAPE)
                np.testing.assert_array_equal(gone, trained.mean == 0)
    arrays = {"a": {"kernel": np.asarray(PRUNED["gaussian"]["kernel"].mean)}}
    got = edits.carry_means(arrays, {"a": {"kernel": fresh["masked"]}})["a"]["kernel"]
    np.testing.assert_array_equal(got.mask, arrays["a"]["kernel"] != 0)


def test_masks_of_units_are_cut_with_their_weights():
    node = scaled(made(nodes.structured(weight=nodes.masked())))
    cut = edits.prune_units(1.0)({"a": {"kernel": node}})["a"]["kernel"].weight
    np.testing.assert_array_equal(cut.mask, HALF * np.ones(SHAPE))


def test_the_elbo_of_a_pruned_net_is_finite():
    split = train_tasks.make_split()
    task = train_tasks.make_task(split)
    params, _ = task.init(random.key(0))
    wide = gaussian(-2.0)(random.key(1), params["dense1"]["kernel"].shape)
    params = {**params, "dense1": {**params["dense1"], "kernel": wide}}
    model = train_tasks.nets.MLP((16,), 4, posteriors={"dense1": gaussian()})
    middle = float(jnp.median(log_alpha(wide)))
    pruned = edits.prune(middle)(params)
    left = float(priors.kl(pruned, priors.log_uniform))
    bound = priors.log_uniform, random.key(2)
    got = elbo(model, {"params": pruned}, split, *bound, samples=1)
    assert 0 < left < float(priors.kl(params, priors.log_uniform))
    assert got["kl"] == pytest.approx(left)
    assert np.isfinite(got["elbo"])
