"""Laws over drawn cases, where shapes, strides, pads, patterns and lengths vary.

The cases are the same in each run (`derandomize`): hypothesis draws them from the names
of the tests. A case that fails is shown at its smallest.
"""

import fnmatch
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jax import lax
from libraries import LIBRARIES

from vnets import compact, ops, plan, tree
from vnets.compact import streams as streams_
from vnets.compact.binary import Bytes
from vnets.compact.tables import MAX_BITS

# No limit of a single case's time: a compile takes what it takes.
fixed = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw):
    """Size, kernel, channels, strides and pads of one that has an output."""
    size, kernel = draw(pairs(1, 7)), draw(pairs(1, 4))
    padding = draw(st.tuples(pairs(0, 3), pairs(0, 3)))
    channels, strides = draw(pairs(1, 5)), draw(pairs(1, 3))
    axes = zip(size, kernel, padding, strict=True)
    assume(all(n + sum(pad) >= k for n, k, pad in axes))
    return size, kernel, channels, strides, padding


@fixed(max_examples=6)
@given(convolutions(), st.integers(1, 3))
def test_every_form_is_the_convolution(case, tile):
    """In value and in both gradients."""
    size, kernel, channels, strides, padding = case
    forms = [
        *(ops.DirectConv(padding, strides, library) for library in LIBRARIES),
        ops.tiled(size, kernel, strides, padding),
        ops.conv(size, kernel, channels, strides, padding),
    ]
    if strides == (1, 1):
        forms.append(ops.TiledConv(size, kernel, padding, tile))
    draw = np.random.default_rng(0)
    shapes = (2, *size, channels[0]), (*kernel, *channels)
    x, w = (draw.normal(size=shape).astype(np.float32) for shape in shapes)

    def native(x, w):
        return lax.conv_general_dilated(
            x, w, strides, padding, dimension_numbers=ops.DIMENSIONS
        )

    @jax.jit
    def all_of_them(x, w):
        found = []
        for form in (
            native,
            *(lambda x, w, op=op: op.lower(op.apply(op.lift(x), w)) for op in forms),
        ):
            y, pull = jax.vjp(form, x, w)
            g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
            found.append((y, *pull(g)))
        return found

    wanted, *found = all_of_them(x, w)
    for op, values in zip(forms, found, strict=True):
        for one, other in zip(values, wanted, strict=True):
            assert one.shape == other.shape, op
            scale = max(1, np.abs(other).max(initial=0))
            np.testing.assert_allclose(
                one, other, rtol=1e-5, atol=1e-5 * scale, err_msg=str(op)
            )


NUMBERS = st.one_of(
    st.integers(0, 3), st.integers(0, 300), st.integers(0, 2**MAX_BITS - 1)
)


@fixed(max_examples=60)
@given(st.lists(st.lists(NUMBERS, max_size=40), max_size=6))
def test_streams_come_back(streams):
    writer = streams_.Writer()
    kinds = [streams_.KINDS[i % len(streams_.KINDS)] for i in range(len(streams))]
    for kind, stream in zip(kinds, streams, strict=True):
        writer.write(kind, np.asarray(stream, np.int64))
    declared = list(zip(kinds, map(len, streams), strict=True))
    reader = streams_.Reader(Bytes(writer.content()), declared)
    for stream in streams:
        found = [n for part in reader.parts(len(stream)) for n in part.tolist()]
        assert found == stream
    reader.finish()


@fixed(max_examples=100)
@given(st.lists(st.integers(-(2**30), 2**30 - 1)))
def test_signs_come_back(numbers):
    folded = streams_.zigzag(np.asarray(numbers, np.int64))
    assert folded.size == 0 or folded.min() >= 0
    assert streams_.unzigzag(folded).tolist() == numbers


# Few letters, so that names share parts; vectors and layers that are called as they.
PART = st.one_of(
    st.text("ab1", min_size=1, max_size=3), st.sampled_from(["bias", "scale"])
)
NAME = st.lists(PART, min_size=1, max_size=3).map("/".join)
PATTERN = st.text("ab1/*?", min_size=1, max_size=6)


@st.composite
def loosened(draw, text):
    """A pattern that a text must match: some of its letters are "?", a stretch "*"."""
    letters = [draw(st.sampled_from([c, c, "?"])) for c in text]
    if draw(st.booleans()):
        start, end = sorted(draw(pairs(0, len(text))))
        letters[start:end] = "*"
    return "".join(letters)


