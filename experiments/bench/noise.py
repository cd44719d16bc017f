"""Normal draws: how many a second, and how normal they are, in both forms.

`box_muller` is the CPU's form (`vnets.noise`), `inverse_cdf` is `jax.random.normal`.
Quality is the Kolmogorov-Smirnov distance from the normal distribution and the share of
draws beyond four standard deviations over the normal's share.
"""

import functools
import math
from typing import Any

import numpy as np
from jax import random

from experiments.bench import compiling, timing
from vnets import backend
from vnets.noise import box_muller

TITLE = "Normal draws"
UNIT = "ms per million draws"
ROUNDS = 30
SHAPE = (200, 12, 12, 80)  # the noise of LeNet-5's first layer at a batch of 200
FORMS = {"box_muller": box_muller, "inverse_cdf": random.normal}
QUALITY_DRAWS = 10_000_000
TAIL_BLOCKS = 10  # a tail of 6e-5 needs more draws than the distance does
TAIL = 4.0
KS_CRITICAL = 1.6276  # sqrt(n) D exceeds it with probability 1 %


def cases(quick: bool) -> dict[str, timing.Case]:
    """A case for each form."""
    shape = (20, 10, 80) if quick else SHAPE
    units = math.prod(shape) / 1e6
    return {
        name: timing.Case(functools.partial(_build, draw, shape), units)
        for name, draw in FORMS.items()
    }


def _build(draw, shape) -> timing.Ready:
    return compiling.ready(lambda key: draw(key, shape), random.key(0))


def run(quick: bool, rounds: int, say: timing.Say) -> dict[str, Any]:
    """Measures time, memory and quality."""
    measured = timing.measure(
        "noise", cases(quick), rounds=rounds, quick=quick, say=say
    )
    n = 10_000 if quick else QUALITY_DRAWS
    say(f"noise: quality of {n:.0e} draws")
    values = {}
    for name, draw in FORMS.items():
        per_second = 1e9 / measured.cases[name]["median"]
        values[f"{name}: draws per second"] = per_second
        values |= {f"{name}: {k}": v for k, v in _quality(draw, n).items()}
    values["KS critical value (1 %)"] = KS_CRITICAL / math.sqrt(n)
    return {
        "settings": {
            "draws_for_ks": n,
            "draws_for_tail": n * TAIL_BLOCKS,
            "dtype": "float32",
        },
        "cases": measured.cases,
        "ratios": timing.ratios(
            measured.times, {"box_muller / inverse_cdf": ("box_muller", "inverse_cdf")}
        ),
        "values": values,
        "notes": measured.notes,
    }


def _quality(draw, n: int) -> dict[str, float]:
    from scipy.special import ndtr

    compiled = backend.jit(lambda key: draw(key, (n // 1000, 1000)))
    exceed = 0
    for block in range(TAIL_BLOCKS):
        drawn = np.asarray(compiled(random.key(block))).ravel()
        exceed += int(np.count_nonzero(np.abs(drawn) > TAIL))
        if block == 0:
            distance = _ks_distance(ndtr(np.sort(drawn).astype(np.float64)))
    expected = math.erfc(TAIL / math.sqrt(2)) * n * TAIL_BLOCKS
    return {
        "KS distance": distance,
        "P(|eps| > 4) / normal's": exceed / expected,
        "its standard error": 1 / math.sqrt(expected),
    }


def _ks_distance(probabilities: np.ndarray) -> float:
    """The largest gap between the empirical and the exact distribution function."""
    n = len(probabilities)
    steps = np.arange(n + 1) / n
    above = np.max(steps[1:] - probabilities)
    below = np.max(probabilities - steps[:-1])
    return float(max(above, below))


BENCHMARKS = {"noise": timing.Benchmark(TITLE, UNIT, ROUNDS, cases, run)}
