"""Convolutions by oneDNN, the library of Intel's that PyTorch computes its own with.

`pip install vnets[onednn]` brings the library, for Linux on x86; nothing is compiled.
XLA calls it by its foreign function interface (FFI): the handler is a Python function
that finds the primitive for the shapes at hand, made once, and runs it. Images are
[B, H, W, C] and kernels [kh, kw, I, O], of float32 or of bfloat16. Sums are float32.

oneDNN's C interface: https://uxlfoundation.github.io/oneDNN, version 3. XLA's:
`xla_ffi.py`.
"""

import atexit
import contextlib
import ctypes
import functools
import importlib.metadata
import threading
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vnets import extras
from vnets.backend import ONEDNN
from vnets.ops import xla_ffi
from vnets.types import Array

TARGET = "vnets_onednn_convolution"
MAJOR = 3  # of the library's interface
DTYPES = (jnp.float32, jnp.bfloat16)
ALIGNED = 64  # bytes, of an array in a layout of the library's own

# Numbers of oneDNN's dnnl_types.h.
CPU, IN_ORDER, ANY_LAYOUT, DIRECT = 1, 1, 1, 1
TRAINING = 64
SRC, DST, WEIGHTS, DIFF_SRC, DIFF_DST, DIFF_WEIGHTS = 1, 17, 33, 129, 145, 161
WEIGHTS_LAYOUT, DIFF_WEIGHTS_LAYOUT = 131, 132
# Of XLA's buffers -> of oneDNN's memory.
TYPES = {11: 3, 16: 2}  # float32, bfloat16

FORWARD, INPUT, KERNEL = range(3)  # what a call computes

QUIET = 1.0  # seconds without a call, after which none is expected

_run = threading.Lock()  # a primitive has its own room for a kernel, for one call
_quiet_from = 0.0  # by the monotonic clock


def convolve(
    x: Array, w: Array, padding: Sequence[tuple[int, int]], strides: Sequence[int]
) -> Array:
    """x [B, H, W, I] convolved with w [kh, kw, I, O]: [B, H', W', O] in float32.

    Args:
      x: float32 or bfloat16.
      w: of the same type.
      padding: (low, high) for each of H, W; not negative.
      strides: along H and W.

    Raises:
      ValueError: another number of channels in x than in w.
    """
    if x.shape[3] != w.shape[2]:
        raise ValueError(f"a kernel {w.shape} does not fit images {x.shape}")
    size = tuple(
        (n + sum(pads) - k) // stride + 1
        for n, k, pads, stride in zip(
            x.shape[1:3], w.shape[:2], padding, strides, strict=True
        )
    )
    shape = (x.shape[0], *size, w.shape[3])
    return _call(FORWARD, shape, jnp.float32, x, w, padding, strides)


def input_gradient(g: Array, w: Array, size, padding, strides) -> Array:
    """The gradient of `convolve` in x [B, *size, I], given g [B, H', W', O]: as g."""
    shape = (g.shape[0], *size, w.shape[2])
    return _call(INPUT, shape, g.dtype, g, w, padding, strides)


def kernel_gradient(x: Array, g: Array, kernel, padding, strides) -> Array:
    """The gradient of `convolve` in w [*kernel, I, O], given g: in float32."""
    shape = (*kernel, x.shape[3], g.shape[3])
    return _call(KERNEL, shape, jnp.float32, x, g, padding, strides)


def _call(kind, shape, dtype, a, b, padding, strides):
    _register()
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(shape, dtype))
    geometry = (*strides, *(low for low, _ in padding), *(high for _, high in padding))
    return call(a, b, plan=np.array((kind, *geometry), np.int64))


@functools.cache
def _register():
    _library()  # what is missing is said while a function is traced
    atexit.register(_finish)  # after JAX's own, so before it
    return xla_ffi.register(TARGET, _compute)


