"""The linear maps that an estimator applies to both moments of a weight.

An op is `lower(apply(lift(x), w))`:

    lift   what is shared by all weights: x itself, or the patches of a convolution
    apply  the linear map on lifted inputs; linear in both arguments. The weights are
           rounded to the precision of the inputs, the sums are float32
    lower  from the layout that is fastest to the ordinary one; moves values only

Since lift only copies values, lift(x)^2 = lift(x^2): the variance of a pre-activation
is `apply(lift(x)^2, var)`, with the patches made once for both moments.

All forms of a convolution compute the same function. `conv` chooses: on a CPU by shape
and strides between the library's routine (`direct`) and products of patches (`tiled`),
elsewhere the compiler's own. What is not a plain 2-D convolution is in `native`.
"""

import math
from collections.abc import Sequence

from jax import lax

from vnets import backend, renamed
from vnets.ops.direct import DirectConv
from vnets.ops.linear import (
    DENSE,
    DIMENSIONS,
    Dense,
    General,
    Pads,
    Pair,
    matmul,
)
from vnets.ops.native import GeneralConv, PaddedConv, TransposedConv
from vnets.ops.strided import StridedConv, tiled
from vnets.ops.tiled import TiledConv

__all__ = [
    "DENSE",
    "DIMENSIONS",
    "ConvOp",
    "Dense",
    "DirectConv",
    "General",
    "GeneralConv",
    "PaddedConv",
    "StridedConv",
    "TiledConv",
    "TransposedConv",
    "conv",
    "matmul",
    "tiled",
]

ConvOp = GeneralConv | DirectConv | StridedConv | TiledConv

WIDE = 64  # from this many output channels on, tiles only add multiplications
# oneDNN's routine is the faster one for every kernel of more than a pixel. XLA's is not
# for few input channels, nor on maps so small that most of a kernel sees padding. Where
# outputs are many, a product of patches hardly notices its copies: there the maps must
# be larger. XLA's gradient costs by the size of the input, which must not be much
# larger than the output. The bounds are from single trials of the layers of VGG,
# LeNet-5 and ResNet-50 on one processor, and of WhitenedCNN on another; results/bench
# measures whole steps.
DIRECT_INPUTS = 8
DIRECT_OUTPUTS = 128
DIRECT_SIZE = 4
DIRECT_WIDE_SIZE = 8
DIRECT_GROWTH = 1.25


def conv(
    size: Pair,
    kernel: Pair,
    channels: Pair,
    strides: Pair = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> ConvOp:
    """The form of a convolution that the backend runs fastest.

    Args:
      size: H, W of the input.
      kernel: kh, kw.
      channels: I, O.
      strides: along H, W.
      padding: "SAME", "VALID" or (low, high) along H and W; below 0 it cuts.

    Raises:
      ValueError: a padding that is none of these, or a kernel larger than the input.
    """
    size, kernel, strides = tuple(size), tuple(kernel), tuple(strides)
    pads = _padding(size, kernel, strides, padding)
    if any(n + sum(p) < k for n, p, k in zip(size, pads, kernel, strict=True)):
        raise ValueError(f"kernel {kernel} is larger than the padded input {size}")
    cuts = any(n < 0 for pair in pads for n in pair)
    if cuts or backend.forms().convolution == "native":
        return GeneralConv(strides, pads)
    if strides == (1, 1):
        return _by_shape(size, kernel, channels, pads)
    if math.prod(kernel) > 1:
        return DirectConv(pads, strides, backend.forms().library)
    return tiled(size, kernel, strides, pads)  # a product of every so many pixels


def _by_shape(size: Pair, kernel: Pair, channels: Pair, pads: Pads):
    """The fastest form of stride 1 on a CPU."""
    inputs, features = channels
    outputs = TiledConv(size, kernel, pads, tile=1).outputs
    least = DIRECT_SIZE if features <= DIRECT_OUTPUTS else DIRECT_WIDE_SIZE
    library = backend.forms().library
    fits_xla = (
        inputs >= DIRECT_INPUTS
        and min(outputs) >= least
        and math.prod(size) <= DIRECT_GROWTH * math.prod(outputs)
    )
    if math.prod(kernel) > 1 and (library == "onednn" or fits_xla):
        return DirectConv(pads, library=library)
    tile = 2 if features < WIDE and math.prod(kernel) > 1 else 1
    return TiledConv(size, kernel, pads, tile)


def _padding(size, kernel, strides, padding):
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding must be SAME, VALID or pairs, not {padding!r}")
        return tuple(lax.padtype_to_pads(size, kernel, strides, padding))
    if len(padding) != 2 or any(len(pair) != 2 for pair in padding):
        raise ValueError(
            f"padding must be a (low, high) pair for H and W, not {padding}"
        )
    return tuple((int(low), int(high)) for low, high in padding)


__getattr__ = renamed.getter("vnets.ops")
