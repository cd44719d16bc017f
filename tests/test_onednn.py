"""oneDNN's convolutions beside XLA's, and what XLA is told when a call fails.

Their values and gradients are laws of tests/test_ops.py and tests/test_properties.py.
"""

import functools
import importlib.metadata
import os
import subprocess
import sys
from concurrent import futures

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from claims import every
from jax import random

from vnets import (
    backend,
    data,
    extras,
    likelihoods,
    nets,
    nodes,
    ops,
    priors,
    sources,
    train,
)
from vnets.layers import Mode
from vnets.loss import forward, neg_elbo
from vnets.ops import onednn

SAME = ((1, 1), (1, 1))
# Its wheel is for Linux on x86 alone. There the extra "dev" has it: CI skips no test.
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
@pytest.mark.parametrize("half", dict.fromkeys((backend.CPU.half, "float32")))
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

    def agrees(kernel, expected):
        return every(np.array_equal(step(x, kernel), expected) for _ in range(20))

    with futures.ThreadPoolExecutor(4) as pool:
        assert every(pool.map(agrees, kernels, wanted))


@installed
def test_a_failed_call_is_an_error_and_not_a_number(monkeypatch):
    def broken(*args):
        raise RuntimeError("oneDNN's primitive_execute failed: out of memory")

    x, w = arrays(size=(5, 7))
    monkeypatch.setattr(onednn, "_primitive", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="primitive_execute failed"):
        jax.jit(ops.DirectConv(SAME, library="onednn").apply)(x, w).block_until_ready()


@installed
def test_what_the_library_refuses_is_told():
    library = onednn._library()
    with pytest.raises(RuntimeError, match="engine_create failed: invalid arguments"):
        library.make("engine_create", 77, 0)


def test_a_missing_package_is_named_while_a_function_is_traced(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    for cached in (onednn._register, onednn._library):
        monkeypatch.setattr(onednn, cached.__name__, cached.__wrapped__)
    x, w = arrays()
    with pytest.raises(extras.MissingExtra, match=r"vnets\[onednn\]"):
        jax.eval_shape(ops.DirectConv(SAME, library="onednn").apply, x, w)


@installed
def test_a_kernel_for_other_images_is_refused():
    x, w = arrays()
    with pytest.raises(ValueError, match="does not fit images"):
        jax.eval_shape(ops.DirectConv(SAME, library="onednn").apply, x[..., :7], w)


@installed
def test_nothing_is_computed_of_no_images():
    x, w = arrays(batch=0)
    ours, theirs = (
        gradients(ops.DirectConv(SAME, library=library), x, w)
        for library in ("onednn", "xla")
    )
    for found, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(found, wanted)


@installed
def test_primitives_are_freed_and_made_again():
    x, w = arrays(size=(4, 11))
    step = jax.jit(ops.DirectConv(SAME, library="onednn").apply)
    before = np.asarray(step(x, w))
    onednn.forget()
    assert onednn._primitive.cache_info().currsize == 0
    np.testing.assert_array_equal(step(x, w), before)


@installed
def test_a_step_of_training_is_that_of_xla(one_device):
    """Through layers, noise, batches in a compiled loop and rematerialization."""
    x = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    split = data.Split(x, np.arange(16, dtype=np.int32) % 4)
    ends = []
    net = nets.VGG(4, 0.125, blocks=2, posteriors={"conv2": nodes.gaussian(-6.0)})
    mode = Mode(norm="batch", remat=True)
    likelihood, prior = likelihoods.Categorical(), priors.log_uniform
    for library in ("xla", "onednn"):
        with backend.use(library=library):
            task = train.Task(
                train.initializer(net, jnp.zeros((1, 8, 8, 3)), mode=mode),
                neg_elbo(forward(net, mode), likelihood, prior, 16),
                optax.sgd(0.01),
                sources.Resident(split, 8),
            )
            (fitted,) = train.fit(task, epochs=3, seeds=[0], mesh=one_device)
        ends.append(jax.tree.leaves(fitted.state.params))
    for theirs, ours in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


UNFINISHED = """
import jax, jax.numpy as jnp
from vnets import ops
op = ops.DirectConv(((1, 1), (1, 1)), library="onednn")
x, w = jnp.ones((64, 24, 24, 32)), jnp.ones((3, 3, 32, 32))
long = jax.jit(lambda x, w: jax.lax.fori_loop(0, 8, lambda _, x: op.apply(x, w), x))
y = long(x, w)
"""


@installed
@pytest.mark.parametrize("end", ["", "del y", "raise KeyError('told')"])
def test_a_program_ends_though_a_computation_has_not(end):
    ran = subprocess.run(
        [sys.executable, "-c", UNFINISHED + end],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert ran.returncode == (1 if end.startswith("raise") else 0), ran.stderr
    assert ("told" in ran.stderr) == end.startswith("raise")


@installed
def test_what_is_to_be_exported_is_traced_with_xla():
    x, w = arrays()

    def exported(library):
        with backend.use(library=library):
            apply = ops.conv((6, 5), (3, 3), (8, 16)).apply
            return jax.export.export(jax.jit(apply))(x, w).serialize()

    assert exported("xla")
    with pytest.raises(ValueError, match="custom calls"):
        exported("onednn")
