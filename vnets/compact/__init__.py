"""Small files of sparse nets, and predictions from them without JAX.

    graph = compact.shrink(compact.fold_norms(compact.capture(net, variables, shape)))
    compact.save("net.vnz", compact.quantize(graph, bits=6))
    predictor = compact.load("net.vnz")     # NumPy is enough
    logits = predictor(images)
    model, variables = predictor.net.to_flax()
    predictor = compact.pretrained("digits_lenet5_sparse_vd")  # or of `shelved()`

Deep compression (Han, Mao and Dally 2016) is of this form: prune, quantize, code; here
with range coding (rANS) in place of Huffman's, and with the dead units cut out first.
Files of version 1 are read, too, if constriction is installed.
"""

from vnets.compact.capture import capture
from vnets.compact.codec import dumps, loads, read, save
from vnets.compact.graph import Graph
from vnets.compact.nets import pretrained, shelved
from vnets.compact.predict import Predictor, load
from vnets.compact.quantize import Compact, fewest_bits, quantize
from vnets.compact.shrink import fold_norms, shrink
from vnets.compact.verify import verify

__all__ = [
    "Compact",
    "Graph",
    "Predictor",
    "capture",
    "dumps",
    "fewest_bits",
    "fold_norms",
    "load",
    "loads",
    "pretrained",
    "quantize",
    "read",
    "save",
    "shelved",
    "shrink",
    "verify",
]
