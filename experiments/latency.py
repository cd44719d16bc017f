"""How long a net takes to predict: dense in NumPy, compact, and dense in JAX.

Runs in a process of its own, bound to as many cores as threads are asked for, since
neither BLAS nor XLA changes its threads once it has started. The contenders take turns,
so that what else the machine does meets all of them. A busy machine interrupts long
calls more often than short ones, so that medians flatter the faster contender there:
the fastest calls are measured as well.
"""

import functools
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from experiments.bench import timing
from experiments.config_files import ROOT
from vnets import compact
from vnets.compact import Graph
from vnets.compact.operations import (
    activated,
    batch_last,
    depth_to_space,
    layer_norm,
)
from vnets.plan import (
    POOL,
    Activation,
    Conv,
    Dense,
    DepthToSpace,
    Depthwise,
    Flatten,
    LayerNorm,
    MaxPool,
    MeanPool,
    Padding,
    Plan,
    Residual,
    Standardize,
    Window,
    WindowMaxPool,
    pads,
)
from vnets.plan.sequences import embedding

BATCHES = (1, 256)
ROUNDS = (5, 300)  # at least and at most
THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def dense_numpy(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The net as one writes it in NumPy: the batch first, all weights multiplied.

    Args:
      graph: without normalization.
      x: float32 [B, *shape].
    """
    return _dense_chain(graph, graph.plan, x)


def _dense_chain(graph: Graph, plan: Plan, x: np.ndarray) -> np.ndarray:
    for step in plan:
        if isinstance(step, Conv):
            patches = _windows(x, step.kernel, step.strides, step.padding)
            kernel = graph.kernels[step.name].reshape(-1, step.features)
            places = patches.shape[:3]
            patches = patches.transpose(0, 1, 2, 4, 5, 3)  # [B, H', W', kh, kw, I]
            x = patches.reshape(-1, len(kernel)) @ kernel + graph.biases[step.name]
            x = x.reshape(*places, step.features)
        elif isinstance(step, Depthwise):
            patches = _windows(x, step.kernel, step.strides, step.padding)
            kernel = graph.kernels[step.name][:, :, 0]
            x = np.einsum("bhwcij,ijc->bhwc", patches, kernel, optimize=True)
            x += graph.biases[step.name]
        elif isinstance(step, LayerNorm):
            scale, bias = graph.kernels[step.name], graph.biases[step.name]
            x = np.moveaxis(x, -1, 0)
            x = np.moveaxis(layer_norm(step.epsilon, scale, bias, x), 0, -1)
        elif isinstance(step, Dense):
            x = x @ graph.kernels[step.name] + graph.biases[step.name]
        elif isinstance(step, Activation):
            x = activated(step.kind, x)
        elif isinstance(step, Standardize):
            x = (x - np.float32(step.mean)) / np.float32(step.std)
        elif isinstance(step, Flatten):
            x = x.reshape(len(x), -1)
        elif isinstance(step, DepthToSpace):
            x = depth_to_space(step.block, batch_last(x)).transpose(3, 1, 2, 0)
        elif isinstance(step, MeanPool):
            x = x.mean(axis=(1, 2))
        elif isinstance(step, Window):
            highest = isinstance(step, WindowMaxPool)
            beyond = -np.inf if highest else 0.0
            windows = _windows(x, step.kernel, step.strides, step.padding, beyond)
            x = windows.max(axis=(4, 5)) if highest else windows.mean(axis=(4, 5))
        elif isinstance(step, Residual):
            sides = (step.body, step.shortcut)
            x = sum(_dense_chain(graph, side, x) for side in sides)
        elif isinstance(step, MaxPool):
            height, width = (n // POOL * POOL for n in x.shape[1:3])
            x = x[:, :height, :width]
            x = x.reshape(len(x), height // POOL, POOL, width // POOL, POOL, -1)
            x = x.max(axis=(2, 4))
        else:
            raise ValueError(f"fold the {type(step).__name__} step first")
    return x


def _windows(x, size, strides, padding: Padding, beyond: float = 0.0) -> np.ndarray:
    """What each window of [B, H, W, C] sees, [B, H', W', C, kh, kw]; `beyond` pads."""
    margins = pads(x.shape[1:3], size, strides, padding)
    if any(map(any, margins)):
        x = np.pad(x, ((0, 0), *margins, (0, 0)), constant_values=beyond)
    windows = sliding_window_view(x, size, (1, 2))
    return windows[:, :: strides[0], :: strides[1]]


def measure(
    graph: Graph,
    file: Path | str,
    threads: int = 1,
    seconds: float = 2.0,
    onnx: Path | None = None,
) -> dict:
    """Milliseconds of each contender, and threads.

    {"batch_1": {contender: median}, "fastest_1": {contender: minimum}, the same of the
    other batches, "threads": how many, "forms": of each layer of the file's predictor}.
    With an ONNX file, and where ONNX Runtime is installed, it is a contender as it is
    and in int8, whose size is "int8_bytes".

    Args:
      graph: the dense net, without normalization.
      file: the .vnz of the same net.
      threads: cores that the process is bound to, at most `timing.cores()`.
      seconds: for each batch size, all contenders together.
      onnx: the dense net's own file, *.onnx.

    Raises:
      RuntimeError: the process that measures failed.
    """
    given = graph, _absolute(file), seconds, onnx and _absolute(onnx)
    return _apart("measure", given, threads)


def draws(
    noisy: Path | str,
    file: Path | str,
    samples: int,
    threads: int = 1,
    seconds: float = 2.0,
) -> dict[str, float]:
    """How many times as long as a pass of a net draws of another take, at the largest
    batch: "times" by the medians, "fastest_times" by the minima.

    Args:
      noisy: the .vnz of a net with deviations, whose draws are averaged.
      file: the .vnz that predicts once.
      samples: draws.
      threads, seconds: as in `measure`.

    Raises:
      RuntimeError: the process that measures failed.
    """
    given = _absolute(noisy), _absolute(file), samples, seconds
    found = _apart("draws", given, threads)
    return {name: found[name] for name in ("times", "fastest_times")}


def _absolute(file: Path | str) -> Path:
    """The process that measures runs in ROOT."""
    return Path(file).absolute()


def _apart(name: str, given: tuple, threads: int) -> dict:
    """What one of APART returns in a process of its own, and its threads."""
    settings = dict.fromkeys(THREAD_SETTINGS, str(threads))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.latency", name, str(threads)],
        input=pickle.dumps(given),
        cwd=ROOT,
        env={**os.environ, **settings, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace")[-2000:]
        raise RuntimeError(f"latency could not be measured: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def _compare(graph: Graph, file: Path, seconds: float, onnx: Path | None) -> dict:
    """What `measure` returns but for the threads; in the process that it starts."""
    import jax

    predictor = compact.load(file)
    model, variables = graph.to_flax()
    apply = jax.jit(model.apply)
    found: dict = {"forms": predictor.forms}
    dense = functools.partial(dense_numpy, graph)
    if embedding(graph.plan):  # of tokens: all weights, by what predicts of the file
        dense = compact.Predictor(graph, "dense")
    runtime = {}
    if onnx and importlib.util.find_spec("onnxruntime"):
        runtime, found["int8_bytes"] = _sessions(onnx)
    for batch in BATCHES:
        x = _inputs(graph, batch)
        contenders = {
            "compact": lambda x=x: predictor(x),
            "dense_numpy": lambda x=x: dense(x),
            "dense_jax": lambda x=x: jax.block_until_ready(apply(variables, x)),
        }
        first = np.ascontiguousarray(np.moveaxis(x, -1, 1))  # [B, C, H, W]
        for name, session in runtime.items():
            [given] = session.get_inputs()
            if given.shape[0] in (batch, None) or isinstance(given.shape[0], str):
                feed = {given.name: first}
                contenders[name] = functools.partial(session.run, None, feed)
        least, most = ROUNDS
        taken = timing.interleave(contenders, most, 1, seconds, at_least=least)
        times = {name: timing.summary(ms) for name, ms in taken.items()}
        for part, which in (("batch", "median"), ("fastest", "min")):
            found[f"{part}_{batch}"] = {name: one[which] for name, one in times.items()}
    return found


def _draws(noisy: Path, file: Path, samples: int, seconds: float) -> dict:
    """What `draws` returns; in the process that it starts."""
    drawn, once, key = compact.load(noisy), compact.load(file), np.random.default_rng(0)
    x = key.random((max(BATCHES), *once.net.shape), np.float32)
    contenders = {
        "drawn": lambda: drawn.ensemble(x, samples, key),
        "once": lambda: once(x),
    }
    least, most = ROUNDS
    taken = timing.interleave(contenders, most, 1, seconds, at_least=least)
    slow, fast = (timing.summary(taken[name]) for name in contenders)
    return {
        "times": slow["median"] / fast["median"],
        "fastest_times": slow["min"] / fast["min"],
    }


def _inputs(graph: Graph, batch: int) -> np.ndarray:
    """Some inputs of a net: floats, or tokens of which none is padding."""
    draw, first = np.random.default_rng(0), embedding(graph.plan)
    if first is None:
        return draw.random((batch, *graph.shape), np.float32)
    return draw.integers(1, first.vocabulary, (batch, *graph.shape))


def _sessions(onnx: Path) -> tuple[dict, int]:
    """ONNX Runtime with a file and with its weights in int8, and the bytes of these."""
    import onnxruntime
    from onnxruntime import quantization

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = timing.cores()
    options.log_severity_level = 3  # errors
    providers = ["CPUExecutionProvider"]
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "int8.onnx"
        unsigned = quantization.QuantType.QUInt8  # the only one that convolutions take
        quantization.quantize_dynamic(str(onnx), str(small), weight_type=unsigned)
        paths = {"onnx": onnx, "onnx_int8": small}
        sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=providers)
            for name, path in paths.items()
        }
        return sessions, small.stat().st_size


APART = {"measure": _compare, "draws": _draws}

if __name__ == "__main__":
    cores = int(sys.argv[2])
    timing.use_threads(cores)  # before JAX starts: XLA makes a thread for each core
    made = APART[sys.argv[1]](*pickle.load(sys.stdin.buffer))
    print(json.dumps({"threads": cores, **made}))
