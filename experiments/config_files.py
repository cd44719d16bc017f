"""Config files by name: "configs/<file>.py:<variant>", and where their runs lie.

A config file is Python, so loading it runs it. Only files inside of configs/ are loaded
by name, and those that this process was told of on its command line (`allow`): the name
may come from a stranger's workdir.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from vnets import files

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = (ROOT / "configs").resolve()
SCALES = ("quick", "short", "paper")  # unless a config file says otherwise
SHARED = "common.py"  # in configs/: what they share, and no config
_allowed: set[Path] = set()


class ConfigError(ValueError):
    """A config that cannot be run; the message names the field and the valid values."""


def allow(which: str | Path) -> None:
    """Lets a file be loaded that lies elsewhere, with a variant or without.

    For a name that the user gave, never for one that was read from a file.
    """
    _allowed.add(_resolved(str(which)))


def _resolved(which: str) -> Path:
    return (ROOT / which.partition(":")[0]).resolve()


def load_config(which: str):
    """The config of "configs/<file>.py:<variant>[,<scale>]".

    Raises:
      ConfigError: see `load_module`; a variant or scale that there is not.
    """
    file, _, variant = which.partition(":")
    module = load_module(file)
    try:
        return module.get_config(variant)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"{which}: {kind}{error}") from error


def names() -> tuple[str, ...]:
    """The config files, as a run names them: "configs/ffg.py"."""
    found = sorted(path.name for path in CONFIGS.glob("*.py"))
    return tuple(f"configs/{name}" for name in found if name != SHARED)


def scales(module: ModuleType) -> tuple[str, ...]:
    """The scales of a config file."""
    return getattr(module, "SCALES", SCALES)


def swept(module: ModuleType, scale: str) -> tuple[str, ...]:
    """The variants of a config file that are worth running at a scale."""
    return module.sweep(scale) if hasattr(module, "sweep") else tuple(module.VARIANTS)


def load_module(file: str) -> ModuleType:
    """A config file: its `get_config`, VARIANTS and, if it says so, SCALES and `sweep`.

    Raises:
      ConfigError: a file that is not inside of configs/ by its resolved path, nor was
        allowed; one that cannot be loaded.
    """
    path = _resolved(file)
    inside = path.parent == CONFIGS and f"configs/{path.name}" in names()
    if not ((inside or path in _allowed) and path.is_file()):
        raise ConfigError(
            f"no config file {file!r}: only files of configs/ are loaded by name; "
            f"there are {', '.join(names())}"
        )
    if str(ROOT) not in sys.path:  # a config may build upon another one
        sys.path.insert(0, str(ROOT))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{file}: {type(error).__name__}: {error}") from error
    return module


def flat(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config by their paths, "evals.samples"; a group may be empty."""
    if hasattr(config, "items") and len(config):
        for name, held in config.items():
            yield from flat(held, f"{path}.{name}" if path else str(name))
    else:
        yield path, config


def name(what: str, given: object) -> str:
    """The name, if it may be part of a path; see `files.part`.

    Raises:
      ConfigError: it may not.
    """
    try:
        return files.part(what, given)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def split_run(run: str) -> tuple[str, str]:
    """File stem and variant of "configs/<file>.py:<variant>".

    Raises:
      ConfigError: one that cannot be part of a path.
    """
    file, _, variant = run.partition(":")
    return name("config file", Path(file).stem), name("variant", variant)


def scale_folder(home: str | os.PathLike, run: str, scale: str) -> Path:
    """Where the records of a config file lie at a scale, trained or published."""
    return Path(home) / split_run(run)[0] / name("scale", scale)


def run_folder(home: Path, run: str, scale: str, seed: int) -> Path:
    """The workdir of a run: <home>/<config file>/<scale>/<variant>/seed<k>."""
    return scale_folder(home, run, scale) / split_run(run)[1] / f"seed{seed}"
