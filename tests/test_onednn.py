"""oneDNN's convolutions beside XLA's, and what XLA is told when a call fails.

Their values and gradients are laws of tests/test_ops.py and tests/test_properties.py.
"""

import functools
import importlib.metadata
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import backend, extras, ops
from vnets.ops import onednn

SAME = ((1, 1), (1, 1))
installed = pytest.mark.skipif(
    backend.CPU.library != "onednn", reason="onednn-cpu-gomp is not installed"
)


def arrays(dtype=jnp.float32, batch=3, size=(6, 5), channels=(8, 16)):
    keys = random.split(random.key(0), 2)
    x = random.normal(keys[0], (batch, *size, channels[0]), dtype)
    return x, random.normal(keys[1], (3, 3, *channels), dtype)


def gradients(op, x, w):
    y, pullback = jax.vjp(op.apply, x, w)
    return y, *pullback(jnp.cos(y))


@installed
@pytest.mark.parametrize("half", ["bfloat16", "float32"])
def test_factors_of_half_precision_are_summed_in_float32(half):
    """Beside XLA's form of the same factors: only the order of sums differs, in the
    outputs and the kernel's gradient; the input's is rounded to half precision."""
    x, w = arrays(jnp.bfloat16, batch=7)
    with backend.use(half=half):
        ours = jax.jit(
            functools.partial(gradients, ops.DirectConv(SAME, library="onednn"))
        )
        theirs = jax.jit(functools.partial(gradients, ops.DirectConv(SAME)))
        wide = w.astype(jnp.float32)
        pairs = list(zip(ours(x, wide), theirs(x, wide), strict=True))
    dtypes = (jnp.float32, jnp.bfloat16, jnp.float32)
    for (found, wanted), dtype in zip(pairs, dtypes, strict=True):
        assert found.dtype == wanted.dtype == dtype
        found, wanted = (np.asarray(a, np.float32) for a in (found, wanted))
        error = 2**-7 if dtype == jnp.bfloat16 else 1e-5
        assert np.abs(found - wanted).max() <= error * np.abs(wanted).max()


@installed
def test_a_primitive_is_made_once_for_its_shapes():
    x, w = arrays(size=(9, 4))
    step = jax.jit(functools.partial(gradients, ops.DirectConv(SAME, library="onednn")))
    first = jax.block_until_ready(step(x, w))
    before = onednn._primitive.cache_info()
    for found, again in zip(first, step(x, w), strict=True):
        np.testing.assert_array_equal(found, again)
    after = onednn._primitive.cache_info()
    assert after.misses == before.misses
    assert after.hits == before.hits + 3


@installed
def test_calls_at_the_same_time_do_not_share_their_kernels():
    """A primitive has room for one kernel, and threads may run one at once."""
    x, w = arrays(batch=64)
    step = jax.jit(ops.DirectConv(SAME, library="onednn").apply)
    kernels = [w * scale for scale in (1.0, 2.0, 4.0, 8.0)]
    wanted = [np.asarray(step(x, kernel)) for kernel in kernels]
    wrong = []

    def run(kernel, expected):
        for _ in range(20):
            if not np.array_equal(step(x, kernel), expected):
                wrong.append(kernel)

    pairs = zip(kernels, wanted, strict=True)
    threads = [threading.Thread(target=run, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@installed
def test_a_failed_call_is_an_error_and_not_a_number(monkeypatch):
    def broken(*args):
        raise RuntimeError("oneDNN's primitive_execute failed with status 2")

    x, w = arrays(size=(5, 7))
    monkeypatch.setattr(onednn, "_primitive", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="failed with status 2"):
        jax.jit(ops.DirectConv(SAME, library="onednn").apply)(x, w).block_until_ready()


@installed
def test_what_the_library_refuses_is_told():
    library = onednn._library()
    with pytest.raises(RuntimeError, match="engine_create failed with status"):
        library.make("engine_create", 77, 0)


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(extras.MissingExtra, match=r"vnets\[onednn\]"):
        onednn._path()
