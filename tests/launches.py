"""What the tests of launches share: configs to launch, processes, their records."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Six runs of a second, without training: three of these, two seeds each.
QUICK = """
from configs import common, kl_approximations

SCALES = ("quick",)
VARIANTS = ("log_uniform", "log_uniform_2016", "ard")


def get_config(which):
    config = kl_approximations.get_config(which)
    config.grid.update({"points": 5, "weights": 8, "rounds": 1})
    return config
"""
# Six that train; half of them start from others.
TRAINED = """
from configs import common

SCALES = ("quick",)
VARIANTS = ("warm", "variance", "dropout")
KINDS = {"dropout": {"kind": "dropout", "rate": 0.5}}


def get_config(which):
    variant, scale = common.split(which, VARIANTS)
    config = common.classifier(variant, scale)
    kind = KINDS.get(variant, {"kind": "variance"})
    config.model = {"name": "mlp", "widths": (8,), "posteriors": {"dense1": kind}}
    config.epochs, config.chunk_steps, config.probe.every = 200, 1, 100
    config.evals.columns = config.probe.columns = ("det",)
    if variant == "warm":
        start = {"run": f"{__file__}:variance", "edit": "nothing"}
        config.nets = {"start": start}
    return config
"""


def launch(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "scripts/launch.py", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def inherit(environment, monkeypatch):
    """Gives what this process starts the environment of a user's shell."""
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def records(home):
    return {path: path.read_bytes() for path in Path(home).rglob("record.json")}


def children(pid):
    """Processes that a process started, and theirs."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    own = [int(one) for one in path.read_text().split()] if path.exists() else []
    return own + [one for child in own for one in children(child)]
