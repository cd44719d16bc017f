"""Laws of the linear maps: every form computes the same function."""

import functools
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random
from libraries import LIBRARIES

from vnets import backend, ops
from vnets.ops import direct
from vnets.pooling import max_pool, relu_max_pool

# (size, kernel, padding, tile)
VALID = ((0, 0), (0, 0))
CONVS = [
    ((6, 6), (3, 3), VALID, 2),
    ((28, 28), (5, 5), VALID, 2),
    ((7, 5), (3, 3), ((1, 1), (1, 1)), 2),
    ((7, 5), (3, 3), ((1, 1), (1, 1)), 3),
    ((5, 8), (1, 1), VALID, 1),
    ((5, 8), (1, 1), VALID, 2),
    ((6, 7), (2, 2), VALID, 2),
    ((6, 7), (4, 2), ((1, 2), (0, 1)), 2),
    ((6, 7), (4, 2), ((1, 2), (0, 1)), 1),
    ((5, 5), (5, 5), VALID, 2),
    ((4, 4), (3, 5), ((0, 3), (4, 0)), 4),
    ((1, 9), (1, 3), ((0, 0), (1, 1)), 2),
    ((9, 1), (3, 3), ((1, 1), (1, 1)), 2),
]


def tensors(size, kernel, seed=0, inputs=3, outputs=4):
    rng = np.random.default_rng(seed)
    shapes = (2, *size, inputs), (*kernel, inputs, outputs)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def run(op, x, w):
    return op.lower(op.apply(op.lift(x), w))


def value_and_pullback(op):
    """Outputs and gradients for fixed, generic cotangents."""

    @jax.jit
    def f(x, w):
        y, pullback = jax.vjp(functools.partial(run, op), x, w)
        g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return y, pullback(g)

    return f


def close(a, b):
    """Equal up to the order of float32 sums of at most some hundred terms."""
    for got, want in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(
            got, want, rtol=1e-5, atol=1e-5 * max(1, np.abs(want).max())
        )


@pytest.mark.parametrize(("size", "kernel", "padding", "tile"), CONVS)
def test_tiles_compute_the_convolution(size, kernel, padding, tile):
    x, w = tensors(size, kernel)
    tiled = ops.TiledConv(size, kernel, padding, tile)
    native = ops.GeneralConv((1, 1), padding)
    close(value_and_pullback(tiled)(x, w), value_and_pullback(native)(x, w))


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 3))])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("features", [4, ops.WIDE])
def test_conv_is_the_convolution_in_either_form(padding, strides, features):
    size, kernel = (7, 8), (3, 4)
    x, w = tensors(size, kernel, outputs=features)
    expected = jax.lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=ops.DIMENSIONS
    )
    for form in ("by_shape", "native"):
        with backend.use(convolution=form):
            op = ops.conv(size, kernel, (3, features), strides, padding)
        assert isinstance(op, ops.GeneralConv) == (form == "native")
        close(jax.jit(functools.partial(run, op))(x, w), expected)


def test_the_tile_is_one_where_tiles_do_not_pay():
    assert ops.conv((8, 8), (3, 3), (3, ops.WIDE - 1)).tile == 2
    assert ops.conv((8, 8), (3, 3), (3, ops.WIDE)).tile == 1
    assert ops.conv((8, 8), (1, 1), (3, 4)).tile == 1


@pytest.mark.parametrize("library", ["xla", "onednn"])
def test_the_routine_is_taken_where_it_pays(library):
    def form(size, kernel, channels, padding="SAME"):
        sizes = (size,) * 2, (kernel,) * 2
        with backend.use(library=library):
            return type(ops.conv(*sizes, channels, padding=padding))

    assert form(8, 3, (16, 32)) is ops.DirectConv
    assert form(8, 1, (16, 32)) is ops.TiledConv  # a matrix product as it is
    assert form(8, 3, (16, 256)) is ops.DirectConv
    else_tiled = ops.DirectConv if library == "onednn" else ops.TiledConv
    assert form(8, 3, (1, 32)) is else_tiled  # few channels
    assert form(7, 3, (16, 256)) is else_tiled  # a wide product
    assert form(2, 3, (16, 32)) is else_tiled  # mostly padding
    assert form(12, 5, (20, 50), "VALID") is else_tiled  # a large input


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("padding", [VALID, ((1, 1), (2, 0)), ((0, 3), (2, 2))])
def test_the_routine_computes_the_convolution(padding, library):
    x, w = tensors((6, 5), (4, 3))
    ours = ops.DirectConv(padding, library=library)
    native = ops.GeneralConv((1, 1), padding)
    close(value_and_pullback(ours)(x, w), value_and_pullback(native)(x, w))


