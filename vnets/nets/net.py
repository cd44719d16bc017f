"""What all nets share: a posterior factory per layer, by name."""

import dataclasses
from collections.abc import Mapping, Sequence

from flax import linen as nn
from flax.core import FrozenDict

from vnets.posteriors import Factory, point


class Net(nn.Module):
    """A module with named layers, any subset of which is stochastic.

    Attributes:
      posteriors: layer name to factory; a point where none is named.
    """

    posteriors: Mapping[str, Factory] = dataclasses.field(
        default_factory=dict, kw_only=True
    )

    def __post_init__(self):
        # Frozen, so that the module can be hashed: jit takes it as a static argument.
        self.posteriors = FrozenDict(self.posteriors)
        unknown = sorted(set(self.posteriors) - set(self.layers))
        if unknown:
            raise ValueError(
                f"unknown layers {unknown}; choose from {list(self.layers)}"
            )
        super().__post_init__()

    @property
    def layers(self) -> Sequence[str]:
        """Names of the layers that can be stochastic, in order of execution."""
        raise NotImplementedError

    def posterior(self, layer: str) -> Factory:
        """The layer's factory; a point where none is named."""
        return self.posteriors.get(layer, point())
