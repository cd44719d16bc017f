"""A strided convolution as one of stride 1, for products of patches, which have none.

Neighbouring inputs, as many as the stride along each axis, are stacked into channels: a
stride of s then is a step of one, and the kernel has ceil(k / s) taps.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from vnets.ops.linear import Pads, Pair
from vnets.ops.tiled import TiledConv
from vnets.types import Array

NONE = ((0, 0), (0, 0))


@dataclasses.dataclass(frozen=True)
class StridedConv:
    """x [B, H, W, I] convolved with w [kh, kw, I, O], by a convolution of stride 1.

    Attributes:
      inner: the convolution [B, H', W', th tw I] -> [B, H'', W'', O], not padded.
      size: H, W of the input.
      kernel: kh, kw.
      strides: along H and W.
      padding: (low, high) for each of H, W.
    """

    inner: Any
    size: Pair
    kernel: Pair
    strides: Pair
    padding: Pads

    def lift(self, x: Array) -> Array:
        blocks = folded_size(self.size, self.kernel, self.strides, self.padding)
        need = [n * s for n, s in zip(blocks, self.strides, strict=True)]
        padded = jnp.pad(
            x,
            (
                (0, 0),
                *(
                    (low, max(0, want - n - low))
                    for n, (low, _), want in zip(
                        self.size, self.padding, need, strict=True
                    )
                ),
                (0, 0),
            ),
        )[:, : need[0], : need[1]]
        (h, w), (sh, sw), (th, tw) = blocks, self.strides, self._stacked
        x = padded.reshape(-1, h, sh, w, sw, x.shape[-1])[:, :, :th, :, :tw]
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return self.inner.lift(x.reshape(-1, h, w, th * tw * x.shape[-1]))

    def apply(self, h: Array, w: Array) -> Array:
        (th, tw), (kh, kw) = self._stacked, self.kernel
        ah, aw = folded_kernel(self.kernel, self.strides)
        w = jnp.pad(w, ((0, ah * th - kh), (0, aw * tw - kw), (0, 0), (0, 0)))
        w = w.reshape(ah, th, aw, tw, *w.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
        return self.inner.apply(h, w.reshape(ah, aw, -1, w.shape[-1]))

    def lower(self, y: Array) -> Array:
        return self.inner.lower(y)

    @property
    def _stacked(self) -> tuple[int, ...]:
        return stacked(self.kernel, self.strides)


def stacked(kernel: Pair, strides: Pair) -> tuple[int, ...]:
    """Inputs that are stacked along each axis: as many as a tap may see."""
    return tuple(min(k, s) for k, s in zip(kernel, strides, strict=True))


def folded_kernel(kernel: Pair, strides: Pair) -> tuple[int, ...]:
    """Taps of the kernel of stride 1 along each axis."""
    return tuple(-(-k // s) for k, s in zip(kernel, strides, strict=True))


def folded_size(size: Pair, kernel: Pair, strides: Pair, padding: Pads):
    """H', W' of the stacked input: what the outputs see."""
    taps = folded_kernel(kernel, strides)
    axes = zip(size, kernel, strides, padding, taps, strict=True)
    return tuple((n + sum(pad) - k) // s + tap for n, k, s, pad, tap in axes)


def tiled(
    size: Pair, kernel: Pair, strides: Pair, padding: Pads
) -> TiledConv | StridedConv:
    """Any convolution as a product of the patches of single outputs.

    Args:
      size: H, W of the input.
      kernel: kh, kw.
      strides: along H and W.
      padding: (low, high) for each of H, W.
    """
    if strides == (1, 1):
        return TiledConv(size, kernel, padding, tile=1)
    inner_size = folded_size(size, kernel, strides, padding)
    inner = TiledConv(inner_size, folded_kernel(kernel, strides), NONE, tile=1)
    return StridedConv(inner, size, kernel, strides, padding)