@pytest.mark.parametrize("form", ["taps", "together"])
@pytest.mark.parametrize(
    ("images", "blocks", "made"), [(6, 1, 1), (6, 2, 2), (6, 4, 6), (11, 2, 1)]
)
def test_the_gradient_of_a_kernel_is_a_sum_over_blocks(form, images, blocks, made):
    """Blocks have equal lengths. Six images cannot make four: they make six. Eleven
    cannot make two to eight: they stay one."""
    kernel, op = (3, 2), ops.DirectConv(((1, 0), (0, 2)))
    rng = np.random.default_rng(0)
    x, g = (
        jnp.asarray(rng.normal(size=(images, *shape)), jnp.float32)
        for shape in ((5, 6, 3), (4, 7, 4))
    )
    size = 4 * (kernel[1] * x.size + kernel[0] * g.size)
    native = functools.partial(ops.GeneralConv((1, 1), op.padding).apply, x)
    (wanted,) = jax.vjp(native, jnp.zeros((*kernel, 3, 4)))[1](g)
    with (
        mock.patch.object(direct, "NARROW", 0 if form == "taps" else 12),
        mock.patch.object(direct, "BLOCK", -(-size // blocks)),
    ):
        assert direct._blocks(images, size // images) == made
        close(direct._products(op, kernel, x, g), wanted)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_routine_sums_in_float32_and_keeps_what_is_wider(library):
    padding = ((1, 1), (1, 1))
    x, w = tensors((5, 6), (3, 3))
    op = ops.DirectConv(padding, library=library)
    halves = op.apply(*(a.astype(jnp.bfloat16) for a in (x, w)))
    assert halves.dtype == jnp.float32
    with jax.enable_x64(True):
        x, w = (jnp.asarray(np.asarray(a), jnp.float64) / 3 for a in (x, w))
        found = op.apply(x, w)
        native = ops.GeneralConv((1, 1), padding).apply(x, w)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, native, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("strides", "products"), [((1, 1), 1), ((2, 2), 9)])
def test_its_gradients_in_a_loop_are_what_the_library_has(strides, products):
    """In images [B, H, W, C] and kernels [kh, kw, I, O], or they run as bare loops.

    The gradient of the kernel is a product for each tap, or one for all.
    """
    x, w = tensors((8, 8), (3, 3), inputs=8, outputs=8)
    op = ops.DirectConv(((1, 1), (1, 1)), strides)

    def step(w, _):
        y, pullback = jax.vjp(op.apply, x, w)
        x_bar, w_bar = pullback(y)
        return w - w_bar, x_bar.sum()

    compiled = jax.jit(lambda w: jax.lax.scan(step, w, length=3)).lower(w).compile()
    text = compiled.as_text().splitlines()
    lines = [line for line in text if " convolution(" in line]
    assert sum(" dot(" in line for line in text) == products
    labels = {re.search(r"dim_labels=(\S+)", line)[1].rstrip(",") for line in lines}
    assert len(lines) >= 2
    assert labels == {"b01f_01io->b01f"}


STRIDED = [
    # size, kernel, strides, padding
    ((7, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((7, 8), (3, 3), (2, 2), ((0, 1), (0, 1))),
    ((9, 9), (7, 7), (2, 2), ((3, 3), (3, 3))),
    ((6, 7), (1, 1), (2, 2), VALID),
    ((8, 9), (2, 5), (3, 2), ((0, 0), (2, 2))),
    ((5, 12), (3, 1), (1, 4), VALID),
]


@pytest.mark.parametrize(("size", "kernel", "strides", "padding"), STRIDED)
def test_strides_in_every_form(size, kernel, strides, padding):
    x, w = tensors(size, kernel)
    native = value_and_pullback(ops.GeneralConv(strides, padding))(x, w)
    patches = ops.tiled(size, kernel, strides, padding)
    assert isinstance(patches, ops.StridedConv)
    close(value_and_pullback(patches)(x, w), native)
    for library in LIBRARIES:
        direct = ops.DirectConv(padding, strides, library)
        close(value_and_pullback(direct)(x, w), native)


def test_strides_are_the_routine_s_but_for_kernels_of_a_pixel():
    def form(kernel, strides):
        return type(ops.conv((8, 8), kernel, (3, 4), strides))

    assert form((3, 3), (2, 2)) is ops.DirectConv
    assert form((1, 3), (2, 1)) is ops.DirectConv
    assert form((1, 1), (2, 2)) is ops.StridedConv
    assert form((1, 1), (1, 1)) is ops.TiledConv


@pytest.mark.parametrize(
    "op",
    [
        ops.DENSE,
        ops.GeneralConv((2, 1), ((1, 0), (0, 1))),
        ops.DirectConv(((1, 0), (0, 1))),
        ops.DirectConv(((1, 0), (0, 1)), (2, 1)),
        ops.tiled((5, 6), (3, 2), (2, 2), ((1, 0), (0, 1))),
        ops.TiledConv((5, 6), (3, 2), ((1, 0), (0, 1)), 2),
    ],
)
def test_lift_commutes_with_squaring(op):
    """What lets one lift serve both moments."""
    x, _ = tensors((5, 6), (3, 2))
    np.testing.assert_array_equal(jnp.square(op.lift(x)), op.lift(jnp.square(x)))


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (2, 4, 5, 3)])
def test_dense_is_a_matrix_product(shape):
    keys = random.split(random.key(0), 2)
    x, w = random.normal(keys[0], shape), random.normal(keys[1], (3, 6))
    plain = jax.vjp(lambda x, w: jnp.einsum("...i,io->...o", x, w), x, w)
    ours = jax.vjp(functools.partial(run, ops.DENSE), x, w)
    close(ours[0], plain[0])
    g = random.normal(random.key(1), plain[0].shape)
    close(ours[1](g), plain[1](g))


SAME = ((1, 1), (1, 1))
FORMS = {
    "tiled": ops.TiledConv((5, 6), (3, 3), SAME, 2),
    "direct": ops.DirectConv(SAME),
    "direct, strided": ops.DirectConv(SAME, (2, 2)),
    **{
        f"onednn{name}": ops.DirectConv(SAME, strides, "onednn")
        for name, strides in {"": (1, 1), ", strided": (2, 2)}.items()
        if "onednn" in LIBRARIES
    },
    "tiled, strided": ops.tiled((5, 6), (3, 3), (2, 2), SAME),
    "native": ops.GeneralConv((1, 1), SAME),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("over", ["x", "w", "both"])
def test_vmap_equals_a_loop(form, over):
    size, kernel, op = (5, 6), (3, 3), FORMS[form]
    many = [tensors(size, kernel, seed) for seed in (0, 1)]
    xs, ws = (jnp.stack(part) for part in zip(*many, strict=True))
    f = value_and_pullback(op)
    if over == "both":
        together = jax.jit(jax.vmap(f))(xs, ws)
        apart = [f(x, w) for x, w in zip(xs, ws, strict=True)]
    elif over == "x":
        together = jax.jit(jax.vmap(f, (0, None)))(xs, ws[0])
        apart = [f(x, ws[0]) for x in xs]
    else:
        together = jax.jit(jax.vmap(f, (None, 0)))(xs[0], ws)
        apart = [f(xs[0], w) for w in ws]
    close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart))


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ("same", "SAME, VALID or pairs, not 'same'"),
        (((1, 1),), r"\(low, high\) pair for H and W"),
        (((1, 1, 1), (1, 1)), r"\(low, high\) pair for H and W"),
        ("VALID", r"kernel \(9, 3\) is larger"),
    ],
)
def test_impossible_convolutions_are_refused(padding, message):
    with pytest.raises(ValueError, match=message):
        ops.conv((5, 5), (9, 3), (3, 4), padding=padding)


