"""Small Bayesian nets as scikit-learn's estimators, trained by `train.fit`.

    from vnets.sklearn import BayesClassifier

    model = BayesClassifier().fit(X, y)
    model.predict_proba(X_new)          # averaged over draws of the weights
    model.predict_draws(X_new)          # [S, N, K], one for each draw

A draw of the weights is one function, the same for all inputs and in every call, so a
prediction does not depend on what else is predicted beside it.
"""

import importlib.util
import math
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from vnets import edits, extras, likelihoods, nodes, parallel, priors, sources, train
from vnets.data import Split
from vnets.loss import forward, knots, neg_elbo
from vnets.nets import MLP
from vnets.predictor import Member, Predictor, as_is
from vnets.rng import stream
from vnets.types import choose

if TYPE_CHECKING or importlib.util.find_spec("sklearn"):
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
else:  # `need` says so when an estimator is made
    BaseEstimator, ClassifierMixin, RegressorMixin = (
        type(name, (), {}) for name in ("Estimator", "Classifier", "Regressor")
    )

STEPS = 50  # of an epoch of the trainer, at least: few examples are in it repeatedly
ROWS = 256  # predicted at once; fewer are filled up, so that sums have one order
WARM_UP = 0.5  # of the updates, over which the KL comes in
LOG_VAR = -8.0  # where Gaussian weights start
CLASSES, NUMBERS = likelihoods.Categorical(), likelihoods.Gaussian()
Kind = Literal["gaussian", "sparse", "variance"]
KINDS: dict[str, tuple[Any, Any]] = {  # what stochastic layers and their prior are
    "gaussian": (nodes.gaussian(LOG_VAR), priors.standard_normal(1.0)),
    "sparse": (nodes.gaussian(LOG_VAR), priors.log_uniform),
    "variance": (nodes.variance(), priors.log_uniform),
}


def _net(hidden: tuple[int, ...], outputs: int, noisy: bool, kind: str):
    """The net with its stochastic layers; of kind "variance" the last hidden one."""
    names = [f"dense{number}" for number in range(1, len(hidden) + 2)]
    names = names[-2:-1] if kind == "variance" else names
    posteriors: Any = dict.fromkeys(names, KINDS[kind][0])
    net = MLP(widths=hidden, classes=outputs, posteriors=posteriors)
    return likelihoods.WithDeviation(net) if noisy else net


@jax.jit
def _predict(predictor: Predictor, x, key):
    return predictor(x, key)


class _Bayes(BaseEstimator):
    """What the classifier and the regressor share."""

    def __init__(
        self,
        hidden: tuple[int, ...] = (50, 50),
        *,
        kind: Kind = "gaussian",
        kl_weight: float = 1.0,
        updates: int = 2000,
        batch_size: int = 64,
        learning_rate: float = 1e-2,
        draws: int = 30,
        random_state=None,
        verbose: bool = False,
    ):
        extras.need("sklearn")
        self.hidden = hidden
        self.kind = kind
        self.kl_weight = kl_weight
        self.updates = updates
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.draws = draws
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, x, y, outputs: int, likelihood: likelihoods.Likelihood) -> None:
        """Trains on inputs [N, I] and targets of the likelihood."""
        from sklearn.preprocessing import StandardScaler
        from sklearn.utils import check_random_state

        self._check()
        known: Any = StandardScaler().fit(x)  # of a constant column the scale is 1
        self.mean_, self.scale_ = known.mean_, known.scale_
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        noisy = likelihood is NUMBERS
        self.shape_ = (tuple(self.hidden), outputs, noisy, self.kind)
        model, prior = _net(*self.shape_), KINDS[self.kind][1]
        n, batch_size = len(x), min(self.batch_size, len(x))
        passes = np.tile(np.arange(n), math.ceil(STEPS * batch_size / n))
        split = Split(self._scaled(x)[passes], y[passes])
        source = sources.Resident(
            split, batch_size, jnp.asarray, target=likelihood.kind
        )
        epochs = math.ceil(self.updates / source.steps_per_epoch)
        total = epochs * source.steps_per_epoch
        beta = knots(((0.0, 0.0), (WARM_UP, self.kl_weight)), total)
        rate = optax.cosine_decay_schedule(self.learning_rate, total)
        task = train.Task(
            init=train.initializer(model, jnp.zeros((1, x.shape[1]), jnp.float32)),
            loss=neg_elbo(forward(model), likelihood, prior, n, beta),
            optimizer=optax.adam(rate),
            source=source,
        )
        [result] = train.fit(
            task,
            epochs=epochs,
            seeds=[self.seed_],
            chunk_steps=4 * STEPS,
            show_progress=self.verbose,
            title=type(self).__name__,
            mesh=parallel.first_device(),
        )
        if result.failed:
            raise ValueError(f"the training failed: {result.failed}")
        self.params_ = result.state.params
        self.history_ = result.history
        self.n_iter_ = total

    def _check(self) -> None:
        """Refuses parameters that are no choice, when they are used."""
        choose("kind", self.kind, tuple(KINDS))
        for width in self.hidden:
            if not width >= 1:
                raise ValueError(f"hidden layers have widths from 1 on, not {width}")
        if self.kind == "variance" and len(self.hidden) < 2:
            raise ValueError(
                "a variance layer needs a hidden layer before it, such as in (50, 50), "
                f"not {self.hidden}"
            )
        for name in ("updates", "batch_size", "draws"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if not self.kl_weight >= 0:
            raise ValueError(f"kl_weight is at least 0, not {self.kl_weight}")

    def _scaled(self, x) -> np.ndarray:
        return ((x - self.mean_) / self.scale_).astype(np.float32)

    def _outputs(self, X, draws: int | None) -> np.ndarray:
        """Outputs of the net for each draw of the weights, [S, N, outputs]."""
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self)
        x = self._scaled(validate_data(self, X, dtype=np.float64, reset=False))
        count = self.draws if draws is None else draws
        if count < 1:
            raise ValueError(f"draws is at least 1, not {count}")
        key = stream(random.key(self.seed_), "predict")
        net = Member(_net(*self.shape_), {"params": self.params_})
        predictor = Predictor(net, draw=edits.draw, samples=count, link=as_is)
        parts = []
        for start in range(0, len(x), ROWS):
            rows = x[start : start + ROWS]
            filled = np.pad(rows, ((0, ROWS - len(rows)), (0, 0)))
            out = _predict(predictor, filled, key)
            parts.append(np.asarray(out, np.float64)[:, : len(rows)])
        return np.concatenate(parts, 1)


