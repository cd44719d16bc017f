"""Test-time modes as data: a column of a table is an edit and a number of samples.

    EVALS["ens"]  ->  EvalSpec(samples=20)
    evaluate(model, variables, split, EVALS["ens"], key)  ->  {"accuracy": ..., ...}

Samples are drawn under `vmap` over keys, so whatever comes before the first noisy layer
is computed once for all of them; many of them chunk by chunk, so that they need no more
memory than a few. The images of a batch are split over devices.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vnets import backend, edits, labels, metrics, parallel, priors
from vnets.data import Split, Stream
from vnets.layers import TEST, Mode, checked
from vnets.rng import stream
from vnets.types import Array, Key, in_float32

AT_ONCE = 10_000  # inputs of a net: 20 draws of 500 images


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
      mirrored: S draws see the images as they are and S other draws see them mirrored
        left to right, and all 2 S predictions are averaged.
      at_once: draws of a batch that are in memory at once, at most; None for as many
        as make `AT_ONCE` inputs of the net. It changes the memory and the time that a
        prediction takes, and its numbers by rounding alone.
    """

    edit: edits.Edit = _nothing
    samples: int = 1
    mode: Mode = TEST
    mirrored: bool = False
    at_once: int | None = None

    def __post_init__(self):
        _positive("samples", self.samples)
        if self.at_once is not None:
            _positive("at_once", self.at_once)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


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
      unless the mode says so, and never where noise is off); det_mirrored and
      ens_mirrored, which see each image and its mirror image.
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
        "det_mirrored": dataclasses.replace(det, mirrored=True),
        "ens_mirrored": dataclasses.replace(ens, mirrored=True),
    }