def likely(name):
    """Whether shells would say so: "*" is any text, "?" one letter."""

    def says(pattern):
        words = {"*": ".*", "?": "."}
        return bool(re.fullmatch("".join(words.get(c, c) for c in pattern), name))

    return says


@fixed(max_examples=100)
@given(st.data(), NAME)
def test_a_loosened_name_matches_itself_as_what_it_is(data, name):
    pattern = data.draw(loosened(name))
    assert likely(name)(pattern)
    last = pattern.rpartition("/")[2]
    of_vectors = any(
        last.endswith(v) and fnmatch.fnmatchcase(v, last) for v in tree.VECTORS
    )
    assert tree.fits(pattern, name, vector=of_vectors)
    exact = pattern == name
    assert tree.fits(pattern, name, vector=not of_vectors) == (exact and of_vectors)
    for vector in (False, True):  # no pattern of another name gets in
        assert not tree.fits(f"x{pattern}", name, vector)


@fixed(max_examples=100)
@given(st.one_of(PATTERN, NAME), st.lists(NAME, min_size=1, max_size=6, unique=True))
def test_what_is_covered_is_under_a_name_that_matches(pattern, leaves):
    def above(leaf):
        parts = leaf.split("/")
        return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]

    wanted = {x for x in leaves if any(likely(name)(pattern) for name in above(x))}
    if wanted:
        assert tree.chosen([pattern], leaves, "these") == wanted
        assert tree.chosen([pattern, "*"], leaves, "these") == set(leaves)
    else:
        with pytest.raises(ValueError, match="these: nothing is called"):
            tree.chosen([pattern], leaves, "these")


@st.composite
def sparse_graphs(draw):
    """Convolutions and pooling, then dense layers; some layers dead, some full."""
    shape = (*draw(pairs(5, 7)), draw(st.integers(1, 3)))
    steps, kinds = [], st.sampled_from(plan.ACTIVATIONS)
    for number in range(draw(st.integers(0, 2))):
        kernel, strides = draw(pairs(1, 3)), draw(pairs(1, 2))
        padding = draw(st.sampled_from(["SAME", "VALID"]))
        units = draw(st.integers(1, 5))
        steps.append(plan.Conv(f"conv{number}", units, kernel, strides, padding))
        steps.append(plan.Activation(draw(kinds)))
        if draw(st.booleans()):
            steps.append(plan.WindowMaxPool(2, draw(st.integers(1, 2))))
    steps.append(plan.Flatten())
    for number in range(draw(st.integers(1, 3))):
        steps.append(plan.Activation(draw(kinds)))
        steps.append(plan.Dense(f"dense{number}", draw(st.integers(1, 6))))
    chain = tuple(steps)
    try:
        shapes = compact.graph.kernel_shapes(chain, shape)
    except ValueError:  # a kernel larger than what is left
        assume(False)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kernels, biases = {}, {}
    for name, kernel in shapes.items():
        share = draw(st.sampled_from([0.0, 0.1, 0.4, 1.0]))
        weights = rng.normal(size=kernel) * (rng.random(kernel) < share)
        kernels[name] = (weights / math.sqrt(math.prod(kernel[:-1]))).astype("f4")
        biases[name] = (rng.normal(size=kernel[-1]) * rng.integers(0, 2)).astype("f4")
    return compact.Graph(chain, shape, kernels, biases)


@fixed(max_examples=30)
@given(sparse_graphs())
def test_any_sparse_net_is_the_same_when_it_is_cut_and_filed(graph):
    """By dense and by sparse products; the file's to the bit of its own graph."""
    x = np.random.default_rng(0).random((3, *graph.shape)).astype(np.float32)
    wanted = compact.Predictor(graph, "dense")(x)
    small = compact.shrink(graph)
    filed = compact.quantize(graph, 8)
    held = compact.loads(compact.dumps(filed))
    scale = max(1e-3, np.abs(wanted).max())
    for one in (graph, small):
        for form in ("dense", "sparse"):
            found = compact.Predictor(one, form)(x)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * scale)
    assert sum(small.nonzeros().values()) <= sum(graph.nonzeros().values())
    assert held.plan == filed.plan
    for name, layer in filed.graph().kernels.items():
        np.testing.assert_array_equal(held.graph().kernels[name], layer)
        np.testing.assert_array_equal(
            held.graph().biases[name], filed.graph().biases[name]
        )
