"""`stochastic` makes layers of a Flax model stochastic; `Dense`, `LSTM` and others are.

    stochastic        any Flax model with posterior nodes as weights (flax_models.py)
    call              what the model's own flags, such as `train`, follow (adapters.py)
    Mode              how a net is run: estimator, batch statistics, precision (mode.py)
    Dense, Conv, Depthwise, batch_norm, layer_norm   the layers of `vnets.nets`
    Embed, LSTM, GRU  layers for sequences, with one draw for all steps (recurrent.py)
    shifted           moves the outputs of dense layers, for curvature (shifts.py)

Biases and normalization have no noise unless they are named, too (`vnets.vectors`). A
layer reads its kernel as it finds it, before any shape check, so an edit may have
changed the node's type.
"""

from vnets.layers.adapters import call
from vnets.layers.calls import deterministic, training
from vnets.layers.flax_models import Stochastic, call_path, stochastic
from vnets.layers.keys import checked
from vnets.layers.mode import PRECISIONS, TEST, TRAIN, Mode
from vnets.layers.modules import Conv, Dense, Depthwise, batch_norm, layer_norm
from vnets.layers.recurrent import GRU, LSTM, Embed
from vnets.layers.shifts import shifted

__all__ = [
    "GRU",
    "LSTM",
    "PRECISIONS",
    "TEST",
    "TRAIN",
    "Conv",
    "Dense",
    "Depthwise",
    "Embed",
    "Mode",
    "Stochastic",
    "batch_norm",
    "call",
    "call_path",
    "checked",
    "deterministic",
    "layer_norm",
    "shifted",
    "stochastic",
    "training",
]
