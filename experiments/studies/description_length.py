"""What the labels of a training set cost: bits of the weights, bits of the errors.

A net with one hidden layer of tanh units learns by the negative ELBO, E[-ln p(y | x,
w)] + KL, by local reparameterization and Adam. All weights and biases have one prior,
at its best for them at each step (Graves 2011). `noise` says which posterior: "none",
points; "fixed", all of one standard deviation, in training without a price; "adaptive",
each of its own. Gradients are written out here, since a compiler would take longer than
all of the training. Measured:

    test    error and nll, nats, of the means
    bits    of the training labels: errors, the mean of -log2 p over draws; weights, the
            KL; total, both; each, of a weight. Weights without noise have no KL: they
            are rounded to the grid for which both together are least, and coded by the
            best normal prior
    coded   by a real coder (`vnets.weight_code`) from a payload: net, what the payload
            grew by, beside a head of 10 bytes and 4 of the prior's scale; draw, the
            negative ELBO of that draw; returned, 1 if labels and payload came back bit
            for bit, from a receiver who trains anew; needed, bits that the payload must
            have
    pruned  share of the weights that can go, those of the least |mean| / deviation (of
            points, |w|) first, while at most one more test example is wrong
    graves  the gradient of the errors by the variances, d/dv = E[d2/dw2] / 2, for which
            Graves takes the mean square of examples' gradients: the sum of v d/dv by
            his rule over the exact one, before training and after

Curves: training, all of these bits and the test NLL by step; pruning, test error by
what is gone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import random
from scipy import special, stats

from experiments import spec as parts
from experiments.core import Measured, Study
from experiments.datasets import FIELDS as DATA_FIELDS
from experiments.datasets import load_data
from experiments.studies.sparse_linear import features
from vnets import nodes, priors, weight_code
from vnets.data import Dataset
from vnets.rng import stream
from vnets.types import Key

FIELDS = (*DATA_FIELDS, "width", "noise", "prior", "log_var", "weight_decay")
FIELDS += ("steps", "batch_size", "learning_rate", "evals", "probe.every")
NOISES = ("none", "fixed", "adaptive")
LN_2 = math.log(2)
PRIOR_BITS = 32  # its scale, which the receiver is told
SILENT = -80.0  # the log variance of points


class Slopes(NamedTuple):
    """A value and its gradients by means and log variances [W]."""

    value: float
    mean: np.ndarray
    log_var: np.ndarray


@dataclasses.dataclass(frozen=True)
class Prior:
    """A prior of all weights at once, at its best.

    Attributes:
      fitted: it, of `vnets.priors`: a node -> KL, with the best scale of a node.
      slopes: (mean, var, scale) -> gradients of the KL.
      density: (values, scale) -> log density, nats.
    """

    fitted: Callable
    slopes: Callable
    density: Callable

    def price(self, posterior: "Posterior") -> float:
        """The KL, nats."""
        return float(self.fitted(posterior.node))

    def scale(self, posterior: "Posterior") -> float:
        return float(self.fitted.scale(posterior.node))


class Posterior(NamedTuple):
    """Means and log variances of all weights, [W]."""

    mean: np.ndarray
    log_var: np.ndarray

    @property
    def std(self) -> np.ndarray:
        return np.exp(0.5 * self.log_var)

    @property
    def node(self) -> nodes.Additive:
        return nodes.Additive(*(jnp.asarray(part, jnp.float32) for part in self))


def normal_slopes(mean, var):
    """Of W/2 ln s^2 - sum ln std, s^2 the mean of mean^2 + var."""
    square = np.mean(np.square(mean) + var)
    return mean / square, 0.5 * (var / square - 1)


def laplace_slopes(mean, var):
    """Of W ln b - sum ln std, b the mean of E|w|, of which the slopes are erf, p."""
    std = np.sqrt(var)
    z = mean / std
    density = math.sqrt(2 / math.pi) * np.exp(-0.5 * np.square(z))
    sign = special.erf(z / math.sqrt(2))
    scale = np.mean(std * density + mean * sign)
    return sign / scale, 0.5 * (std * density / scale - 1)


PRIORS = {
    "normal": Prior(
        priors.empirical_normal,
        normal_slopes,
        lambda w, scale: stats.norm.logpdf(w, 0, scale),
    ),
    "laplace": Prior(
        priors.empirical_laplace,
        laplace_slopes,
        lambda w, scale: stats.laplace.logpdf(w, 0, scale),
    ),
}


def build(config) -> Study:
    """The study of a config; see `configs/description_length.py` for its fields."""
    parts.pick("noise", config.noise, NOISES)
    prior = parts.pick("prior", config.prior, PRIORS)
    for field in ("steps", "width", "batch_size"):
        parts.positive(field, config[field])
    if config.probe.every < 1 or config.steps % config.probe.every:
        raise parts.ConfigError(
            f"config.probe.every must divide config.steps, {config.steps}, not "
            f"{config.probe.every}"
        )
    dataset = load_data(config.dataset)
    learner = Learner.of(config, prior, dataset)
    return Study({}, lambda nets, key: learner.measure(key), dataset)


class Layers(NamedTuple):
    """A net of one hidden layer; each layer has an input of 1 for its biases."""

    inputs: int
    hidden: int
    outputs: int

    @property
    def size(self) -> int:
        return (self.inputs + 1) * self.hidden + (self.hidden + 1) * self.outputs

    def matrices(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights [W] as [inputs + 1, hidden] and [hidden + 1, outputs]."""
        first = (self.inputs + 1) * self.hidden
        return w[:first].reshape(-1, self.hidden), w[first:].reshape(-1, self.outputs)

    def logits(self, w: np.ndarray, x: np.ndarray) -> np.ndarray:
        """x [N, inputs + 1] -> [N, outputs] by weights [W]."""
        first, second = self.matrices(w)
        return with_ones(np.tanh(x @ first)) @ second

    def nll(self, q: Posterior, x, labels, rng) -> Slopes:
        """-ln p of the labels, summed, by a draw of each unit, with its gradients."""
        (m1, m2), (v1, v2) = self.matrices(q.mean), self.matrices(np.exp(q.log_var))
        z1, z2 = (rng.standard_normal((len(x), n)) for n in self[1:])
        std1 = np.sqrt(np.square(x) @ v1)
        h = with_ones(np.tanh(x @ m1 + std1 * z1))
        std2 = np.sqrt(np.square(h) @ v2)
        log_p = log_softmax(h @ m2 + std2 * z2)
        at = np.arange(len(x)), labels
        to_out = np.exp(log_p)
        to_out[at] -= 1
        to_var2 = 0.5 * to_out * z2 / std2
        to_h = to_out @ m2.T + 2 * h * (to_var2 @ v2.T)
        to_unit = (to_h * (1 - np.square(h)))[:, :-1]
        to_var1 = 0.5 * to_unit * z1 / std1
        by_var = np.square(x).T @ to_var1 * v1, np.square(h).T @ to_var2 * v2
        return Slopes(
            -log_p[at].sum(), _flat(x.T @ to_unit, h.T @ to_out), _flat(*by_var)
        )

    def squares(self, w: np.ndarray, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Squared gradients of the examples' -ln p by weights [W], summed, [W]."""
        first, second = self.matrices(w)
        h = with_ones(np.tanh(x @ first))
        to_out = np.exp(log_softmax(h @ second))
        to_out[np.arange(len(x)), labels] -= 1
        to_unit = (to_out @ second.T * (1 - np.square(h)))[:, :-1]
        pairs = (x, to_unit), (h, to_out)
        return _flat(*(np.square(a).T @ np.square(b) for a, b in pairs))


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Along the last axis; SciPy's takes a third of a step here."""
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def with_ones(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def _flat(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.concatenate([first.ravel(), second.ravel()])


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """Trains a net and measures it.

    Attributes:
      config: of the study.
      prior: of all weights.
      net: its layers.
      learn, test: inputs with ones, [N, inputs + 1], and labels [N].
      payload: what is sent with the labels, the pixels of the test set.
    """

    config: object
    prior: Prior
    net: Layers
    learn: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    payload: bytes

    @classmethod
    def of(cls, config, prior: Prior, dataset: Dataset) -> "Learner":
        test = dataset.validation or dataset.test
        pairs = [
            (with_ones(features(split)), np.asarray(split.target))
            for split in (dataset.train, test)
        ]
        net = Layers(pairs[0][0].shape[1] - 1, config.width, dataset.classes)
        return cls(config, prior, net, *pairs, np.asarray(test.inputs).tobytes())

    @property
    def noisy(self) -> bool:
        return self.config.noise != "none"

    def measure(self, key: Key) -> Measured:
        seed = np.asarray(random.key_data(stream(key, "training"))).tolist()
        *_, (_, q) = steps = [*self.trained(self.learn[1], seed)]
        rng = np.random.default_rng([*seed, 1])
        evals = {"test": self._tested(q), "bits": self._bits(q, rng)}
        curves = {"training": self._history(steps, rng)}
        evals["pruned"], curves["pruning"] = self._pruned(q)
        if self.noisy:
            evals["coded"] = self._coded(q, seed)
            evals["graves"] = {
                "before": self._graves(self.start(seed), rng),
                "after": self._graves(q, rng),
            }
        return Measured(
            {n: {m: float(v) for m, v in one.items()} for n, one in evals.items()},
            {n: {a: [*map(float, v)] for a, v in c.items()} for n, c in curves.items()},
        )

    def start(self, seed) -> Posterior:
        """Means of the first step, biases 0, and variances."""
        rng = np.random.default_rng(seed)
        means = []
        for rows, columns in (self.net[:2], self.net[1:]):
            weights = rng.standard_normal((rows, columns)) / math.sqrt(rows)
            means.append(np.concatenate([weights, np.zeros((1, columns))]))
        level = self.config.log_var if self.noisy else SILENT
        return Posterior(_flat(*means), np.full(self.net.size, float(level)))

    def trained(self, labels, seed) -> Iterator[tuple[int, Posterior]]:
        """The posterior after every `probe.every` steps of Adam, and how many."""
        config, (x, _), q = self.config, self.learn, self.start(seed)
        rng = np.random.default_rng([*seed, 0])
        first, second = np.zeros((2, 2, self.net.size))
        for step in range(1, config.steps + 1):
            at = rng.integers(0, len(x), config.batch_size)
            slopes = self._slopes(q, x[at], labels[at], rng)
            first += 0.1 * (slopes - first)
            second += 0.001 * (np.square(slopes) - second)
            rate = config.learning_rate * (1 - (step - 1) / config.steps)
            size = np.sqrt(second / (1 - 0.999**step)) + 1e-8
            q = Posterior(*(np.stack(q) - rate * first / (1 - 0.9**step) / size))
            if step % config.probe.every == 0:
                yield step, q

    def _slopes(self, q: Posterior, x, labels, rng) -> np.ndarray:
        """Of the negative ELBO of an example, by means and log variances, [2, W]."""
        nll = np.stack(self.net.nll(q, x, labels, rng)[1:]) / len(x)
        price = np.zeros_like(nll)
        if self.config.noise == "adaptive":
            price = np.stack(self.prior.slopes(q.mean, np.exp(q.log_var)))
        price[0] += self.config.weight_decay * q.mean
        both = nll + price / len(self.learn[0])
        both[1] *= self.config.noise == "adaptive"
        return both

    def _history(self, steps, rng) -> dict[str, list[float]]:
        rows = []
        for step, q in steps:
            errors = self.net.nll(q, *self.learn, rng).value / LN_2
            weights = self.prior.price(q) / LN_2 if self.noisy else 0.0
            nll = self._tested(q)["nll"]
            rows.append((step, errors, weights, errors + weights, nll))
        names = ("step", "errors", "weights", "total", "nll")
        return dict(zip(names, zip(*rows, strict=True), strict=True))

    def log_p(self, w: np.ndarray, x: np.ndarray) -> np.ndarray:
        return log_softmax(self.net.logits(w, x))

    def _tested(self, q: Posterior) -> dict[str, float]:
        x, labels = self.test
        log_p = self.log_p(q.mean, x)
        return {
            "error": np.mean(log_p.argmax(1) != labels),
            "nll": -np.mean(log_p[np.arange(len(labels)), labels]),
        }

    def _errors(self, w: np.ndarray) -> float:
        """Bits of the training labels by weights [W]."""
        x, labels = self.learn
        return -self.log_p(w, x)[np.arange(len(x)), labels].sum() / LN_2

    def _bits(self, q: Posterior, rng) -> dict[str, float]:
        if self.noisy:
            draws = range(self.config.evals.samples)
            errors = [self.net.nll(q, *self.learn, rng).value for _ in draws]
            errors, weights = np.mean(errors) / LN_2, self.prior.price(q) / LN_2
        else:
            errors, weights = self._rounded(q.mean)
        return {
            "errors": errors,
            "weights": weights,
            "total": errors + weights,
            "each": weights / self.net.size,
        }

    def _rounded(self, w: np.ndarray) -> tuple[float, float]:
        """Bits of errors and weights on the grid for which their sum is least."""
        found = []
        for exponent in range(self.config.evals.finest + 1):
            step = 2.0**-exponent
            near = step * np.rint(w / step)
            law = stats.norm(0, math.hypot(np.std(near), step))
            mass = law.cdf(near + step / 2) - law.cdf(near - step / 2)
            weights = PRIOR_BITS - np.log2(np.maximum(mass, 1e-30)).sum()
            found.append((self._errors(near), weights))
        return min(found, key=sum)

    def _coded(self, q: Posterior, seed) -> dict[str, float]:
        scale, (x, labels) = self.prior.scale(q), self.learn
        density = functools.partial(self.prior.density, scale=scale)

        def code(fit):
            return weight_code.WeightCode(
                self.net.size, fit, lambda w: self.log_p(w, x), density
            )

        def anew(labels):
            *_, (_, found) = self.trained(labels, seed)
            return found.mean, found.std

        sender = code(lambda labels: (q.mean, q.std))
        message = sender.push(labels, self.payload)
        found = code(anew).pop(message)
        log_q = stats.norm.logpdf(found.weights, q.mean, q.std)
        ratio = np.sum(log_q - density(found.weights))
        return {
            "net": 8 * (len(message) - len(self.payload) - weight_code.HEAD.size),
            "draw": self._errors(found.weights) + ratio / LN_2,
            "returned": found.payload == self.payload
            and np.array_equal(found.labels, labels),
            "needed": sender.bits_needed(labels),
        }

    def _pruned(self, q: Posterior) -> tuple[dict[str, float], dict]:
        """What can go, and the test error by what is gone."""
        (x, labels), wrong = self.test, []
        order = np.argsort(np.abs(q.mean) / q.std)
        shares = np.linspace(0, 1, self.config.evals.cuts + 1)[:-1]
        for share in shares:
            kept = q.mean.copy()
            kept[order[: round(share * len(order))]] = 0
            wrong.append(np.sum(self.net.logits(kept, x).argmax(1) != labels))
        fine = shares[np.array(wrong) <= wrong[0] + 1]
        error = np.array(wrong) / len(labels)
        return {"share": fine.max()}, {"gone": shares, "error": error}

    def _graves(self, q: Posterior, rng) -> float:
        """His sum of v d/dv over the exact one, of the errors of all examples."""
        by_squares, exact = 0.0, 0.0
        for _ in range(self.config.evals.samples):
            w = q.mean + q.std * rng.standard_normal(self.net.size)
            each = self.net.squares(w, *self.learn)
            by_squares += 0.5 * np.sum(np.square(q.std) * each)
            exact += self.net.nll(q, *self.learn, rng).log_var.sum()
        return by_squares / exact
