"""Tests of nets on a whole split, and the bound on it.

    evaluate(model, variables, split, EVALS["ens"], key)  ->  {"accuracy": ..., ...}
    score(predictor, split, key, likelihood)              ->  {"rmse": ..., ...}

The inputs of a batch are split over devices; how they are predicted is `predictor`'s.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vnets import backend, parallel, priors, renamed, targets
from vnets.columns import EvalSpec as EvalSpec
from vnets.columns import standard_evals as standard_evals
from vnets.data import Split, Stream
from vnets.layers import TEST, Mode
from vnets.likelihoods import Categorical, Likelihood, counted
from vnets.overview import sparsity
from vnets.predictor import Member, Predictor, as_is
from vnets.rng import stream
from vnets.types import Array, Key

CLASSES = Categorical()


def on_device(split) -> dict[str, Any]:
    """A split's arrays as JAX's, by the names that they have in a batch.

    "input", an array or a tree of them; "target" and "mask" where there are.
    """
    parts = {"input": split.inputs, "target": split.target, "mask": split.mask}

    def place(part):
        several = isinstance(part, tuple | Mapping)
        return jax.tree.map(jnp.asarray, part) if several else jnp.asarray(part)

    return {name: place(part) for name, part in parts.items() if part is not None}


def to_float(image: Array) -> Array:
    """uint8 pixels to float32 in [0, 1], the authors' scale on MNIST.

    Raises:
      ValueError: what is not uint8, and so perhaps divided already.
    """
    kind = getattr(image, "dtype", f"a {type(image).__name__} of several inputs")
    if kind != jnp.uint8:
        raise ValueError(
            f"pixels are uint8, not {kind}: give a `prepare` of your own, such "
            "as `predictor.as_is`, which leaves them as they are"
        )
    return image.astype(jnp.float32) / 255.0


def score(
    predictor: Predictor,
    split: Split | Stream,
    key: Key,
    likelihood: Likelihood = CLASSES,
    *,
    batch_size: int = 500,
    prepare: Callable[[Array], Array] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, float]:
    """Tests nets on a whole split; exact for any size, whatever the batch.

    With norm="batch" the batches do matter, since statistics are of each by itself. A
    last one that is not full is filled up with the first inputs of the split, or with
    black images of a stream, which count in its statistics alone.

    Among several processes all call it, with the same arguments.

    Args:
      predictor: the nets, whose outputs the likelihood reads, before any `link`;
        compiled once for all whose arrays alone differ.
      split: inputs uint8 [N, H, W, C], or whatever `prepare` takes, with targets that
        the likelihood takes: arrays of NumPy or JAX, or a stream of them, of which some
        batches at a time are in memory. Several inputs are a tuple or a dict of arrays
        (`layers.call(unpack=True)`). With a `mask` numbers are means over the parts
        that count. Without a target the prepared inputs are their own.
      key: of the edit and of the samples.
      likelihood: of the targets, by the nets' outputs.
      batch_size: inputs at once; times `predictor.at_once` are in memory.
      prepare: from what the split has to the nets' inputs, `to_float` by default; a
        function of a module, since each lambda is compiled anew.
      mesh: devices that each batch is split over (`parallel.mesh`); all by default.
        Their number need not divide it, and changes no draw.

    Returns:
      The likelihood's metrics, of classes accuracy (0 to 1), nll (nats), brier and ece;
      expected_log_p, the sum over the split of the mean log p(target) of a draw; and
      samples, the number of draws.

    Raises:
      ValueError: no examples, or targets that do not fit; of classes those that are not
        integers from 0 to K - 1, one for each prediction; of numbers those that are
        not finite, and of probabilities those outside [0, 1].
    """
    predictor = dataclasses.replace(predictor.edited(key), link=as_is)
    on = parallel.mesh() if mesh is None else parallel.flat(mesh)
    parallel.check_mesh(on)
    if not len(split):
        raise ValueError("a split without examples has no means")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    run = _batch_sums(likelihood, prepare or to_float, on, backend.forms())
    nets, key = parallel.replicate(on, (predictor, key))
    parts, classes = [], None
    batches = _batches(on, split, batch_size, likelihood)
    for i, (largest, data, size) in enumerate(batches):
        count, part = run(nets, data, key, np.int32(i), batch_size=size)
        if classes is None:  # once: it waits for the device
            classes = int(parallel.own(count))
        targets.check_range(largest, classes)
        parts.append(parallel.settled(on, part))
    sums = functools.reduce(lambda a, b: a + b, (part for part, _ in parts))
    expected = float(np.sum([float(one) for _, one in parts]))
    return {**sums.compute(), "expected_log_p": expected, "samples": len(predictor)}


@functools.lru_cache(maxsize=64)
def _batch_sums(
    likelihood: Likelihood,
    prepare: Callable,
    on: jax.sharding.Mesh,
    forms: backend.Forms,
) -> Callable:
    """Compiled: the number of classes there can be, sums over batch number i of a
    split, and that of the mean log p(target) of a draw."""
    del forms  # what is traced depends on them, so the cache must too

    def run(predictor: Predictor, data, key, index, batch_size):
        x, target, weights = _batch(on, data, index, batch_size, prepare, likelihood)

        def of_draw(outputs):
            logs, values = likelihood.draw(outputs, target)
            if targets.are_classes(likelihood.kind):
                classes.append(outputs.shape[-1])
            return logs, {**values, "expected": likelihood.log_p(outputs, target)}

        classes: list = []
        logs, values = predictor.means(x, stream(key, index), of_draw)
        expected = jnp.where(weights > 0, values.pop("expected"), 0)
        most = classes[0] if classes else 0
        sums = likelihood.sums(logs, values, target, weights)
        return jnp.int32(most), (sums, jnp.sum(expected * weights))

    return backend.jit(
        run, static_argnames="batch_size", out_shardings=parallel.replicated(on)
    )


def _batch(on, data, index: Array, batch_size: int, prepare, likelihood: Likelihood):
    """Inside jit: inputs, targets and weights of batch number i, split over the mesh.

    `data` are "input" and perhaps "target" and "mask" of a whole split, or of the
    batch, with its rows that count as "inside". Weights have the shape of the targets'
    parts, and targets that count for nothing are 0.
    """
    if "inside" not in data:
        n = targets.rows(data["input"])
        rows = index * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
        # Those outside count in nothing but the statistics of norm="batch": they had
        # better be other inputs, and not one of them many times.
        data = jax.tree.map(lambda x: x[rows % n], data)
        data = parallel.shard_batch(on, {**data, "inside": rows < n})
    x, mask = prepare(data["input"]), data.get("mask")
    target = counted(data.get("target", x), mask)
    shape = likelihood.shape(target)
    weights = data["inside"].astype(jnp.float32)
    weights = weights.reshape(-1, *(1,) * (len(shape) - 1))
    weights = jnp.broadcast_to(weights, shape)
    if mask is not None:
        weights = weights * mask.astype(jnp.float32)
    return x, target, weights


def _batches(on, split: Split | Stream, batch_size: int, likelihood: Likelihood):
    """The largest class, the data on the mesh and the size of each batch."""
    batch_size = min(batch_size, len(split))
    if isinstance(split, Stream):
        batch_size += -batch_size % on.size  # each device reads as many rows
        for largest, data in _streamed(on, split, batch_size):
            yield largest, data, batch_size
        return
    largest = targets.check(split, likelihood.kind)
    whole = parallel.replicate(on, on_device(split))
    yield from itertools.repeat(
        (largest, whole, batch_size), -(-len(split) // batch_size)
    )


def _streamed(on, split: Stream, batch_size: int):
    """Batches of a stream on the mesh, and the largest class of each.

    Each process reads the rows of its devices.
    """
    _, rows = parallel.share(on, 1, batch_size)
    for batch in split.test_batches(batch_size, rows):
        chunk = parallel.place_chunk(
            on, {k: x[None] for k, x in batch.items()}, batch_size
        )
        largest = targets.largest(batch["target"], batch["inside"])
        yield largest, {name: x[0] for name, x in chunk.items()}


def evaluate(
    model,
    variables: dict,
    split: Split | Stream,
    spec: EvalSpec,
    key: Key,
    batch_size: int = 500,
    prepare: Callable[[Array], Array] = to_float,
    mesh: jax.sharding.Mesh | None = None,
    likelihood: Likelihood = CLASSES,
) -> dict[str, float]:
    """Tests a net in one of the ways that are data: a column of a table.

    Args:
      model: with `apply` as in `predictor.Member`.
      variables: "params" with posterior nodes, and the model's other collections.
      split, key, batch_size, prepare, mesh, likelihood: as in `score`.
      spec: what to compute.

    Returns:
      The likelihood's metrics, samples, and sparsity, the fraction of exact zeros among
      the means after the edit.

    Raises:
      ValueError: as in `score`.
    """
    predictor = spec.predictor(Member(model, variables)).edited(key)
    result = score(
        *(predictor, split, key, likelihood),
        **{"batch_size": batch_size, "prepare": prepare, "mesh": mesh},
    )
    del result["expected_log_p"]
    result["sparsity"] = sparsity(predictor.nets.variables["params"])
    return {**result, "samples": spec.samples}


def elbo(
    model,
    variables: dict,
    split: Split | Stream,
    prior,
    key: Key,
    *,
    samples: int = 10,
    at_once: int | None = None,
    batch_size: int = 500,
    mode: Mode = TEST,
    prepare: Callable[[Array], Array] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    likelihood: Likelihood = CLASSES,
) -> dict[str, float]:
    """The evidence lower bound on a whole split, its two terms apart.

    Args:
      model: as in `evaluate`.
      variables: "params" with posterior nodes, and the model's other collections.
      split: the data that the bound is about: the training set.
      prior: of `vnets.priors`, or a mapping from layers to priors.
      key: of the samples.
      samples: S draws that the expected log likelihood is averaged over.
      at_once: draws of a batch in memory at once, as in `Predictor`.
      mode: estimator, and the statistics of batch normalization.
      batch_size, prepare, mesh, likelihood: as in `score`.

    Raises:
      ValueError: as in `score`.

    Returns:
      data_term (sum over the split, or the parts that count in it, of E[log p], nats),
      kl (nats; of an improper prior up to its constant), elbo (their difference), and
      what `score` gives beside: the metrics of the averaged prediction, and samples.
    """
    predictor = Predictor(
        Member(model, variables), samples=samples, mode=mode, at_once=at_once
    )
    found = score(
        *(predictor, split, key, likelihood),
        **{"batch_size": batch_size, "prepare": prepare, "mesh": mesh},
    )
    data_term = found.pop("expected_log_p")
    divergence = float(priors.kl(variables["params"], prior, key))
    return {
        "data_term": data_term,
        "kl": divergence,
        "elbo": data_term - divergence,
        **found,
    }


__getattr__ = renamed.getter("vnets.evaluate")
