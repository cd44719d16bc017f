"""What the walk of an optimizer says: its mean (SWA), and a normal law (SWAG).

    task = train.Task(..., collect=train.spaced(steps, 30, begin=0.75))
    [result] = train.fit(task, epochs=20, seeds=[0])
    member = Member(model, swag(result.state.collected))
    Predictor(member, draw=edits.draw, samples=30)

Sources: Izmailov et al. 2018 (SWA: the mean of where a fast walk was); Maddox et al.
2019, algorithm 1 (SWAG). The nets as they are make a snapshot ensemble, a
`predictor.Stack` (Huang et al. 2017); several members of this kind are MultiSWAG.
"""

import math

import jax.numpy as jnp

from vnets import tree
from vnets.nodes import Correlated, Point, is_posterior
from vnets.types import Array


def average(collected: dict) -> dict:
    """The variables of the one net whose weights are the means of those collected.

    Args:
      collected: variables with a first axis of M nets (`train.Task.collect`).

    Raises:
      ValueError: weights with noise, or statistics of batch normalization, which are
        those of no net between.
    """
    return _replaced(collected, 1, lambda walk: Point(jnp.mean(walk, 0)))


def swag(collected: dict, rank: int = 20) -> dict:
    """The variables of a net whose weights are normal, as the nets collected vary.

    Half of the variance is each weight's own and half along the deviations of the last
    nets, which all weights share. `edits.draw` draws it. Unlike there, deviations are
    from the mean of the whole walk, not from that of its part until then.

    Args:
      collected: as in `average`.
      rank: K, the nets whose deviations count, at most.

    Raises:
      ValueError: as in `average`, fewer than two nets, or a rank below 2.
    """
    if rank < 2:
        raise ValueError(f"rank must be at least 2, not {rank}")

    def law(walk: Array) -> Correlated:
        last = walk[-rank:] - jnp.mean(walk, 0)[None]
        std = jnp.std(walk, 0) / math.sqrt(2)
        factor = last / math.sqrt(2 * (len(last) - 1))
        return Correlated(jnp.mean(walk, 0), std, factor)

    return _replaced(collected, 2, law)


def _replaced(collected: dict, least: int, of_walk) -> dict:
    """Variables with a node for each weight, made of where it was, [M, ...]."""
    others = sorted(set(collected) - {"params"})
    if others:
        raise ValueError(
            f"a mean of weights has no {others}: take a net without batch "
            "normalization, or the nets themselves, a predictor.Stack"
        )

    def visit(place: tree.Place, leaf):
        point = is_posterior(leaf) and leaf.plain and not leaf.noisy
        walk = leaf.mean if point else leaf
        if is_posterior(walk):
            raise ValueError(
                f"{place.leaf!r} is a {type(leaf).__name__}; the walk of points alone "
                "is a posterior"
            )
        if len(walk) < least:
            raise ValueError(f"a posterior needs {least} nets, not {len(walk)}")
        return of_walk(walk)

    return {"params": tree.change(visit, collected["params"])}
