"""What a launch has to run: the missing runs of a sweep or of tables, nets first."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments import config_files, core, reproduce, workdirs
from experiments.config_files import allow, load_config, load_module, run_folder
from experiments.spec import ConfigError
from experiments.tables import reading
from vnets import data


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: "configs/<file>.py:<variant>" at a scale, with a seed."""

    run: str
    scale: str
    seed: int

    @property
    def which(self) -> str:
        """What `load_config` and the flag --config take."""
        return f"{self.run},{self.scale}"

    def folder(self, home: Path) -> Path:
        """Its workdir."""
        return run_folder(home, self.run, self.scale, self.seed)

    def __str__(self) -> str:
        return f"{self.which} seed {self.seed}"


LAUNCHED = ("VARIANTS", "get_config")  # what a config file needs
# What is to be run, each after what it needs of it.
Todo = dict[Run, tuple[Run, ...]]


def sweep(which: str, scale: str, seeds: Sequence[int]) -> list[Run]:
    """The runs of a config file at a scale, or of one of its variants.

    Args:
      which: "configs/<file>.py" or "configs/<file>.py:<variant>".
      scale: one of the file's.
      seeds: of each variant.

    Raises:
      ConfigError: a file, variant or scale that there is not, with those there are.
    """
    file, _, variant = which.partition(":")
    allow(file)  # the user named it
    module = load_module(file)
    lacking = [name for name in LAUNCHED if not hasattr(module, name)]
    if lacking:
        raise ConfigError(f"{file} cannot be launched: it has no {', '.join(lacking)}")
    _known("variant", variant or module.VARIANTS[0], module.VARIANTS)
    _known("scale", scale, config_files.scales(module))
    variants = [variant] if variant else config_files.swept(module, scale)
    return [Run(f"{file}:{one}", scale, seed) for one in variants for seed in seeds]


def _known(what: str, name: str, valid: Sequence[str]) -> None:
    if name not in valid:
        raise ConfigError(f"unknown {what} {name!r}; choose from {', '.join(valid)}")


def tables(name: str, scale: str, seeds: Sequence[int]) -> list[Run]:
    """The runs of a table at a scale, or of all tables that have it if `name` is empty.

    Args:
      name: of a file of configs/tables.
      scale: one of the table's.
      seeds: of each row; the first of them where row or scale cap their number.

    Raises:
      TableError: a table or scale that there is not, with those there are.
    """
    found = [
        Run(row.run, scale, seed)
        for table in reading.select(name, scale)
        if scale in table.scale
        for row, row_seeds in reproduce.wanted(table, scale, seeds)
        for seed in row_seeds
    ]
    return list(dict.fromkeys(found))  # tables share runs


def missing(runs: Iterable[Run], home: Path) -> Todo:
    """Those without a record, and the nets that they start from, before them.

    A run that failed (its loss was not finite) has a record, and is not missing: see
    `failed`.

    Raises:
      RecordError: a record that is damaged.
    """
    plan: Todo = {}
    seen = set()

    def visit(run: Run) -> None:
        if run in seen:
            return
        seen.add(run)
        config = _config(run.which)
        if workdirs.held_record(run.folder(home), config) is not None:
            return
        needed = list(_nets(config, run))
        for one in needed:
            visit(one)
        plan[run] = tuple(one for one in needed if one in plan)

    for run in runs:
        visit(run)
    return plan


def failed(runs: Iterable[Run], home: Path) -> list[Run]:
    """Those that an earlier launch saw fail; says so, and what to do."""
    found = []
    for run in runs:
        record = workdirs.held_record(run.folder(home), _config(run.which))
        if record is not None and record["status"] != "done":
            found.append(run)
            why = f"{record['status']['failed']}; remove {run.folder(home)} to run it"
            print(f"failed earlier: {run}: {why}", flush=True)
    return found


def _nets(config, run: Run) -> Iterable[Run]:
    for spec in config.get("nets", {}).values():
        net = core.NetSpec(spec["run"], spec.get("members", 1), spec.get("first", 0))
        for member in net.seeds(run.seed):
            yield Run(net.run, run.scale, member)


@functools.cache
def _config(which: str):
    return load_config(which)


def stages(plan: Todo) -> list[list[Run]]:
    """The plan in parts, each of which needs nothing but of earlier ones."""
    depth: dict[Run, int] = {}
    for run, needed in plan.items():
        depth[run] = 1 + max((depth[one] for one in needed), default=-1)
    return [
        [run for run in plan if depth[run] == level]
        for level in sorted(set(depth.values()))
    ]


def prepare(plan: Todo, home: Path) -> None:
    """What is done once, before many processes run side by side.

    Data sets are downloaded (on a cluster the node of the launch often is the only one
    with a network), and workdirs of configs that have changed since move to
    `home`/stale.

    Raises:
      DataError: data that are not there; WorkdirError: a workdir that cannot be moved.
    """
    specs = [_config(run.which).dataset for run in plan]
    wanted = {(one.name, one.get("labels", "")) for one in specs}
    for name, labels in sorted(wanted):
        if name in data.PREPARABLE:
            data.load(name, labels=labels or None, download=True)
    for run in plan:
        folder, config = run.folder(home), _config(run.which)
        if workdirs.other_config(folder, config) is not None:
            with workdirs.held([folder]):
                moved = workdirs.set_aside(folder, config, Path(home) / "stale")
            if moved:
                print(f"{folder} is of another config: moved to {moved}", flush=True)