def _compute(first, second, result, plan: tuple[int, ...]) -> None:
    """Answers XLA; see `xla_ffi.register`."""
    global _quiet_from
    with _run:
        primitive = _primitive(plan, first.key, second.key, result.key)
        primitive(first.data, second.data, result.data)
    _quiet_from = time.monotonic() + QUIET


def _finish() -> None:
    """Waits for what is computed still: when Python has ended it answers no calls."""
    for array in jax.live_arrays():
        with contextlib.suppress(Exception):
            array.block_until_ready()
    while time.monotonic() < _quiet_from:  # where the result was dropped
        time.sleep(0.05)


def forget() -> None:
    """Frees the primitives; the next call of a shape makes its own again."""
    with _run:
        _primitive.cache_clear()


_Pointer = ctypes.c_void_p


class _Argument(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("memory", _Pointer)]


STATUSES = {1: "out of memory", 2: "invalid arguments", 3: "unimplemented"}


class _Library:
    """The loaded library, with one engine and one stream; a failed call raises.

    Attributes:
      made: what was made and is to be freed, with the names of the functions.
    """

    def __init__(self):
        self.made = []
        self.c = ctypes.CDLL(_path())
        self.c.dnnl_primitive_desc_query_md.restype = _Pointer
        self.c.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self.engine = self.make("engine_create", CPU, ctypes.c_size_t(0))
        self.stream = self.make("stream_create", self.engine, IN_ORDER)
        self.made = []  # these two stay

    def make(self, function: str, *args):
        """What dnnl_`function` writes into its first argument."""
        made = _Pointer()
        self.call(function, ctypes.byref(made), *args)
        self.made.append((function, made))
        return made

    def free(self, function: str, made) -> None:
        """Of what `make` of this function returned."""
        kind = function.partition("_create")[0]
        kind = "primitive_desc" if kind.endswith("primitive_desc") else kind
        self.call(f"{kind}_destroy", made)

    def call(self, function: str, *args) -> None:
        status = getattr(self.c, f"dnnl_{function}")(*args)
        if status:
            told = STATUSES.get(status, f"status {status}")
            raise RuntimeError(f"oneDNN's {function} failed: {told}")

    def layout(self, dims, dtype, strides=None):
        """Of an array in memory; without strides the library chooses."""
        many = (len(dims), _numbers(dims), dtype)
        if strides is None:
            return self.make("memory_desc_create_with_tag", *many, ANY_LAYOUT)
        return self.make("memory_desc_create_with_strides", *many, _numbers(strides))

    def memory(self, layout, address=None):
        return self.make("memory_create", layout, self.engine, _Pointer(address))

    def run(self, primitive, memories: dict) -> None:
        given = (_Argument * len(memories))(
            *(_Argument(number, memory.value) for number, memory in memories.items())
        )
        self.call("primitive_execute", primitive, self.stream, len(given), given)
        self.call("stream_wait", self.stream)


def _path() -> str:
    """Where the package keeps the library; it has no module to import."""
    extras.need_package(ONEDNN)
    name = f"libdnnl.so.{MAJOR}"
    found = importlib.metadata.files(ONEDNN) or ()
    paths = [str(file.locate()) for file in found if file.name == name]
    if not paths:
        raise RuntimeError(f"{ONEDNN} is installed, but without its {name}")
    return paths[0]


def _numbers(values):
    return (ctypes.c_int64 * len(values))(*values)


@functools.cache
def _library() -> _Library:
    return _Library()


def _images(dnn: _Library, key):
    """The layout of images [B, H, W, C]; oneDNN names axes in the order B, C, H, W."""
    dtype, (batch, height, width, channels) = key
    strides = (height * width * channels, 1, width * channels, channels)
    return dnn.layout((batch, channels, height, width), TYPES[dtype], strides)


