"""Deep Gaussian processes by random features (Cutajar et al. 2017)."""

from collections.abc import Sequence

from vnets.nets.net import Net
from vnets.plan import Dense, Flatten, check_counts
from vnets.plan.features import Fourier


class DeepGP(Net):
    """Gaussian processes of one another, [B, ...] -> [B, classes].

    Each is `plan.features.Fourier` and a dense layer, named dense1, dense2, ...; with
    `gaussian` weights under N(0, 1) it is a Gaussian process with an approximate
    posterior, and of one process alone nothing but the features is approximate in its
    prior. Frequencies are drawn with the weights, and not trained.

    Attributes:
      widths: how many functions each process but the last has; none: there is but one.
      classes: K, of the last.
      features: frequencies of each process.
      length: of their kernels; see `Fourier`.

    Raises:
      ValueError: a count below 1, or a length that is not above 0.
    """

    widths: Sequence[int] = ()
    classes: int = 10
    features: int = 50
    length: float = 1.0

    def __post_init__(self):
        check_counts(widths=self.widths, classes=self.classes, features=self.features)
        super().__post_init__()

    @property
    def plan(self):
        steps = []
        for number, width in enumerate((*self.widths, self.classes), start=1):
            steps.append(Fourier(f"fourier{number}", self.features, self.length))
            steps.append(Dense(f"dense{number}", width))
        return (Flatten(), *steps)
