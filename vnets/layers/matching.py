"""Patterns of names: what of a model becomes stochastic, and what cannot."""

import dataclasses
import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence

import jax

from vnets import tree
from vnets.nodes import Factory, is_posterior
from vnets.types import Params


@dataclasses.dataclass
class Seen:
    """What a model's initialization came across.

    Attributes:
      names: of what can be stochastic, to whether it is a vector's.
      others: path of any other module to its kind.
    """

    names: dict[str, bool] = dataclasses.field(default_factory=dict)
    others: dict[str, str] = dataclasses.field(default_factory=dict)


def first(patterns: Mapping[str, Factory], name: str, vector: bool) -> str | None:
    """The first pattern that is of a node of this name."""
    return next((p for p in patterns if tree.fits(p, name, vector)), None)


def found(patterns: Mapping[str, Factory], params: Params) -> dict[str, list[str]]:
    """The names of the nodes that each pattern made, of a tree of parameters."""
    made: dict[str, list[str]] = {pattern: [] for pattern in patterns}
    for place, _ in tree.nodes(params):
        pattern = tree.rule(patterns, place)
        if pattern is not None:
            made[pattern].append(place.name)
    return made


def check(
    patterns: Mapping[str, Factory],
    allow: Sequence[str],
    sampled: Collection[str],
    seen: Seen,
    params: Params,
) -> None:
    """Refuses patterns that did not do what they say.

    Args:
      patterns: of the model.
      allow: patterns of weights that may stay as they are.
      sampled: names of arrays that have nodes by another way.
      seen: of its initialization.
      params: that this made.

    Raises:
      ValueError: a pattern that matches nothing, or that also matches weights which
        cannot be stochastic; one of `allow` that allows nothing.
    """
    unused = [
        pattern
        for pattern in patterns
        if not any(tree.fits(pattern, *one) for one in seen.names.items())
    ]
    if unused:
        kinds = "".join(
            f"; {path!r} is a {kind}"
            for path, kind in seen.others.items()
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in unused)
        )
        there = sorted(seen.names, key=lambda name: (seen.names[name], name))
        raise ValueError(
            f"no Dense or Conv layer, bias or scale matches {unused}; there are "
            f"{there}{kinds}"
        )
    left = [n for n in _unconverted(patterns, params) if n not in sampled]
    idle = [a for a in allow if a != "*" and not any(tree.covers(a, n) for n in left)]
    if idle:
        raise ValueError(
            f"allow={idle}: no weight that a pattern matches and that cannot be "
            f"stochastic; there are {sorted(left)}"
        )
    refused = [name for name in left if not any(tree.covers(a, name) for a in allow)]
    if refused:
        named = ", ".join(
            f"{name!r}" + (f" ({kind})" if (kind := _kind(name, seen)) else "")
            for name in refused
        )
        raise ValueError(
            f"the patterns {list(patterns)} also match weights that cannot be "
            f"stochastic: {named}. Name the layers that are meant, draw these once a "
            "call, layers.stochastic(..., sampled={name: factory}), or say that they "
            f"stay as they are: layers.stochastic(..., allow={refused})"
        )


def _unconverted(patterns: Mapping[str, Factory], params: Params) -> Iterator[str]:
    """Names of arrays that a pattern matches: weights, and vectors by their own."""
    for place, leaf in tree.each(params):
        name, vector = place.name, place.is_vector
        if is_posterior(leaf) or (jax.numpy.ndim(leaf) < 2 and not vector):
            continue
        if first(patterns, name, vector) or (
            not vector and first(patterns, place.layer, vector)
        ):
            yield name


def _kind(name: str, seen: Seen) -> str | None:
    return seen.others.get(name) or seen.others.get(name.rpartition("/")[0])
