"""All benchmarks by name. Their modules load JAX: each is imported when it is run.

    python -m experiments.bench.suite <benchmark> <case> [--quick]

builds one case and prints what it takes, for `measuring.ask`.
"""

import importlib
import json
import sys

from experiments.bench import measuring

MODULES = {
    "lenet5": "steps",
    "vgg": "steps",
    "resnet50": "steps",
    "ensembles": "ensembles",
    "forms": "forms",
    "noise": "noise",
    "lrt_layer": "lrt_layer",
    "recurrent": "recurrent",
    "sparse_nets": "sparse_nets",
    "small_files": "small_files",
}


def find(name: str, quick: bool = False) -> measuring.Benchmark:
    """The benchmark of a name, for the device at hand.

    Raises:
      ValueError: there is none; the message lists those that are.
    """
    if name not in MODULES:
        raise ValueError(f"unknown benchmark {name!r}; choose from {list(MODULES)}")
    module = importlib.import_module(f"experiments.bench.{MODULES[name]}")
    return module.BENCHMARKS[name](quick)


if __name__ == "__main__":
    benchmark, case = (a for a in sys.argv[1:] if a != "--quick")
    cases = find(benchmark, "--quick" in sys.argv).cases
    print(json.dumps(measuring.alone(cases[case])))
