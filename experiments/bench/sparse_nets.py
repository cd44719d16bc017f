"""How long sparse nets take to predict from their .vnz file, by their share of zeros.

The weights are random and so are the places of the zeros, as many in each layer: time
does not depend on what was learned, but on what is left. The same net without zeros
takes turns with them, in JAX and as one writes it in NumPy.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import timing
from experiments.bench.measuring import Benchmark, Case
from experiments.latency import dense_numpy
from vnets import compact
from vnets.nets import VGG
from vnets.nets.net import Net
from vnets.nets.resnet import ResNet
from vnets.plan import Shape

BITS = 8
ZEROS = (0.8, 0.9, 0.95, 0.98)
ALIVE = {"zero_last_scale": False}  # else a block is its shortcut at the start
# Name of the net to itself, the shape of an image and the batches.
Nets = dict[str, tuple[Net, Shape, tuple[int, ...]]]
NETS: dict[str, Nets] = {
    "quick": {"ResNet": (ResNet(3, (1,), 2, **ALIVE), (16, 16, 3), (1, 2))},
    "full": {
        "ResNet-50": (ResNet(**ALIVE), (224, 224, 3), (1, 8)),
        "VGG-like": (VGG(), (32, 32, 3), (1, 32)),
    },
}


def benchmark(quick: bool) -> Benchmark:
    """Each net at each batch: dense in both ways, and the file by its zeros."""
    nets, shares = (NETS["quick"], ZEROS[1:2]) if quick else (NETS["full"], ZEROS)
    dense = {"dense in JAX": _jax, "dense in NumPy": _numpy}
    files = {
        f"the file, {100 * zeros:g} % zeros": functools.partial(_file, zeros)
        for zeros in shares
    }
    columns = {
        f"{net}, batch {batch}": (model, shape, batch)
        for net, (model, shape, batches) in nets.items()
        for batch in batches
    }

    def finish(parts, times):
        del times
        megabytes = {
            f"{net}: MB of {form}": len(content(model, shape, zeros)) / 1e6
            for net, (model, shape, _) in nets.items()
            for form, zeros in zip(files, shares, strict=True)
        }
        weights = {
            f"weights of {net}": sum(
                k.size for k in sparse_graph(model, shape, 0.0).kernels.values()
            )
            for net, (model, shape, _) in nets.items()
        }
        return {"settings": weights | parts["settings"], "values": megabytes}

    return Benchmark(
        title="Predictions of sparse nets from their .vnz file",
        unit="ms per image",
        rounds=10,
        cases={
            f"{column}: {how}": Case(functools.partial(build, *of), of[-1])
            for column, of in columns.items()
            for how, build in (dense | files).items()
        },
        settings={"bits": BITS, "dtype": "float32"},
        pairs={
            f"{column}: {one} / {how}": (f"{column}: {one}", f"{column}: {how}")
            for column in columns
            for one in dense
            for how in files
        },
        overview={
            how: {column: f"{column}: {how}" for column in columns}
            for how in dense | files
        },
        memory_of=[
            f"{net}, batch {batches[-1]}: {how}"
            for net, (_, _, batches) in nets.items()
            for how in dense | files
        ],
        notes=(
            "Milliseconds for each image. Zeros are at random places, as many in each "
            "layer; no unit is dead. The file and NumPy are on the processor, where "
            "SciPy takes one thread for sparse matrices, whatever JAX and BLAS take.",
        ),
        finish=finish,
    )


def sparse_graph(model: Net, shape: Shape, zeros: float) -> compact.Graph:
    """A net as it starts, a share of its weights zero.

    What is left grows as much as others were taken, so that activations do not vanish.
    """
    x = jnp.zeros((1, *shape), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    graph = compact.fold_norms(compact.capture(model, variables, shape))
    draw, grown = np.random.default_rng(0), np.float32(1 / math.sqrt(1 - zeros))
    kernels = {
        name: np.where(draw.random(kernel.shape) < zeros, np.float32(0), grown * kernel)
        for name, kernel in graph.kernels.items()
    }
    return dataclasses.replace(graph, kernels=kernels)


def content(model: Net, shape: Shape, zeros: float) -> bytes:
    """The file of such a net."""
    graph = compact.shrink(sparse_graph(model, shape, zeros))
    return compact.dumps(compact.quantize(graph, BITS))


def _images(shape: Shape, batch: int) -> np.ndarray:
    return np.random.default_rng(1).random((batch, *shape), np.float32)


def _jax(model: Net, shape: Shape, batch: int) -> timing.Ready:
    net, variables = sparse_graph(model, shape, 0.0).to_flax()
    return timing.ready(net.apply, variables, jnp.asarray(_images(shape, batch)))


def _numpy(model: Net, shape: Shape, batch: int) -> timing.Ready:
    graph, x = sparse_graph(model, shape, 0.0), _images(shape, batch)
    return timing.Ready(lambda: np.isfinite(dense_numpy(graph, x)).all())


def _file(zeros: float, model: Net, shape: Shape, batch: int) -> timing.Ready:
    predictor = compact.Predictor(compact.loads(content(model, shape, zeros)))
    x = _images(shape, batch)
    return timing.Ready(lambda: np.isfinite(predictor(x)).all())


BENCHMARKS = {"sparse_nets": benchmark}
