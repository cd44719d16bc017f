"""Predictive bands on y = x^3 + noise from 20 points, by noise of different kinds.

The problem of Hernandez-Lobato and Adams 2015 (section 5.1), which Lakshminarayanan et
al. 2017 take up: x uniform in [-4, 4], noise of standard deviation 3, bands drawn on
[-6, 6]. The likelihood is Gaussian with the true noise. What a method believes beyond
it is the spread of its functions f_s, samples of a noisy net or members of an ensemble.

A band holds a new observation with 95 % by the normal distribution that has the
mixture's two moments: mean f_s +- 1.96 sqrt(var f_s + 9).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from experiments import build as parts
from experiments.core import Experiment, Measured, Net, NetSpec, Study
from experiments.toys import FullBatch, Points
from vnets import objectives, train
from vnets.edits import mean_only
from vnets.layers import TEST, TRAIN, Mode
from vnets.nodes import is_noisy, is_posterior
from vnets.priors import kl
from vnets.rng import stream
from vnets.types import Array, Key

INSIDE, SHOWN = 4.0, 6.0  # data lie in [-4, 4], bands are drawn on [-6, 6]
NOISE = 3.0  # standard deviation of the observations
NORMAL_95 = 1.959964  # of a standard normal, 95 % lie within this of zero


def build(config) -> Experiment | Study:
    """The experiment of a config; see `configs/toy_regression.py` for its fields."""
    for field in ("samples", "test_points"):
        parts.positive(f"evals.{field}", config.evals[field])
    if config.evals.grid_points < 3:
        raise parts.ConfigError(
            "config.evals.grid_points must be at least 3, so that one lies within the "
            f"data and one on each side of them: {config.evals.grid_points}"
        )
    parts.positive("dataset.size", config.dataset.size)
    key = stream(random.key(config.dataset.seed), "cubic")
    learn = cubic(config.dataset.size, stream(key, "train"))
    test = cubic(config.evals.test_points, stream(key, "test"))
    measure = functools.partial(_measure, config.evals, learn, test)
    if "nets" in config:
        spec = NetSpec(**config.nets.net)
        parts.positive("nets.net.members", spec.members)
        return Study({"net": spec}, lambda nets, key: measure(nets["net"], key))
    return _training(config, learn, measure)


def _training(config, learn: Points, measure) -> Experiment:
    for field in ("epochs", "steps", "copies", "chunk_steps"):
        parts.positive(field, config[field])
    parts.positive("probe.every", config.probe.every)
    model = Standardized(parts.model(config.model, classes=1), *statistics(learn))
    source = FullBatch(learn, config.steps, config.copies)
    init = train.initializer(model, learn.image)
    prior = parts.prior(config.prior)
    total_steps = config.epochs * config.steps

    def probe(params, collections, key):
        net = Net(model, params, collections)
        grid = _grid(config.evals)
        samples = config.evals.samples
        return summary(grid, sample_functions(net, grid[:, None], samples, key))

    task = train.Task(
        init=init,
        loss=regression_loss(model, prior, source.n),
        optimizer=parts.optimizer(config.optimizer, total_steps),
        source=source,
        probe=probe,
        locate=objectives.first_nonfinite_layer(model),
    )
    # A prior that does not fit the posteriors says so here.
    params, _ = jax.eval_shape(init, random.key(0))
    divergence = functools.partial(kl, prior=prior)
    parts.call("prior", lambda: jax.eval_shape(divergence, params), {})

    def evaluations(params, collections, key):
        return measure([Net(model, params, collections)], key)

    return Experiment(task, evaluations, model)


def cubic(n: int, key: Key) -> Points:
    """n observations of x^3 with noise, at x uniform in [-4, 4]: [n, 1] and [n]."""
    key_x, key_noise = random.split(key)
    x = random.uniform(key_x, (n, 1), jnp.float32, -INSIDE, INSIDE)
    noise = NOISE * random.normal(key_noise, (n,), jnp.float32)
    return Points(x, x[:, 0] ** 3 + noise)


def statistics(points: Points) -> tuple[float, float, float, float]:
    """Mean and standard deviation of the inputs, then those of the targets."""
    x, y = points.image, points.label
    return tuple(float(value) for value in (x.mean(), x.std(), y.mean(), y.std()))


@dataclasses.dataclass(frozen=True)
class Standardized:
    """A net of one output between inputs and targets in their own units.

    Without it the first layers would start with targets far out of their reach.

    Attributes:
      net: [B, 1] -> [B, 1], of inputs and outputs of mean 0 and standard deviation 1.
      x_mean, x_std, y_mean, y_std: `statistics` of the training set.
    """

    net: Any
    x_mean: float
    x_std: float
    y_mean: float
    y_std: float

    def init(self, rngs, x: Array):
        """The net's `init`."""
        return self.net.init(rngs, (x - self.x_mean) / self.x_std)

    def apply(self, variables, x: Array, mode: Mode = TEST, **kwargs):
        """The net's `apply` with `mutable` given: [B] and the collections."""
        x = (x - self.x_mean) / self.x_std
        y, collections = self.net.apply(variables, x, mode=mode, **kwargs)
        return self.y_mean + self.y_std * y[:, 0], collections


