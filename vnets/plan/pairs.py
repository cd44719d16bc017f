"""Layers that follow one another, between which units can change places."""

from collections.abc import Iterator

from vnets.plan.steps import (
    Activation,
    Conv,
    CustomStep,
    Dense,
    DepthToSpace,
    Depthwise,
    LayerNorm,
    Plan,
    Residual,
    Standardize,
    WindowMeanPool,
)


def pairs(plan: Plan) -> Iterator[tuple[Conv | Dense, Conv | Dense, tuple[str, ...]]]:
    """Each linear layer whose units can be cut or put in another order, the one that
    alone reads them, and the activations between the two.

    A batch normalization between them has a number for each of these units, too.
    """
    this, kinds = None, ()
    for step in plan:
        if isinstance(step, Residual):
            yield from pairs(step.body)
            yield from pairs(step.shortcut)
            this = None
        elif isinstance(step, Standardize | LayerNorm | Depthwise | CustomStep):
            this = None
        elif isinstance(step, DepthToSpace):
            this = None  # some of its units become one channel
        elif isinstance(step, WindowMeanPool) and step.padding != "VALID":
            this = None  # at the border it sees less of a constant
        elif isinstance(step, Activation):
            kinds = (*kinds, step.kind)
        elif isinstance(step, Conv | Dense):
            if this is not None:
                yield this, step, kinds
            this, kinds = step, ()
