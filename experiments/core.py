"""Runs an experiment from its config: data, training, every evaluation, the record."""

import dataclasses
import importlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax import random

from experiments.build import ConfigError, pick
from vnets import checkpoint, data, results, train
from vnets.rng import stream

MODULES = ("variance_networks",)
RECORD, CONFIG = "record.json", "config.json"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a module's `build(config)` returns.

    Attributes:
      task: for `train.fit`.
      dataset: as loaded.
      evaluations: (params, collections, key) -> {column: metrics}, on the test set.
    """

    task: train.Task
    dataset: data.Dataset
    evaluations: Callable[..., dict[str, dict[str, float]]]


def build(config) -> Experiment:
    """The experiment that a config describes.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    name = pick("experiment", config.experiment, MODULES)
    return importlib.import_module(f"experiments.{name}").build(config)


def load_data(spec) -> data.Dataset:
    """The config's data set, downloaded if need be."""
    return data.load(
        spec.name,
        labels=spec.labels or None,
        validation=spec.validation,
        download=True,
    )


def run(
    config,
    run_name: str,
    workdir: Callable[[int], Path],
    seeds: Sequence[int],
    *,
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
) -> dict[int, results.Record]:
    """Trains and evaluates a config for some seeds; writes a record for each.

    A workdir that holds an unfinished run of the same config is resumed.

    Args:
      config: ConfigDict; its `seed` is ignored in favour of `seeds`.
      run_name: "configs/<file>.py:<variant>", for the record.
      workdir: seed -> folder.
      seeds: which to run.
      checkpoint_seconds: the least time between checkpoints.
      tensorboard: also write TensorBoard files.

    Returns:
      The records by seed, those of failed seeds included.

    Raises:
      ConfigError: a workdir that holds a run of another config.
    """
    plain = plain_config(config)
    folders = {seed: Path(workdir(seed)) for seed in seeds}
    experiment = build(config)
    environments = {
        seed: claim_workdir(folder, plain) for seed, folder in folders.items()
    }
    outcomes = train.fit(
        experiment.task,
        epochs=config.epochs,
        seeds=seeds,
        workdir=folders.__getitem__,
        chunk_steps=config.chunk_steps,
        checkpoint_seconds=checkpoint_seconds,
        probe_every=config.probe.every,
        tensorboard=tensorboard,
        title=f"{config.variant} {config.scale}",
    )
    records = {}
    for outcome in outcomes:
        folder = folders[outcome.seed]
        evaluated = time.monotonic()
        evals = {} if outcome.failed else _evaluate(experiment, outcome)
        evaluate_seconds = time.monotonic() - evaluated
        record = results.build(
            run=run_name,
            scale=config.scale,
            seed=outcome.seed,
            config=plain,
            dataset=_describe(experiment.dataset),
            environment=environments[outcome.seed],
            wall_seconds=_wall(outcome, evaluate_seconds),
            evals=evals,
            history=outcome.history,
            failed=outcome.failed,
        )
        results.write(folder / RECORD, record)
        records[outcome.seed] = record
    return records


def plain_config(config) -> dict[str, Any]:
    """The config without its seed, as plain JSON types: what identifies a row."""
    plain = config.to_dict()
    plain.pop("seed", None)
    return json.loads(json.dumps(plain).replace("Infinity", '"inf"'))


def claim_workdir(folder: Path, plain: dict) -> dict:
    """Marks a workdir with the config and the environment that a run starts in.

    Returns:
      The environment of the first start, which a resumed run keeps.

    Raises:
      ConfigError: the folder holds a run of another config, naming what differs.
      WorkdirError: it cannot be written.
    """
    path = folder / CONFIG
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["config"] != plain:
            differing = ", ".join(_differences(held["config"], plain))
            raise ConfigError(
                f"workdir {folder} holds a run of another config (it differs in "
                f"{differing}); choose another workdir or remove that one"
            )
        return held["environment"]
    checkpoint.check_workdir(folder, ())
    environment = results.environment()
    content = {"config": plain, "environment": environment}
    results.write_text(path, json.dumps(content, indent=1))
    return environment


def _differences(a: dict, b: dict, prefix: str = "") -> list[str]:
    names = []
    for key in sorted(set(a) | set(b)):
        one, other = a.get(key), b.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            names.append(f"{prefix}{key}")
    return names


def held_record(folder: Path, config) -> results.Record | None:
    """The folder's record if it is of this config, be it of a failed run.

    Raises:
      RecordError: a record that is damaged.
    """
    path = Path(folder) / RECORD
    if not path.exists():
        return None
    record = results.read(path)
    same = record["config_hash"] == results.config_hash(plain_config(config))
    return record if same else None


def set_aside(folder: Path, config, stale: Path) -> Path | None:
    """Moves a workdir of another config out of the way; nothing is deleted."""
    path = Path(folder) / CONFIG
    if not path.exists():
        return None
    held = json.loads(path.read_text(encoding="utf-8"))["config"]
    if held == plain_config(config):
        return None
    target = stale / f"{folder.name}-{results.config_hash(held)[:8]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target = target.with_name(f"{target.name}-{os.getpid()}-{time.time_ns()}")
    shutil.move(folder, target)
    return target


def _evaluate(experiment: Experiment, outcome: train.Result):
    key = stream(random.key(outcome.seed), "evaluate")
    state = outcome.state
    return experiment.evaluations(state.params, state.model.collections, key)


def _describe(dataset: data.Dataset) -> dict[str, Any]:
    splits = {"train": dataset.train, "test": dataset.test}
    if dataset.validation is not None:
        splits["validation"] = dataset.validation
    return {
        "name": dataset.name,
        "source": dataset.source,
        "checksum": dict(dataset.checksum),
        "sizes": {name: len(split) for name, split in splits.items()},
    }


def _wall(outcome: train.Result, evaluate_seconds: float) -> dict[str, float]:
    train_seconds = sum(row["seconds"] for row in outcome.history)
    probes = sum(row.get("probe_seconds", 0.0) for row in outcome.history)
    return {
        "train": train_seconds,
        "compile": outcome.compile_seconds,
        "evaluate": evaluate_seconds + probes,
        "total": train_seconds + probes + evaluate_seconds + outcome.compile_seconds,
    }
