"""Test-time modes as data: a column of a table is an edit and a number of samples.

    EVALS["ens"]  ->  EvalSpec(samples=20)
    evaluate(model, variables, split, EVALS["ens"], key)  ->  {"accuracy": ..., ...}

Samples are drawn under `vmap` over keys, so whatever comes before the first noisy layer
is computed once for all of them. The images of a batch are split over devices.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vnets import backend, edits, metrics, parallel, priors
from vnets.data import Split, Stream
from vnets.layers import TEST, Mode, checked
from vnets.rng import stream
from vnets.types import Array, Key


def _nothing(params, key=None):
    del key
    return params


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """One way to test a net.

    Attributes:
      edit: applied to the parameters once, before the test.
      samples: S predictions averaged as probabilities (log-mean-exp of log-softmax).
      mode: estimator, and the statistics that batch normalization uses.
    """

    edit: edits.Edit = _nothing
    samples: int = 1
    mode: Mode = TEST

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, not {self.samples}")


def standard_evals(
    samples: int = 20, threshold: float = 3.0, mode: Mode = TEST
) -> dict[str, EvalSpec]:
    """The usual columns.

    Args:
      samples: S of the ensemble.
      threshold: log alpha above which "pruned" removes a weight.
      mode: estimator, and the statistics of batch normalization.

    Returns:
      det (noise off), stoch (one sample), ens (S samples), zero_mean and permuted (one
      sample with the means dropped, or the variances shuffled), zero_mean_ens and
      permuted_ens (S samples of these), pruned (deterministic); and det_batch,
      stoch_batch and ens_batch with batch normalization on each test batch's own
      statistics, as the authors' MNIST code tests (a model's own dropout is on in none
      unless the mode says so, and never where noise is off).
    """
    # The statistics alone, not a model's own dropout; which is a noise, too.
    batch = dataclasses.replace(mode, norm="batch", dropout=bool(mode.dropout))
    quiet = dataclasses.replace(mode, dropout=False)
    det, ens = EvalSpec(edits.mean_only, 1, quiet), EvalSpec(samples=samples, mode=mode)
    return {
        "det": det,
        "stoch": EvalSpec(mode=mode),
        "ens": ens,
        "zero_mean": EvalSpec(edits.zero_mean, 1, mode),
        "zero_mean_ens": EvalSpec(edits.zero_mean, samples, mode),
        "permuted": EvalSpec(edits.permute_variance, 1, mode),
        "permuted_ens": EvalSpec(edits.permute_variance, samples, mode),
        "pruned": EvalSpec(
            edits.chain(edits.prune(threshold), edits.mean_only), 1, quiet
        ),
        "det_batch": dataclasses.replace(
            det, mode=dataclasses.replace(quiet, norm="batch")
        ),
        "stoch_batch": EvalSpec(mode=batch),
        "ens_batch": dataclasses.replace(ens, mode=batch),
    }


def predict(model, variables: dict, x: Array, spec: EvalSpec, key: Key) -> Array:
    """Log predictive probabilities [B, K] of one batch, under jit if the caller wants.

    Args:
      model: has `apply(variables, x, mode=..., rngs=..., mutable=...)`, as what
        `layers.stochastic` and `layers.call` make.
      variables: "params", not yet edited, and the model's other collections.
      x: inputs, [B, ...].
      spec: what to compute.
      key: of the edit and of the samples.
    """
    params = spec.edit(variables["params"], stream(key, "edit"))
    variables = {**variables, "params": params}
    return _predict(model, variables, x, spec.samples, spec.mode, key)


def sample_predictions(
    model, variables: dict, x: Array, samples: int, mode: Mode, key: Key
) -> Array:
    """Log probabilities of each of S samples, [S, B, K]; the edit is done already."""

    def one(sample: Array) -> Array:
        logits, _ = model.apply(
            variables,
            x,
            mode=mode,
            rngs={"noise": stream(key, "sample", sample)},
            mutable=[name for name in variables if name != "params"],
        )
        return jax.nn.log_softmax(logits)

    if samples == 1:
        return one(jnp.int32(0))[None]
    return jax.vmap(one)(jnp.arange(samples, dtype=jnp.int32))


def _predict(model, variables, x, samples: int, mode: Mode, key: Key) -> Array:
    log_p = sample_predictions(model, variables, x, samples, mode, key)
    if samples == 1:
        return log_p[0]
    return jax.nn.logsumexp(log_p, axis=0) - jnp.log(float(samples))


def _batch(on, data, index: Array, batch_size: int):
    """Inside jit: batch number i and which rows of it count, split over the mesh.

    `data` are images and labels of a whole split, or of the batch, with its rows that
    count behind.
    """
    if len(data) == 3:
        return data
    images, labels = data
    n = labels.shape[0]
    rows = index * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    inside = rows < n
    # Those outside count in nothing but the statistics of norm="batch": they had better
    # be other images, and not one of them many times.
    rows = rows % n
    chosen = jax.tree.map(lambda x: x[rows], (images, labels))
    return parallel.shard_batch(on, (*chosen, inside))


@functools.lru_cache(maxsize=64)
def _batch_sums(
    model: Any,
    samples: int,
    mode: Mode,
    prepare: Callable,
    on: jax.sharding.Mesh,
    forms: backend.Forms,
) -> Callable:
    """Compiled sums of batch number i of a split.

    The edit is no argument: specs whose edited parameters are of the same types share
    what is compiled.
    """
    del forms  # what is traced depends on them, so the cache must too

    def run(variables, data, key, index, batch_size):
        image, label, inside = _batch(on, data, index, batch_size)
        x = prepare(image)
        log_p = _predict(model, variables, x, samples, mode, stream(key, index))
        return metrics.sums(log_p, label, inside.astype(jnp.float32))

    return backend.jit(
        run, static_argnames="batch_size", out_shardings=parallel.replicated(on)
    )


@functools.lru_cache(maxsize=64)
def _batch_likelihoods(
    model: Any,
    samples: int,
    mode: Mode,
    prepare: Callable,
    on: jax.sharding.Mesh,
    forms: backend.Forms,
) -> Callable:
    """Compiled sums over batch i of the mean log likelihood and of right answers."""
    del forms

    def run(variables, data, key, index, batch_size):
        image, label, inside = _batch(on, data, index, batch_size)
        x = prepare(image)
        draws = sample_predictions(
            model, variables, x, samples, mode, stream(key, index)
        )
        log_p = jnp.take_along_axis(draws, label[None, :, None], axis=-1)[..., 0]
        right = jnp.argmax(jax.nn.logsumexp(draws, axis=0), -1) == label
        return (
            jnp.sum(jnp.where(inside, log_p.mean(0), 0)),
            jnp.sum(jnp.where(inside, right, False)),
        )

    return backend.jit(
        run, static_argnames="batch_size", out_shardings=parallel.replicated(on)
    )


def _each_batch(make, on, model, spec, prepare, variables, split, key, batch_size):
    """What a compiled function of `make` gives for each batch, on one device."""
    model = checked(model)
    on = parallel.mesh() if on is None else parallel.flat(on)
    parallel.check_mesh(on)
    run = make(model, spec.samples, spec.mode, prepare, on, backend.forms())
    variables, key = parallel.replicate(on, (variables, key))
    batch_size = min(batch_size, len(split))
    if isinstance(split, Stream):
        batch_size += -batch_size % on.size  # each device reads as many rows
        batches = _streamed(on, split, batch_size)
    else:
        arrays = on_device(split.image), jnp.asarray(split.label)
        whole = parallel.replicate(on, arrays)
        batches = itertools.repeat(whole, -(-len(split) // batch_size))
    for i, data in enumerate(batches):
        part = run(variables, data, key, np.int32(i), batch_size=batch_size)
        yield parallel.settled(on, part)


def _streamed(on, split: Stream, batch_size: int):
    """Batches of a stream on the mesh; each process reads the rows of its devices."""
    _, rows = parallel.share(on, 1, batch_size)
    for batch in split.test_batches(batch_size, rows):
        parts = batch["image"], batch["label"], batch["inside"]
        chunk = parallel.place_chunk(on, tuple(x[None] for x in parts), batch_size)
        yield tuple(x[0] for x in chunk)


def elbo(
    model,
    variables: dict,
    split: Split | Stream,
    prior,
    key: Key,
    *,
    samples: int = 10,
    batch_size: int = 500,
    mode: Mode = TEST,
    prepare: Callable[[Array], Array] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, float]:
    """The evidence lower bound on a whole split, its two terms apart.

    Args:
      model: as in `evaluate`.
      variables: "params" with posterior nodes, and the model's other collections.
      split: the data that the bound is about: the training set.
      prior: of `vnets.priors`, or a mapping from layers to priors.
      key: of the samples.
      samples: S draws that the expected log likelihood is averaged over.
      batch_size: images at once; times `samples` are in memory.
      mode: estimator, and the statistics of batch normalization.
      prepare: pixels to inputs; `to_float` by default.
      mesh: as in `evaluate`.

    Returns:
      data_term (sum over the split of E[log p], nats), kl (nats; of an improper prior
      up to its constant), elbo (their difference), accuracy of the averaged
      prediction, samples.
    """
    make, spec = _batch_likelihoods, EvalSpec(samples=samples, mode=mode)
    change = prepare or to_float
    parts = list(
        _each_batch(make, mesh, model, spec, change, variables, split, key, batch_size)
    )
    data_term = float(np.sum([float(part[0]) for part in parts]))
    right = sum(int(part[1]) for part in parts)
    divergence = float(priors.kl(variables["params"], prior))
    return {
        "data_term": data_term,
        "kl": divergence,
        "elbo": data_term - divergence,
        "accuracy": right / len(split),
        "samples": samples,
    }


def on_device(image):
    """Inputs as JAX's arrays: one, or each of a tuple or a dict of several."""
    several = isinstance(image, tuple | Mapping)
    return jax.tree.map(jnp.asarray, image) if several else jnp.asarray(image)