class BayesClassifier(ClassifierMixin, _Bayes):
    """A classifier whose probabilities are averaged over draws of its weights.

    Inputs are standardized, the loss is the negative ELBO with the KL weighted by
    `kl_weight`, which comes in over the first half of the updates.

    Args:
      hidden: widths of the hidden layers; () is a logistic regression.
      kind: of the stochastic layers. "gaussian": Gaussian weights in all layers under
        the prior N(0, 1); "sparse": the same under the log-uniform prior (sparse
        variational dropout); "variance": weights without a mean in the last hidden
        layer, which is not the first one.
      kl_weight: of the KL; 1 is the ELBO, less is bolder.
      updates: of Adam, at least: whole epochs are trained.
      batch_size: examples of an update, all if there are fewer.
      learning_rate: the first one; it falls to 0 along a cosine.
      draws: of the weights, for a prediction.
      random_state: an int makes fits equal; None draws a new one.
      verbose: shows the progress.

    Attributes:
      classes_: the labels, sorted, [K].
      params_: the tree of posterior nodes.
      history_: loss, nll, kl and accuracy of each epoch of the trainer, 50 updates or
        more.
    """

    def fit(self, X, y):
        """Trains on X [N, I] with labels y [N] of any type; returns itself."""
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import validate_data

        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._fit(X, labels.astype(np.int32), len(self.classes_), CLASSES)
        return self

    def predict_draws(self, X, draws: int | None = None) -> np.ndarray:
        """Probabilities of each draw of the weights, [S, N, K]."""
        logits = self._outputs(X, draws)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True)

    def predict_proba(self, X, draws: int | None = None) -> np.ndarray:
        """Probabilities averaged over the draws, [N, K] in the order of `classes_`."""
        return self.predict_draws(X, draws).mean(0)

    def predict(self, X) -> np.ndarray:
        """The most likely labels, [N]."""
        p = self.predict_proba(X)
        return self.classes_[p.argmax(-1)]


class BayesRegressor(RegressorMixin, _Bayes):
    """A regressor with the mean and the deviation of what is to be observed.

    Targets are standardized, too; their noise is Gaussian, of one size that is
    learned. Parameters are those of `BayesClassifier`.

    Attributes:
      noise_: the standard deviation of the targets' noise, in their unit.
      params_, history_: as of the classifier, with rmse in place of the accuracy.
    """

    def fit(self, X, y):
        """Trains on X [N, I] with targets y [N]; returns itself."""
        from sklearn.preprocessing import StandardScaler
        from sklearn.utils.validation import column_or_1d, validate_data

        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        y = column_or_1d(y, warn=True).astype(np.float64)
        known: Any = StandardScaler().fit(y[:, None])
        self.target_mean_, self.target_scale_ = known.mean_[0], known.scale_[0]
        scaled = (y - self.target_mean_) / self.target_scale_
        self._fit(X, scaled.astype(np.float32)[:, None], 1, NUMBERS)
        self.noise_ = float(np.exp(self.params_["log_std"])) * self.target_scale_
        return self

    def predict_draws(self, X, draws: int | None = None) -> np.ndarray:
        """The function of each draw of the weights, without noise, [S, N]."""
        out = self._outputs(X, draws)[..., 0, 0]
        return self.target_mean_ + self.target_scale_ * out

    def predict(self, X, return_std: bool = False):
        """The mean over the draws [N]; with `return_std` the deviation, too, [N].

        The deviation is that of an observation: of the draws and of the noise.
        """
        functions = self.predict_draws(X)
        mean = functions.mean(0)
        if not return_std:
            return mean
        return mean, np.sqrt(functions.var(0) + self.noise_**2)
