"""Puts a run's net onto the shelf of `compact.pretrained`, with its record."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from experiments import compress, demo, records, running
from experiments.config_files import ROOT
from experiments.spec import ConfigError
from vnets import compact, files
from vnets.compact import nets as shelf

FOLDER = ROOT / "vnets" / "compact" / "nets"
MOST = 3_000_000  # bytes of all files together
NOISY_BITS = 6  # of a net that keeps its noise, whose predictions are drawn
NOISY_TESTED = 2000  # test images, the first, that such a net's file is tested on


def shelve(
    workdir: Path | str,
    name: str,
    *,
    noise: bool = False,
    threshold: float | None = None,
    bits: int | None = None,
    tolerance: float = 0.001,
    folder: Path = FOLDER,
) -> dict[str, Any]:
    """Makes a run's net small and puts it onto the shelf; returns what is told of it.

    Args:
      workdir: of a finished run of a classifier, by committed code.
      name: to ask for it by.
      noise: of the weights is kept, in place of pruning: of a variance network.
      threshold: of the edit that prunes, as of `compress.compress`.
      bits: of each weight; None: with noise `NOISY_BITS`, else as few for each layer as
        `tolerance` allows, which tries the net many times.
      tolerance: share of predictions that quantizing may change.
      folder: the shelf.

    Raises:
      ConfigError: a record of code that was not committed, a net that does not fit, or
        a shelf that is full.
    """
    config, experiment, net = running.restore(workdir)
    record = records.read(Path(workdir) / demo.RECORD)
    if record["git"]["dirty"] or not record["git"]["commit"]:
        raise ConfigError(f"{workdir}: its code was not committed as it ran")
    dataset = experiment.dataset
    about = {
        "run": f"{record['run']},{record['scale']}",
        "dataset": dataset.name,
        "epochs": config.epochs,
        "commit": record["git"]["commit"],
    }
    try:
        if noise:
            variables = {"params": net.params, **net.collections}
            graph = compact.capture(
                net.model, variables, dataset.test.shape, noise=True
            )
            graph = compact.shrink(compact.fold_norms(graph))
            small = compact.quantize(graph, bits or NOISY_BITS, about)
        else:
            prune = compress.pruning_of(config, net.params, threshold)
            graph = compress.captured(config, net, dataset.test.shape, prune)
            graph = compact.shrink(graph)
            trial = compress.in_memory(dataset)[1]
            changed = compress.changed_by(graph, trial.inputs)
            chosen = bits or compact.fewest_bits(graph, changed, tolerance)
            small = compact.quantize(graph, chosen, about)
    except ValueError as error:
        raise ConfigError(f"{workdir}: {error}") from error
    path = folder / f"{name}.vnz"
    size = compact.save(path, small)
    test = dataset.test.take(slice(NOISY_TESTED)) if noise else dataset.test
    held = demo.accuracies(path, test)
    columns = ("det", "ens") if noise else ("det",)
    recorded = "pruned" if "pruned" in record["evals"] and not noise else "det"
    evals = {"det": record["evals"][recorded], "ens": record["evals"].get("ens")}
    told = {
        **about,
        "run": record["run"],
        "scale": record["scale"],
        "noise": noise,
        "bytes": size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "accuracy": {one: held["accuracy"][one] for one in columns},
        "recorded": {one: evals[one]["accuracy"] for one in columns},
        "examples": held["examples"],
        "outputs": [
            [float(f"{y:.6g}") for y in row]
            for row in compact.load(path)(shelf.example(small.plan, small.shape))
        ],
    }
    shutil.copyfile(Path(workdir) / demo.RECORD, folder / f"{name}.json")
    index = folder / shelf.TOLD
    nets = json.loads(index.read_text("utf-8")) if index.is_file() else {}
    nets[name] = told
    if sum(one["bytes"] for one in nets.values()) > MOST:
        raise ConfigError(f"the nets take more than {MOST} bytes with {name}'s {size}")
    files.write_text(index, json.dumps(dict(sorted(nets.items())), indent=1) + "\n")
    return told
