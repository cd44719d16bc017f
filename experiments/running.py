"""Runs an experiment from its config: training, every evaluation, the record."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import random

from experiments import core, records, workdirs
from experiments.config_files import load_config, run_folder
from experiments.core import Experiment, Measured, Net, NetSpec, Study
from experiments.preemption import Preemption
from experiments.spec import ConfigError
from vnets import data, files, monitor, parallel, train
from vnets.rng import stream

# What a config gives that has not the fields, or the types, that its experiment reads.
MALFORMED = (AttributeError, LookupError, TypeError, ValueError, RecursionError)


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
    profile: tuple[int, int] | None = None,
) -> dict[int, records.Record]:
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
      profile: first and end of the steps of each run to trace (`train.fit`).

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
        experiment = core.build(config)
        if isinstance(experiment, Study) and (keep_every or tensorboard or profile):
            raise ConfigError(
                f"{config.experiment} trains no net of its own: keep_every, "
                "tensorboard and profile are for the runs of config.nets"
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
                profile=profile,
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
        record = records.build(
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
            notes=outcome.notes,
        )
        path = folder / workdirs.RECORD
        parallel.once(lambda path=path, record=record: records.write(path, record))


@dataclasses.dataclass(frozen=True)
class _Finished:
    seed: int
    measured: Measured
    wall: dict[str, float]
    nets: dict[str, dict]
    history: list[dict] = dataclasses.field(default_factory=list)
    failed: str | None = None
    notes: list[str] = dataclasses.field(default_factory=list)


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
        begin: Any = experiment.begin

        def warm_start(seed: int):
            return begin(held[seed][0], stream(random.key(seed), "start"))

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
            with _shown(config, one.seed, "evaluating"):
                measured = experiment.evaluations(
                    one.state.params, one.state.model.collections, key
                )
        yield _Finished(
            one.seed,
            measured,
            _wall(one, time.monotonic() - began),
            nets[one.seed],
            one.history,
            one.failed,
            one.notes,
        )


def _study(study: Study, config, seed: int, home: Path, stop: Preemption) -> _Finished:
    """Measures the nets of other configs, which are trained here if need be."""
    nets, identities = {}, {}
    for name, spec in study.nets.items():
        nets[name], who = _trained(home, spec, config.scale, seed, stop)
        identities |= who
    began = time.monotonic()
    with _shown(config, seed, "measuring"):
        measured = study.measure(nets, stream(random.key(seed), "evaluate"))
    seconds = time.monotonic() - began
    wall = {"train": 0.0, "compile": 0.0, "evaluate": seconds, "total": seconds}
    return _Finished(seed, measured, wall, identities)


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
    ran = run(
        config,
        spec.run,
        folder,
        seeds,
        home=home,
        stale=Path(home) / "stale",
        stop=stop,
    )
    experiment = core.build(config)
    nets, identities = [], {}
    for member in seeds:
        record = ran[member]
        if record["status"] != "done":
            raise records.RecordError(
                f"{folder(member)}: this net failed: {record['status']['failed']}"
            )
        net = _restored(experiment, folder(member))
        seconds = _training_seconds(home, scale, record)
        nets.append(dataclasses.replace(net, seconds=seconds))
        identities[f"{spec.run} seed {member}"] = {
            "config_hash": record["config_hash"],
            "commit": record["git"]["commit"],
            "checksum": record["checksum"],
        }
    return nets, identities


def _training_seconds(home: Path, scale: str, record: records.Record) -> float:
    """What the training of a record took, and that of nets that it began from; nan
    where those are no longer here."""
    seconds = record["wall_seconds"]["train"]
    for who in record.get("nets", {}):
        run, _, member = who.rpartition(" seed ")
        path = run_folder(home, run, scale, int(member)) / workdirs.RECORD
        if not path.exists():
            return math.nan
        seconds += _training_seconds(home, scale, records.read(path))
    return seconds


def restore(folder: Path | str) -> tuple[Any, Experiment, Net]:
    """What a workdir's run gave so far: its config, its experiment and the net.

    Raises:
      ConfigError: the workdir holds no run, or one that trains no Flax model.
      WorkdirError: it has no checkpoint yet.
    """
    config, experiment = _read(folder)
    if isinstance(experiment, Study) or experiment.model is None:
        raise ConfigError(f"{folder}: {config.experiment} trains no net of its own")
    return config, experiment, _restored(experiment, Path(folder))


def _read(folder: Path | str) -> tuple[Any, Experiment | Study]:
    """The config of a workdir, which may be a stranger's, and what it describes."""
    try:
        config = workdirs.read_config(folder)
        return config, core.build(config)
    except ConfigError:
        raise
    except MALFORMED as error:
        if isinstance(error, files.FileError | data.DataError):
            raise
        text = " ".join(str(error).split())
        raise ConfigError(
            f"{Path(folder) / workdirs.CONFIG} is no config of a run: "
            f"{type(error).__name__}: {text}"
        ) from error


def _restored(experiment: Experiment, folder: Path) -> Net:
    like = jax.eval_shape(experiment.task.start, random.key(0))
    state = train.chosen(folder, like)
    collected = state.collected if experiment.task.collect else None
    held, carried = state.model.collections, experiment.carried
    own = {name: one for name, one in held.items() if name not in carried}
    return Net(experiment.model, state.params, own, collected)


def _shown(config, seed: int, doing: str):
    """Shows that it goes on, while it takes long."""
    work = monitor.Work(f"{config.variant} {config.scale} seed {seed}, {doing}")
    return monitor.shown(work, parallel.is_first())


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
