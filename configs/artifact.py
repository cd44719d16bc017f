"""Trained nets as .vnz files: bytes, what the file predicts, and how fast.

    configs/artifact.py:NET_METHOD[,SCALE]

lenet_300_100_sparse_vd, lenet5_sparse_vd and lenet5_sparse_vd_long (the authors' 200
epochs at short, too) are nets of `configs/sparse_vd.py`, lenet5_gnj (group normal-
Jeffreys, which cuts units) is one of `configs/structured.py`. Trains nothing but the
nets that are missing. Each is pruned as its config says and quantized to as few bits
for each layer as change at most `tolerance` of the predictions on training images; all
test images are then predicted from the file. Latency is of the processor, on `threads`
cores, the file's predictor in turns with the dense net in NumPy and in JAX.
"""

from ml_collections import ConfigDict

from configs import common, sparse_vd, structured

NETS = {
    "lenet_300_100_sparse_vd": sparse_vd,
    "lenet5_sparse_vd": sparse_vd,
    "lenet5_sparse_vd_long": sparse_vd,
    "lenet5_gnj": structured,
}
VARIANTS = tuple(NETS)


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; where other nets have as many epochs, the long one would be the same."""
    return tuple(v for v in VARIANTS if scale == "short" or v not in sparse_vd.LONG)


def get_config(which: str = "lenet5_sparse_vd") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    file = NETS[variant].__name__.rpartition(".")[2]
    net = NETS[variant].get_config(f"{variant},{scale}")
    config = common.start("artifact", variant, scale)
    config.dataset = net.dataset.copy_and_resolve_references()
    config.nets = {"net": {"run": f"configs/{file}.py:{variant}"}}
    config.tolerance = 0.001
    config.latency = {"threads": 1, "seconds": 0.5 if scale == "quick" else 5.0}
    return config