def predict(model, variables: dict, x: Array, spec: EvalSpec, key: Key) -> Array:
    """Log predictive probabilities [B, K] of one batch, under jit if the caller wants.

    Of a net that predicts positions they are [B, T, K] and so on.

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
    return _averaged(model, variables, x, spec, key)


def _averaged(model, variables, x, spec: EvalSpec, key: Key) -> Array:
    """As `predict`, but for the edit, which is done already."""
    if not spec.mirrored:
        total, _ = _totals(model, variables, x, spec, key)
        return total - jnp.log(float(spec.samples))
    if x.ndim != 4:
        raise ValueError(f"images [B, H, W, C] are mirrored, not {list(x.shape)}")
    once = dataclasses.replace(spec, mirrored=False)
    views = (x, key), (x[:, :, ::-1], stream(key, "mirrored"))
    both = [_averaged(model, variables, view, once, k) for view, k in views]
    return jnp.logaddexp(*both) - jnp.log(2.0)


def sample_predictions(
    model,
    variables: dict,
    x: Array,
    samples: int,
    mode: Mode,
    key: Key,
    at_once: int | None = None,
) -> Array:
    """Log probabilities of each of S samples, [S, B, K]; the edit is done already.

    Args:
      model: as in `predict`.
      variables: "params", edited, and the model's other collections.
      x: inputs, [B, ...].
      samples: S.
      mode: estimator, and the statistics of batch normalization.
      key: of the samples.
      at_once: as in `EvalSpec`; what is returned grows with S whatever it is.

    Raises:
      ValueError: samples or at_once below 1.
    """
    spec = EvalSpec(samples=samples, mode=mode, at_once=at_once)
    chunk, rows = _chunks(model, variables, x, spec, key)
    if len(rows) == 1:
        return chunk(rows[0])
    # What is drawn beyond S fills the last chunk, and is left out.
    _, draws = lax.scan(lambda _, row: (None, chunk(row)), None, rows)
    return draws.reshape(-1, *draws.shape[2:])[:samples]


def _totals(model, variables, x, spec: EvalSpec, key: Key) -> tuple[Array, Array]:
    """Log of the sum of probabilities over draws, and the sum of their logs, [B, K]."""
    chunk, rows = _chunks(model, variables, x, spec, key)

    def add(totals, row: Array):
        draws = chunk(row)
        inside = (row < spec.samples).reshape(-1, *(1,) * (draws.ndim - 1))
        log_sum = jax.nn.logsumexp(jnp.where(inside, draws, -jnp.inf), 0)
        sum_log = jnp.sum(jnp.where(inside, draws, 0), 0)
        return (jnp.logaddexp(totals[0], log_sum), totals[1] + sum_log), None

    if len(rows) == 1:
        draws = chunk(rows[0])
        log_sum = draws[0] if len(draws) == 1 else jax.nn.logsumexp(draws, 0)
        return log_sum, jnp.sum(draws, 0)
    like = jax.eval_shape(chunk, rows[0])
    zero = jnp.zeros(like.shape[1:], like.dtype)
    return lax.scan(add, (zero - jnp.inf, zero), rows)[0]


def _chunks(model, variables, x: Array, spec: EvalSpec, key: Key):
    """What predicts for some numbers of draws, [C] -> [C, B, K], and their rows [n, C].

    Rows are as even as they can be; the last may have numbers from S on.
    """

    # Models that flatten by reshape(len(x), -1) cannot take an empty batch.
    inputs = x if len(x) else jnp.zeros((1, *x.shape[1:]), x.dtype)

    def one(sample: Array) -> Array:
        logits, _ = model.apply(
            variables,
            inputs,
            mode=spec.mode,
            rngs={"noise": stream(key, "sample", sample)},
            mutable=[name for name in variables if name != "params"],
        )
        log_p = jax.nn.log_softmax(in_float32(logits))
        return log_p if len(x) else log_p[:0]

    at_once = spec.at_once or max(1, AT_ONCE // max(1, len(x)))
    count = -(-spec.samples // at_once)
    size = -(-spec.samples // count)
    rows = jnp.arange(count * size, dtype=jnp.int32).reshape(count, size)
    if size == 1:
        return lambda row: one(row[0])[None], rows
    return jax.vmap(one), rows


def _batch(on, data, index: Array, batch_size: int):
    """Inside jit: images, labels and weights of batch number i, split over the mesh.

    `data` are "image", "label" and perhaps "mask" of a whole split, or of the batch,
    with its rows that count as "inside". Weights have the labels' shape, and labels
    that count for nothing are 0.
    """
    if "inside" not in data:
        n = data["label"].shape[0]
        rows = index * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
        # Those outside count in nothing but the statistics of norm="batch": they had
        # better be other images, and not one of them many times.
        data = jax.tree.map(lambda x: x[rows % n], data)
        data = parallel.shard_batch(on, {**data, "inside": rows < n})
    label, mask = data["label"], data.get("mask")
    weights = data["inside"].astype(jnp.float32)
    weights = weights.reshape(-1, *(1,) * (label.ndim - 1))
    weights = jnp.broadcast_to(weights, label.shape)
    if mask is not None:
        weights = weights * mask.astype(jnp.float32)
    return data["image"], labels.counted(label, mask), weights


@functools.lru_cache(maxsize=64)
def _batch_sums(
    model: Any,
    spec: EvalSpec,
    prepare: Callable,
    on: jax.sharding.Mesh,
    forms: backend.Forms,
) -> Callable:
    """Compiled K, and sums of batch number i of a split.

    The spec is one without an edit: those whose edited parameters are of the same types
    share what is compiled.
    """
    del forms  # what is traced depends on them, so the cache must too

    def run(variables, data, key, index, batch_size):
        image, label, weights = _batch(on, data, index, batch_size)
        x = prepare(image)
        log_p = _averaged(model, variables, x, spec, stream(key, index))
        return jnp.int32(log_p.shape[-1]), metrics.sums(log_p, label, weights)

    return backend.jit(
        run, static_argnames="batch_size", out_shardings=parallel.replicated(on)
    )


@functools.lru_cache(maxsize=64)
def _batch_likelihoods(
    model: Any,
    spec: EvalSpec,
    prepare: Callable,
    on: jax.sharding.Mesh,
    forms: backend.Forms,
) -> Callable:
    """Compiled K, and sums over batch i of the mean log likelihood, of right answers
    and of weights."""
    del forms

    def run(variables, data, key, index, batch_size):
        image, label, weights = _batch(on, data, index, batch_size)
        x = prepare(image)
        log_sum, sum_log = _totals(model, variables, x, spec, stream(key, index))
        log_p = labels.of_label(sum_log, label) / spec.samples
        right = jnp.argmax(log_sum, -1) == label
        return jnp.int32(log_sum.shape[-1]), (
            jnp.sum(jnp.where(weights > 0, log_p, 0) * weights),
            jnp.sum(right * weights),
            jnp.sum(weights),
        )

    return backend.jit(
        run, static_argnames="batch_size", out_shardings=parallel.replicated(on)
    )


def _each_batch(make, on, model, spec, prepare, variables, split, key, batch_size):
    """What a compiled function of `make` gives for each batch, on one device."""
    model = checked(model)
    on = parallel.mesh() if on is None else parallel.flat(on)
    parallel.check_mesh(on)
    if not len(split):
        raise ValueError("a split without examples has no means")
    _positive("batch_size", batch_size)
    spec = dataclasses.replace(spec, edit=_nothing)
    run = make(model, spec, prepare, on, backend.forms())
    variables, key = parallel.replicate(on, (variables, key))
    batch_size = min(batch_size, len(split))
    if isinstance(split, Stream):
        batch_size += -batch_size % on.size  # each device reads as many rows
        batches = _streamed(on, split, batch_size)
    else:
        largest = labels.check(split, "positions")
        arrays = {"image": on_device(split.image), "label": jnp.asarray(split.label)}
        if getattr(split, "mask", None) is not None:
            arrays["mask"] = jnp.asarray(split.mask)
        whole = parallel.replicate(on, arrays)
        batches = itertools.repeat((largest, whole), -(-len(split) // batch_size))
    classes = None
    for i, (largest, data) in enumerate(batches):
        count, part = run(variables, data, key, np.int32(i), batch_size=batch_size)
        if classes is None:  # once: it waits for the device
            classes = int(parallel.own(count))
        labels.check_range(largest, classes)
        yield parallel.settled(on, part)


def _streamed(on, split: Stream, batch_size: int):
    """Batches of a stream on the mesh, and the largest label of each.

    Each process reads the rows of its devices.
    """
    _, rows = parallel.share(on, 1, batch_size)
    for batch in split.test_batches(batch_size, rows):
        chunk = parallel.place_chunk(
            on, {k: x[None] for k, x in batch.items()}, batch_size
        )
        largest = labels.largest(batch["label"], batch["inside"])
        yield largest, {name: x[0] for name, x in chunk.items()}


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
) -> dict[str, float]:
    """The evidence lower bound on a whole split, its two terms apart.

    Args:
      model: as in `evaluate`.
      variables: "params" with posterior nodes, and the model's other collections.
      split: the data that the bound is about: the training set.
      prior: of `vnets.priors`, or a mapping from layers to priors.
      key: of the samples.
      samples: S draws that the expected log likelihood is averaged over.
      at_once: draws of a batch in memory at once, as in `EvalSpec`.
      batch_size: images at once.
      mode: estimator, and the statistics of batch normalization.
      prepare: pixels to inputs; `to_float` by default.
      mesh: as in `evaluate`.

    Raises:
      ValueError: as in `evaluate`.

    Returns:
      data_term (sum over the split, or the positions that count in it, of E[log p],
      nats), kl (nats; of an improper prior
      up to its constant), elbo (their difference), accuracy of the averaged
      prediction, samples.
    """
    make = _batch_likelihoods
    spec = EvalSpec(samples=samples, mode=mode, at_once=at_once)
    change = prepare or to_float
    parts = list(
        _each_batch(make, mesh, model, spec, change, variables, split, key, batch_size)
    )
    data_term = float(np.sum([float(part[0]) for part in parts]))
    right, count = (sum(float(part[i]) for part in parts) for i in (1, 2))
    if not count:
        raise ValueError("no label of the split counts: its mask is 0")
    divergence = float(priors.kl(variables["params"], prior, key))
    return {
        "data_term": data_term,
        "kl": divergence,
        "elbo": data_term - divergence,
        "accuracy": right / count,
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
        (`layers.call(unpack=True)`). Of a net that predicts positions, [B, T, K] and so
        on, labels are [N, T] and so on, with a `mask` perhaps; numbers are means over
        those that count.
      spec: what to compute.
      key: of the edit and of the samples.
      batch_size: images at once; times `spec.at_once` are in memory.
      prepare: pixels to inputs; a function of a module, since each lambda is compiled
        anew.
      mesh: devices that each batch is split over (`parallel.mesh`); all by default.
        Their number need not divide it, and changes no draw.

    Returns:
      accuracy (0 to 1), nll (nats), brier, ece, samples, and sparsity, the fraction of
      exact zeros among the means after the edit.

    Raises:
      ValueError: no examples, or labels that are not integers from 0 to K - 1, one for
        each prediction.
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
