"""Which numbers are possible: of the scripts' flags and of a config's fields.

The one place that knows. A number that is not possible is refused before anything is
loaded or written; what depends on other values (a batch size and the examples there
are) is for those who use it.
"""

import fnmatch
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from experiments.config_files import ConfigError, flat


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, never NaN.

    Attributes:
      low: belongs to it, unless `above`.
      high: belongs to it, unless `below`.
      above: `low` itself is too little.
      below: `high` itself is too much.
      whole: whole numbers alone.
      infinite: where a bound is infinite it belongs to it; else numbers are finite.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    infinite: bool = False

    def check(self, name: str, value: Any) -> None:
        """Refuses what is not in it.

        Args:
          name: of the flag or the field, for the message.
          value: a number; anything else is refused too.

        Raises:
          ConfigError: the message says what is possible.
        """
        if not (isinstance(value, Real) and self._has(float(value))):
            raise ConfigError(f"{name} must {self}, but is {value!r}")

    def _has(self, value: float) -> bool:
        if math.isnan(value) or (math.isinf(value) and not self.infinite):
            return False
        if self.whole and value != int(value):
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self == NOT_NEGATIVE:
            return "not be negative"
        kind = "be a whole number" if self.whole else "be a number"
        kind += "" if self.infinite or self.whole else " that is finite"
        bounds = []
        if self.low > -math.inf:
            bounds.append(f"{'above' if self.above else 'at least'} {self.low:.10g}")
        if self.high < math.inf:
            bounds.append(f"{'below' if self.below else 'at most'} {self.high:.10g}")
        return f"be {' and '.join(bounds)}" if bounds else kind


FINITE = Range()
ANY = Range(infinite=True)
NOT_NEGATIVE = Range(0.0)
POSITIVE = Range(0.0, above=True)
SHARE = Range(0.0, 1.0)
BELOW_ONE = Range(0.0, 1.0, below=True)
COUNT = Range(1, whole=True)
INDEX = Range(0, whole=True)
SEED = Range(0, 2**32, below=True, whole=True)

# Fields that count something: updates, examples, draws.
COUNTS = ("epochs", "batch_size", "chunk_steps", "steps", "copies", "updates", "every")
COUNTS += ("samples", "episodes", "size", "per_class", "points", "images", "draws")
COUNTS += ("latent", "neighbours", "cells", "length", "train_tokens", "per_round")
COUNTS += ("rounds", "threads", "bins", "significands", "grid.weights", "walks")
COUNTS += ("interactions", "capacity", "splits")
# Of a config's fields, by a pattern of their path: the first match counts, and a number
# that none matches is finite. Of lists and schedules each number is held to it.
FIELDS = (
    ("*max_log_alpha", ANY),
    ("clip_log_alpha.*", ANY),
    ("*threshold", ANY),
    ("*thresholds", ANY),
    ("*cut.*", ANY),
    ("bandit.epsilon", SHARE),
    ("bandit.noise", POSITIVE),
    ("continual.tasks", COUNT),
    ("continual.strength", POSITIVE),
    ("continual.scale", POSITIVE),
    ("kept", INDEX),
    ("distill.perturbed", INDEX),
    ("distill.deviation", NOT_NEGATIVE),
    ("distill.shift", INDEX),
    ("distill.groups", COUNT),
    ("*optimizer.restarts", COUNT),
    ("*learning_rate", NOT_NEGATIVE),
    ("*kl_weight", NOT_NEGATIVE),
    ("sharing.weight", NOT_NEGATIVE),
    ("*weight_decay", NOT_NEGATIVE),
    ("*log_alpha_rate", NOT_NEGATIVE),
    ("*clip_norm", POSITIVE),
    ("*optimizer.factors.*", NOT_NEGATIVE),
    ("*prior.factors.*", NOT_NEGATIVE),
    ("*optimizer.*b1", BELOW_ONE),
    ("*optimizer.*b2", BELOW_ONE),
    ("*optimizer.*momentum", BELOW_ONE),
    ("*optimizer.*eps", NOT_NEGATIVE),
    ("*label_smoothing", BELOW_ONE),
    ("discount", Range(0.0, 1.0, above=True)),
    ("*input_std", POSITIVE),
    ("*members", COUNT),
    ("nets.*.first", INDEX),
    ("seed", SEED),
    ("*validation", INDEX),
    ("*elbo_samples", INDEX),
    ("evals.kl_draws", INDEX),
    ("evals.removed", SHARE),
    ("*pruning.sparsity.*", SHARE),
    ("*pruning.begin", SHARE),
    ("*pruning.end", SHARE),
    ("projection.begin", SHARE),
    ("projection.end", SHARE),
    ("projection.low", ANY),
    ("projection.high", ANY),
    *((name, POSITIVE) for name in ("nu", "spike", "slab", "noises.*", "curve.range")),
    *((f"*{name}", COUNT) for name in COUNTS),
)


def check_fields(config: Mapping) -> None:
    """Refuses a config with a number that is not possible.

    Raises:
      ConfigError: the message names the field and says what is.
    """
    for path, held in flat(config):
        for value in _numbers(held):
            field_range(path).check(f"config.{path}", value)


def field_range(path: str) -> Range:
    """The range of a config's field, "optimizer.b1"."""
    found = (allowed for like, allowed in FIELDS if fnmatch.fnmatchcase(path, like))
    return next(found, FINITE)


def _numbers(value: Any) -> Iterator[Real]:
    """A number, or those within a tuple."""
    inside = value.values() if hasattr(value, "values") else value
    for inner in inside if isinstance(value, list | tuple | Mapping) else ():
        yield from _numbers(inner)
    if isinstance(value, Real) and not isinstance(value, bool):
        yield value
