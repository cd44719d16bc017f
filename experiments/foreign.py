"""From a net of another library to a .vnz file, with a report of what that costs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import compress, latency
from experiments.spec import ConfigError
from vnets import compact, foreign
from vnets.plan import Shape, linear_layers, standardized

KINDS = (".onnx", ".safetensors")
RANDOM = 16  # inputs that an ONNX file is verified by, where none are given
ENOUGH = 200  # examples by which bits are chosen
EACH = "each"  # as a name of --prune: every layer by itself


def compress_model(
    model: Path | str,
    out: Path | str,
    *,
    chain: str | None = None,
    example: Path | str | None = None,
    prune: str | None = None,
    bits: int | None = None,
    tolerance: float = 0.001,
    threads: int = 1,
    seconds: float = 2.0,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
) -> dict[str, Any]:
    """Verifies, prunes, shrinks, quantizes and writes a net; returns the report.

    Args:
      model: *.onnx, or *.safetensors with its chain.
      out: the file to write.
      chain: in words (`vnets.foreign.chain`), or the name of a text file with them.
      example: an .npz with "inputs", floats as the model takes them, perhaps "outputs"
        (of safetensors they must be there, of ONNX they are computed) and "labels".
      prune: "0.9", of the weights of all layers; "each=0.9" of those of every layer;
        "conv1=0.5,fc1=0.95" of these layers'.
      bits: of every weight; None: 8, or with `ENOUGH` examples for each layer as few as
        change no more predictions than `tolerance`.
      tolerance: a share of predictions.
      threads: with which latency is measured, and
      seconds: for how long, at each batch size.
      mean: of the inputs before the model's own preparation, a number or one a channel.
      std: likewise; the file takes (x - mean) / std by itself, so that it takes pixels.

    Raises:
      ConfigError: a model, chain, example or share that does not fit; another net.
    """
    compress.check_output(out, threads)
    path = Path(model)
    if path.suffix not in KINDS or not path.is_file():
        raise ConfigError(f"{model} is no file that ends with {' or '.join(KINDS)}")
    given = _example(example)
    try:
        net = _read(path, chain, given)
        inputs, outputs = _verified(path, net, given)
        folded = compact.fold_norms(net.graph)
        cut = foreign.pruned(folded, _shares(prune, folded.plan))
        small = compact.shrink(cut)
        if bits is None and len(inputs) >= ENOUGH:
            changed = compress.changed_by(small, inputs)
            chosen: Any = compact.fewest_bits(small, changed, tolerance)
        else:
            chosen = bits or 8
        quantized = compact.quantize(
            _prepared(small, mean, std), chosen, {"run": path.name}
        )
        size = compact.save(out, quantized)
    except ValueError as error:
        raise ConfigError(f"{path.name}: {error}") from error
    pixels = (inputs * np.float32(std) + np.float32(mean)).astype(np.float32)
    logits = {
        "model": outputs,
        "pruned": compact.Predictor(cut)(inputs),
        "file": compact.load(out)(pixels),
    }
    onnx = path if path.suffix == ".onnx" else None
    bytes_of = compress.sizes(folded, quantized, size)
    taken = latency.measure(_prepared(folded, mean, std), out, threads, seconds, onnx)
    if "int8_bytes" in taken:
        bytes_of["onnx_int8"] = taken.pop("int8_bytes")
    return {
        "file": Path(out).name,
        "model": path.name,
        "bits": compress.bits_of(quantized),
        "units": compress.units_of(quantized),
        "weights": {
            "all": sum(k.size for k in folded.kernels.values()),
            "pruned": sum(cut.nonzeros().values()),
            "quantized": sum(quantized.nonzeros().values()),
        },
        "bytes": bytes_of,
        "agreement": _agreement(logits, given),
        "latency_ms": taken,
    }


def _example(path: Path | str | None) -> Mapping[str, np.ndarray]:
    """The arrays of an example, or none."""
    if path is None:
        return {}
    try:
        with np.load(path, allow_pickle=False) as held:
            found = dict(held)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no .npz of an example: {error}") from error
    names = {"inputs", "outputs", "labels"}
    if "inputs" not in found or not set(found) <= names:
        raise ConfigError(
            f"{path} has {sorted(found)}; it needs inputs, and may have outputs, labels"
        )
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) > 1 or not counts["inputs"]:
        raise ConfigError(f"{path} has so many examples: {counts}")
    return found


def _read(path: Path, chain: str | None, given: Mapping) -> foreign.Foreign:
    if path.suffix == ".onnx":
        if chain is not None:
            raise ValueError("an ONNX file says its chain itself")
        return foreign.read_onnx(path)
    words = chain or ""
    if words.endswith(".txt"):
        words = Path(words).read_text(encoding="utf-8")
    if words and "outputs" not in given:
        raise ValueError(
            "weights alone cannot show that the chain is right: give an example, "
            "np.savez('example.npz', inputs=x, outputs=net(x))"
        )
    # Without a chain its reader tells which layers there are.
    inputs = given.get("inputs", np.zeros((1, 1), np.float32))
    shape: Shape = foreign.channels_last(inputs).shape[1:]
    return foreign.read_safetensors(path, words, shape)


def _verified(path: Path, net: foreign.Foreign, given: Mapping):
    """Inputs as the graph takes them, and the model's outputs that it was held to."""
    shape = net.graph.shape
    if "inputs" in given:
        inputs = np.asarray(given["inputs"], np.float32)
    else:
        channels_first = (shape[-1], *shape[:-1])
        draw = np.random.default_rng(0)
        inputs = draw.standard_normal((RANDOM, *channels_first), np.float32)
    outputs = given["outputs"] if "outputs" in given else foreign.run_onnx(path, inputs)
    ours = foreign.channels_last(inputs)[: len(outputs)]
    likely = np.exp(outputs) if net.ending == "log_softmax" else outputs
    compact.verify(net.graph, ours, likely, probabilities=bool(net.ending))
    return ours, outputs


def _shares(prune: str | None, plan) -> float | dict[str, float]:
    """What --prune says, for `foreign.pruned`."""
    if prune is None:
        return 0.0
    try:
        if "=" not in prune:
            return float(prune)
        parts = (one.rpartition("=") for one in prune.split(","))
        found = {name.strip(): float(share) for name, _, share in parts}
    except ValueError:
        raise ValueError(
            f"--prune={prune}: it is a share, each=SHARE, or LAYER=SHARE,LAYER=SHARE"
        ) from None
    if set(found) == {EACH}:
        return dict.fromkeys(linear_layers(plan), found[EACH])
    return found


def _prepared(graph: compact.Graph, mean, std) -> compact.Graph:
    """The graph that standardizes its inputs first."""
    return dataclasses.replace(graph, plan=(*standardized(mean, std), *graph.plan))


def _agreement(logits: dict[str, np.ndarray], given: Mapping) -> dict[str, float]:
    """Shares of examples whose class is the model's, and errors where labels are."""
    guesses = {name: np.argmax(one, -1) for name, one in logits.items()}
    count = len(guesses["model"])
    found: dict[str, Any] = {"examples": count, "given": "inputs" in given}
    for name in ("pruned", "file"):
        found[f"differ/{name}"] = float(np.mean(guesses[name] != guesses["model"]))
    if "labels" in given:
        for name, guess in guesses.items():
            found[f"error/{name}"] = float(np.mean(guess != given["labels"][:count]))
    return found
