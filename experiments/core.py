"""Runs an experiment from its config: data, training, every evaluation, the record."""

import dataclasses
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import random

from experiments import workdirs
from experiments.build import ConfigError, pick
from experiments.config_files import load_config, run_folder
from experiments.preemption import Preemption
from vnets import data, edits, parallel, results, train
from vnets.rng import stream

MODULES = (
    "adversarial",
    "artifact",
    "bit_precision",
    "conv_lrt",
    "diversity",
    "gradient_noise",
    "gradient_variance",
    "kl_approximations",
    "learned_rates",
    "lrt_cost",
    "mean_propagation",
    "policy_gradient",
    "sparsity",
    "sparse_linear",
    "structured",
    "toy_four_classes",
    "toy_regression",
    "uncertainty",
    "variance_networks",
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an experiment found, as numbers.

    Attributes:
      evals: {evaluation: {metric: number}}, the cells of a table.
      curves: {curve: {axis: numbers}}, what figures are drawn from; the axes of a curve
        are equally long.
    """

    evals: dict[str, dict[str, float]]
    curves: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class NetSpec:
    """Trained nets that an experiment starts from: `members` seeds of a run.

    Attributes:
      run: "configs/<file>.py:<variant>"; the scale is the experiment's own.
      members: K; seed s of the experiment has the seeds s K ... s K + K - 1 of the run.
    """

    run: str
    members: int = 1

    def seeds(self, seed: int) -> range:
        """The member seeds that belong to a seed of the experiment."""
        return range(seed * self.members, (seed + 1) * self.members)


@dataclasses.dataclass(frozen=True)
class Net:
    """A trained net: `model.apply({"params": params, **collections}, x, ...)`."""

    model: Any
    params: Any
    collections: dict


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a module's `build(config)` returns if it trains a net.

    Attributes:
      task: for `train.fit`.
      evaluations: (params, collections, key) -> what was measured on the test set.
      model: the net, for those who measure it further; None if it is not a Flax model.
      dataset: as loaded; None where data are made on the fly.
      start: nets whose parameters the training starts from, and
      start_edit: what is done to these first.
      early_stopping: by what a probe measures on a validation split; None: never.
    """

    task: train.Task
    evaluations: Callable[..., Measured]
    model: Any = None
    dataset: data.Dataset | None = None
    start: NetSpec | None = None
    start_edit: edits.Edit | None = None
    early_stopping: train.EarlyStopping | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """What a module's `build(config)` returns if it measures nets of other configs.

    Attributes:
      nets: what it measures, by name; trained first where there is none yet.
      measure: ({name: the members}, key) -> what was measured.
      dataset: as loaded.
    """

    nets: dict[str, NetSpec]
    measure: Callable[[dict[str, list[Net]], Any], Measured]
    dataset: data.Dataset | None = None


def build(config) -> Experiment | Study:
    """The experiment that a config describes.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    name = pick("experiment", config.experiment, MODULES)
    made = importlib.import_module(f"experiments.{name}").build(config)
    _check_data(made, config)
    return made


def _check_data(made: Experiment | Study, config) -> None:
    """Refuses nets that know images they are tested on, or were trained on other data.

    The nets of a study have its data set, however they augment it. One to start from
    may have another, but not trained on what this config holds out for validation.
    """
    studied = isinstance(made, Study)
    nets = made.nets if studied else {"start": made.start} if made.start else {}
    for name, spec in nets.items():
        trained = load_config(f"{spec.run},{config.scale}")
        own, theirs = (
            {k: v for k, v in one.dataset.to_dict().items() if k != "augment"}
            for one in (config, trained)
        )
        held_out, theirs_held_out = (one.get("validation", 0) for one in (own, theirs))
        known = own["name"] == theirs["name"] and held_out not in (0, theirs_held_out)
        if known or (studied and own != theirs):
            raise ConfigError(
                f"config.dataset is {own}, but config.nets.{name}, {spec.run}, is "
                f"trained with {theirs}"
            )


def load_data(spec) -> data.Dataset:
    """The config's data set, downloaded if need be, and changed where it says so.

    `train_images` keeps as many, `random_labels_seed` redraws the training labels,
    `noise_features` appends as many to the pixels (`vnets.data.changes`).
    """
    options = {"labels": spec.labels or None, "validation": spec.validation}
    if "image_size" in spec:
        options["image_size"] = spec.image_size
    loaded = parallel.after_first(
        lambda: data.load(spec.name, download=True, **options)
    )
    changes = {"train_images", "random_labels_seed", "noise_features"} & set(spec)
    if isinstance(loaded.train, data.Stream) and changes:
        raise ConfigError(
            f"config.dataset: {spec.name} is streamed and cannot be changed by "
            f"{sorted(changes)}"
        )
    if "train_images" in spec:
        loaded = data.with_fewer_images(loaded, spec.train_images)
    if "random_labels_seed" in spec:
        loaded = data.with_random_labels(loaded, spec.random_labels_seed)
    if "noise_features" in spec:
        loaded = data.with_noise_features(loaded, spec.noise_features, seed=0)
    return loaded


def run(
    config,
    run_name: str,
    workdir: Callable[[int], Path],
    seeds: Sequence[int],
    *,
    home: Path = Path("runs"),
    stale: Path | None = None,
    stop: Preemption | None = None,
    checkpoint_seconds: float = 60.0,
    keep_every: int = 0,
    tensorboard: bool = False,
) -> dict[int, results.Record]:
    """Trains and evaluates a config for some seeds; writes a record for each.

    A workdir that holds an unfinished run of the same config is resumed, one that has
    its record is left as it is. One process at a time works in a workdir: of several
    that want a run, one trains it, and the others wait and take its record.
    Processes that were joined (`parallel.initialize`) count as one: they run it
    together, in workdirs that all of them see.

    Args:
      config: ConfigDict; its `seed` is ignored in favour of `seeds`.
      run_name: "configs/<file>.py:<variant>", for the record.
      workdir: seed -> folder.
      seeds: which to run.
      home: folder of this machine's runs, where the nets that it starts from lie, or
        are put.
      stale: folder to which workdirs of other configs are moved; None refuses them.
      stop: asks training to save and to stop; None is never.
      checkpoint_seconds: the least time between checkpoints.
      keep_every: epochs between checkpoints that are kept for good; 0 keeps none.
      tensorboard: also write TensorBoard files.

    Returns:
      The records by seed, those of failed seeds included.

    Raises:
      ConfigError: a workdir that holds a run of another config; a negative seed;
        options of training for a study, which trains no net of its own.
      Preempted: `stop` was asked to; the call that comes next goes on from there.
    """
    folders = {seed: Path(workdir(seed)) for seed in seeds}
    if min(folders, default=0) < 0:
        raise ConfigError(f"a seed must be at least 0, not {min(folders)}")
    if _missing(folders, config):
        experiment = build(config)
        if isinstance(experiment, Study) and (keep_every or tensorboard):
            raise ConfigError(
                f"{config.experiment} trains no net of its own: keep_every and "
                "tensorboard are for the runs of config.nets"
            )
        with workdirs.held(folders.values()):
            missing = _missing(folders, config)  # less what others did meanwhile
            for folder in missing.values() if stale else ():
                moved = workdirs.set_aside(folder, config, stale)
                if moved:
                    _say(f"{folder} is of another config: moved to {moved}")
            _run(
                experiment,
                config,
                run_name,
                missing,
                home,
                stop or Preemption(),
                checkpoint_seconds=checkpoint_seconds,
                keep_every=keep_every,
                tensorboard=tensorboard,
            )
    return {
        seed: workdirs.held_record(folder, config) for seed, folder in folders.items()
    }


def _missing(folders: dict[int, Path], config) -> dict[int, Path]:
    """Those that have no record of the config."""
    return {
        seed: folder
        for seed, folder in folders.items()
        if workdirs.held_record(folder, config) is None
    }


def _run(experiment, config, run_name, folders, home, stop, **options) -> None:
    """Runs the seeds of these workdirs, which are held, and writes their records."""
    plain = workdirs.plain_config(config)
    environments = {
        seed: workdirs.claim(folder, plain) for seed, folder in folders.items()
    }
    if isinstance(experiment, Study):
        outcomes = (_study(experiment, config, seed, home, stop) for seed in folders)
    else:
        outcomes = _train(experiment, config, folders, home, stop, **options)
    for outcome in outcomes:
        folder = folders[outcome.seed]
        record = results.build(
            run=run_name,
            scale=config.scale,
            seed=outcome.seed,
            config=plain,
            dataset=_describe(experiment.dataset, plain),
            environment=environments[outcome.seed],
            wall_seconds=outcome.wall,
            evals=outcome.measured.evals,
            curves=outcome.measured.curves,
            nets=outcome.nets,
            history=outcome.history,
            failed=outcome.failed,
        )
        path = folder / workdirs.RECORD
        parallel.once(lambda path=path, record=record: results.write(path, record))


@dataclasses.dataclass(frozen=True)
class _Outcome:
    seed: int
    measured: Measured
    wall: dict[str, float]
    nets: dict[str, dict]
    history: list[dict] = dataclasses.field(default_factory=list)
    failed: str | None = None


def _train(experiment: Experiment, config, folders, home, stop, **options):
    """Trains and tests; yields an outcome for each seed."""
    nets: dict[int, dict] = {seed: {} for seed in folders}
    warm_start = None
    if experiment.start is not None:
        held = {
            seed: _trained(home, experiment.start, config.scale, seed, stop)
            for seed in folders
        }
        nets = {seed: identities for seed, (_, identities) in held.items()}
        change = experiment.start_edit or edits.chain()

        def warm_start(seed: int):
            [net] = held[seed][0]
            key = stream(random.key(seed), "start")
            return change(net.params, key), net.collections

    with stop.deferred():
        fitted = train.fit(
            experiment.task,
            epochs=config.epochs,
            seeds=list(folders),
            workdir=folders.__getitem__,
            warm_start=warm_start,
            chunk_steps=config.chunk_steps,
            probe_every=config.probe.every,
            title=f"{config.variant} {config.scale}",
            stop=stop,
            early_stopping=experiment.early_stopping,
            **options,
        )
    for one in fitted:
        began = time.monotonic()
        measured = Measured({})
        if not one.failed:
            key = stream(random.key(one.seed), "evaluate")
            measured = experiment.evaluations(
                one.state.params, one.state.model.collections, key
            )
        yield _Outcome(
            one.seed,
            measured,
            _wall(one, time.monotonic() - began),
            nets[one.seed],
            one.history,
            one.failed,
        )


def _study(study: Study, config, seed: int, home: Path, stop: Preemption) -> _Outcome:
    """Measures the nets of other configs, which are trained here if need be."""
    nets, identities = {}, {}
    for name, spec in study.nets.items():
        nets[name], who = _trained(home, spec, config.scale, seed, stop)
        identities |= who
    began = time.monotonic()
    measured = study.measure(nets, stream(random.key(seed), "evaluate"))
    seconds = time.monotonic() - began
    wall = {"train": 0.0, "compile": 0.0, "evaluate": seconds, "total": seconds}
    return _Outcome(seed, measured, wall, identities)


def _trained(
    home: Path, spec: NetSpec, scale: str, seed: int, stop: Preemption
) -> tuple[list[Net], dict[str, dict]]:
    """The members of a spec, trained first where they are not, and who they are."""
    config = load_config(f"{spec.run},{scale}")

    def folder(member: int) -> Path:
        return run_folder(home, spec.run, scale, member)

    seeds = spec.seeds(seed)
    missing = _missing({member: folder(member) for member in seeds}, config)
    if missing:
        names = ", ".join(map(str, missing))
        _say(f"{spec.run}, {scale}: training seeds {names} ...")
    records = run(
        config,
        spec.run,
        folder,
        seeds,
        home=home,
        stale=Path(home) / "stale",
        stop=stop,
    )
    experiment = build(config)
    nets, identities = [], {}
    for member in seeds:
        record = records[member]
        if record["status"] != "done":
            raise results.RecordError(
                f"{folder(member)}: this net failed: {record['status']['failed']}"
            )
        nets.append(_restored(experiment, folder(member)))
        identities[f"{spec.run} seed {member}"] = {
            "config_hash": record["config_hash"],
            "commit": record["git"]["commit"],
            "checksum": record["checksum"],
        }
    return nets, identities


def restore(folder: Path | str) -> tuple[Any, Experiment, Net]:
    """What a workdir's run gave so far: its config, its experiment and the net.

    Raises:
      ConfigError: the workdir holds no run, or one that trains no Flax model.
      WorkdirError: it has no checkpoint yet.
    """
    config = workdirs.read_config(folder)
    experiment = build(config)
    if isinstance(experiment, Study) or experiment.model is None:
        raise ConfigError(f"{folder}: {config.experiment} trains no net of its own")
    return config, experiment, _restored(experiment, Path(folder))


def _restored(experiment: Experiment, folder: Path) -> Net:
    like = jax.eval_shape(experiment.task.start, random.key(0))
    state = train.chosen(folder, like)
    return Net(experiment.model, state.params, state.model.collections)


def _say(text: str) -> None:
    if parallel.is_first():
        print(text, flush=True)


def _describe(dataset: data.Dataset | None, config: dict) -> dict[str, Any]:
    if dataset is None:
        made = str(config["dataset"]["name"])
        return {"name": made, "source": "made on the fly", "checksum": {}, "sizes": {}}
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
