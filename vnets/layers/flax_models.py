"""`stochastic` makes layers of any Flax model stochastic, without rewriting it."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.core import FrozenDict
from flax.errors import InvalidRngError

from vnets import ops, vectors
from vnets.layers import matching, sampling, switches, wrappers
from vnets.layers.calls import Call, unsown
from vnets.layers.convolutions import convolution, general
from vnets.layers.keys import fingerprint
from vnets.layers.mode import TEST, Mode
from vnets.layers.modules import Factories, linear, where
from vnets.nodes import Factory, check_factory, is_posterior, listed
from vnets.rng import stream
from vnets.types import Array, Params, in_float32

KNOWN = nn.Dense | nn.DenseGeneral | nn.Conv | nn.ConvTranspose | nn.BatchNorm


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Stochastic:
    """A Flax model in which chosen layers have posterior kernels, biases or scales.

    It has the `init` and `apply` of the model, with a `mode` beside the inputs. A
    BatchNorm without a `use_running_average` of its own or of its caller's follows
    `mode.norm`; one that has it does what that says. A Dropout without `deterministic`
    does the same, and `mode.dropout` decides over any.

    Attributes:
      model: the module.
      posteriors: of `stochastic`.
      how: what the model's call is given beside its inputs (`call`).
      allow: of `stochastic`.
      sampled: of `stochastic`.
    """

    model: nn.Module
    posteriors: Mapping[str, Factory]
    how: Call = dataclasses.field(default_factory=Call)
    allow: tuple[str, ...] = ()
    sampled: Mapping[str, Factory] = dataclasses.field(default_factory=FrozenDict)

    @classmethod
    def of(cls, model: Any) -> "Stochastic":
        """A module as one without posteriors; one that is made already, as it is.

        Raises:
          ValueError: neither.
        """
        if isinstance(model, cls):
            return model
        if isinstance(model, nn.Module):
            return cls(model, FrozenDict())
        name = model.__name__ if isinstance(model, type) else type(model).__name__
        hint = f"a {name}"
        if isinstance(model, type):
            hint = f"the class {name}, which is still to be called"
        elif any(
            base.__module__.startswith("flax.nnx") for base in type(model).__mro__
        ):
            hint = f"{name} of flax.nnx, whose modules hold their weights"
        raise ValueError(f"the model must be a module of flax.linen, not {hint}")

    def init(self, rngs: Any, *inputs, mode: Mode = TEST, **kwargs):
        """The model's `init`; `rngs` is a key, or a dict with "params" and "noise".

        Raises:
          ValueError: a path that matches nothing, or weights that cannot be stochastic;
            the message lists what there is. A flag of the model's own.
        """
        if not isinstance(rngs, Mapping):
            rngs = {"params": rngs, "noise": stream(rngs, "noise")}
        seen = matching.Seen()
        model, inputs, kwargs = self.how.bound(self.model, inputs, kwargs, mode)
        with self._intercepted(mode, seen):
            variables = model.init(self.how.keys(rngs, None), *inputs, **kwargs)
        params = variables.get("params", {})
        apart = sampling.names(self.sampled, params)
        matching.check(self.posteriors, self.allow, apart, seen, params)
        if not self.sampled:
            return variables
        return {**variables, "params": sampling.with_nodes(self.sampled, params, rngs)}

    def apply(
        self,
        variables,
        *inputs,
        mode: Mode = TEST,
        rngs: Any = None,
        mutable: Any = False,
        **kwargs,
    ):
        """The model's `apply`; give `rngs={"noise": key}` while anything is noisy.

        What a call sows replaces what earlier ones sowed. In half precision
        (`mode.precision`) the outputs are float32 nevertheless.

        Raises:
          ValueError: a flag of the model's own; a random stream without a key.
        """
        model, inputs, kwargs = self.how.bound(self.model, inputs, kwargs, mode)
        if self.sampled:
            params = sampling.drawn(self.sampled, variables["params"], rngs)
            variables = {**variables, "params": params}
        keys = self.how.keys(rngs, mode)
        try:
            with self._intercepted(mode, matching.Seen()):
                result = model.apply(
                    variables, *inputs, rngs=keys, mutable=mutable, **kwargs
                )
        except InvalidRngError as error:
            raise ValueError(
                f"{error} Give rngs={{'noise': key}}; of it dropout has its keys in "
                "training and with Mode(dropout=True), while Mode(dropout=False) "
                "switches it off. layers.call(model, rngs=['latent']) names others"
            ) from error
        y, new = (result, None) if mutable is False else result
        if mode.precision != "float32":
            y = jax.tree.map(in_float32, y)
        return y if mutable is False else (y, unsown(new, variables))

    def matched(self, params: Params) -> dict[str, list[str]]:
        """The names of the nodes that each pattern made, of a tree of parameters."""
        return matching.found(self.posteriors, params)

    def __hash__(self) -> int:
        return hash(self._print)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Stochastic) and self._print == other._print

    @property
    def _print(self):
        """What it is known by; its model may have lists, dicts and arrays."""
        parts = self.model, self.posteriors, self.how, self.allow, self.sampled
        return tuple(map(fingerprint, parts))

    def __repr__(self) -> str:
        both = {**self.posteriors, **self.sampled}
        return f"Stochastic({type(self.model).__name__}, {listed(both)})"

    @contextlib.contextmanager
    def _intercepted(self, mode: Mode, seen: matching.Seen):
        mapped = 0  # wrappers of parameters that are known, around where we are

        def interceptor(call, args, kwargs, context):
            nonlocal mapped
            module = context.module
            path = call_path(context)
            known = isinstance(module, KNOWN)
            if path is None or not _is_of_flax(context.orig_method):
                if path and not known:
                    seen.others[path] = type(module).__name__
                return call(*args, **kwargs)
            if isinstance(module, wrappers.KINDS):
                mapped += 1
                try:
                    return wrappers.wrapped(module, args, kwargs)
                finally:
                    mapped -= 1
            if isinstance(module, switches.KINDS):
                return switches.called(module, mode, call, args, kwargs)
            if not known:
                if path:
                    seen.others[path] = type(module).__name__
                return call(*args, **kwargs)
            if isinstance(module, nn.BatchNorm):
                args, kwargs = switches.normalizing(module, mode, args, kwargs)
            own_vectors = vectors.learned(module)
            factories = {
                name: self._factory(f"{path}/{name}", vector=True)
                for name in own_vectors
            }
            if not isinstance(module, nn.BatchNorm):
                factories["kernel"] = self._factory(path, vector=False)
                seen.names[path] = False
            seen.names.update({f"{path}/{n}": True for n in own_vectors})
            own = {name: make for name, make in factories.items() if make}
            if not own and not any(_holds_posterior(module, n) for n in factories):
                return call(*args, **kwargs)
            wrappers.check_own(module, mapped)
            if isinstance(module, nn.BatchNorm):
                how = own, mode.estimator
                return vectors.normalized(module, *how, *args, **kwargs)
            kernel = own.get("kernel", _own_kernel(module))
            return _stochastic_call(
                module, (kernel, own.get("bias")), mode, *args, **kwargs
            )

        with nn.intercept_methods(interceptor):
            yield

    def _factory(self, name: str, vector: bool) -> Factory | None:
        pattern = matching.first(self.posteriors, name, vector)
        return None if pattern is None else self.posteriors[pattern]


def stochastic(
    model: nn.Module | Stochastic,
    posteriors: Mapping[str, Factory],
    allow: Sequence[str] = (),
    sampled: Mapping[str, Factory] | None = None,
) -> Stochastic:
    """Makes layers of any Flax model stochastic without rewriting it.

    Args:
      model: a module of `flax.linen`. Its `Dense`, `DenseGeneral` (attention is made of
        it), `Conv` and `ConvTranspose` may become stochastic; the rest stays as it is
        unless `sampled` names it. Convolutions may have any number of axes, groups,
        dilations and any padding of Flax. A stochastic layer ignores `param_dtype`
        (parameters are float32) and `kernel_init` (the factory has its own). An option
        that it cannot follow, such as `mask`, is refused with a ValueError. So is noise
        on the input units of a grouped convolution, whose kernel has only some of them.
        `nn.WeightNorm` and `nn.SpectralNorm` around a layer normalize the mean, and
        scale the deviation alike. If the call has a flag such as `train`, say what it
        follows by `call` first.
      posteriors: layer path ("dense1", "block_0/conv", or a pattern like "*/conv") to
        the factory of its kernel; "dense1/bias", or of a BatchNorm "norm/scale" and
        "norm/bias", or a pattern that ends so ("*/bias", "*bias"), to that of a vector
        (`vnets.vectors`). The first match counts.
      allow: patterns of weights, or of modules with weights, that stay arrays although
        they match a pattern of `posteriors`. Without it they are an error of `init`.
        "*" allows all.
      sampled: weights of modules of any other kind (`Embed`, a cell that fuses its
        kernels) to factories: by the name of the array ("embed/embedding") or of its
        module ("embed"). A call has one draw of them, for the whole batch and for
        every step of a sequence, whatever `Mode.estimator` is.

    Returns:
      An object with the model's `init(key, x)` and `apply(variables, x, mode=...,
      rngs={"noise": key})`. Parameters keep their paths: those of a trained model fit.
      `vnets.summary` shows what became of them.

    Raises:
      ValueError: the model is no module of `flax.linen`, or `posteriors` no mapping of
        names to factories.
    """
    if not isinstance(posteriors, Mapping) or not all(
        isinstance(name, str) and (callable(make) or is_posterior(make))
        for name, make in posteriors.items()
    ):
        raise ValueError(
            "posteriors map the names of layers to factories, such as "
            f"{{'dense1': nodes.gaussian()}}; not so {posteriors!r}"
        )
    for name, make in posteriors.items():
        check_factory(make, name)
    for name, make in (sampled or {}).items():
        check_factory(make, name)
    if isinstance(allow, str):
        raise ValueError(f"allow is a list of patterns, such as [{allow!r}]")
    made = Stochastic.of(model)
    if made.posteriors or made.sampled:
        raise ValueError(f"{made!r} has posteriors already: name all at once")
    return dataclasses.replace(
        made,
        posteriors=FrozenDict(posteriors),
        allow=tuple(allow),
        sampled=FrozenDict(sampled or {}),
    )


def call_path(context: nn.module.InterceptorContext) -> str | None:
    """The path of the module whose `__call__` an interceptor sees.

    Other methods give None: a net reads its plan through them before it has a path.
    """
    if context.method_name != "__call__":
        return None
    return "/".join(context.module.path)


def _is_of_flax(method: Any) -> bool:
    """False for a subclass's own call; that of Flax within it comes by itself."""
    return getattr(method, "func", method).__module__.startswith("flax.")


def _holds_posterior(module: nn.Module, name: str) -> bool:
    return module.has_variable("params", name) and is_posterior(
        module.get_variable("params", name)
    )


def _own_kernel(module: Any) -> Callable:
    """What makes the array of a kernel that is not stochastic, though its bias is."""
    return lambda key, shape: module.kernel_init(key, shape, module.param_dtype)


# Options of a Flax Dense or convolution that a stochastic one does not have.
PLAIN = (
    *("mask", "precision", "promote_dtype", "dot_general", "dot_general_cls"),
    *("conv_general_dilated", "conv_general_dilated_cls"),
    *("transpose_kernel", "preferred_element_type"),
)


def _stochastic_call(
    module: Any, factories: Factories, mode: Mode, inputs: Array
) -> Array:
    """What a Flax Dense or convolution computes, with posterior nodes."""
    x = inputs  # which is what Flax calls it, and callers may
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.name in PLAIN and value is not field.default and value is not None:
            raise ValueError(
                f"{where(module)}: a stochastic {type(module).__name__} takes no "
                f"{field.name}"
            )
    if isinstance(module, nn.Dense):
        op, shape = ops.DENSE, (x.shape[-1], module.features)
    elif isinstance(module, nn.DenseGeneral):
        x, op, shape = general(module, x)
    else:
        op, shape = convolution(module, x)
    return linear(module, op, shape, factories, x, mode)
