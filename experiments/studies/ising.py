"""The inverse Ising problem: how spins are coupled, from samples of their states.

p(s) ~ exp(sum over pairs of J_ij s_i s_j), s_i = -1 or 1. `system` says which J there
are: a "ferromagnet", all neighbours on a periodic lattice alike, or a "glass", N(0, 1 /
`neighbours`) between random pairs. Each of `samples` states is the end of a Gibbs chain
of its own. `method`:

    mean_field         J = -C^-1 off the diagonal, C the covariance
    pseudo_likelihood  a logistic regression of each spin by all others with an L1
                       penalty, chosen by cross-validation; a pair has the mean of two
    non_centred        a posterior under the horseshoe, J = s t_ij w_ij: log-normal s
                       and t_ij with half-Cauchy priors, normal w_ij with N(0, 1)
    centred            the same with a normal J_ij in the place of w_ij, N(0, (s
                       t_ij)^2) a priori

The last two climb the ELBO, whose slope has the moments of the model: those of
persistent chains, `sweeps` sweeps a step at the J that was drawn. J is then its
posterior mean (Ingraham and Marks 2017, "fadeout" and persistent VI). Each of our
chains has a J of its own, whose noise keeps the share `memory` of itself from step to
step: chains that meet another J at each step do not follow it, and then nothing holds
the variance of s. The states are known to have no mean, and no method learns a field.

    n<N>    rms, of the error of all pairs from N states

Curve: rms by the number of states.
"""

import functools
import math
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random

from experiments import spec as parts
from experiments.core import Measured, Study, without_nets
from vnets import extras
from vnets.nodes import Additive, LogNormal
from vnets.priors import standard_normal
from vnets.rng import stream
from vnets.types import Array, Key

FIELDS = ("dataset.name", "system", "samples", "burn_in", "method", "strengths")
FIELDS += ("folds", "chains", "sweeps", "iterations", "learning_rate", "memory")
FIELDS += ("start",)
PENALTIES = (1e-3, 10.0)  # the ends of the grid of C, 1 / penalty


def build(config) -> Study:
    """The study of a config; see `configs/ising.py` for its fields."""
    make = parts.pick("system.name", config.system.name, SYSTEMS)
    method = parts.pick("method", config.method, METHODS)
    for field in ("burn_in", "strengths", "chains", "sweeps", "iterations"):
        parts.positive(field, config[field])
    parts.several("samples", min(config.samples))
    parts.several("folds", config.folds)
    if not 0 <= config.memory < 1:
        raise parts.ConfigError(
            f"config.memory must be from 0 to below 1, not {config.memory}"
        )
    if config.method == "pseudo_likelihood":
        extras.need("sklearn")
    return without_nets(functools.partial(_measure, config, make, method))


def ferromagnet(spec, rng: np.random.Generator) -> np.ndarray:
    """Couplings [N, N] of neighbours on a periodic lattice, side^dimensions spins."""
    del rng
    shape = (spec.side,) * spec.dimensions
    spins = np.arange(spec.side**spec.dimensions).reshape(shape)
    couplings = np.zeros((spins.size, spins.size))
    for axis in range(spec.dimensions):
        for step in (-1, 1):
            near = np.roll(spins, step, axis)
            couplings[spins.ravel(), near.ravel()] = spec.coupling
    return couplings


def glass(spec, rng: np.random.Generator) -> np.ndarray:
    """Couplings [N, N] of random pairs, so that a spin has `neighbours` on average."""
    n = spec.side**spec.dimensions
    there = rng.random((n, n)) < spec.neighbours / n
    values = rng.standard_normal((n, n)) / np.sqrt(spec.neighbours)
    upper = np.triu(there * values, 1)
    return upper + upper.T


SYSTEMS = {"ferromagnet": ferromagnet, "glass": glass}


