"""How a net runs the steps of `vnets.plan.features`."""

import math

import jax.numpy as jnp
from jax import random

from vnets.plan.features import Fourier
from vnets.types import Array


def fourier(net, step: Fourier, x: Array) -> Array:
    """Random Fourier features, [B, ..., I] -> [B, ..., 2 features].

    Args:
      net: in whose collection "frequencies" the step's are, drawn by its `init`.
      step: of a plan.
      x: inputs.
    """
    inputs = x.shape[-1]

    def draw() -> Array:
        shape = (inputs, step.features)
        return random.normal(net.make_rng("params"), shape, jnp.float32) / (
            step.length * math.sqrt(inputs)
        )

    turns = x @ net.variable("frequencies", step.name, draw).value.astype(x.dtype)
    both = jnp.concatenate([jnp.cos(turns), jnp.sin(turns)], -1)
    return both / math.sqrt(step.features)
