"""Normal draws: how many a second, and how normal they are, in both forms.

`box_muller` is the CPU's form (`vnets.noise`), `inverse_cdf` is `jax.random.normal`.
Quality is the Kolmogorov-Smirnov distance from the normal distribution and the share of
draws beyond four standard deviations over the normal's share.
"""

import functools
import math

import numpy as np
from jax import random

from experiments.bench import timing
from experiments.bench.measuring import Benchmark, Case
from vnets import backend
from vnets.noise import box_muller

SHAPE = (200, 12, 12, 80)  # the noise of LeNet-5's first layer at a batch of 200
FORMS = {"box_muller": box_muller, "inverse_cdf": random.normal}
QUALITY_DRAWS = 10_000_000
TAIL_BLOCKS = 10  # a tail of 6e-5 needs more draws than the distance does
TAIL = 4.0
KS_CRITICAL = 1.6276  # sqrt(n) D exceeds it with probability 1 %


def benchmark(quick: bool) -> Benchmark:
    """Time, memory and quality of each form."""
    shape = (20, 10, 80) if quick else SHAPE
    n = 10_000 if quick else QUALITY_DRAWS

    def finish(parts, times):
        del times
        values = {}
        for name, draw in FORMS.items():
            rate = 1e9 / parts["cases"][name]["median"]
            values[f"{name}: draws per second"] = rate
            values |= {f"{name}: {k}": v for k, v in _quality(draw, n).items()}
        return {"values": values | {"KS critical value (1 %)": KS_CRITICAL / n**0.5}}

    return Benchmark(
        title="Normal draws",
        unit="ms per million draws",
        rounds=30,
        cases={
            name: Case(functools.partial(_build, draw, shape), math.prod(shape) / 1e6)
            for name, draw in FORMS.items()
        },
        settings={
            "draws_for_ks": n,
            "draws_for_tail": n * TAIL_BLOCKS,
            "dtype": "float32",
        },
        pairs={"box_muller / inverse_cdf": ("box_muller", "inverse_cdf")},
        finish=finish,
    )


def _build(draw, shape) -> timing.Ready:
    return timing.ready(lambda key: draw(key, shape), random.key(0))


def _quality(draw, n: int) -> dict[str, float]:
    from scipy.special import ndtr

    compiled = backend.jit(lambda key: draw(key, (n // 1000, 1000)))
    exceed, distance = 0, 0.0
    for block in range(TAIL_BLOCKS):
        drawn = np.asarray(compiled(random.key(block))).ravel()
        exceed += int(np.count_nonzero(np.abs(drawn) > TAIL))
        if block == 0:
            # The largest gap between the empirical and the exact distribution function.
            exact, levels = ndtr(np.sort(drawn).astype(float)), np.arange(n + 1) / n
            distance = max(np.max(levels[1:] - exact), np.max(exact - levels[:-1]))
    expected = math.erfc(TAIL / math.sqrt(2)) * n * TAIL_BLOCKS
    return {
        "KS distance": float(distance),
        "P(|eps| > 4) / normal's": exceed / expected,
        "its standard error": 1 / math.sqrt(expected),
    }


BENCHMARKS = {"noise": benchmark}
