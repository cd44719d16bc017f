"""All benchmarks by name. Their modules load JAX: each is imported when it is run."""

import importlib

from experiments.bench.timing import Benchmark

MODULES = {
    "lenet5": "steps",
    "vgg": "steps",
    "resnet50": "steps",
    "ensembles": "ensembles",
    "forms": "forms",
    "noise": "noise",
    "lrt_layer": "lrt_layer",
    "sparse_nets": "sparse_nets",
}


def find(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
      ValueError: there is none; the message lists those that are.
    """
    if name not in MODULES:
        raise ValueError(f"unknown benchmark {name!r}; choose from {list(MODULES)}")
    module = importlib.import_module(f"experiments.bench.{MODULES[name]}")
    return module.BENCHMARKS[name]
