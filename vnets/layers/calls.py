"""How a Flax model is called: `Mode` becomes its own flags, inputs and random streams.

Flax has no rule for how a model is told that it is in training: `train`, `training`,
`deterministic`, an argument or an attribute, with a default or without. So nobody
guesses here: a model that has such a flag needs a `Call` which says what it is.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax.core import FrozenDict

from vnets.layers.mode import Mode
from vnets.rng import stream


def training(mode: Mode) -> bool:
    """True in training: the value of a flag like `train`."""
    return mode.norm == "batch"


def deterministic(mode: Mode) -> bool:
    """True in tests: the value of a flag like `deterministic`."""
    return not training(mode)


# Words of a flag's name, and what it follows.
WORDS = {
    **dict.fromkeys(("train", "training"), "training"),
    **dict.fromkeys(("deterministic", "test", "testing"), "deterministic"),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "inference"), "deterministic"),
}
WHOLE = {
    "use_running_average": "deterministic",
    "update_stats": "training",
    "mode": "training",
}
DROPOUT = "dropout"


@dataclasses.dataclass(frozen=True)
class Call:
    """What a model's call is given beside its inputs.

    Attributes:
      arguments: argument of the call, or attribute of the model, to its value or to a
        function mode -> value.
      streams: random streams besides those of noise and of dropout.
      unpack: inputs come as one tuple or one mapping, and each is an argument.
    """

    arguments: Mapping[str, Any] = FrozenDict()
    streams: tuple[str, ...] = ()
    unpack: bool = False

    def check(self, model: nn.Module) -> None:
        """Refuses arguments that a model does not have.

        Raises:
          ValueError: there are some; the message lists what it has.
        """
        parameters = _parameters(model)
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        known = [*parameters, *_fields(model)]
        unknown = sorted(set(self.arguments) - set(known))
        if unknown:
            raise ValueError(
                f"{type(model).__name__} has no argument or attribute {unknown}; "
                f"it has {known}"
            )

    def bound(
        self, model: nn.Module, inputs: tuple, kwargs: Mapping[str, Any], mode: Mode
    ) -> tuple[nn.Module, tuple, dict[str, Any]]:
        """The model, arguments and keywords of a call in a mode.

        Args:
          model: of the call.
          inputs: arrays; one tuple or mapping of arrays where they are to be unpacked.
          kwargs: given by the caller, which come first; "method" is Flax's own.
          mode: of the call.

        Raises:
          ValueError: an argument that nobody gave: a flag, or one without a default.
        """
        parameters = _parameters(model, kwargs.get("method"))
        said: dict[str, Any] = {
            k: v(mode) if callable(v) else v for k, v in self.arguments.items()
        }
        own = {k: v for k, v in said.items() if k not in parameters}
        attributes = {k: v for k, v in own.items() if k in _fields(model)}
        if self.unpack:
            inputs, kwargs = _unpacked(inputs, kwargs)
        positional = list(parameters)[: len(inputs)]
        taken = {*positional, *kwargs, *attributes}
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for name, value in said.items():
            if name not in taken and (open_ended or name in parameters):
                kwargs = {**kwargs, name: value}
        if _is_ours(parameters) and "mode" not in {*positional, *kwargs}:
            kwargs = {**kwargs, "mode": mode}
        self._check_given(model, parameters, {*positional, *kwargs})
        return model.clone(**attributes) if attributes else model, inputs, dict(kwargs)

    def _check_given(self, model: nn.Module, parameters, given: set[str]) -> None:
        name = type(model).__name__
        of_call = [k for k, p in parameters.items() if k not in given and _is_flag(p)]
        for flag in (*of_call, *self._flag_attributes(model, parameters)):
            raise ValueError(
                f"{name} takes {flag!r}, and a mode says what it is: layers.stochastic("
                f"layers.call(model, {flag}=layers.{_follows(flag)}), ...), or give a "
                "constant or another function of the mode there"
            )
        empty = inspect.Parameter.empty
        named = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        for other, p in parameters.items():
            if other not in given and p.default is empty and p.kind in named:
                raise ValueError(
                    f"{name} needs {other!r}, too: layers.call(model, {other}=...) "
                    "gives a constant or a function of the mode, and several inputs "
                    "are a tuple or a dict with layers.call(model, unpack=True)"
                )

    def _flag_attributes(self, model: nn.Module, parameters) -> list[str]:
        """Attributes of True or False that are flags, and that nobody gave."""
        return [
            name
            for name in _fields(model)
            if name not in self.arguments
            and name not in parameters
            and _follows(name)
            and isinstance(getattr(model, name), bool)
        ]

    def keys(self, rngs: Any, mode: Mode | None) -> Any:
        """Random streams as the model takes them, made from that of "noise".

        A test gives no key for dropout, so that a model which draws nonetheless is
        refused. None as mode is the initialization, where all streams have keys.
        """
        if not isinstance(rngs, Mapping) or "noise" not in rngs:
            return rngs
        asked = mode is None or (
            training(mode) if mode.dropout is None else mode.dropout
        )
        names = (*self.streams, *((DROPOUT,) if asked else ()))
        return {**{name: stream(rngs["noise"], name) for name in names}, **rngs}


def takes_mode(model: nn.Module) -> bool:
    """True for a module whose call has our `mode`, such as those of `vnets.nets`."""
    parameters = _parameters(model)
    return _is_ours(parameters) or (
        "mode" in parameters and parameters["mode"].default is inspect.Parameter.empty
    )


def _parameters(model: nn.Module, method: Any = None) -> dict[str, inspect.Parameter]:
    """Those of a model's call, or of another of its methods."""
    function = type(model).__call__ if method is None else method
    if isinstance(function, str):
        function = getattr(type(model), function)
    parameters = dict(inspect.signature(function).parameters)
    if not inspect.ismethod(function):
        parameters.pop(next(iter(parameters), ""), None)  # self
    return parameters


