"""What the page in `docs/demo` shows: two small nets, and recorded trainings.

The page has no numbers of its own. Its variance net is a run's, as a file, with the
run's record beside it; its decoder, which makes pictures of two numbers, is that of a
run in `results/`. Accuracies and bounds are those of the files; what epochs did comes
from records in `results/`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import random

from experiments import records, running
from experiments.spec import ConfigError
from experiments.studies.latents import pixels
from vnets import compact, edits, files, latent, nets, plan
from vnets.latent import Normal
from vnets.likelihoods import Bernoulli
from vnets.predictor import Member

NET, RECORD, DATA = "net.vnz", "record.json", "data.json"
DECODER = "decoder.vnz"
SPARSE = "results/vae/short/vae_2_sparse-seed0.json"
TRANSITION = "results/phase_transition/short/accelerated-seed0.json"
DYING = "results/sparse_vd/short/lenet5_sparse_vd-seed0.json"
COLUMNS = ("det", "stoch", "ens", "zero_mean_ens")
SAMPLES = 20  # draws of the ensemble that is tested
AT_ONCE = 500


def write(workdir: Path | str, folder: Path | str, bits: int) -> dict[str, Any]:
    """Writes the net of a run, its record, and all that the page shows.

    Args:
      workdir: of a finished run of a classifier with independent normal noise.
      folder: of the page.
      bits: of each weight and deviation.

    Returns:
      The numbers that the page shows.

    Raises:
      ValueError: a net whose noise no file can hold.
    """
    folder = Path(folder)
    config, experiment, net = running.restore(workdir)
    test = experiment.dataset.test
    variables = {"params": net.params, **net.collections}
    graph = compact.capture(net.model, variables, test.shape, noise=True)
    about = {"run": f"{config.variant} {config.scale}", "dataset": config.dataset.name}
    small = compact.quantize(compact.shrink(compact.fold_norms(graph)), bits, about)
    size = compact.save(folder / NET, small)
    shutil.copyfile(Path(workdir) / RECORD, folder / RECORD)
    file = {"bytes": size, "bits": bits, **accuracies(folder / NET, test)}
    return _write(folder, file=file)


def write_decoder(workdir: Path | str, folder: Path | str, bits: int) -> dict[str, Any]:
    """Writes the decoder of a run, and all that the page shows.

    Args:
      workdir: of the run whose record `SPARSE` is: a variational autoencoder of two
        latent variables and black or white pixels.
      folder: of the page.
      bits: of each weight.

    Returns:
      The numbers that the page shows.

    Raises:
      ConfigError: another run.
    """
    folder = Path(folder)
    config, experiment, net = running.restore(workdir)
    record, shown = records.read(Path(workdir) / RECORD), _read(SPARSE)
    if any(record[one] != shown[one] for one in ("run", "seed", "git", "evals")):
        raise ConfigError(
            f"{workdir}: the page shows the run of {SPARSE}, and no other"
        )
    params = edits.chain(edits.prune(), edits.mean_only)(net.params, random.key(0))
    decoder = {"params": params["decoder"]}
    graph = compact.capture(net.model.decoder, decoder, (net.model.size,))
    about = {"run": f"{config.variant} {config.scale}", "dataset": config.dataset.name}
    small = compact.quantize(compact.shrink(graph), bits, about)
    size = compact.save(folder / DECODER, small)
    member = Member(net.model, {"params": params, **net.collections})
    found = bound(folder / DECODER, member, pixels(experiment.dataset.test))
    return _write(folder, decoder_file={"bytes": size, "bits": bits, **found})


def bound(path: Path, net: Member, x) -> dict[str, Any]:
    """The ELBO of a file's decoder by a net's encoder, nats, the mean over pictures.

    Args:
      path: of the file.
      net: of a `latent.Autoencoder`.
      x: pictures [N, D], black or white.
    """
    q = latent.posterior(net, x, random.key(0))
    z = q.sample(random.key(1))
    cost = Bernoulli().nll(jnp.asarray(compact.load(path)(np.asarray(z))), x)
    elbo = -float(jnp.mean(cost + Normal().kl(q)))
    return {"examples": len(x), "elbo": elbo}


def _write(folder: Path, **own: dict) -> dict[str, Any]:
    """Writes the numbers of the page: those of one file, anew, and of records."""
    path = folder / DATA
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    kept = {name: known[name] for name in ("file", "decoder_file") if name in known}
    data = {**kept, **own, **shown(folder)}
    files.write_text(path, json.dumps(data, indent=1) + "\n")
    return data


def accuracies(path: Path, test) -> dict[str, Any]:
    """Of a file on test images: noise off, one draw, and an ensemble."""
    predictor, noise = compact.load(path), np.random.default_rng(0)
    right = dict.fromkeys(("det", "stoch", "ens"), 0)
    for start in range(0, len(test.target), AT_ONCE):
        x, label = (one[start : start + AT_ONCE] for one in (test.inputs, test.target))
        guesses = {
            "det": predictor(x),
            "stoch": predictor(x, noise),
            "ens": predictor.ensemble(x, SAMPLES, noise),
        }
        for name, guess in guesses.items():
            right[name] += int(np.sum(np.argmax(guess, -1) == label))
    total = len(test.target)
    accuracy = {name: count / total for name, count in right.items()}
    return {"examples": total, "samples": SAMPLES, "accuracy": accuracy}


def shown(folder: Path | str) -> dict[str, Any]:
    """What the page shows of records: that of its net, and of two trainings."""
    record = records.read(Path(folder) / RECORD)
    net = {"run": f"{record['run']},{record['scale']}", **_commit(record)}
    parts = {"decoder": _decoder(), "transition": _transition(), "dying": _dying()}
    return {"net": net, **parts}


def _decoder() -> dict[str, Any]:
    """How good the decoder is, and how many of its weights are left."""
    record = _read(SPARSE)
    found = record["evals"]["pruned"]
    numbers = {name: found[name] for name in ("elbo", "nonzero", "sparsity")}
    run = f"{record['run']},{record['scale']}"
    return {"record": SPARSE, "run": run, **_commit(record), **numbers}


def _transition() -> dict[str, Any]:
    """Log alpha and accuracies of each epoch, while means fall idle."""
    record = _record(TRANSITION)
    history = record["history"]
    columns = {name: [epoch[name] for epoch in history] for name in COLUMNS}
    log_alpha = [epoch["log_alpha/dense1"] for epoch in history]
    begin = {"record": TRANSITION, **_commit(record), "epochs": len(history)}
    return {**begin, "log_alpha": log_alpha, **columns}


def _dying() -> dict[str, Any]:
    """How many weights each layer has left after each epoch."""
    record = _record(DYING)
    history = record["history"]
    costs = plan.costs(nets.LeNet5().plan, (28, 28, 1))
    weights = {layer: cost.weights for layer, cost in costs.items()}
    left = {
        layer: [round(all_ * (1 - epoch[f"sparsity/{layer}"])) for epoch in history]
        for layer, all_ in weights.items()
    }
    begin = {"record": DYING, **_commit(record), "epochs": len(history)}
    pruned = [epoch["pruned"] for epoch in history]
    return {**begin, "weights": weights, "left": left, "pruned": pruned}


def _record(path: str) -> records.Record:
    record = _read(path)
    epochs = [epoch["epoch"] for epoch in record["history"]]
    if epochs != list(range(1, len(epochs) + 1)):
        raise ValueError(f"{path} lacks epochs: the page shows each")
    return record


def _read(path: str) -> records.Record:
    return records.read(Path(__file__).resolve().parents[1] / path)


def _commit(record: records.Record) -> dict[str, str]:
    return {"commit": record["git"]["commit"]}
