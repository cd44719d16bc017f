"""Flax modules whose kernels are posterior nodes, and `stochastic` for any other model.

A layer reads its kernel as it finds it, before any shape check, so an edit may have
changed the node's type. Bias and normalization are ordinary parameters unless they are
named as stochastic, too (`vnets.vectors`).

`Mode` (mode.py) says how a net is run; `Dense`, `Conv`, `Depthwise` and the
normalizations (modules.py) are the layers of our nets; `stochastic` (flax_models.py)
makes those of other Flax models stochastic (convolutions.py reads what their linear
maps are, sampling.py draws weights of other modules), and `call` says what such a
model's own flags are in a mode. `Embed`, `LSTM` and `GRU` (recurrent.py) have one draw
for a sequence. `shifted` says what dense layers read, and moves what they give.
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
