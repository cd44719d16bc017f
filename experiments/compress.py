"""From a trained run to a .vnz file, with a report of its size, cost and latency."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import core, cuts, latency, running, thresholds
from experiments import spec as parts
from experiments.bench import timing
from experiments.kinds import text
from experiments.spec import ConfigError
from vnets import compact, data, edits, priors, tree
from vnets.checkpoint import WorkdirError
from vnets.evaluate import to_float
from vnets.layers import TEST
from vnets.priors import soft_sharing
from vnets.types import Params

TRIED = 2000  # examples on which bits are chosen
TEXTS = ("text", "transformer")  # experiments whose nets lose units and weights
STREAMED_TRIED, STREAMED_TESTED = 200, 1000  # of pictures that do not fit the memory
BATCH = 500


def compress(workdir: Path | str, out: Path | str, **options) -> dict[str, Any]:
    """Prunes, shrinks, quantizes and writes the net of a workdir; returns the report.

    Args:
      workdir: of a run that trained a classifier.
      out: the file to write.
      options: of `compress_net`.

    Raises:
      ConfigError: a run that has no such net, or values that do not fit it.
    """
    config, experiment, net = running.restore(workdir)
    if experiment.dataset is None:
        raise ConfigError(f"{workdir}: only nets with a data set are compressed")
    return compress_net(config, experiment.dataset, net, out, **options)


def check_output(out: Path | str, threads: int) -> None:
    """Refuses a file that cannot be written, before anything is done, and threads.

    Raises:
      ConfigError: no folder for it, or a folder in its place, or too many threads;
        WorkdirError: no permission.
    """
    folder = Path(out).absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"no folder for {out}")
    if Path(out).is_dir():
        raise ConfigError(f"{out} is a folder; give a file")
    if not os.access(folder, os.W_OK):
        raise WorkdirError(f"not allowed to write into {folder}")
    most = timing.cores()
    if not 1 <= threads <= most:
        raise ConfigError(f"threads must be 1 to {most}, the cores there are")


def compress_net(
    config: ConfigDict,
    dataset: data.Dataset,
    net: core.Net,
    out: Path | str,
    *,
    threshold: float | None = None,
    bits: int | None = None,
    tolerance: float = 0.001,
    threads: int = 1,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Prunes, shrinks, quantizes and writes a trained net; returns the report.

    Args:
      config: of its run.
      dataset: it is tested on the test set, pixels as they are; of one that is streamed
        on `STREAMED_TESTED` pictures, evenly spaced.
      net: a classifier.
      out: the file to write.
      threshold: of the edit that prunes, that of units where the config cuts any; the
        config's by default.
      bits: of every weight; None: for each layer as few as change no more predictions
        than `tolerance`, on examples that are not the test set's (validation, or else
        training).
      tolerance: a share of predictions.
      threads: with which latency is measured, and
      seconds: for how long, at each batch size.

    Raises:
      ConfigError: a net that has no compact form, or values that do not fit;
        WorkdirError: no permission to write the file.
    """
    check_output(out, threads)
    collections = net.collections
    shape = dataset.test.shape
    prune = pruning_of(config, net.params, threshold)
    pruned = prune(net.params)
    dense = captured(config, net, shape, edits.mean_only)
    cut = captured(config, net, shape, prune)
    small = compact.shrink(cut)
    test, trial = in_memory(dataset)
    changed = changed_by(small, trial.inputs)
    chosen = bits or compact.fewest_bits(small, changed, tolerance)
    about = {"run": f"{config.variant} {config.scale}", "dataset": dataset.name}
    quantized = compact.quantize(small, chosen, about)
    file_bytes = compact.save(out, quantized)

    images, labels = test.inputs, test.target
    model, variables = quantized.to_flax()  # not what was read back from the file
    logits = {
        "all_weights": _in_jax(
            net.model, edits.mean_only(net.params), collections, images
        ),
        "pruned": _in_jax(net.model, pruned, collections, images),
        "quantized": _in_jax(model, variables["params"], {}, images),
        "file": compact.load(out)(images),
    }
    guesses = {name: np.argmax(one, -1) for name, one in logits.items()}
    return {
        "file": Path(out).name,
        "bits": bits_of(quantized),
        "units": units_of(quantized),
        "weights": {
            "all": sum(kernel.size for kernel in dense.kernels.values()),
            "pruned": sum(cut.nonzeros().values()),
            "shrunk": sum(small.nonzeros().values()),
            "quantized": sum(quantized.nonzeros().values()),
        },
        "bytes": sizes(dense, quantized, file_bytes),
        "mdl_bits": _description_length(net.params, pruned, config.prior),
        "test": {
            "examples": len(labels),
            **{f"error/{k}": float(np.mean(v != labels)) for k, v in guesses.items()},
            "differ/file_and_quantized": int(
                np.sum(guesses["file"] != guesses["quantized"])
            ),
            "differ/quantized_and_pruned": int(
                np.sum(guesses["quantized"] != guesses["pruned"])
            ),
            "classes/file": len(np.unique(guesses["file"])),
        },
        "latency_ms": latency.measure(dense, out, threads, seconds),
    }


