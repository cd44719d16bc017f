"""How long sparse nets take to predict from their .vnz file, by their share of zeros.

The weights are random and so are the places of the zeros, as many in each layer: time
does not depend on what was learned, but on what is left. The same net without zeros
takes turns with them, in JAX and as one writes it in NumPy.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import compiling, timing
from experiments.latency import dense_numpy
from vnets import compact
from vnets.nets import VGG
from vnets.nets.net import Net
from vnets.nets.resnet import ResNet
from vnets.plan import Conv, Dense, Shape, placed

TITLE = "Predictions of sparse nets from their .vnz file"
UNIT = "ms per image"
ROUNDS = 10
BITS = 8
ZEROS = (0.8, 0.9, 0.95, 0.98)
DENSE = ("dense in JAX", "dense in NumPy")
# Name of the net to itself, the shape of an image and the batches.
Nets = dict[str, tuple[Net, Shape, tuple[int, ...]]]
NETS: dict[str, Nets] = {
    "quick": {"ResNet": (ResNet(3, stages=(1,), width=2), (16, 16, 3), (1, 2))},
    "full": {
        "ResNet-50": (ResNet(), (224, 224, 3), (1, 8)),
        "VGG-like": (VGG(), (32, 32, 3), (1, 32)),
    },
}


def sizes(quick: bool) -> tuple[Nets, tuple[float, ...]]:
    """The nets, and shares of zeros."""
    return (NETS["quick"], ZEROS[1:2]) if quick else (NETS["full"], ZEROS)


def form(zeros: float) -> str:
    """What a sparse net is called."""
    return f"the file, {100 * zeros:g} % zeros"


def label(net: str, batch: int, how: str) -> str:
    """The name of a case."""
    return f"{net}, batch {batch}: {how}"


def cases(quick: bool) -> dict[str, timing.Case]:
    """Each net at each batch: dense in both ways, and the file by its zeros."""
    nets, shares = sizes(quick)
    builders = {
        **dict(zip(DENSE, (_jax, _numpy), strict=True)),
        **{form(zeros): functools.partial(_file, zeros) for zeros in shares},
    }
    return {
        label(net, batch, how): timing.Case(
            functools.partial(build, model, shape, batch), batch, warmup=1
        )
        for net, (model, shape, batches) in nets.items()
        for batch in batches
        for how, build in builders.items()
    }


def sparse_graph(model: Net, shape: Shape, zeros: float) -> compact.Graph:
    """A net of random weights, a share of them zero; its normalization does nothing.

    Weights have the variance 2 / (inputs that are left), so that activations neither
    vanish nor grow.
    """
    draw = np.random.default_rng(0)
    like = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    )
    params = {
        name: {
            vector: np.full(value.shape, vector == "scale", np.float32)
            for vector, value in layer.items()
            if vector != "kernel"
        }
        for name, layer in like["params"].items()
    }
    for step, before, _ in placed(model.plan, shape):
        if isinstance(step, Conv | Dense):
            taps = math.prod(step.kernel) if isinstance(step, Conv) else 1
            kernel = like["params"][step.name]["kernel"]
            alive = draw.random(kernel.shape) >= zeros
            scale = math.sqrt(2 / (taps * before[-1] * (1 - zeros)))
            weights = scale * draw.standard_normal(kernel.shape, np.float32)
            params[step.name]["kernel"] = np.where(alive, weights, np.float32(0))
    seen = {
        name: {
            "mean": np.zeros(norm["mean"].shape, np.float32),
            "var": np.ones(norm["var"].shape, np.float32),
        }
        for name, norm in like.get("batch_stats", {}).items()
    }
    variables = {"params": params, "batch_stats": seen}
    return compact.fold_norms(compact.capture(model, variables, shape))


def content(model: Net, shape: Shape, zeros: float) -> bytes:
    """The file of such a net."""
    graph = compact.shrink(sparse_graph(model, shape, zeros))
    return compact.dumps(compact.quantize(graph, BITS))


def _images(shape: Shape, batch: int) -> np.ndarray:
    return np.random.default_rng(1).random((batch, *shape), np.float32)


def _jax(model: Net, shape: Shape, batch: int) -> timing.Ready:
    net, variables = sparse_graph(model, shape, 0.0).to_flax()
    return compiling.ready(net.apply, variables, jnp.asarray(_images(shape, batch)))


def _numpy(model: Net, shape: Shape, batch: int) -> timing.Ready:
    graph, x = sparse_graph(model, shape, 0.0), _images(shape, batch)
    return timing.Ready(lambda: np.isfinite(dense_numpy(graph, x)).all())


def _file(zeros: float, model: Net, shape: Shape, batch: int) -> timing.Ready:
    predictor = compact.Predictor(compact.loads(content(model, shape, zeros)))
    x = _images(shape, batch)
    return timing.Ready(lambda: np.isfinite(predictor(x)).all())


def run(quick: bool, rounds: int, say: timing.Say) -> dict[str, Any]:
    """Measures all cases; the memory at the largest batch only."""
    nets, shares = sizes(quick)
    rows = [*DENSE, *map(form, shares)]
    measured = timing.measure(
        "sparse_nets",
        cases(quick),
        rounds=rounds,
        quick=quick,
        say=say,
        memory_of=[
            label(net, batches[-1], how)
            for net, (_, _, batches) in nets.items()
            for how in rows
        ],
    )
    columns = [
        (net, batch) for net, (_, _, batches) in nets.items() for batch in batches
    ]
    pairs = {
        f"{net}, batch {batch}: {dense} / {how}": (
            label(net, batch, dense),
            label(net, batch, how),
        )
        for net, batch in columns
        for dense in DENSE
        for how in rows[len(DENSE) :]
    }
    overview = {
        how: {
            f"{net}, batch {batch}": measured.cases[label(net, batch, how)]["median"]
            for net, batch in columns
            if label(net, batch, how) in measured.cases
        }
        for how in rows
    }
    values = {
        f"{net}: MB of {form(zeros)}": len(content(model, shape, zeros)) / 1e6
        for net, (model, shape, _) in nets.items()
        for zeros in shares
    }
    weights = {
        f"weights of {net}": sum(
            k.size for k in sparse_graph(*of, 0.0).kernels.values()
        )
        for net, (*of, _) in nets.items()
    }
    return {
        "settings": {**weights, "bits": BITS, "dtype": "float32"},
        "cases": measured.cases,
        "overview": overview,
        "ratios": timing.ratios(measured.times, pairs),
        "values": values,
        "notes": [
            "Milliseconds for each image. Zeros are at random places, as many in each "
            "layer; no unit is dead. The file and NumPy are on the processor, where "
            "SciPy takes one thread for sparse matrices, whatever JAX and BLAS take.",
            *measured.notes,
        ],
    }


BENCHMARKS = {"sparse_nets": timing.Benchmark(TITLE, UNIT, ROUNDS, cases, run)}
