"""Test-time modes as data: a column of a table is an edit and a number of samples.

EVALS["ens"]  ->  EvalSpec(samples=20)
"""

import dataclasses
from collections.abc import Callable

import jax

from vnets import edits
from vnets.layers import TEST, Mode
from vnets.predictor import Predictor, at_least_one, unedited


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """One way to test a net.

    Attributes:
      edit, samples, mode, mirrored, at_once, draw: as of a `predictor.Predictor`; the
        edit is made once, before the test.

    Raises:
      ValueError: samples or at_once below 1.
    """

    edit: edits.Edit = unedited
    samples: int = 1
    mode: Mode = TEST
    mirrored: bool = False
    at_once: int | None = None
    draw: edits.Edit | None = None

    def __post_init__(self):
        for name in ("samples", "at_once"):
            at_least_one(name, getattr(self, name))

    def predictor(self, nets, link: Callable = jax.nn.log_softmax) -> Predictor:
        """The nets as they are tested; see `Predictor`."""
        return Predictor(nets, link=link, **vars(self))


def standard_evals(
    samples: int = 20, threshold: float = 3.0, mode: Mode = TEST
) -> dict[str, EvalSpec]:
    """The usual columns.

    Args:
      samples: S of the ensemble.
      threshold: log alpha above which "pruned" removes a weight.
      mode: estimator, and the statistics of batch normalization.

    Returns:
      det (noise off), stoch (one sample), ens (S samples), zero_mean and permuted (one
      sample with the means dropped, or the variances shuffled), zero_mean_ens and
      permuted_ens (S samples of these), pruned (deterministic); and det_batch,
      stoch_batch and ens_batch with batch normalization on each test batch's own
      statistics, as the authors' MNIST code tests (a model's own dropout is on in none
      unless the mode says so, and never where noise is off); det_mirrored and
      ens_mirrored, which see each image and its mirror image.
    """
    # The statistics alone, not a model's own dropout; which is a noise, too.
    batch = dataclasses.replace(mode, norm="batch", dropout=bool(mode.dropout))
    quiet = dataclasses.replace(mode, dropout=False)
    det, ens = EvalSpec(edits.mean_only, 1, quiet), EvalSpec(samples=samples, mode=mode)
    return {
        "det": det,
        "stoch": EvalSpec(mode=mode),
        "ens": ens,
        "zero_mean": EvalSpec(edits.zero_mean, 1, mode),
        "zero_mean_ens": EvalSpec(edits.zero_mean, samples, mode),
        "permuted": EvalSpec(edits.permute_variance, 1, mode),
        "permuted_ens": EvalSpec(edits.permute_variance, samples, mode),
        "pruned": EvalSpec(
            edits.chain(edits.prune(threshold), edits.mean_only), 1, quiet
        ),
        "det_batch": dataclasses.replace(
            det, mode=dataclasses.replace(quiet, norm="batch")
        ),
        "stoch_batch": EvalSpec(mode=batch),
        "ens_batch": dataclasses.replace(ens, mode=batch),
        "det_mirrored": dataclasses.replace(det, mirrored=True),
        "ens_mirrored": dataclasses.replace(ens, mirrored=True),
    }
