"""Evidence against the size of a model: Occam's razor, and bounds that cut too deep.

Polynomials of degree 1 to 9, whose coefficients are N(0, `prior_scale`^2), learn a
polynomial of degree `made.size` from points with normal noise. All of them are linear
and normal, so that the evidence is a formula, the best independent normal q has the
precisions on the diagonal of the posterior's, and its ELBO is a formula, too. Each of
`made.sets` sets has coefficients and noise of its own; curves are their means.
"monomials" and "legendre" say of which functions the coefficients are.

    exact      peak, the degree of most evidence by the mean of all sets; share, of the
               sets that have theirs at the true degree; below and beyond, log Bayes
               factors of the true degree, nats, against one degree less and the largest
    elbo       peak and share; least and largest, what it misses of the evidence, over
               all degrees
    bic        peak and share, by Schwarz's criterion, ln p at its best - K/2 ln N
    laplace    error, the largest difference of `vnets.laplace` from the evidence, over
               the degrees of the first set
    test       peak, the degree of the least test NLL; chosen, what the NLL of the
               degree of most evidence exceeds it by

"nets" are those of `experiments.studies.occam_nets`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import random
from numpy.polynomial import legendre, polynomial

from experiments import spec as parts
from experiments.core import Measured, Study, without_nets
from experiments.studies import occam_nets
from experiments.studies.prior_shapes import LOG_ROOT
from vnets import laplace
from vnets.data import Split
from vnets.likelihoods import Gaussian
from vnets.nets import MLP
from vnets.nodes import Point
from vnets.predictor import as_is
from vnets.rng import stream
from vnets.types import Key

FIELDS = ("dataset.name", "models", "sizes", "made", "prior_scale", *occam_nets.FIELDS)
GRID = np.linspace(-1, 1, 201)  # of the test
BASES = {"monomials": polynomial.polyvander, "legendre": legendre.legvander}


def build(config) -> Study:
    """The study of a config; see `configs/occam.py` for its fields."""
    measure = parts.pick("models", config.models, MODELS)
    sizes = list(config.sizes)
    if sizes != sorted(set(sizes)) or config.made.size not in sizes[1:-1]:
        raise parts.ConfigError(
            "config.sizes must rise, with config.made.size between its ends: "
            f"{sizes}, {config.made.size}"
        )
    return without_nets(functools.partial(_measure, config, measure))


def _measure(config, measure: Callable, key: Key) -> Measured:
    seed = np.asarray(random.key_data(stream(key, "data"))).tolist()
    return measure(config, np.random.default_rng(seed))


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A linear model with normal noise and a normal prior, and sets that it learns.

    Attributes:
      design: inputs [N, K], the same of all sets.
      targets: [N, S].
      noise: standard deviation of the targets around the model.
      scale: that of each coefficient.
    """

    design: np.ndarray
    targets: np.ndarray
    noise: float
    scale: float

    @functools.cached_property
    def precision(self) -> np.ndarray:
        """Of the posterior, [K, K]."""
        gram = self.design.T @ self.design / self.noise**2
        return gram + np.eye(len(gram)) / self.scale**2

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Of the posterior, [K, S]."""
        pull = self.design.T @ self.targets / self.noise**2
        return np.linalg.solve(self.precision, pull)

    @property
    def evidence(self) -> np.ndarray:
        """ln p(targets) of each set, nats, [S]."""
        _, log_det = np.linalg.slogdet(self.precision)
        volume = 0.5 * log_det + len(self.precision) * math.log(self.scale)
        square = np.sum(np.square(self.mean), 0) / self.scale**2
        return self._log_p(self.mean) - 0.5 * square - volume

    @property
    def elbo(self) -> np.ndarray:
        """Of the best q whose coefficients are independent, [S]."""
        _, log_det = np.linalg.slogdet(self.precision)
        return self.evidence - 0.5 * (np.log(np.diag(self.precision)).sum() - log_det)

    @property
    def likelihood(self) -> np.ndarray:
        """ln p(targets) at the most likely coefficients, [S]."""
        return self._log_p(np.linalg.lstsq(self.design, self.targets)[0])

    @property
    def bic(self) -> np.ndarray:
        """Schwarz's approximation of the evidence, [S]."""
        n, k = self.design.shape
        return self.likelihood - 0.5 * k * math.log(n)

    def laplace(self, largest: int) -> float:
        """The evidence of the first set, as the library finds it of a net.

        All degrees are compiled as one, the largest; what the others lack is 0, and has
        no curvature.
        """
        more = largest + 1 - len(self.mean)
        best = jnp.asarray(np.pad(self.mean[:, :1], ((0, more), (0, 0))), jnp.float32)
        params = {"dense1": {"kernel": Point(best[1:]), "bias": best[0]}}
        inputs = np.pad(self.design[:, 1:], ((0, 0), (0, more)))
        targets = self.targets[:, :1]
        found = laplace.full(
            MLP(widths=(), classes=1),
            {"params": params},
            Split(inputs.astype(np.float32), targets.astype(np.float32)),
            likelihood=Gaussian(self.noise),
            prepare=as_is,
        )
        return found.evidence(self.scale**-2)

    def nll(self, design: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """-E ln p(y | targets) for y = truth [M, S] with noise, of each set, [S]."""
        spread = design * np.linalg.solve(self.precision, design.T).T
        var = self.noise**2 + spread.sum(1)[:, None]
        square = self.noise**2 + np.square(truth - design @ self.mean)
        return np.mean(0.5 * np.log(var) + LOG_ROOT + 0.5 * square / var, 0)

    def _log_p(self, coefficients: np.ndarray) -> np.ndarray:
        gap = (self.targets - self.design @ coefficients) / self.noise
        each = 0.5 * np.square(gap) + LOG_ROOT + math.log(self.noise)
        return -np.sum(each, 0)


CRITERIA = ("evidence", "elbo", "bic")


def polynomials(basis: Callable, config, rng: np.random.Generator) -> Measured:
    """What is measured of polynomials in a basis, (x [N], k) -> [N, k + 1]."""
    spec, sizes = config.made, np.array(config.sizes)
    x, truth, targets = made(spec, rng)
    deviations = spec.noise, config.prior_scale
    models = [Linear(basis(x, k), targets, *deviations) for k in sizes]
    found = {
        name: np.stack([getattr(model, name) for model in models])
        for name in (*CRITERIA, "likelihood")
    }
    pairs = zip(models, sizes, strict=True)
    nll = np.stack([model.nll(basis(GRID, k), truth) for model, k in pairs]).mean(1)
    off = [model.laplace(sizes[-1]) - model.evidence[0] for model in models]
    evidence, at = found["evidence"].mean(1), sizes.tolist().index(spec.size)
    gap = evidence - found["elbo"].mean(1)
    evals = {name: _chosen(found[name], sizes, spec.size) for name in CRITERIA}
    evals["exact"] = evals.pop("evidence") | {
        "below": evidence[at] - evidence[at - 1],
        "beyond": evidence[at] - evidence[-1],
    }
    evals["elbo"] |= {"least": gap.min(), "largest": gap.max()}
    evals["laplace"] = {"error": np.abs(off).max()}
    chosen = nll[evidence.argmax()] - nll.min()
    evals["test"] = {"peak": sizes[nll.argmin()], "chosen": chosen}
    curve = {name: values.mean(1) for name, values in found.items()}
    curve["laplace"] = evidence + np.array(off)
    return Measured(
        {n: {m: float(v) for m, v in one.items()} for n, one in evals.items()},
        {
            name: {"size": sizes.tolist(), **{a: v.tolist() for a, v in one.items()}}
            for name, one in {"sizes": curve, "test": {"nll": nll}}.items()
        },
    )


def made(spec, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Inputs [N], and of all sets the true values on GRID [M, S] and targets [N, S].

    The coefficients of 1, x, ... are standard normal, but the last, `last` or -`last`.
    """
    x = rng.uniform(-1, 1, spec.train)
    weights = rng.standard_normal((spec.size + 1, spec.sets))
    weights[-1] = spec.last * np.sign(weights[-1])
    truth, seen = (polynomial.polyvander(at, spec.size) @ weights for at in (GRID, x))
    return x, truth, seen + spec.noise * rng.standard_normal(seen.shape)


def _chosen(values: np.ndarray, sizes: np.ndarray, true: int) -> dict:
    """Where the mean over sets is largest, and how many sets find the true size."""
    right = sizes[values.argmax(0)] == true
    return {"peak": sizes[values.mean(1).argmax()], "share": right.mean()}


MODELS = {
    **{name: functools.partial(polynomials, one) for name, one in BASES.items()},
    "nets": occam_nets.measure,
}
