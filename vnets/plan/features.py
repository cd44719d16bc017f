"""Random features: a fixed map whose inner products are those of a kernel."""

import dataclasses

from vnets.plan import CustomStep, Shape, check_counts


@dataclasses.dataclass(frozen=True)
class Fourier(CustomStep):
    """Random Fourier features of the last axis, [B, ..., I] -> [B, ..., 2 features].

    (cos(x w), sin(x w)) / sqrt(features), where the frequencies w [I, features] are
    N(0, 1 / (length^2 I)), drawn once and never trained. The inner product of two
    inputs' features is on average exp(-|x - y|^2 / (2 length^2 I)), that of a Gaussian
    process (Rahimi and Recht 2007): a layer after it whose weights are N(0, 1) has such
    a process as its prior.

    Attributes:
      name: of the frequencies, in the collection "frequencies".
      features: how many frequencies there are.
      length: of the kernel, > 0, in units of sqrt(I): inputs of variance 1 are about
        sqrt(2) apart in them.

    Raises:
      ValueError: features below 1, or a length that is not above 0.
    """

    name: str
    features: int
    length: float = 1.0

    def __post_init__(self):
        check_counts(**{f"features of {self.name!r}": self.features})
        if not self.length > 0:
            raise ValueError(
                f"length of {self.name!r} must be above 0, not {self.length}"
            )

    def after(self, shape: Shape) -> Shape:
        """[..., 2 features]."""
        if not shape:
            raise ValueError(f"{self.name!r} needs at least one axis of units")
        return (*shape[:-1], 2 * self.features)

    def operations(self, shape: Shape) -> int:
        """A product with the frequencies, and some twenty for each cosine and sine."""
        *positions, inputs = shape
        each = self.features * (2 * inputs + 40)
        for count in positions:
            each *= count
        return each
