"""Claims about all of something, which must be there."""

from collections.abc import Iterable


def every(claims: Iterable) -> bool:
    """`all`, of at least one claim: of nothing anything would be true.

    Raises:
      AssertionError: there are none.
    """
    listed = list(claims)
    assert listed, "a claim about all of nothing"
    return all(listed)
