"""Why a seed's loss ceased to be finite, for the message about it."""

import jax
import jax.numpy as jnp
from jax import random

from vnets import tree
from vnets.rng import stream
from vnets.train.task import Task, TrainState


def explain(task: Task, state: TrainState, seed: int, epoch: int, chunk: int) -> str:
    """Where and why a seed stopped.

    Args:
      task: what was trained.
      state: the last good one, on one device.
      seed: of the run.
      epoch: in which it stopped, from 0.
      chunk: steps that were compiled as one.

    Returns:
      Epoch and step, and the first layer whose output is not finite, or those whose
      gradients are not; where all are finite, the labels of the batch.
    """
    at = int(state.model.step) - epoch * task.source.steps_per_epoch
    key = random.key(seed)
    which, row = divmod(at, chunk)
    chunks = task.source.chunks(key, epoch, chunk, first=which * chunk)
    item = jax.tree.map(lambda x: x[row], next(chunks))
    key_batch = stream(key, "augment", state.model.step)
    batch = task.source.batch(task.source.arrays, item, key_batch)
    key_noise = stream(key, "noise", state.model.step)
    arguments = (state.params, state.model, batch, key_noise)
    layer = task.locate(*arguments) if task.locate else None
    if layer:
        where = f"layer {layer} is the first whose output is not finite"
    else:
        grads = jax.grad(lambda p, *rest: task.loss(p, *rest)[0])(*arguments)
        where = _bad_gradients(grads) or _of_labels(batch)
    return (
        f"seed {seed}: the loss is not finite at epoch {epoch + 1}, "
        f"step {at + 1} of {task.source.steps_per_epoch}: {where}"
    )


def _bad_gradients(grads) -> str:
    """Layers with a gradient that is not finite, by path; "" without any."""
    bad = [place.layer for place, g in tree.each(grads) if not _all_finite(g)]
    named = ", ".join(dict.fromkeys(bad))
    return f"gradients not finite in {named}" if named else ""


def _of_labels(batch) -> str:
    """What is left where outputs and gradients are finite: the loss, by its labels."""
    said = "outputs and gradients are finite, but the loss itself is not"
    if "label" not in batch or not batch["label"].size:
        return said
    label = batch["label"]
    return f"{said}; labels of the batch are {jnp.min(label)} to {jnp.max(label)}"


def _all_finite(tree) -> bool:
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))
