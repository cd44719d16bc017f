"""Why a seed's loss ceased to be finite, for the message about it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import random

from vnets import tree
from vnets.layers import TRAIN, Mode, call_path, checked
from vnets.loss import ModelState
from vnets.rng import stream
from vnets.train.task import Task, TrainState


def first_nonfinite_layer(model, mode: Mode = TRAIN) -> Callable[..., str | None]:
    """Finds where a forward pass ceases to be finite, for the message of a failed run.

    Args:
      model: as in `loss.forward`.
      mode: how the net was run in training.

    Returns:
      locate(params, state, batch, key) -> the path of the first layer, in order of
      execution, with a NaN or infinity in its output; None if there is none.
    """
    model = checked(model)

    def locate(params, state: ModelState, batch, key) -> str | None:
        names: list[str] = []

        def watch(call, args, kwargs, context):
            y = call(*args, **kwargs)
            path = call_path(context)
            if path:
                bad = [not jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(y)]
                names.extend([path] if any(bad) else [])
            return y

        with nn.intercept_methods(watch):
            model.apply(
                {"params": params, **state.collections},
                batch["input"],
                mode=mode,
                rngs={"noise": key},
                mutable=list(state.collections),
            )
        return names[0] if names else None

    return locate


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
      gradients are not; where all are finite, the targets of the batch.
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
        where = _bad_gradients(grads) or _of_targets(batch)
    return (
        f"seed {seed}: the loss is not finite at epoch {epoch + 1}, "
        f"step {at + 1} of {task.source.steps_per_epoch}: {where}"
    )


def _bad_gradients(grads) -> str:
    """Layers with a gradient that is not finite, by path; "" without any."""
    bad = [place.layer for place, g in tree.each(grads) if not _all_finite(g)]
    named = ", ".join(dict.fromkeys(bad))
    return f"gradients not finite in {named}" if named else ""


def _of_targets(batch) -> str:
    """What is left where outputs and gradients are finite: the loss, by its targets."""
    said = "outputs and gradients are finite, but the loss itself is not"
    if "target" not in batch or not batch["target"].size:
        return said
    target = batch["target"]
    return f"{said}; targets of the batch are {jnp.min(target)} to {jnp.max(target)}"


def _all_finite(tree) -> bool:
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))