class _Primitive:
    """A convolution or a gradient of it for arrays of given shapes.

    The kernel is in a layout of the library's own: it is copied into that layout before
    the call, or out of it.
    """

    made: Sequence[tuple] = ()

    def __init__(self, plan, first, second, result):
        dnn = self.dnn = _library()
        kind, *geometry = plan
        strides, low, high = (_numbers(geometry[i : i + 2]) for i in (0, 2, 4))
        x, w, g = {
            FORWARD: (first, second, result),
            INPUT: (result, second, first),
            KERNEL: (first, result, second),
        }[kind]
        height, width, inputs, outputs = w[1]
        dims = (outputs, inputs, height, width)
        images, gradients = _images(dnn, x), _images(dnn, g)
        plain = (1, outputs, width * inputs * outputs, inputs * outputs)
        ours = dnn.layout(dims, TYPES[w[0]], plain)
        around = (strides, _numbers((0, 0)), low, high)

        def forward(kernel):
            return dnn.make(
                "convolution_forward_primitive_desc_create",
                *(dnn.engine, TRAINING, DIRECT, images, kernel, None, gradients),
                *(*around, None),
            )

        chosen = dnn.layout(dims, TYPES[w[0]])
        like = forward(dnn.layout(dims, TYPES[x[0]]))
        if kind == FORWARD:
            description = like
        elif kind == INPUT:
            description = dnn.make(
                "convolution_backward_data_primitive_desc_create",
                *(dnn.engine, DIRECT, images, chosen, gradients, *around, like, None),
            )
        else:
            description = dnn.make(
                "convolution_backward_weights_primitive_desc_create",
                *(dnn.engine, DIRECT, images, chosen, None, gradients),
                *(*around, like, None),
            )
        asked = DIFF_WEIGHTS_LAYOUT if kind == KERNEL else WEIGHTS_LAYOUT
        theirs = _Pointer(dnn.c.dnnl_primitive_desc_query_md(description, asked, 0))
        self.room = _aligned(dnn.c.dnnl_memory_desc_get_size(theirs))
        own = dnn.memory(theirs, self.room.ctypes.data)
        x_memory, g_memory, w_memory = map(dnn.memory, (images, gradients, ours))
        self.main = dnn.make("primitive_create", description)
        numbers = {
            FORWARD: (SRC, WEIGHTS, DST),
            INPUT: (DIFF_SRC, WEIGHTS, DIFF_DST),
            KERNEL: (SRC, DIFF_WEIGHTS, DIFF_DST),
        }[kind]
        self.memories = dict(zip(numbers, (x_memory, own, g_memory), strict=True))
        self.given = {
            FORWARD: (x_memory, w_memory, g_memory),
            INPUT: (g_memory, w_memory, x_memory),
            KERNEL: (x_memory, g_memory, w_memory),
        }[kind]
        self.last = kind == KERNEL
        pair = (theirs, ours) if self.last else (ours, theirs)
        copy = dnn.make(
            "reorder_primitive_desc_create",
            *(pair[0], dnn.engine, pair[1], dnn.engine, None),
        )
        self.copy = dnn.make("primitive_create", copy)
        ends = (own, w_memory) if self.last else (w_memory, own)
        self.copied = dict(zip((SRC, DST), ends, strict=True))
        self.made, dnn.made = dnn.made, []

    def __del__(self):
        for function, made in reversed(self.made):
            self.dnn.free(function, made)

    def __call__(self, *addresses: int) -> None:
        dnn = self.dnn
        for memory, address in zip(self.given, addresses, strict=True):
            dnn.call("memory_set_data_handle", memory, _Pointer(address))
        if not self.last:
            dnn.run(self.copy, self.copied)
        dnn.run(self.main, self.memories)
        if self.last:
            dnn.run(self.copy, self.copied)


_primitive = functools.lru_cache(maxsize=None)(_Primitive)


def _aligned(size: int) -> np.ndarray:
    """Bytes, from an address that the library's own layouts need."""
    room = np.zeros(size + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start : start + size]
