"""The nets of `workloads` in PyTorch, built from the same plans, for comparison.

Same shapes, KL, optimizer (fused Adam), resident data and precision, on the device
that JAX runs on. PyTorch is imported where it is used: only the benchmarks need it. The
forms are eager in either memory layout, and "compiled": channels last under
`torch.compile`.
"""

import functools
import importlib
import math
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax

from experiments.bench import timing
from experiments.bench.measuring import BenchError
from experiments.bench.workloads import COMPILED
from vnets import plan as steps

VAR_FLOOR = LOG_FLOOR = 1e-16
LOG_VAR = -10.0
MISSING = (
    "PyTorch is not installed, so nothing is compared with it: "
    "pip install -e '.[bench]' adds it"
)
ELSEWHERE = (
    "This PyTorch does not see the device that JAX runs on, so nothing is compared "
    "with it: two devices are no comparison"
)


def load() -> ModuleType:
    """PyTorch, confined to the benchmark's threads.

    Raises:
      BenchError: it is not installed, or not for the device that JAX runs on.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise BenchError(MISSING) from error
    if jax.default_backend() != "cpu" and not _on_gpu(torch):
        raise BenchError(ELSEWHERE)
    torch.set_num_threads(timing.THREADS)
    if _on_gpu(torch):
        # As XLA does by default: TF32 for float32, and the fastest of all algorithms.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return torch


def _on_gpu(torch) -> bool:
    return jax.default_backend() == "gpu" and torch.cuda.is_available()


def device_of(torch) -> str:
    """Where its tensors are: on the device that JAX runs on."""
    return "cuda" if _on_gpu(torch) else "cpu"


def wait(torch) -> None:
    """Until the device is done."""
    if _on_gpu(torch):
        torch.cuda.synchronize()


def build_product(edge: int, products: int, precision: str) -> timing.Ready:
    """A chain of square matrix products, ready to be timed."""
    torch = load()
    options = {"dtype": getattr(torch, precision), "device": device_of(torch)}
    a, b = (torch.randn(edge, edge, **options) / edge**0.5 for _ in range(2))

    def call():
        product = a
        for _ in range(products):
            product = product @ b
        wait(torch)

    return timing.Ready(call)


def build(
    plan: steps.Plan,
    shape: steps.Shape,
    kinds: Mapping[str, str],
    form: str,
    precision: str,
    split,
    batch: int,
    n_train: int,
) -> timing.Ready:
    """Training steps of a net, one for each batch of a split, ready to be timed.

    Args:
      plan: the net.
      shape: of an image, [H, W, C].
      kinds: noisy layer to "gaussian" or "variance".
      form: of `workloads.FORMS`.
      precision: "float32", or "bfloat16": by autocast, with variances in float32.
      split: image uint8 [N, H, W, C] and label [N], N a multiple of the batch.
      batch: B.
      n_train: size of the training set, which scales the KL.
    """
    torch = load()
    device = device_of(torch)
    torch.manual_seed(0)
    memory_format = torch.contiguous_format if form == "NCHW" else torch.channels_last
    net = _modules(torch)(plan, shape, kinds)
    net = net.to(device, memory_format=memory_format)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    images = torch.from_numpy(split.inputs).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.from_numpy(split.target).long().to(device)
    order = torch.randperm(len(labels), device=device).reshape(-1, batch)

    def objective(x, labels):
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = net(x)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        return loss + net.kl() / n_train

    if form == COMPILED:
        objective = torch.compile(objective)

    def step(rows):
        x = images[rows].to(torch.float32, memory_format=memory_format) / 255
        optimizer.zero_grad(set_to_none=True)
        objective(x, labels[rows]).backward()
        optimizer.step()

    def call():
        for rows in order:
            step(rows)
        wait(torch)

    seconds = None
    if form == COMPILED:
        began = time.perf_counter()
        step(order[0])
        wait(torch)
        seconds = time.perf_counter() - began
    return timing.Ready(call, seconds)


@functools.cache
def _modules(torch) -> Any:
    """The class of a net: (plan, shape, kinds) -> module on [B, C, H, W], with `kl`."""
    nn, functional = torch.nn, torch.nn.functional
    activations = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh}

    class Linear(nn.Module):
        """A convolution or a dense layer; local reparameterization if it is noisy."""

        def __init__(self, step, before, kind):
            super().__init__()
            self.conv = isinstance(step, steps.Conv)
            shape = (step.features, before[-1])
            self.strides, self.pads = (1, 1), ((0, 0), (0, 0))
            if self.conv:
                shape += tuple(step.kernel)
                self.strides = tuple(step.strides)
                self.pads = steps.pads(
                    before[:2], step.kernel, step.strides, step.padding
                )
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            first = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
            self.mean = self.scale = self.log_var = self.bias = None
            if kind == "variance":
                self.scale = first
            else:
                self.mean = first
            if kind == "gaussian":
                self.log_var = nn.Parameter(torch.full(shape, LOG_VAR))
            if step.bias:
                self.bias = nn.Parameter(torch.zeros(shape[0]))

        def product(self, x, w, bias=None):
            if not self.conv:
                return functional.linear(x, w, bias)
            x, padding = _padded(functional, x, self.pads, 0.0)
            return functional.conv2d(x, w, bias, self.strides, padding)

        def forward(self, x):
            mean = None
            if self.mean is not None:
                mean = self.product(x, self.mean, self.bias)
                if self.log_var is None:
                    return mean
            with torch.autocast(x.device.type, enabled=False):
                square = self.scale.square() if mean is None else self.log_var.exp()
                var = self.product(x.float().square(), square)
                noise = torch.randn_like(var)
                if mean is None:
                    y = (var + VAR_FLOOR).sqrt() * noise
                    if self.bias is not None:
                        y = y + self.bias.reshape((1, -1) + (1,) * (y.ndim - 2))
                else:
                    y = torch.addcmul(mean.float(), (var + VAR_FLOOR).sqrt(), noise)
            return y.to(x.dtype if mean is None else mean.dtype)

        def kl(self):
            """From the log-uniform prior, as approximated by Molchanov et al. 2017."""
            if self.log_var is None:
                return 0.0
            log_alpha = self.log_var - (self.mean.square() + LOG_FLOOR).log()
            tail = 0.63576 * torch.sigmoid(-(1.87320 + 1.48695 * log_alpha))
            return (tail + 0.5 * functional.softplus(-log_alpha)).sum()

    class Chain(nn.Sequential):
        """The steps of a plan."""

        def __init__(self, plan: steps.Plan, shape: Sequence[int], kinds):
            places = zip(plan, steps.shapes(plan, tuple(shape)), strict=False)
            super().__init__(*(module(step, before, kinds) for step, before in places))

        def kl(self):
            return sum(m.kl() for m in self.modules() if isinstance(m, Linear))

    class Residual(nn.Module):
        def __init__(self, step, before, kinds):
            super().__init__()
            self.body = Chain(step.body, before, kinds)
            self.shortcut = Chain(step.shortcut, before, kinds)

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    class Apply(nn.Module):
        """A function of x that learns nothing."""

        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    def norm(step, before):
        if step.affine and not step.scale:
            raise ValueError(f"{step}: PyTorch's has both scale and bias, or neither")
        kind = nn.BatchNorm2d if len(before) == 3 else nn.BatchNorm1d
        made = kind(before[-1], step.epsilon, affine=step.affine)
        if step.zero:
            nn.init.zeros_(made.weight)
        return made

    def standardize(step, x):
        mean, std = (
            x.new_tensor(v).reshape(1, -1, 1, 1) for v in (step.mean, step.std)
        )
        return (x - mean) / std

    def window_pool(step, pads, x):
        x, padding = _padded(functional, x, pads, -math.inf)
        return functional.max_pool2d(x, step.size, step.stride, padding)

    def module(step, before, kinds):
        match step:
            case steps.Conv() | steps.Dense():
                return Linear(step, before, kinds.get(step.name))
            case steps.Norm():
                return norm(step, before)
            case steps.Activation(kind) if kind in activations:
                return activations[kind]()
            case steps.MaxPool():
                return nn.MaxPool2d(steps.POOL)
            case steps.WindowMaxPool():
                pads = steps.pads(before[:2], step.kernel, step.strides, step.padding)
                return Apply(functools.partial(window_pool, step, pads))
            case steps.MeanPool():
                return Apply(lambda x: x.mean((2, 3)))
            case steps.Flatten():
                return nn.Flatten()
            case steps.Standardize():
                return Apply(functools.partial(standardize, step))
            case steps.Residual():
                return Residual(step, before, kinds)
        raise ValueError(f"{step} has no form in PyTorch here")

    return Chain


def _padded(functional, x, pads, value: float):
    """x, and what is left to pad on both sides alike; the rest is padded here."""
    if all(low == high for low, high in pads):
        return x, tuple(low for low, _ in pads)
    (top, bottom), (left, right) = pads
    return functional.pad(x, (left, right, top, bottom), value=value), (0, 0)
