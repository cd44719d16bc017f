"""Config files by name: "configs/<file>.py:<variant>", and where their runs lie."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_config(which: str):
    """The config of "configs/<file>.py:<variant>[,<scale>]"."""
    file, _, variant = which.partition(":")
    return load_module(file).get_config(variant)


def load_module(file: str):
    """A config file: its `get_config`, `sweep`, VARIANTS and SCALES."""
    if str(ROOT) not in sys.path:  # a config may build upon another one
        sys.path.insert(0, str(ROOT))
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def split_run(run: str) -> tuple[str, str]:
    """File stem and variant of "configs/<file>.py:<variant>"."""
    file, _, variant = run.partition(":")
    return Path(file).stem, variant


def scale_folder(home: Path, run: str, scale: str) -> Path:
    """Where the records of a config file lie at a scale, trained or published."""
    return Path(home) / split_run(run)[0] / scale


def run_folder(home: Path, run: str, scale: str, seed: int) -> Path:
    """The workdir of a run: <home>/<config file>/<scale>/<variant>/seed<k>."""
    return scale_folder(home, run, scale) / split_run(run)[1] / f"seed{seed}"
