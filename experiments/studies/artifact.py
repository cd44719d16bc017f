"""Is a sparse net a small file and a fast predictor? A study of trained nets.

The net is pruned, shrunk, quantized and coded (`experiments.compress`); every test
image is predicted from the file alone, and by the same quantized net in JAX. With
`nets.teacher`, a net with noise that taught it, that is a file, too, with deviations,
and `draws` of it are averaged where the student predicts once.
"""

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import compress, latency, ranges
from experiments import spec as parts
from experiments.config_files import load_config
from experiments.core import Measured, Net, NetSpec, Study
from experiments.datasets import load_data
from vnets import compact, data
from vnets.types import Key

FIELDS = (
    *("dataset", "nets.net", "tolerance", "latency.threads", "latency.seconds"),
    *("nets.teacher", "draws"),
)
TEACHER_BITS = 8  # of each weight and deviation of a teacher

# What a weight that is left may take in the file, position and value; the rest of the
# file (header, biases, tables of frequencies) is `bytes_beyond`.
BYTES_PER_WEIGHT = 2.7


def build(config) -> Study:
    """The study of a config; see `configs/artifact.py` for its fields."""
    if not config.latency.seconds > 0:
        raise parts.ConfigError(
            f"config.latency.seconds must be positive, not {config.latency.seconds}"
        )
    if not 0 <= config.tolerance <= 1:
        raise parts.ConfigError(
            f"config.tolerance is a share, 0 to 1, not {config.tolerance}"
        )
    if ("teacher" in config.nets) != ("draws" in config):
        raise parts.ConfigError(
            "config.draws are of config.nets.teacher: give both, or neither"
        )
    ranges.COUNT.check("config.draws", config.get("draws", 1))
    trained = load_config(f"{config.nets.net.run},{config.scale}")
    dataset = load_data(config.dataset)
    measure = functools.partial(_measure, config, trained, dataset)
    specs = {name: NetSpec(one.run) for name, one in config.nets.items()}
    return Study(specs, measure, dataset)


def _measure(
    config, trained, dataset: data.Dataset, nets: dict[str, list[Net]], key: Key
) -> Measured:
    """Writes the file of the net and measures it; its run has the config `trained`."""
    del key  # a teacher is drawn by NumPy, from one seed
    [net] = nets["net"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.vnz"
        report = compress.compress_net(
            trained,
            dataset,
            net,
            file,
            tolerance=config.tolerance,
            threads=config.latency.threads,
            seconds=config.latency.seconds,
        )
        found = evaluations(report)
        for teacher in nets.get("teacher", ()):
            found["teacher"] = _beside(file, config, dataset, teacher)
    return Measured(found)


def _beside(file: Path, config, dataset: data.Dataset, net: Net) -> dict[str, float]:
    """Draws of a student's teacher: their error, the bytes of its file, and how many
    times as long as one pass of the student's file a batch takes."""
    shape, test = dataset.test.shape, dataset.test
    graph = compact.capture(net.model, net.variables(), shape, noise=True)
    held = compact.quantize(compact.fold_norms(graph), TEACHER_BITS)
    own = file.with_name("teacher.vnz")
    size, draw = compact.save(own, held), np.random.default_rng(0)
    p = compact.load(own).ensemble(test.inputs, config.draws, draw)
    timed = latency.draws(own, file, config.draws, **config.latency)
    return {
        "error": float(np.mean(np.argmax(p, -1) != test.target)),
        "bytes": float(size),
        **timed,
    }


def evaluations(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The report of `compress.compress_net` as the numbers of a record.

    Returns:
      dense, pruned, quantized, file: error (a share) and weights of each form of the
        net, bytes of all but "pruned", as floats or of the file. "pruned" has the KL of
        the posterior in bits, "quantized" the bytes of CSR matrices, "file" what it has
        beyond 2.7 bytes a weight, bits and units by layer, and on how many of the test
        images it and the quantized net differ.
      latency: median and fastest ms by contender and batch, how many times faster than
        dense NumPy the file's predictor is by either, and on how many threads.
    """
    weights, size, test = report["weights"], report["bytes"], report["test"]
    left = weights["quantized"]
    found = {
        "dense": {
            "error": test["error/all_weights"],
            "weights": weights["all"],
            "bytes": size["dense"],
        },
        "pruned": {
            "error": test["error/pruned"],
            "weights": weights["pruned"],
            **{f"mdl_bits/{k}": bits for k, bits in report["mdl_bits"].items()},
        },
        "quantized": {
            "error": test["error/quantized"],
            "weights": left,
            "bytes": size["nonzeros"],
            "csr_bytes": size["csr"],
            "differ_from_pruned": test["differ/quantized_and_pruned"],
        },
        "file": {
            "error": test["error/file"],
            "weights": left,
            "bytes": size["file"],
            "bytes_per_weight": size["file_per_weight"],
            "bytes_beyond": size["file"] - BYTES_PER_WEIGHT * left,
            "compression": size["dense_over_file"],
            "differ_from_quantized": test["differ/file_and_quantized"],
            "images": test["examples"],
            **{f"bits/{name}": bits for name, bits in report["bits"].items()},
            **{f"units/{name}": count for name, count in report["units"].items()},
        },
        "latency": {"threads": report["latency_ms"]["threads"]},
    }
    for batch in latency.BATCHES:
        for key, prefix in ((f"batch_{batch}", ""), (f"fastest_{batch}", "fastest_")):
            times = report["latency_ms"][key]
            speedup = times["dense_numpy"] / times["compact"]
            found["latency"] |= {
                f"{prefix}{name}/{batch}": ms
                for name, ms in {**times, "speedup": speedup}.items()
            }
    return {
        name: {metric: float(value) for metric, value in one.items()}
        for name, one in found.items()
    }