def captured(config, net: core.Net, shape, change: Callable) -> compact.Graph:
    """The graph of an edited net, its normalization folded in.

    Raises:
      ConfigError: it has no compact form.
    """
    variables = {"params": change(net.params), **net.collections}
    try:
        return compact.fold_norms(compact.capture(net.model, variables, shape))
    except ValueError as error:
        raise ConfigError(f"{config.variant}: {error}") from error


def in_memory(dataset: data.Dataset) -> tuple[data.Split, data.Split]:
    """Test images, and others on which bits are chosen."""
    test, others = dataset.test, dataset.validation or dataset.train
    if not isinstance(test, data.Stream):
        return test, others.take(slice(TRIED))
    return tuple(
        split.take(np.linspace(0, len(split) - 1, min(count, len(split))).astype(int))
        for split, count in ((test, STREAMED_TESTED), (others, STREAMED_TRIED))
    )


def pruning_of(config, params: Params, threshold: float | None) -> Callable:
    """What the config's run is pruned by: its mixture, its units, its weights, or, of a
    net for texts, both of them."""
    if threshold is not None and not any(at.noisy for _, at in tree.nodes(params)):
        raise ConfigError("without noise in its weights a net has no threshold")
    if "sharing" in config:
        return edits.chain(edits.mean_only, soft_sharing.share)
    if config.experiment in TEXTS:
        return text.pruned(config.evals.threshold if threshold is None else threshold)
    if "cut" in config.evals:
        cut = config.evals.cut.to_dict()
        if threshold is not None:
            cut["units" if "units" in cut else "weights"] = threshold
        change = cuts.pruning(ConfigDict({"cut": cut}))
    elif threshold is not None:
        change = cuts.CUTS[thresholds.kind_of(config, params)](threshold)
    else:
        change = edits.prune(config.evals.threshold)
    return edits.chain(change, edits.mean_only)


def changed_by(graph: compact.Graph, images: np.ndarray) -> Callable:
    """The share of predictions on these images in which a net differs from a graph."""
    wanted = np.argmax(compact.Predictor(graph)(images), -1)

    def changed(net: compact.Compact) -> float:
        return float(np.mean(np.argmax(compact.Predictor(net)(images), -1) != wanted))

    return changed


def _in_jax(model, params, collections, images: np.ndarray) -> np.ndarray:
    """Logits of a net without noise, [N, K]; other inputs than pixels as they are."""

    @jax.jit
    def apply(x):
        x = to_float(x) if images.dtype == np.uint8 else x
        return model.apply({"params": params, **collections}, x, mode=TEST)

    starts = range(0, len(images), BATCH)
    return np.concatenate(
        [np.asarray(apply(jnp.asarray(images[i : i + BATCH]))) for i in starts]
    )


def bits_of(net: compact.Compact) -> dict[str, int]:
    """Bits of the grid of each layer, as many as its largest level needs."""
    largest = {n: int(np.abs(q.levels).max(initial=1)) for n, q in net.layers.items()}
    return {name: level.bit_length() + 1 for name, level in largest.items()}


def units_of(net: compact.Compact) -> dict[str, int]:
    """Outputs of each layer that are left."""
    return {name: layer.bias_levels.size for name, layer in net.layers.items()}


def sizes(dense: compact.Graph, net: compact.Compact, file_bytes: int) -> dict:
    """Bytes: of all weights as floats, of those left, of CSR matrices, of the file.

    A CSR matrix has 4 bytes for each value and column, and for each row and one more;
    biases are floats in all but the file.
    """
    nonzeros = sum(net.nonzeros().values())
    biases = sum(units_of(net).values())
    weights = sum(kernel.size for kernel in dense.kernels.values())
    biases_before = sum(bias.size for bias in dense.biases.values())
    full = 4 * (weights + biases_before)
    csr = 4 * (2 * nonzeros + biases + len(net.layers) + biases)
    return {
        "dense": full,
        "nonzeros": 4 * (nonzeros + biases),
        "csr": csr,
        "file": file_bytes,
        "file_per_weight": file_bytes / max(nonzeros, 1),
        "dense_over_file": full / file_bytes,
        "all_weights_over_nonzeros": weights / max(nonzeros, 1),
    }


def _description_length(params: Params, pruned: Params, spec) -> dict[str, float]:
    """The KL of the posterior in bits: of all weights, and of those left alone.

    Empty for a net without noise; "left" is missing where posterior or prior do not
    factorize over weights. An improper prior (log-uniform) counts from its own zero;
    factors of layers, which are of the objective only, do not count.
    """
    nodes, points = ([node for _, node in tree.nodes(p)] for p in (params, pruned))
    if not any(node.noisy for node in nodes):
        return {}
    prior = parts.prior(spec)
    if isinstance(prior, priors.WeightedPrior):
        prior = prior.prior
    found = {"all": float(priors.kl(params, prior)) / math.log(2)}
    if (spec if isinstance(spec, str) else spec["kind"]) not in priors.closed.PRIORS:
        return found
    left = 0.0
    for node, point in zip(nodes, points, strict=True):
        if node.noisy:
            try:
                chosen = node.subset(np.asarray(point.mean) != 0)
            except TypeError:
                return found
            left += float(prior(chosen))
    return {**found, "left": left / math.log(2)}
