"""Trained nets as .vnz files: bytes, what the file predicts, and how fast.

    configs/artifact.py:NET_METHOD[,SCALE]

lenet_300_100_sparse_vd, lenet5_sparse_vd and lenet5_sparse_vd_long (the authors' 200
epochs at short, too) are nets of `configs/sparse_vd.py`, lenet5_gnj (group normal-
Jeffreys, which cuts units) is one of `configs/structured.py`. student is one of
`configs/distillation.py`, beside its teacher: a variance net in a file with deviations,
of which `draws` are averaged. Trains nothing but the nets that are missing. Each is
pruned as its config says and quantized to as few bits for each layer as change at most
`tolerance` of the predictions on training images; all test images are then predicted
from the file. Latency is of the processor, on `threads` cores, the file's predictor in
turns with the dense net in NumPy and in JAX.
"""

from ml_collections import ConfigDict

from configs import common, distillation, sparse_vd, structured

# The file of configs, and the variant in it.
NETS = {
    "lenet_300_100_sparse_vd": (sparse_vd, "lenet_300_100_sparse_vd"),
    "lenet5_sparse_vd": (sparse_vd, "lenet5_sparse_vd"),
    "lenet5_sparse_vd_long": (sparse_vd, "lenet5_sparse_vd_long"),
    "lenet5_gnj": (structured, "lenet5_gnj"),
    "student": (distillation, "net_variance"),
}
VARIANTS = tuple(NETS)


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; where other nets have as many epochs, the long one would be the same."""
    return tuple(v for v in VARIANTS if scale == "short" or v not in sparse_vd.LONG)


def get_config(which: str = "lenet5_sparse_vd") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    module, run = NETS[variant]
    file = module.__name__.rpartition(".")[2]
    net = module.get_config(f"{run},{scale}")
    config = common.start("artifact", variant, scale)
    config.dataset = net.dataset.copy_and_resolve_references()
    config.nets = {"net": {"run": f"configs/{file}.py:{run}"}}
    if variant == "student":
        teacher, *_ = distillation.TEACHERS["variance"]
        config.nets.teacher = {"run": f"configs/{file}.py:{teacher}"}
        config.draws = 20
    config.tolerance = 0.001
    config.latency = {"threads": 1, "seconds": 0.5 if scale == "quick" else 5.0}
    return config
