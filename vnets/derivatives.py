"""Functions with gradients of their own, and the switch that takes their own away.

The fast forms of `ops`, `estimators` and `pooling` say how their gradient is computed
(`backend.py` has the reasons). JAX differentiates such a function in reverse mode only.
What they compute on the way, forward and back, are ordinary functions: so a gradient
may be differentiated again, in either mode (`jax.hessian`, `jax.jvp` of `jax.grad`,
gradient penalties). `jax.jvp` or `jax.jacfwd` of the function itself needs
`backend.use(derivatives="any")`: JAX then derives every gradient by itself.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from vnets import backend


class CustomVJP:
    """`jax.custom_vjp` that `backend.use(derivatives="any")` turns off.

    Attributes:
      plain: the function itself, which has all derivatives. The forward rule calls it
        and not the decorated one, so that the gradient can be differentiated.
    """

    def __init__(self, function: Callable, nondiff_argnums: tuple[int, ...] = ()):
        functools.update_wrapper(self, function)
        self.plain = function
        self._fast = jax.custom_vjp(function, nondiff_argnums=nondiff_argnums)
        self._static = len(nondiff_argnums)
        if nondiff_argnums != tuple(range(self._static)):
            raise ValueError("static arguments come first")

    def defvjp(self, forward: Callable, backward: Callable) -> None:
        """Sets the two rules, as those of `jax.custom_vjp`."""
        self._fast.defvjp(forward, backward)

    def __call__(self, *args) -> Any:
        if backend.forms().derivatives == "any":
            return self.plain(*args)
        static, arrays = args[: self._static], args[self._static :]
        return self._fast(*static, *_reverse_only(*arrays))


@jax.custom_jvp
def _reverse_only(*arrays):
    """The arrays; what differentiates them in forward mode is told what to do."""
    return arrays


def _mark(primals, tangents):
    """Zeros are left out: they would be kept for the gradient."""
    moving = [one for one in tangents if not isinstance(one, SymbolicZero)]
    marked = iter(_marker.bind(*moving))
    return primals, tuple(
        one if isinstance(one, SymbolicZero) else next(marked) for one in tangents
    )


_reverse_only.defjvp(_mark, symbolic_zeros=True)


def _refuse(*_, **__):
    raise TypeError(
        "the fast forms of vnets have no forward mode (jax.jvp, jax.jacfwd): trace the "
        'function inside `with backend.use(derivatives="any"):` (vnets.backend), where '
        "all of them are off, or differentiate a gradient (jax.hessian, jax.jvp of "
        "jax.grad)"
    )


# The identity on tangents: reverse mode only transposes it, forward mode computes it.
_marker = Primitive("reverse_only")
_marker.multiple_results = True
_marker.def_abstract_eval(lambda *tangents: list(tangents))
_marker.def_impl(_refuse)
ad.primitive_transposes[_marker] = lambda cotangents, *_: cotangents
batching.primitive_batchers[_marker] = lambda moved, axes: (_marker.bind(*moved), axes)
mlir.register_lowering(_marker, _refuse)
