"""A net that is given as a plan."""

from vnets.nets.net import Net
from vnets.plan import Plan


class Chain(Net):
    """Runs the steps of a plan, [B, ...] -> [B, K].

    Attributes:
      steps: what to run.
    """

    steps: Plan = ()

    @property
    def plan(self):
        return self.steps
