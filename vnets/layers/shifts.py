"""What a dense layer reads, and what follows if its output is moved.

Second derivatives and curvature in a layer's weights are those in its pre-activations,
times its inputs.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from vnets.layers.flax_models import call_path
from vnets.layers.mode import TEST
from vnets.types import Array


def shifted(
    model, variables: dict, x: Array, shifts: Mapping[str, Array]
) -> tuple[Any, dict[str, Array]]:
    """A model's outputs with `shifts` added to those of dense layers, in a test.

    Args:
      model: with `apply` as in `predictor.Member`.
      variables: "params" and the model's other collections.
      x: inputs [B, ...].
      shifts: of layers by path, [B, O].

    Returns:
      The outputs, and the layers' inputs [B, I] by path.

    Raises:
      ValueError: a layer that is not called, or more than once for each example.
    """
    inputs: dict[str, Array] = {}

    def intercept(call, args, kwargs, context):
        y = call(*args, **kwargs)
        layer = call_path(context)
        if layer is None or layer not in shifts:
            return y
        if args[0].ndim != 2 or layer in inputs:
            raise ValueError(
                f"layer {layer!r} uses its weights more than once for each image; "
                "curvature takes a dense layer that is called once, on [B, I]"
            )
        inputs[layer] = args[0]
        return y + shifts[layer]

    others = [name for name in variables if name != "params"]
    with nn.intercept_methods(intercept):
        outputs, _ = model.apply(variables, x, mode=TEST, mutable=others)
    idle = sorted(set(shifts) - set(inputs))
    if idle:
        raise ValueError(f"the model calls no layers {idle}, which have weights")
    return outputs, inputs
