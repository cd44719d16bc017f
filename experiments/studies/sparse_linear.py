"""Sparse linear classifiers that are fitted, not trained: L1 and the RVM.

What Molchanov et al. 2016 ("Dropout-based Automatic Relevance Determination", NIPS
workshop) hold variational dropout against: logistic regression with an L1 penalty and
the relevance vector machine. The models with noisy weights in the same table are
trained as any other net (an MLP without hidden layers).

A study without nets: one fit, measured as the column "pruned". A fit has no noise, so
every seed gives the same.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import log_expit, log_softmax, logsumexp

from experiments import spec as parts
from experiments.core import Measured, Study
from experiments.datasets import load_data
from experiments.studies import rvm
from vnets.data import Split
from vnets.data.splits import stratified

FIELDS = ("dataset", "fit")

HELD_OUT_SEED = 5  # which training images choose the strength of the penalty
# training set, inputs of the test -> weights [K, D], log probabilities [N, K], facts
Fit = Callable[[Split, np.ndarray], tuple[np.ndarray, np.ndarray, dict[str, float]]]


def build(config) -> Study:
    """The study of a config; see `configs/sparse_linear.py` for its fields."""
    arguments = dict(config.fit)
    make = parts.pick("fit.method", arguments.pop("method", ""), METHODS)
    fit = parts.call("fit", make, arguments)
    dataset = load_data(config.dataset)
    test = dataset.validation or dataset.test

    def measure(nets, key) -> Measured:
        del nets, key
        weight, log_p, facts = fit(dataset.train, features(test))
        return Measured({"pruned": scores(weight, log_p, test.target) | facts})

    return Study({}, measure, dataset)


def features(split: Split) -> np.ndarray:
    """Pixels in [0, 1], as nets take them: float64 [N, D]."""
    return split.inputs.reshape(len(split), -1) / 255.0


def scores(
    weight: np.ndarray, log_p: np.ndarray, label: np.ndarray
) -> dict[str, float]:
    """Test accuracy, NLL in nats and sparsity, of weights [K, D] (biases not counted).

    Args:
      weight: [K, D].
      log_p: log probabilities of the test set, [N, K].
      label: of the test set, [N].
    """
    accuracy = float(np.mean(log_p.argmax(1) == label))
    return {
        "accuracy": accuracy,
        "error": 1.0 - accuracy,
        "nll": -float(np.mean(log_p[np.arange(len(label)), label])),
        "sparsity": float(np.mean(weight == 0)),
        "nonzero": int(np.sum(weight != 0)),
    }


def l1(strengths: Sequence[float], held_out: float, sweeps: int) -> Fit:
    """Multinomial logistic regression with an L1 penalty, by scikit-learn's SAGA.

    Args:
      strengths: values of C, the inverse of the penalty's weight, to choose among: by
        the accuracy on held-out training images, the sparser of equals. The model that
        is tested has then learned all of them.
      held_out: their fraction of the training images.
      sweeps: the most passes over the data for one C. Fits go from the strongest
        penalty to the weakest, each from where the last one ended.

    Raises:
      ValueError: a strength that is not positive, or no fraction.
    """
    path = sorted(float(c) for c in strengths)
    if not path or path[0] <= 0:
        raise ValueError(f"strengths must be positive, not {tuple(strengths)}")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must lie between 0 and 1, not {held_out}")

    def models(split: Split):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(
            solver="saga",
            l1_ratio=1.0,
            tol=1e-3,
            max_iter=sweeps,
            warm_start=True,
            random_state=0,
        )
        for c in path:
            with warnings.catch_warnings():
                # Whether it converged is a number of the record.
                warnings.simplefilter("ignore", ConvergenceWarning)
                yield c, model.set_params(C=c).fit(features(split), split.target)

    def fit(learn: Split, inputs: np.ndarray):
        chosen = stratified(learn.target, round(held_out * len(learn)), HELD_OUT_SEED)
        rest = np.delete(np.arange(len(learn)), chosen)
        judges = learn.take(chosen)
        judged = {
            c: model.score(features(judges), judges.target)
            for c, model in models(learn.take(rest))
        }
        best = max(path, key=lambda c: (judged[c], -c))
        model = next(model for c, model in models(learn) if c == best)
        facts = {"strength": best, "sweeps": int(model.n_iter_[0])}
        return model.coef_, log_softmax(model.decision_function(inputs), axis=1), facts

    return fit


def l1_each(strengths: int, folds: int) -> Fit:
    """One class against the rest with an L1 penalty, by scikit-learn's liblinear.

    Each class has the C of the best accuracy in cross-validation and then learns from
    all training images, as the authors' code has it.

    Args:
      strengths: how many values of C, from 1e-4 to 1e4, equally far apart by their
        logarithm.
      folds: of the cross-validation.

    Raises:
      ValueError: fewer than one strength, or than two folds.
    """
    if strengths < 1 or folds < 2:
        raise ValueError(
            f"needs 1 strength and 2 folds at least, not {strengths} and {folds}"
        )

    def fit(learn: Split, inputs: np.ndarray):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegressionCV

        def machine(of_class):
            return LogisticRegressionCV(
                Cs=strengths,
                cv=folds,
                solver="liblinear",
                l1_ratios=(1.0,),
                use_legacy_attributes=False,
                scoring="accuracy",
                random_state=0,
            ).fit(features(learn), of_class)

        with warnings.catch_warnings():
            # The weakest penalties may not converge; the record has those chosen.
            warnings.simplefilter("ignore", ConvergenceWarning)
            machines = [machine(learn.target == k) for k in np.unique(learn.target)]
        weight = np.concatenate([machine.coef_ for machine in machines])
        logits = np.stack([one.decision_function(inputs) for one in machines], axis=1)
        chosen = [float(np.squeeze(machine.C_)) for machine in machines]
        facts = {"least_strength": min(chosen), "largest_strength": max(chosen)}
        return weight, _normalized(logits), facts

    return fit


def _normalized(logits: np.ndarray) -> np.ndarray:
    """Log probabilities [N, K] of machines that each know one class, [N, K]."""
    log_p = log_expit(logits)
    return log_p - logsumexp(log_p, axis=1, keepdims=True)


def relevance_vectors(rounds: int) -> Fit:
    """Relevance vector machines, one class against the rest (`rvm`).

    Args:
      rounds: the most updates of the precisions.

    Raises:
      ValueError: less than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")

    def fit(learn: Split, inputs: np.ndarray):
        x = features(learn)
        classes = np.unique(learn.target)
        machines = [rvm.fit(x, learn.target == k, rounds) for k in classes]
        weight = np.stack([machine.weight for machine in machines])
        bias = np.array([machine.bias for machine in machines])
        facts = {
            "rounds": max(machine.rounds for machine in machines),
            "converged": float(np.mean([machine.converged for machine in machines])),
        }
        return weight, _normalized(inputs @ weight.T + bias), facts

    return fit


METHODS: dict[str, Callable[..., Fit]] = {
    "l1": l1,
    "l1_each": l1_each,
    "rvm": relevance_vectors,
}
