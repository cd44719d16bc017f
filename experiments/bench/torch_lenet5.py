"""The nets of `lenet5.py` in PyTorch, eager, in both memory layouts, for comparison.

Same shapes, initial values, KL, optimizer (fused Adam), resident data and precision.
PyTorch is imported where it is used: only this benchmark needs it.
"""

import functools
import importlib
import math
from types import ModuleType
from typing import Any

from experiments.bench import timing

LAYOUTS = ("NCHW", "channels_last")
KINDS = {
    "deterministic": ("point",) * 4,
    "variance": ("point", "point", "zero_mean", "point"),
    "LRT": ("gaussian",) * 4,
}
SHAPES = ((20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500))
VAR_FLOOR = LOG_FLOOR = 1e-16
MISSING = (
    "PyTorch is not installed, so nothing is compared with it: "
    "pip install -e '.[bench]' adds it"
)


def load() -> ModuleType:
    """PyTorch, confined to the benchmark's threads.

    Raises:
      BenchError: it is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise timing.BenchError(MISSING) from error
    torch.set_num_threads(timing.THREADS)
    return torch


def names(net: str) -> list[str]:
    """The cases of a net, one for each layout."""
    return [f"torch {net} {layout}" for layout in LAYOUTS]


def cases(split, batch: int, steps: int, n_train: int) -> dict[str, timing.Case]:
    """A case for each net and layout.

    Args:
      split: image uint8 [N, 28, 28, 1] and label [N], N = batch * steps.
      batch: B.
      steps: updates per call.
      n_train: size of the training set, which scales the KL.
    """
    return {
        name: timing.Case(
            functools.partial(_build, net, layout, split, batch, n_train),
            steps,
            ("torch",),
        )
        for net in KINDS
        for name, layout in zip(names(net), LAYOUTS, strict=True)
    }


def _build(net: str, layout: str, split, batch: int, n_train: int) -> timing.Thunk:
    torch = load()
    functional = torch.nn.functional
    torch.manual_seed(0)
    layers = [
        _layer(torch, kind, shape)
        for kind, shape in zip(KINDS[net], SHAPES, strict=True)
    ]
    parameters = [p for layer in layers for p in layer.values()]
    optimizer = torch.optim.Adam(parameters, 1e-3, fused=True)
    images = torch.from_numpy(split.image).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(split.label).long()
    order = torch.randperm(len(labels)).reshape(-1, batch)
    memory_format = (
        torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )

    def net_of(x):
        for number, layer in enumerate(layers):
            if number == 2:
                x = x.flatten(1)
            x = _forward(torch, layer, x)
            if number < 2:
                x = functional.max_pool2d(functional.relu(x), 2)
            elif number == 2:
                x = functional.relu(x)
        return x

    def step(rows):
        x = images[rows].to(torch.float32, memory_format=memory_format) / 255
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(net_of(x), labels[rows])
        terms = [_kl(torch, layer) for layer in layers if "log_var" in layer]
        (loss + sum(terms) / n_train).backward()
        optimizer.step()

    def thunk():
        for rows in order:
            step(rows)

    return thunk


def _layer(torch, kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    layer = {
        "scale" if kind == "zero_mean" else "mean": torch.empty(shape).uniform_(
            -bound, bound
        ),
        "bias": torch.zeros(shape[0]),
    }
    if kind == "gaussian":
        layer["log_var"] = torch.full(shape, -10.0)
    return {name: value.requires_grad_() for name, value in layer.items()}


def _forward(torch, layer: dict[str, Any], x):
    """Local reparameterization where the layer is noisy."""
    functional = torch.nn.functional
    linear = functional.conv2d if x.ndim == 4 else functional.linear
    bias = layer["bias"]
    if "scale" in layer:
        var = linear(x.square(), layer["scale"].square())
        shape = (1, -1) + (1,) * (var.ndim - 2)
        mean = bias.reshape(shape).expand_as(var)
    else:
        mean = linear(x, layer["mean"], bias)
        if "log_var" not in layer:
            return mean
        var = linear(x.square(), layer["log_var"].exp())
    return torch.addcmul(mean, (var + VAR_FLOOR).sqrt(), torch.randn_like(var))


def _kl(torch, layer: dict[str, Any]):
    """KL from the log-uniform prior, by the approximation of Molchanov et al. 2017."""
    functional = torch.nn.functional
    log_alpha = layer["log_var"] - (layer["mean"].square() + LOG_FLOOR).log()
    tail = 0.63576 * torch.sigmoid(-(1.87320 + 1.48695 * log_alpha))
    return (tail + 0.5 * functional.softplus(-log_alpha)).sum()