def _fields(model: nn.Module) -> list[str]:
    fields = (field.name for field in dataclasses.fields(model))
    return [name for name in fields if name not in ("parent", "name")]


def _is_ours(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return "mode" in parameters and isinstance(parameters["mode"].default, Mode)


def _follows(name: str) -> str | None:
    """Which function a flag of this name follows; None: it is no flag's name."""
    words = (WORDS[word] for word in name.lower().split("_") if word in WORDS)
    return WHOLE.get(name) or next(words, None)


def _is_flag(parameter: inspect.Parameter) -> bool:
    """By its name, and by a default that a flag can have."""
    default = parameter.default
    flags = default is None or isinstance(default, bool | str)
    flags = flags or default is inspect.Parameter.empty
    variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return flags and not variadic and _follows(parameter.name) is not None


def _unpacked(inputs: tuple, kwargs: Mapping[str, Any]):
    """One tuple as several arguments, one mapping as several keywords."""
    if len(inputs) == 1 and isinstance(inputs[0], tuple):
        return inputs[0], kwargs
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return (), {**inputs[0], **kwargs}
    kinds = [type(one).__name__ for one in inputs]
    raise ValueError(f"unpack=True takes one tuple or one dict of inputs, not {kinds}")


def unsown(new: Any, old: Any) -> Any:
    """Collections after a call, without what earlier calls sowed.

    `sow` appends to a tuple; a state whose tuples grew with each step could be neither
    scanned nor restored. So of a longer tuple those entries stay that are new.
    """
    if isinstance(new, Mapping):
        parts = {k: unsown(v, old[k]) if k in old else v for k, v in new.items()}
        return FrozenDict(parts) if isinstance(new, FrozenDict) else parts
    grown = isinstance(new, tuple) and isinstance(old, tuple) and len(new) > len(old)
    return new[len(new) - len(old) :] if grown else new
