"""Trained nets from elsewhere as graphs of `vnets.compact`: chains of known steps.

    net = foreign.read_onnx("net.onnx")
    net = foreign.read_safetensors("net.safetensors", chain, (28, 28, 1))
    small = compact.shrink(foreign.pruned(compact.fold_norms(net.graph), 0.9))
    compact.save("net.vnz", compact.quantize(small, bits=8))

An ONNX file says what its net computes; a safetensors file holds weights alone, so that
the chain is given (`chain`). Weights are in PyTorch's layout, [O, I] and
[O, I, kh, kw], and become ours. What is no chain, or has another step, is refused by
name. Inputs are [B, H, W, C] here, where PyTorch has [B, C, H, W] (`channels_last`).
"""

from vnets.foreign.build import Foreign, channels_last
from vnets.foreign.chain import read_safetensors
from vnets.foreign.magnitude import pruned
from vnets.foreign.onnx_graph import read_onnx, run_onnx

__all__ = [
    "Foreign",
    "channels_last",
    "pruned",
    "read_onnx",
    "read_safetensors",
    "run_onnx",
]