# Pooling (in pooling.py, chosen by the backend like the convolutions).


def pool_and_pullback(pool, form):
    """Compiled anew for each form."""

    def f(x):
        y, pullback = jax.vjp(lambda x: pool(x), x)
        g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return y, pullback(g)[0]

    def traced(x):
        with backend.use(convolution=form):
            return jax.jit(lambda x: f(x))(x)

    return traced


POOLS = {"relu": (relu_max_pool, nn.relu), "none": (max_pool, lambda x: x)}


@pytest.mark.parametrize("activation", POOLS)
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (24, 24), (2, 3), (1, 4)])
def test_pooling_is_the_activation_of_the_maximum(size, activation):
    pool, activate = POOLS[activation]
    x = random.normal(random.key(0), (3, *size, 5))  # no ties
    y, x_bar = pool_and_pullback(pool, "by_shape")(x)
    np.testing.assert_array_equal(y, activate(nn.max_pool(x, (2, 2), (2, 2))))
    native, native_bar = pool_and_pullback(pool, "native")(x)
    np.testing.assert_array_equal(y, native)
    np.testing.assert_array_equal(x_bar, native_bar)


@pytest.mark.parametrize("pool", [relu_max_pool, max_pool])
def test_of_equal_maxima_the_first_gets_the_gradient(pool):
    x = jnp.ones((1, 2, 2, 1), jnp.float32)
    slopes = jax.grad(lambda x: pool(x).sum())(x)
    np.testing.assert_array_equal(slopes.ravel(), [1, 0, 0, 0])
    for first, second in ((0, 1), (0, 3), (1, 2), (1, 3), (2, 3)):
        values = np.zeros(4, np.float32)
        values[[first, second]] = 2.0
        slopes = jax.grad(lambda x: pool(x).sum())(values.reshape(1, 2, 2, 1))
        expected = np.zeros(4)
        expected[first] = 1
        np.testing.assert_array_equal(slopes.ravel(), expected)


