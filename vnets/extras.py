"""Packages that not everybody needs, and the extra of vnets that brings each.

`pip install vnets` brings what training and the reader of .vnz files need. A package
of an extra is imported where it is used, after `need` has looked for it.
"""

import importlib
import importlib.metadata
from types import ModuleType

# What is imported, or the package that has no module, -> the extra of pyproject.toml
# that installs it.
EXTRAS = {
    "PIL": "data",
    "foolbox": "dev",
    "grain": "imagenet",
    "gymnax": "rl",
    "matplotlib": "figures",
    "mkdocs": "dev",
    "nbclient": "dev",
    "nbformat": "dev",
    "onednn-cpu-gomp": "onednn",
    "onnx": "foreign",
    "onnxruntime": "bench",
    "pandas": "frames",
    "safetensors": "foreign",
    "sklearn": "sklearn",
    "submitit": "launch",
    "tensorboardX": "tensorboard",
    "torch": "bench",
}


class MissingExtra(ImportError):  # noqa: N818 (it says what to install)
    """A package of an extra is not installed; the message names the extra."""


def need(module: str) -> ModuleType:
    """Imports a module of an extra.

    Args:
      module: its name, whose first part is a key of `EXTRAS`.

    Raises:
      MissingExtra: the package is not installed; it says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        told = advice(error)
        if told is None:  # the package is there, and lacks something of its own
            raise
        raise MissingExtra(told, name=error.name) from error


def need_package(name: str) -> None:
    """Looks for a package of an extra that has no module to import.

    Args:
      name: as pip knows it, a key of `EXTRAS`.

    Raises:
      MissingExtra: it is not installed; the message says what to install.
    """
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra(advice(ImportError(name=name)), name=name) from None


def advice(error: ImportError) -> str | None:
    """What to install for an import that failed; None where no extra has it."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return (
        f"{package} is not installed, which the extra {extra!r} brings: "
        f"pip install 'vnets[{extra}]' (in the repository: pip install -e '.[{extra}]')"
    )
