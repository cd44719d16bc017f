"""What all nets share: a plan, and posterior factories by name."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from vnets import plan as steps
from vnets.layers import (
    TEST,
    Conv,
    Dense,
    Depthwise,
    Mode,
    batch_norm,
    layer_norm,
)
from vnets.nets import features, sequences
from vnets.nodes import Factory, check_factory, is_posterior, listed, point
from vnets.plan.features import Fourier
from vnets.pooling import (
    ACTIVATIONS,
    activate_max_pool,
    depth_to_space,
    max_pool,
    window_max_pool,
    window_mean_pool,
)
from vnets.types import Array


class Net(nn.Module):
    """A plan of named layers, any subset of which is stochastic.

    A family says what its `plan` is; running it is the same for all.

    Attributes:
      posteriors: layer name to factory, a point where none is named; and "dense1/bias",
        "norm1/scale", "norm1/bias" to that of a vector, an array where none is
        (`vnets.vectors`).
    """

    posteriors: Mapping[str, Factory] = dataclasses.field(
        default_factory=dict, kw_only=True
    )

    def __post_init__(self):
        # Frozen, so that the module can be hashed: jit takes it as a static argument.
        self.posteriors = FrozenDict(self.posteriors)
        steps.check(self.plan)
        names = [*self.layers, *steps.vectors(self.plan)]
        unknown = sorted(set(self.posteriors) - set(names))
        if unknown:
            raise ValueError(f"unknown layers {unknown}; choose from {names}")
        for name, make in self.posteriors.items():
            check_factory(make, name)
        super().__post_init__()

    def __repr__(self) -> str:
        """One line: what is not as by default."""
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("parent", "name") or value in (field.default, {}):
                continue
            text = listed(value) if field.name == "posteriors" else repr(value)
            if isinstance(value, tuple) and value == self.plan:
                text = f"{len(value)} steps"
            shown.append(f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def plan(self) -> steps.Plan:
        """The steps of the net, in order of execution; each family says its own."""
        # Abstract: Flax's modules leave no room for an ABC's metaclass.
        raise NotImplementedError(f"{type(self).__name__} has no plan")

    @property
    def layers(self) -> Sequence[str]:
        """Names of the layers that can be stochastic, in order of execution."""
        return steps.linear_layers(self.plan)

    def posterior(self, layer: str) -> Factory:
        """The layer's factory; a point where none is named."""
        return self.posteriors.get(layer, point())

    def norm_posteriors(self, norm: str) -> dict[str, Factory]:
        """Factories of what a normalization learns, where named or found as nodes."""
        held = {}
        if self.has_variable("params", norm):
            held = self.get_variable("params", norm)
        nodes = {
            vector: self.posteriors.get(f"{norm}/{vector}", point())
            for vector, value in held.items()
            if is_posterior(value)
        }
        named = (name.rpartition("/")[::2] for name in self.posteriors)
        own = {v: self.posteriors[f"{norm}/{v}"] for layer, v in named if layer == norm}
        return nodes | own

    @nn.compact
    def __call__(self, x: Array, mode: Mode = TEST) -> Array:
        mask = sequences.positions(self.plan, x)
        return _run(self, self.plan, x, mask, mode).astype(jnp.float32)


def _run(net: Net, plan: steps.Plan, x: Array, mask: Array | None, mode: Mode) -> Array:
    """The steps of a chain, their modules named within the net that calls this.

    Of tokens the mask says which count.
    """
    neighbours = zip((None, *plan), plan, (*plan[1:], None), strict=False)
    for before, step, after in neighbours:
        if isinstance(step, steps.Linear):
            bias = net.posteriors.get(f"{step.name}/bias")
            x = _linear(step, net.posterior(step.name), bias)(x, mode)
        elif isinstance(step, steps.Norm):
            norm = batch_norm(
                step.name,
                mode,
                bias=step.affine,
                scale=step.affine and step.scale,
                epsilon=step.epsilon,
                zero=step.zero,
                posteriors=net.norm_posteriors(step.name),
            )
            x = norm(x)
        elif isinstance(step, steps.LayerNorm):
            x = layer_norm(step.name, mode, step.epsilon)(x)
        elif isinstance(step, steps.Standardize):
            steps.shape_after(step, x.shape[1:])  # or it would make channels
            x = (x - _channels(step.mean, x)) / _channels(step.std, x)
        elif isinstance(step, steps.Flatten):
            x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        elif isinstance(step, steps.DepthToSpace):
            x = depth_to_space(x, step)
        elif isinstance(step, steps.Activation):
            # Pooling is done with the activation: the two together are faster.
            pools = isinstance(after, steps.MaxPool)
            activate = ACTIVATIONS[step.kind]
            x = activate_max_pool(x, step.kind) if pools else activate(x)
        elif isinstance(step, steps.Residual):
            body = _run(net, step.body, x, mask, mode)
            x = body + _run(net, step.shortcut, x, mask, mode).astype(body.dtype)
        elif isinstance(step, Fourier):
            x = features.fourier(net, step, x)
        elif isinstance(step, steps.CustomStep):
            x = sequences.run(net, step, x, mask, mode)
        elif isinstance(step, steps.WindowMaxPool):
            x = window_max_pool(x, step.size, step.stride, step.padding)
        elif isinstance(step, steps.WindowMeanPool):
            x = window_mean_pool(x, step.size, step.stride, step.padding)
        elif isinstance(step, steps.MeanPool):
            x = jnp.mean(x, axis=(1, 2))
        elif not isinstance(before, steps.Activation):
            x = max_pool(x)
    return x


def _channels(values: Sequence[float], x: Array) -> Array:
    """Constants of the last axis, with the rank of x."""
    return jnp.asarray(values, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _linear(step: steps.Linear, posterior: Factory, bias: Factory | None) -> nn.Module:
    """The module of a linear step, named within the net that calls this."""
    options = {"name": step.name, "posterior": posterior, "use_bias": step.bias}
    options["bias_posterior"] = bias
    if isinstance(step, steps.Dense):
        return Dense(step.features, **options)
    if isinstance(step, steps.Depthwise):
        return Depthwise(step.kernel, step.strides, step.padding, **options)
    return Conv(step.features, step.kernel, step.strides, step.padding, **options)