def test_no_gradient_where_nothing_is_positive():
    for value in (0.0, -1.0):
        x = jnp.full((1, 4, 4, 2), value, jnp.float32)
        slopes = jax.grad(lambda x: relu_max_pool(x).sum())(x)
        assert not np.any(slopes)


def one_pixel_at_a_time(strides, pads):
    """The convolution as a sum of products, one for each place of the kernel."""

    def f(x, w):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        rows, columns = (
            (n - k) // stride * stride + 1
            for n, k, stride in zip(x.shape[1:3], w.shape[:2], strides, strict=True)
        )
        y = jnp.zeros(())
        for i, j in np.ndindex(*w.shape[:2]):
            seen = x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
            y = y + seen @ w[i, j]
        return y

    return f


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("pads", [((3, 1), (3, 1)), ((4, 0), (4, 0)), ((0, 4), (3, 1))])
def test_pads_may_be_wider_than_the_kernel(pads, strides):
    """XLA:CPU reads beyond the images where a gradient's axis begins with a pad below 0
    and ends with one above."""
    x, w = tensors((6, 7), (3, 3))
    y, pullback = jax.vjp(one_pixel_at_a_time(strides, pads), x, w)
    g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    wanted = y, pullback(g)
    forms = [ops.GeneralConv(strides, pads), ops.tiled((6, 7), (3, 3), strides, pads)]
    forms += [ops.DirectConv(pads, strides, library) for library in LIBRARIES]
    for form in forms:
        close(value_and_pullback(form)(x, w), wanted)


def test_transposed_pads_may_be_wider_than_the_kernel():
    x, w = tensors((4, 3), (3, 3))
    pads = ((3, 1), (3, 1))
    holed = jnp.zeros((2, 7, 5, 3)).at[:, ::2, ::2].set(x)
    wanted, pullback = jax.vjp(one_pixel_at_a_time((1, 1), pads), holed, w)
    g = jnp.cos(jnp.arange(wanted.size, dtype=jnp.float32)).reshape(wanted.shape)
    x_bar, w_bar = pullback(g)
    form = ops.TransposedConv((2, 2), pads, (1, 1))
    close(value_and_pullback(form)(x, w), (wanted, (x_bar[:, ::2, ::2], w_bar)))


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("pads", [((-1, 1), (0, -2)), ((-1, 2), (-2, 1))])
def test_pads_below_0_cut_the_input(pads, strides):
    x, w = tensors((8, 7), (3, 3), inputs=8)
    low, high = ((-n if n < 0 else 0 for n in side) for side in zip(*pads, strict=True))
    (top, left), (bottom, right) = low, high
    positive = tuple(tuple(max(n, 0) for n in pair) for pair in pads)

    def cut(x, w):
        x = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
        return one_pixel_at_a_time(strides, positive)(x, w)

    y, pullback = jax.vjp(cut, x, w)
    g = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    for form in (
        ops.conv((8, 7), (3, 3), (8, 4), strides, pads),
        ops.GeneralConv(strides, pads),
    ):
        close(value_and_pullback(form)(x, w), (y, pullback(g)))


def test_the_routine_takes_no_pads_below_0():
    with pytest.raises(ValueError, match="padding must be 0 or more"):
        ops.DirectConv(((0, -2), (1, 1)))


def test_an_unknown_library_is_refused():
    with pytest.raises(ValueError, match="unknown library 'oneDNN'; choose from"):
        ops.DirectConv(VALID, library="oneDNN")
