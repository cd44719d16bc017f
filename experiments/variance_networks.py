"""Stochastic, deterministic and ensemble accuracy of a classifier with noisy weights.

The question of Neklyudov et al. 2019 ("Variance Networks: When Expectation Does Not
Meet Your Expectations"): a net whose weights have no mean is at chance when its noise
is switched off, and as good as dropout when its predictions are averaged.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import random

from experiments import build as parts
from experiments import transition
from experiments.core import Experiment, Measured, NetSpec, load_data
from vnets import evaluate, objectives, sources, train
from vnets.edits import path_name
from vnets.posteriors import is_noisy, is_posterior, log_alpha
from vnets.priors import kl
from vnets.rng import stream

PROBED = ("det", "stoch", "ens")
TESTED = ("det", "stoch", "ens", "zero_mean", "permuted", "pruned")


def build(config) -> Experiment:
    """The experiment of a config; see `configs/lenet5_mnist.py` for its fields."""
    for field in ("epochs", "batch_size", "chunk_steps"):
        parts.positive(field, config[field])
    for group, field in (
        ("evals", "batch_size"),
        ("evals", "samples"),
        ("probe", "samples"),
        ("probe", "every"),
    ):
        parts.positive(f"{group}.{field}", config[group][field])
    dataset = load_data(config.dataset)
    model = parts.model(config.model, dataset.classes)
    source = parts.call(
        "batch_size",
        sources.Resident,
        {"split": dataset.train, "batch_size": config.batch_size},
    )
    total_steps = config.epochs * source.steps_per_epoch
    example = jnp.zeros((1, *dataset.train.image.shape[1:]), jnp.float32)
    test = dataset.validation or dataset.test

    prior = parts.prior(config.prior)
    probed = config.probe.get("columns", PROBED)
    tested = config.evals.get("columns", TESTED)
    for field, names in (("probe.columns", probed), ("evals.columns", tested)):
        for name in names:
            parts.pick(field, name, evaluate.standard_evals())
    elbo_samples = config.evals.get("elbo_samples", 0)
    layer = config.probe.get("channels", "")
    channels = transition.probe(model, layer, test) if layer else None
    train_samples = config.get("train_samples", 1)
    parts.positive("train_samples", train_samples)
    mode = parts.mode(config.get("estimator", "lrt"))
    init = train.initializer(model, example, mode=mode)

    def columns(params, collections, key, names, *settings):
        specs = evaluate.standard_evals(*settings, mode=mode)
        variables = {"params": params, **collections}
        return {
            name: evaluate.evaluate(
                model,
                variables,
                test,
                specs[name],
                stream(key, name),
                batch_size=config.evals.batch_size,
            )
            for name in names
        }

    def probe(params, collections, key):
        measured = columns(params, collections, key, probed, config.probe.samples)
        values = {k: v["accuracy"] for k, v in measured.items()} | log_alphas(params)
        return values | (channels(params, collections, key) if channels else {})

    def evaluations(params, collections, key):
        settings = (config.evals.samples, config.evals.threshold)
        measured = columns(params, collections, key, tested, *settings)
        if elbo_samples:
            measured["train"] = evaluate.elbo(
                model,
                {"params": params, **collections},
                dataset.train,
                prior,
                stream(key, "train"),
                samples=elbo_samples,
                batch_size=config.evals.batch_size,
                mode=mode,
            )
        cost = transition.substitution(params, layer) if layer else None
        return Measured(measured | ({"substitution": cost} if cost else {}))

    loss = objectives.classification_loss(
        model,
        prior,
        source.n,
        parts.schedule("kl_weight", config.kl_weight, total_steps),
        mode=dataclasses.replace(mode, norm="batch"),
        samples=train_samples,
    )
    task = train.Task(
        init=init,
        loss=loss,
        optimizer=parts.optimizer(config.optimizer, total_steps),
        source=source,
        project=parts.projection(config.max_log_alpha, config.prior),
        probe=probe,
        locate=objectives.first_nonfinite_layer(model),
    )
    # A net that does not fit the data, or a prior the posteriors, says so here.
    params, _ = jax.eval_shape(init, random.key(0))
    if layer:
        node = partial(transition.dense_node, layer=layer)
        parts.call(
            "probe.channels",
            lambda: jax.eval_shape(lambda p: node(p).moments(), params),
            {},
        )
    parts.call("prior", lambda: jax.eval_shape(partial(kl, prior=prior), params), {})
    start = config.get("nets", {}).get("start")
    return Experiment(
        task,
        evaluations,
        model,
        dataset,
        start=None if start is None else NetSpec(start.run),
        start_edit=None if start is None else parts.edit("nets.start", start),
    )


def log_alphas(params) -> dict[str, float]:
    """The mean log alpha of each noisy layer that has one, as "log_alpha/<layer>"."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_posterior)
    means = {
        f"log_alpha/{path_name(path)}": float(jnp.mean(log_alpha(node)))
        for path, node in leaves
        if is_posterior(node) and is_noisy(node)
    }
    return {name: value for name, value in means.items() if jnp.isfinite(value)}
