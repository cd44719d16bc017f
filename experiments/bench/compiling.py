"""Functions of JAX as cases: compiled apart from being called, called to their end."""

import time
from collections.abc import Callable
from typing import Any

import jax

from experiments.bench.timing import Ready
from vnets import backend


def compiled(function: Callable, *arguments, **options) -> tuple[Any, float]:
    """The compiled function, and the seconds of tracing and compiling it.

    Args:
      function: to be compiled as the library compiles.
      *arguments: of the types that it will be called with.
      **options: of `jax.jit`.
    """
    began = time.perf_counter()
    made = backend.jit(function, **options).lower(*arguments).compile()
    return made, time.perf_counter() - began


def ready(function: Callable, *arguments) -> Ready:
    """Calls with the same arguments each time, and waits for the device."""
    made, seconds = compiled(function, *arguments)

    def call():
        jax.block_until_ready(made(*arguments))

    return Ready(call, seconds)
