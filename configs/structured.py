"""Structured sparsity on MNIST: whole units leave LeNet-5 and LeNet-500-300.

    configs/structured.py:NET_METHOD[,SCALE]

NET is lenet5 (Caffe's: no batch normalization) or lenet_500_300. METHOD:

  original     no noise: what the others are measured against, and where sbp starts
  sbp          structured Bayesian pruning: truncated log-normal noise on units
  gnj, ghs     Bayesian compression: group normal-Jeffreys and group horseshoe scales
  group_ard    Gaussian weights, one prior variance for each unit in closed form
  sparse_vd    Gaussian weights with the log-uniform prior, for comparison: units leave
               where all their weights have

The last four of lenet5 only, but for sparse_vd. Units are maps of convolutions and
inputs of dense layers, in all layers of the net.
"""

from ml_collections import ConfigDict

from configs import lenet5_mnist

SCALES = lenet5_mnist.SCALES
LAYERS = {
    "lenet5": ("conv1", "conv2", "dense1", "dense2"),
    "lenet_500_300": ("dense1", "dense2", "dense3"),
}
METHODS = {
    "lenet5": ("original", "sbp", "gnj", "ghs", "group_ard", "sparse_vd"),
    "lenet_500_300": ("original", "sbp", "sparse_vd"),
}
VARIANTS = tuple(f"{net}_{method}" for net in METHODS for method in METHODS[net])
POSTERIORS = {
    "sbp": {"kind": "structured"},
    "gnj": {"kind": "group_normal_jeffreys"},
    "ghs": {"kind": "group_horseshoe"},
    "group_ard": {"kind": "gaussian", "log_var": -10.0},
    "sparse_vd": {"kind": "gaussian", "log_var": -10.0},
}
PRIORS = {
    "sbp": "structured",
    "gnj": "group_normal_jeffreys",
    "ghs": "group_horseshoe",
    "group_ard": "group_ard",
    "sparse_vd": "log_uniform",
}
THRESHOLDS = {"sbp": 0.0, "gnj": 0.0, "ghs": 3.0, "group_ard": 3.0}
EPOCHS = {"quick": 30, "short": 30, "paper": 200}
FULL_KL = {"quick": 1 / 40}  # the digits are 40 times fewer than MNIST


def get_config(which: str = "lenet5_sbp") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = lenet5_mnist.split(which, VARIANTS)
    net = next(name for name in LAYERS if variant.startswith(f"{name}_"))
    method = variant.removeprefix(f"{net}_")
    config = base(variant, scale, net)
    if method == "original":
        config.evals.columns = config.probe.columns = ("det",)
        return config
    full = FULL_KL.get(scale, 1.0)
    config.kl_weight = ((0.0, 0.0), (0.3, full))
    config.model.posteriors = dict.fromkeys(LAYERS[net], POSTERIORS[method])
    config.prior = PRIORS[method]
    if method in THRESHOLDS:
        config.evals.unit_threshold = THRESHOLDS[method]
        config.evals.columns = config.probe.columns = ("det", "cut")
    if method == "sbp":
        run = f"configs/structured.py:{net}_original"
        config.nets = {"start": {"run": run, "edit": "carry_means"}}
    return config


def cut(variant: str) -> dict[str, float]:
    """What is cut after training: the threshold of units, or of weights."""
    method = next(m for m in POSTERIORS if variant.endswith(f"_{m}"))
    units = THRESHOLDS.get(method)
    return {"weights": 3.0} if units is None else {"units": units}


def base(variant: str, scale: str, net: str) -> ConfigDict:
    """What all variants share; every weight is a point still."""
    config = lenet5_mnist.base(variant, scale)
    config.experiment = "sparsity"
    config.model = {"name": "lenet5", "posteriors": {}}
    if net == "lenet_500_300":
        config.model = {"name": "mlp", "widths": (500, 300), "posteriors": {}}
    config.kl_weight = ((0.0, 0.0),)  # points have no KL
    config.epochs = EPOCHS[scale]
    config.evals.columns = ("det", "pruned")
    config.evals.units = True
    config.probe = {"every": 1, "samples": 1, "columns": ("det", "pruned")}
    if scale == "quick":
        config.probe.every = 5
    return config