def gibbs(couplings: Array, states: Array, sweeps: int, key: Key) -> Array:
    """States [C, N] of chains after so many sweeps, spin by spin.

    Args:
      couplings: of all chains, [N, N], or of each, [C, N, N].
      states: before.
      sweeps: over all spins.
      key: of the draws.
    """
    chains, n = states.shape

    def one(states, at):
        spin, key = at
        column = jnp.broadcast_to(couplings[..., spin], states.shape)
        field = jnp.sum(states * column, -1)
        up = random.uniform(key, (chains,)) < jax.nn.sigmoid(2 * field)
        return states.at[:, spin].set(jnp.where(up, 1.0, -1.0)), None

    spins = jnp.tile(jnp.arange(n), sweeps)
    return lax.scan(one, states, (spins, random.split(key, sweeps * n)))[0]


@functools.partial(jax.jit, static_argnums=(1, 2))
def sampled(couplings: Array, count: int, sweeps: int, key: Key) -> Array:
    """Independent states [count, N] of a system."""
    first, rest = random.split(key)
    start = random.rademacher(first, (count, len(couplings)), jnp.float32)
    return gibbs(couplings, start, sweeps, rest)


def mean_field(config, states: np.ndarray, key: Key) -> np.ndarray:
    """The couplings [N, N] of naive mean field."""
    del config, key
    found = -np.linalg.pinv(states.T @ states / len(states))
    np.fill_diagonal(found, 0)
    return found


