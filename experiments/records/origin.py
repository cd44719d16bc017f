"""Where a record comes from: the commit, the packages and the machine of a run."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

# The last may compute convolutions (`vnets.backend`); None where it is not installed.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "vnets", "onednn-cpu-gomp")
# What decides a run. Results, tests and prose may change without making a run dirty.
CODE = ("vnets", "experiments", "configs", "scripts", "pyproject.toml")


def environment(root: str | os.PathLike | None = None) -> dict[str, dict[str, Any]]:
    """Returns the `git`, `versions` and `device` parts of a record.

    Call it when a run starts: by its end the files on disk may be others than the ones
    that ran. `root` is the top of the repository, by default the folder with `vnets`.
    """
    root = Path(__file__).resolve().parents[2] if root is None else Path(root).resolve()
    return {"git": _git_state(root), "versions": _versions(), "device": _device()}


def _git_state(root: Path) -> dict[str, Any]:
    """Returns commit and dirty; outside a checkout no commit can vouch for the code."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # A copy of vnets installed inside some other repository is not that repository.
    if top is None or Path(top).resolve() != root:
        return {"commit": None, "dirty": True}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *CODE)
    return {"commit": commit, "dirty": commit is None or changes != ""}


def _git(root: Path, *arguments: str) -> str | None:
    # Without the optional lock a status cannot get in the way of a commit being made.
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env=variables,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
            versions[package] = None
    return versions


def _device() -> dict[str, Any]:
    import jax  # here, since reading records must not start an accelerator

    devices = jax.devices()
    kind = devices[0].device_kind
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "platform": devices[0].platform,
        "kind": (_cpu_model() or kind) if devices[0].platform == "cpu" else kind,
        "count": len(devices),
        "threads": len(affinity(0)) if affinity else os.cpu_count(),
    }


def _cpu_model() -> str | None:
    """Returns the processor's name where Linux tells it; JAX calls every one "cpu"."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None