def regression_loss(model, prior, n_train: int):
    """The negative ELBO per example under the true noise, as `train.fit` takes it.

    Metrics: loss, nll (nats per example), kl (nats), rmse against the observations.
    """

    def loss(params, state: objectives.ModelState, batch, key):
        y, collections = model.apply(
            {"params": params, **state.collections},
            batch["image"],
            mode=TRAIN,
            rngs={"noise": key},
            mutable=list(state.collections),
        )
        nll = objectives.gaussian_nll(y, batch["label"], NOISE)
        divergence = kl(params, prior, stream(key, "kl"))
        value = objectives.neg_elbo(nll, divergence, n_train)
        metrics = {
            "loss": value,
            "nll": jnp.mean(nll),
            "kl": divergence,
            "rmse": jnp.sqrt(jnp.mean(jnp.square(y - batch["label"]))),
        }
        return value, (objectives.ModelState(state.step, collections), metrics)

    return loss


def sample_functions(net: Net, x: Array, samples: int, key: Key) -> Array:
    """Values f_s(x) of a net, [S, N]; of a net without noise one sample is all."""
    leaves = jax.tree.leaves(net.params, is_leaf=is_posterior)
    if not any(is_noisy(leaf) for leaf in leaves):
        samples = 1
    variables = {"params": net.params, **net.collections}
    return _sample(net.model, samples, variables, x, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(model, samples: int, variables, x: Array, key: Key) -> Array:
    def one(key):
        return model.apply(variables, x, rngs={"noise": key}, mutable=[])[0]

    return jax.vmap(one)(random.split(key, samples))


def band(functions: Array) -> tuple[Array, Array, Array]:
    """Mean, lower and upper edge [N] of a new observation, from f_s [S, N]."""
    mean = functions.mean(0)
    half = NORMAL_95 * jnp.sqrt(functions.var(0) + NOISE**2)
    return mean, mean - half, mean + half


def mixture_nll(functions: Array, target: Array) -> float:
    """-log mean_s N(y; f_s, 9), the mean over targets [N], in nats; f_s is [S, N]."""
    targets = jnp.broadcast_to(target, functions.shape)
    each = objectives.gaussian_nll(functions, targets, NOISE)
    log_p = jax.nn.logsumexp(-each, axis=0) - jnp.log(float(len(functions)))
    return -float(log_p.mean())


def summary(grid: Array, functions: Array) -> dict[str, float]:
    """How good a prediction is, and where its band is wide.

    Args:
      grid: places x, [N].
      functions: values f_s there, [S, N].

    Returns:
      rmse of the mean to x^3 in [-4, 4]; width_inside and width_outside, mean widths of
      the band there and beyond; width_ratio, outside over inside.
    """
    inside = np.abs(grid) <= INSIDE
    mean, lower, upper = band(functions)
    errors, width = mean - grid**3, upper - lower
    within, beyond = float(width[inside].mean()), float(width[~inside].mean())
    return {
        "rmse": float(jnp.sqrt(jnp.mean(jnp.square(errors[inside])))),
        "width_inside": within,
        "width_outside": beyond,
        "width_ratio": beyond / within,
    }


def _functions(nets: list[Net], x: Array, samples: int, key: Key) -> Array:
    """The functions of all nets, [S, N]."""
    each = [
        sample_functions(net, x, samples, stream(key, i)) for i, net in enumerate(nets)
    ]
    return jnp.concatenate(each)


def _grid(settings) -> Array:
    return jnp.linspace(-SHOWN, SHOWN, settings.grid_points, dtype=jnp.float32)


def _measure(
    settings, learn: Points, test: Points, nets: list[Net], key: Key
) -> Measured:
    """What the mixture of all nets and their samples predicts, and its band."""
    samples, grid = settings.samples, _grid(settings)
    on_grid = _functions(nets, grid[:, None], samples, stream(key, "grid"))
    at_test = _functions(nets, test.image, samples, stream(key, "test"))
    silent = [dataclasses.replace(net, params=mean_only(net.params)) for net in nets]
    det = _functions(silent, grid[:, None], samples, stream(key, "det"))
    mean, lower, upper = band(on_grid)
    _, test_lower, test_upper = band(at_test)
    covered = (test_lower <= test.label) & (test.label <= test_upper)
    evals = {
        "predictive": {
            **summary(grid, on_grid),
            "nll": mixture_nll(at_test, test.label),
            "coverage": float(covered.mean()),
            "samples": len(on_grid),
        },
        "det": {"rmse": summary(grid, det)["rmse"], "samples": len(det)},
    }
    axes = {"x": grid, "mean": mean, "lower": lower, "upper": upper, "truth": grid**3}
    observed = {"x": learn.image[:, 0], "y": learn.label}
    return Measured(evals, {"band": _lists(axes), "observed": _lists(observed)})


def _lists(curve: dict[str, Array]) -> dict[str, list[float]]:
    return {axis: np.asarray(v, np.float64).tolist() for axis, v in curve.items()}