def pseudo_likelihood(config, states: np.ndarray, key: Key) -> np.ndarray:
    """Those of regressions of each spin, with an L1 penalty of its own."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegressionCV

    del key
    found = np.zeros((states.shape[1],) * 2)
    for spin, of_spin in enumerate(states.T):
        others = np.delete(np.arange(len(found)), spin)
        model = LogisticRegressionCV(
            Cs=np.geomspace(*PENALTIES, config.strengths),
            cv=config.folds,
            solver="liblinear",
            l1_ratios=(1.0,),
            use_legacy_attributes=False,
            scoring="neg_log_loss",
            fit_intercept=False,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(states[:, others], of_spin)
        found[spin, others] = model.coef_[0] / 2
    return (found + found.T) / 2


class Form:
    """The horseshoe of all pairs, with w_ij that are apart from their scales.

    A posterior is {"all": s, "each": t, "weight": w}, log-normal, log-normal, normal.
    """

    def start(self, pairs: int, spec) -> dict:
        """The posterior before training."""

        def full(kind, size: int, mean: float, std: float):
            log_var = 2 * math.log(std)
            return kind(*(jnp.full((size,), v, jnp.float32) for v in (mean, log_var)))

        return {
            "all": full(LogNormal, 1, spec.log_scale, spec.scale_std),
            "each": full(LogNormal, pairs, spec.log_scale, spec.scale_std),
            "weight": full(Additive, pairs, 0.0, spec.weight_std),
        }

    def drawn(self, q: dict, noise: dict) -> tuple[Array, Array]:
        """The couplings of a draw, [pairs], and the KL, of the scales by that draw.

        Args:
          q: the posterior.
          noise: standard normal, of the shape of each part.
        """
        scales = q["all"], q["each"]
        log_scales = [
            node.log_mean + jnp.exp(0.5 * node.log_var) * noise[name]
            for name, node in zip(("all", "each"), scales, strict=True)
        ]
        mean, std = q["weight"].location_scale()
        kl = self.weight_kl(q) + sum(
            jnp.sum(jnp.logaddexp(u, -u) - 0.5 * node.log_var)
            for u, node in zip(log_scales, scales, strict=True)
        )
        weight = mean + std * noise["weight"]
        return self.couplings(weight, log_scales[0] + log_scales[1]), kl

    def couplings(self, weight: Array, log_scale: Array) -> Array:
        """J, [pairs]."""
        return weight * jnp.exp(log_scale)

    def weight_kl(self, q: dict) -> Array:
        """That of the weights given the law of their scales, nats."""
        return standard_normal(1.0)(q["weight"])

    def mean(self, q: dict) -> Array:
        """E[J], [pairs]."""
        mean, var = self.log_scale(q)
        return q["weight"].mean * jnp.exp(mean + 0.5 * var)

    def log_scale(self, q: dict) -> tuple[Array, Array]:
        """Mean and variance of ln(s t), [pairs]."""
        both = q["all"], q["each"]
        mean = sum(one.log_mean for one in both)
        return mean, sum(jnp.exp(one.log_var) for one in both)


class Centred(Form):
    """With J_ij that are independent of their scales a posteriori."""

    def couplings(self, weight: Array, log_scale: Array) -> Array:
        del log_scale
        return weight

    def weight_kl(self, q: dict) -> Array:
        (mean, var), w = self.log_scale(q), q["weight"]
        square = jnp.square(w.mean) + jnp.exp(w.log_var)
        ratio = square * jnp.exp(2 * var - 2 * mean)
        return jnp.sum(0.5 * (ratio - w.log_var - 1) + mean)

    def mean(self, q: dict) -> Array:
        return q["weight"].mean


def variational(form: Form, config, states: np.ndarray, key: Key) -> np.ndarray:
    """The posterior means, [N, N]."""
    spins = states.shape[1]
    pairs = np.triu_indices(spins, 1)
    moments = jnp.asarray((states.T @ states / len(states))[pairs], jnp.float32)
    start = form.start(len(moments), config.start)
    q = _climbed(form, _settings(config), len(states), moments, start, key)
    found = np.zeros((spins, spins))
    found[pairs] = form.mean(q)
    return found + found.T


def _settings(config) -> tuple:
    names = ("chains", "sweeps", "iterations", "learning_rate", "memory")
    return tuple(config[name] for name in names)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _climbed(form: Form, settings, count, moments: Array, q: dict, key: Key) -> dict:
    """The posterior after training on the moments of so many states."""
    chains, sweeps, iterations, rate, memory = settings
    spins = round((1 + (1 + 8 * len(moments)) ** 0.5) / 2)
    rows, columns = np.triu_indices(spins, 1)
    optimizer = optax.adam(optax.linear_schedule(rate, 0.0, iterations), b1=0.99)

    def normal(key):
        return {
            name: random.normal(stream(key, name), (chains, *node.shape))
            for name, node in q.items()
        }

    def step(carry, key):
        q, state, noise, chain = carry
        fresh = normal(stream(key, "noise"))
        noise = {
            name: memory * noise[name] + (1 - memory**2) ** 0.5 * fresh[name]
            for name in noise
        }
        drawn = jax.vmap(form.drawn, (None, 0))
        upper = jnp.zeros((chains, spins, spins))
        upper = upper.at[:, rows, columns].set(drawn(q, noise)[0])
        couplings = upper + upper.transpose(0, 2, 1)
        chain = gibbs(couplings, chain, sweeps, stream(key, "chains"))
        gap = chain[:, rows] * chain[:, columns] - moments[None]

        def loss(q):
            couplings, kl = drawn(q, noise)
            return jnp.mean(jnp.sum(gap * couplings, 1) + kl / count)

        updates, state = optimizer.update(jax.grad(loss)(q), state, q)
        return (optax.apply_updates(q, updates), state, noise, chain), None

    first = random.rademacher(stream(key, "start"), (chains, spins), jnp.float32)
    carry = q, optimizer.init(q), normal(stream(key, "first")), first
    return lax.scan(step, carry, random.split(key, iterations))[0][0]


METHODS: dict[str, Callable] = {
    "mean_field": mean_field,
    "pseudo_likelihood": pseudo_likelihood,
    "non_centred": functools.partial(variational, Form()),
    "centred": functools.partial(variational, Centred()),
}


def _measure(config, make: Callable, method: Callable, key: Key) -> Measured:
    seed = np.asarray(random.key_data(stream(key, "system"))).tolist()
    couplings = make(config.system, np.random.default_rng(seed))
    sizes = sorted(config.samples)
    true = jnp.asarray(couplings, jnp.float32)
    states = sampled(true, sizes[-1], config.burn_in, stream(key, "states"))
    states, pairs = np.asarray(states, np.float64), np.triu_indices(len(couplings), 1)
    errors = []
    for size in sizes:
        found = method(config, states[:size], stream(key, "method"))
        error = np.mean(np.square(found - couplings)[pairs])
        errors.append(float(np.sqrt(error)))
    evals = {f"n{n}": {"rms": rms} for n, rms in zip(sizes, errors, strict=True)}
    return Measured(evals, {"errors": {"states": [*map(float, sizes)], "rms": errors}})
