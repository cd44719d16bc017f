"""Claims about all of something, which must be there."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterable


def every(claims: Iterable) -> bool:
    """`all`, of at least one claim: of nothing anything would be true.

    Raises:
      AssertionError: there are none.
    """
    listed = list(claims)
    assert listed, "a claim about all of nothing"
    return all(listed)


def frozen_kinds(package: str) -> int:
    """How many kinds of data the modules of a package under vnets have.

    Raises:
      AssertionError: one that can be changed.
    """
    found, kinds = importlib.import_module(f"vnets.{package}"), 0
    for module in pkgutil.iter_modules(found.__path__):
        name = f"{found.__name__}.{module.name}"
        for kind in vars(importlib.import_module(name)).values():
            if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
                continue
            if kind.__module__ == name:
                kinds += 1
                try:
                    object.__new__(kind).another = 1
                except dataclasses.FrozenInstanceError:
                    continue
                raise AssertionError(f"{kind.__name__} can be changed")
    return kinds
