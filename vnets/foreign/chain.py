"""A chain in words, and the weights that a safetensors file has for it.

    conv1 relu max_pool(2) conv2(stride=2,padding=1) bn2 relu flatten fc1 relu fc2

A word is a layer, by the name that its tensors have before ".weight", or a step. What a
layer is, its tensors say: [O, I] dense, [O, I, kh, kw] a convolution, [C, 1, kh, kw] on
C channels a depthwise one, [C] with running statistics batch normalization, [C] without
layer normalization. Options and their defaults are PyTorch's: stride=1, padding=0,
eps=1e-5; so is gelu, which is not by tanh.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vnets import extras
from vnets.foreign.build import Builder, Ending, Foreign
from vnets.plan import Shape

ACTIVATIONS = {
    **{n: n for n in ("relu", "leaky_relu", "tanh", "abs", "softplus")},
    **{"sigmoid": "sigmoid", "silu": "silu", "gelu": "gelu_erf", "gelu_tanh": "gelu"},
}
POOLS = {"max_pool": "max", "mean_pool": "mean"}
WORDS = (*ACTIVATIONS, *POOLS, "global_mean_pool", "flatten", "softmax")
TOKEN = re.compile(r"\s*([\w./-]+)(?:\(([^()]*)\))?(?=\s|\Z)")
CONVOLUTION = {"stride": 1, "padding": 0}
IDLE = "num_batches_tracked"  # counted by batch normalization, and not used


def read_safetensors(path: Path | str, chain: str, shape: Shape) -> Foreign:
    """A net whose weights are a file's.

    Args:
      path: of the file, *.safetensors.
      chain: the net in words; without any the error tells the layers that there are.
      shape: of one example, [H, W, C] or [I].

    Raises:
      MissingExtra: safetensors is not installed.
      ValueError: a chain that the file does not fit, or that leaves weights out.
    """
    tensors = extras.need("safetensors.numpy").load_file(path)
    return build(tensors, chain, shape)


def build(tensors: Mapping[str, np.ndarray], chain: str, shape: Shape) -> Foreign:
    """A net of named arrays; see `read_safetensors`."""
    held = _Held(tensors)
    words = _words(chain)
    if not words:
        raise ValueError(f"weights alone are no net: give the chain. {held}")
    builder, ending = Builder(shape), ""
    for word, options in words:
        if ending:
            raise ValueError(f"{word} comes after softmax, which is the last word")
        if word in held.layers and word in WORDS:
            raise ValueError(f"{word} is a step and a layer of the file; rename it")
        if word in held.layers:
            _layer(builder, word, held.take(word), options)
        elif word in POOLS:
            _pool(builder, word, options)
        elif word in WORDS:
            _no_more(word, options)
            ending = _step(builder, word)
        else:
            raise ValueError(f"{word} is no step, of {list(WORDS)}. {held}")
    if held.layers:
        raise ValueError(f"the chain leaves layers out. {held}")
    return Foreign(builder.graph(), ending)


class _Held:
    """The tensors of each layer; those that were not taken yet."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.layers: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in tensors.items():
            layer, _, part = name.rpartition(".")
            if part != IDLE:
                self.layers.setdefault(layer or name, {})[part] = tensor

    def take(self, layer: str) -> dict[str, np.ndarray]:
        return self.layers.pop(layer)

    def __str__(self) -> str:
        shown = ", ".join(
            f"{layer} {list(parts.get('weight', next(iter(parts.values()))).shape)}"
            for layer, parts in self.layers.items()
        )
        return f"Layers of the file that are not in it: {shown or 'none'}"


def _words(chain: str) -> list[tuple[str, dict[str, float]]]:
    """Each word with its options; a number without a name has the key "0", "1"."""
    found, at = [], 0
    chain = re.sub(r"#.*", "", chain).strip()
    while at < len(chain):
        match = TOKEN.match(chain, at)
        if not match:
            raise ValueError(
                f"the chain cannot be read from {chain[at : at + 30]!r} on"
            )
        word, given = match.groups()
        options: dict[str, float] = {}
        for place, one in enumerate(filter(None, (given or "").split(","))):
            key, equals, value = one.rpartition("=")
            try:
                options[key.strip() if equals else str(place)] = float(value)
            except ValueError:
                raise ValueError(f"{word}({given}): {value!r} is no number") from None
        found.append((word, options))
        at = match.end()
    return found


def _layer(builder: Builder, name: str, parts: dict, options: dict) -> None:
    weight, bias = parts.pop("weight", None), parts.pop("bias", None)
    shape = () if weight is None else weight.shape
    mean, var = parts.pop("running_mean", None), parts.pop("running_var", None)
    if parts or (weight is None and mean is None) or (mean is None) != (var is None):
        has = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
        there = [*parts, *(k for k, v in has.items() if v is not None)]
        raise ValueError(f"{name} is no layer that is known; it has {there}")
    if mean is not None:
        epsilon = options.pop("eps", 1e-5)
        scale = np.ones_like(mean) if weight is None else weight
        shift = np.zeros_like(mean) if bias is None else bias
        builder.batch_norm(name, scale, shift, mean, var, epsilon)
    elif len(shape) == 1:
        epsilon = options.pop("eps", 1e-5)
        shift = np.zeros(shape) if bias is None else bias
        builder.layer_norm(name, weight, shift, epsilon)
    elif len(shape) == 2:
        builder.dense(name, weight, bias)
    elif len(shape) == 4:
        stride, margin = (_whole(name, options, k, d) for k, d in CONVOLUTION.items())
        channels = builder.shape[-1]
        depthwise = shape[1] == 1 < channels == shape[0]
        groups = channels if depthwise else 1
        margins = ((margin, margin), (margin, margin))
        builder.convolution(name, weight, bias, (stride, stride), margins, groups)
    else:
        raise ValueError(f"{name}: a weight {list(shape)} is of no known layer")
    _no_more(name, options)


def _pool(builder: Builder, word: str, options: dict) -> None:
    size = _whole(word, options, "0", 0) or _whole(word, options, "size", 0)
    if not size:
        raise ValueError(f"{word} needs its size, as in {word}(2)")
    stride = _whole(word, options, "stride", size)
    margin = _whole(word, options, "padding", 0)
    _no_more(word, options)
    margins = ((margin, margin), (margin, margin))
    builder.pool(POOLS[word], (size, size), (stride, stride), margins)


def _step(builder: Builder, word: str) -> Ending:
    if word in ACTIVATIONS:
        builder.activation(ACTIVATIONS[word])
    elif word == "flatten":
        builder.flatten()
    elif word == "global_mean_pool":
        builder.global_mean()
    return "softmax" if word == "softmax" else ""


def _whole(word: str, options: dict, key: str, default: int) -> int:
    value = options.pop(key, default)
    if value != int(value) or value < 0:
        raise ValueError(f"{word}: {key} is a whole number, not {value:g}")
    return int(value)


def _no_more(word: str, options: dict) -> None:
    if options:
        raise ValueError(f"{word} takes no {', '.join(options)}")
