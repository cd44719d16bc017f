"""Predictive bands of a curve from noisy points, by noise of different kinds.

"cubic" is the problem of Hernandez-Lobato and Adams 2015 (section 5.1), which
Lakshminarayanan et al. 2017 take up: y = x^3 + noise, 20 points with x uniform in
[-4, 4], noise of standard deviation 3, bands drawn on [-6, 6]. "sines" is that of
Blundell et al. 2015. The likelihood is Gaussian with the true noise. What a method
believes beyond it is the spread of its functions f_s, samples of a noisy net or members
of an ensemble.

A band holds a new observation with 95 % by the normal distribution that has the
mixture's two moments: mean f_s +- 1.96 sqrt(var f_s + noise^2).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import spec as parts
from experiments.core import Measured, Net, NetSpec, Study
from experiments.points import CURVES, Curve, load
from vnets.data import Dataset
from vnets.edits import mean_only
from vnets.likelihoods import NORMAL_95, Gaussian
from vnets.predictor import Predictor, as_is
from vnets.rng import stream
from vnets.types import Array, Key

GRID_FIELDS = ("evals.grid_points",)
FIELDS = ("dataset", "nets.net", "evals.samples", "evals.test_points", *GRID_FIELDS)


def build(config) -> Study:
    """The study of a config; see `configs/toy_regression.py` for its fields."""
    spec = NetSpec(**config.nets.net)
    measure = functools.partial(_measure, config.evals, load(config))
    return Study({"net": spec}, lambda nets, key: measure(nets["net"], key))


def band_probe(kind) -> Callable[..., dict[str, float]]:
    """What `experiments.probes` watches while a net trains."""
    settings, curve = kind.config.evals, CURVES[kind.dataset.name]
    grid = _grid(settings, curve)

    def probe(params, collections, key, columns):
        net = [Net(kind.model, params, collections)]
        found = sample_functions(net, grid[:, None], settings.samples, key)
        return summary(curve, grid, found)

    return probe


def measure_of(settings, dataset: Dataset) -> Callable[[Net, Key], Measured]:
    """What is measured of one net, by `config.evals`."""
    return lambda net, key: _measure(settings, dataset, [net], key)


def sample_functions(nets: list[Net], x: Array, samples: int, key: Key) -> Array:
    """Values f_s(x) of all nets, [S, N]; of nets without noise one sample is all."""
    if not any(net.noisy for net in nets):
        samples = 1
    members = [net.member for net in nets]
    return _sample(Predictor(members, samples=samples, link=as_is), x, key)


@jax.jit
def _sample(predictor: Predictor, x: Array, key: Key) -> Array:
    return predictor(x, key)


def band(curve: Curve, functions: Array) -> tuple[Array, Array, Array]:
    """Mean, lower and upper edge [N] of a new observation, from f_s [S, N]."""
    mean = functions.mean(0)
    half = NORMAL_95 * jnp.sqrt(functions.var(0) + curve.noise**2)
    return mean, mean - half, mean + half


def summary(curve: Curve, grid: Array, functions: Array) -> dict[str, float]:
    """How good a prediction is, and where its band is wide.

    Args:
      curve: what is predicted.
      grid: places x, [N].
      functions: values f_s there, [S, N].

    Returns:
      rmse of the mean to the curve where the data lie; width_inside and width_outside,
      mean widths of the band there and beyond; width_ratio, outside over inside.
    """
    low, high = curve.inside
    inside = (low <= np.asarray(grid)) & (np.asarray(grid) <= high)
    mean, lower, upper = band(curve, functions)
    errors, width = mean - curve.truth(grid), upper - lower
    within, beyond = float(width[inside].mean()), float(width[~inside].mean())
    return {
        "rmse": float(jnp.sqrt(jnp.mean(jnp.square(errors[inside])))),
        "width_inside": within,
        "width_outside": beyond,
        "width_ratio": beyond / within,
    }


def _grid(settings, curve: Curve) -> Array:
    if settings.grid_points < 3:
        raise parts.ConfigError(
            "config.evals.grid_points must be at least 3, so that one lies within the "
            f"data and one on each side of them: {settings.grid_points}"
        )
    return jnp.linspace(*curve.shown, settings.grid_points, dtype=jnp.float32)


def _measure(settings, dataset: Dataset, nets: list[Net], key: Key) -> Measured:
    """What the mixture of all nets and their samples predicts, and its band."""
    learn, test, curve = dataset.train, dataset.test, CURVES[dataset.name]
    samples, grid = settings.samples, _grid(settings, curve)
    on_grid = sample_functions(nets, grid[:, None], samples, stream(key, "grid"))
    at_test = sample_functions(nets, test.inputs, samples, stream(key, "test"))
    silent = [dataclasses.replace(net, params=mean_only(net.params)) for net in nets]
    det = sample_functions(silent, grid[:, None], samples, stream(key, "det"))
    mean, lower, upper = band(curve, on_grid)
    tested = Gaussian(curve.noise).metrics(at_test, test.target)
    evals = {
        "predictive": {
            **summary(curve, grid, on_grid),
            "nll": tested["nll"],
            "coverage": tested["coverage"],
            "samples": len(on_grid),
        },
        "det": {"rmse": summary(curve, grid, det)["rmse"], "samples": len(det)},
    }
    axes = {"x": grid, "mean": mean, "lower": lower, "upper": upper}
    axes["truth"] = curve.truth(grid)
    observed = {"x": learn.inputs[:, 0], "y": learn.target}
    return Measured(evals, {"band": _lists(axes), "observed": _lists(observed)})


def _lists(curve: dict[str, Array]) -> dict[str, list[float]]:
    return {axis: np.asarray(v, np.float64).tolist() for axis, v in curve.items()}