def to_float(image: Array) -> Array:
    """uint8 pixels to float32 in [0, 1], the authors' scale on MNIST.

    Raises:
      ValueError: what is not uint8, and so perhaps divided already.
    """
    kind = getattr(image, "dtype", f"a {type(image).__name__} of several inputs")
    if kind != jnp.uint8:
        raise ValueError(
            f"pixels are uint8, not {kind}: give a `prepare` of your own, such "
            "as jnp.asarray, which leaves them as they are"
        )
    return image.astype(jnp.float32) / 255.0


def evaluate(
    model,
    variables: dict,
    split: Split | Stream,
    spec: EvalSpec,
    key: Key,
    batch_size: int = 500,
    prepare: Callable[[Array], Array] = to_float,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, float]:
    """Tests a net on a whole split; exact for any size, whatever the batch.

    With norm="batch" the batches do matter, since statistics are of each by itself. A
    last one that is not full is filled up with the first images of the split, or with
    black ones of a stream, which count in its statistics alone.

    Among several processes all call it, with the same arguments.

    Args:
      model: with `apply` as in `predict`; compiled once per spec.
      variables: "params" with posterior nodes, and the model's other collections.
      split: images uint8 [N, H, W, C], or whatever `prepare` takes, and labels [N], as
        arrays of NumPy or JAX, or a stream of them, of which some batches at a time are
        in memory. Several inputs are a tuple or a dict of arrays as image
        (`layers.call(unpack=True)`).
      spec: what to compute.
      key: of the edit and of the samples.
      batch_size: images at once; times `spec.samples` are in memory.
      prepare: pixels to inputs; a function of a module, since each lambda is compiled
        anew.
      mesh: devices that each batch is split over (`parallel.mesh`); all by default.
        Their number need not divide it, and changes no draw.

    Returns:
      accuracy (0 to 1), nll (nats), brier, ece, samples, and sparsity, the fraction of
      exact zeros among the means after the edit.
    """
    params = spec.edit(variables["params"], stream(key, "edit"))
    variables = {**variables, "params": params}
    make = _batch_sums
    parts = _each_batch(
        make, mesh, model, spec, prepare, variables, split, key, batch_size
    )
    result = functools.reduce(lambda a, b: a + b, parts).compute()
    result["sparsity"] = metrics.sparsity(params)
    return {**result, "samples": spec.samples}
