"""Small nets to take home: files that come with the package.

    predictor = compact.pretrained("digits_lenet5_sparse_vd")
    print(predictor)                    # whose run it is, of which commit, how good
    logits = predictor(images)          # or, of a net with noise,
    probabilities = predictor.ensemble(images, 20, np.random.default_rng(0))

This folder has each net's file, its run's record and, in nets.json, what the file is
and does. Made by `scripts/shelve.py` of the repository.
"""

import hashlib
import json
import math
from importlib import resources
from typing import Any

import numpy as np

from vnets.compact.codec import loads
from vnets.compact.predict import Predictor
from vnets.plan import Plan, Shape
from vnets.plan.sequences import embedding

TOLD = "nets.json"


def shelved() -> dict[str, dict[str, Any]]:
    """What there is, by name.

    {"run": config and variant, "scale": its scale, "dataset": its name, "epochs": how
    many it was trained for, "commit": of the code that trained it, "bytes" and "sha256"
    of the file, "noise": whether weights have it, "accuracy": of the file on test
    images, {"det": noise off, "ens": mean of 20 draws}, "examples": how many of them,
    the first, "recorded": accuracy of the net before it was made small, on all,
    "outputs": of the file for `example`}.
    """
    return json.loads(_file(TOLD).read_text("utf-8"))


def pretrained(name: str) -> Predictor:
    """A trained net, ready to predict; needs NumPy alone.

    Args:
      name: one of `shelved()`.

    Raises:
      ValueError: another name, or a file that is not the one that was shelved.
    """
    nets = shelved()
    if name not in nets:
        raise ValueError(f"unknown net {name!r}; choose from {list(nets)}")
    content = _file(f"{name}.vnz").read_bytes()
    if hashlib.sha256(content).hexdigest() != nets[name]["sha256"]:
        raise ValueError(
            f"{name}.vnz of this installation is not the file it should be"
        )
    return Predictor(loads(content))


def example(plan: Plan, shape: Shape) -> np.ndarray:
    """Two inputs, [2, *shape], that need no generator of random numbers.

    Tokens of a net that reads them, int32; else numbers in [0, 1), float32.
    """
    numbers = (np.arange(2 * math.prod(shape)) * 37 % 101).reshape(2, *shape)
    first = embedding(plan)
    if first is not None:
        return (numbers % first.vocabulary).astype(np.int32)
    return (numbers / 101).astype(np.float32)


def _file(name: str):
    return resources.files(__name__) / name
