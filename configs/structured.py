"""Structured sparsity on MNIST: whole units leave LeNet-5 and LeNet-500-300.

    configs/structured.py:NET_METHOD[,SCALE]

NET is lenet5 (Caffe's: no batch normalization) or lenet_500_300. METHOD:

  original     no noise: what the others are measured against and start from
  sbp          structured Bayesian pruning: truncated log-normal noise on units, one
               draw for a batch; cut below a signal-to-noise ratio of 1
  sbp_a        the same with a KL that counts more, above all in the convolutions, which
               have most of the arithmetic, `SBP_A` (the authors' SBPa has factors of 10
               and 5 in those of VGG)
  gnj, ghs     Bayesian compression: group normal-Jeffreys and group horseshoe scales;
               units are cut, and of those left single weights, too
  group_ard    Gaussian weights, one prior variance for each unit in closed form; a unit
               goes if all its weights have log alpha above the threshold
  sparse_vd    Gaussian weights with the log-uniform prior, for comparison: units leave
               where all their weights have

LeNet-500-300 has original, sbp and sparse_vd, of the same paper as sbp. Units are maps
of convolutions and inputs of dense layers, in all layers of the net (the script that
the authors of sbp released has noise on the convolutions only). Other deviations: the
noise of a map multiplies its weights and leaves its bias, the authors' multiplies the
output of the convolution; biases are points (those of Louizos et al. have a posterior,
too); no variance is bounded (their code keeps those of the first dense layer at 0.04 or
less); tau_0, the scale of the layer's half-Cauchy in ghs, is 1, the paper's we could
not check; gnj cuts above other log alphas (their demo above -2.8, -3 and -5, by layer).

All but original start from its means; sbp does so in the paper, of Bayesian compression
we do not know. There, gnj and ghs put the size of a unit's weights into its scale
(`edits.balance`), which changes no weight but the KL: w = z v with v ~ N(0, 1) a priori
has the least if v is near 1 in size and z as large as the unit's weights. What is cut
of a layer is above its own threshold, `UNITS`; Louizos et al. chose theirs by hand and
by layer, too. Ours of gnj and ghs are from one run of each at short, with 5,000
training images held out of it and of the net that it starts from: as low as cost at
most a tenth of a point there. Short trains original for 20 epochs and the others for
30, at Adam's 1e-3, constant for 60 % of the run, then linearly to 0, KL weight 1 (gnj,
ghs, group_ard, sparse_vd: from a tenth, linearly, in the first 40 %). What noise learns
with has a larger rate, `FACTORS`: 200 epochs at one rate are not for two cores. Paper
is the same for 200 epochs. quick is on the digits, 40 times fewer: there the KL counts
1/40.
"""

from ml_collections import ConfigDict

from configs import common

LAYERS = {
    "lenet5": ("conv1", "conv2", "dense1", "dense2"),
    "lenet_500_300": ("dense1", "dense2", "dense3"),
}
POSTERIORS = {
    "sbp": {"kind": "structured"},
    "sbp_a": {"kind": "structured"},
    "gnj": {"kind": "group_normal_jeffreys"},
    "ghs": {"kind": "group_horseshoe"},
    "group_ard": {"kind": "gaussian", "log_var": -10.0},
    "sparse_vd": {"kind": "gaussian", "log_var": -10.0},
}
METHODS = {
    "lenet5": ("original", *POSTERIORS),
    "lenet_500_300": ("original", "sbp", "sparse_vd"),
}
VARIANTS = tuple(f"{net}_{method}" for net in METHODS for method in METHODS[net])
# By how much more the KL of a layer counts in sbp_a.
SBP_A = {"conv1": 40.0, "conv2": 40.0, "dense2": 5.0}
PRIORS = {
    "sbp": "structured",
    "sbp_a": {"kind": "structured", "factors": SBP_A},
    "gnj": "group_normal_jeffreys",
    "ghs": "group_horseshoe",
    "group_ard": "group_ard",
    "sparse_vd": "log_uniform",
}
# Above these, units go: a number for all layers, or one for each. Those of ghs are
# negative logarithms of a scale, which has the size of the layer's weights.
UNITS = {
    "original": float("inf"),
    "sbp": 0.0,
    "sbp_a": 0.0,
    "gnj": {"conv1": -6.5, "conv2": -5.0, "dense1": -2.5, "dense2": -3.5},
    "ghs": {"conv1": 3.7, "conv2": 3.9, "dense1": 4.0, "dense2": 1.0},
    "group_ard": 3.0,
}
# On the digits, of which nothing is held out; not tuned.
QUICK_UNITS = {
    "gnj": 0.0,
    "ghs": {"conv1": 3.5, "conv2": 5.0, "dense1": 5.5, "dense2": 4.5},
}
# And above these, weights that the units left have.
WEIGHTS = {"gnj": 3.0, "ghs": 3.0, "sparse_vd": 3.0}
# Of the rate: for truncated scales, log variances, log means.
FACTORS = {"*/log_std": 60.0, "*/location": 60.0, "*/log_var": 20.0, "*/log_mean": 20.0}
# Of gnj and ghs: for weights before scaling, which are near 1 in size, and for Gaussian
# scales, which are as large as the weights of a layer are.
WEIGHT_FACTOR = 5.0
SCALE_FACTORS = {"conv1": 1.0, "conv2": 0.25, "dense1": 0.15, "dense2": 0.3}
BALANCED = ("gnj", "ghs")  # methods that start with the size of weights in the scales
EPOCHS = {"quick": 30, "short": 30, "paper": 200}
FULL_KL = {"quick": 1 / 40}


def get_config(which: str = "lenet5_sbp") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    net, method = parted(variant)
    config = base(variant, scale, net)
    config.evals.cut = cut(net, method, scale)
    if method == "original":
        config.epochs = {"short": 20}.get(scale, config.epochs)
        return config
    full = FULL_KL.get(scale, 1.0)
    config.kl_weight = ((0.0, full),)
    if not method.startswith("sbp"):
        config.kl_weight = ((0.0, 0.1 * full), (0.4, full))
    rate = config.optimizer.learning_rate[0][1]
    config.optimizer.learning_rate = ((0.0, rate), (0.6, rate), (1.0, 0.0))
    config.optimizer.b2 = 0.98
    config.optimizer.factors = factors(net, method)
    config.model.posteriors = dict.fromkeys(LAYERS[net], POSTERIORS[method])
    with config.ignore_type():  # a name, or a name with arguments
        config.prior = PRIORS[method]
    run = f"configs/structured.py:{net}_original"
    edit = "carry_means_balanced" if method in BALANCED else "carry_means"
    config.nets = {"start": {"run": run, "edit": edit}}
    return config


def cut(net: str, method: str, scale: str) -> dict:
    """Thresholds of units, each layer's own, and of weights."""
    found = {}
    if method in UNITS:
        own = QUICK_UNITS if scale == "quick" else {}
        units = own.get(method, UNITS[method])
        each = units if isinstance(units, dict) else dict.fromkeys(LAYERS[net], units)
        found["units"] = units if method == "original" else each
    if method in WEIGHTS:
        found["weights"] = WEIGHTS[method]
    return found


def factors(net: str, method: str) -> dict[str, float]:
    """What the rate is multiplied by, by the path of a parameter."""
    if method not in BALANCED:
        return FACTORS
    scales = {
        f"{layer}/*/scale/mean": SCALE_FACTORS[layer]
        for layer in (LAYERS[net] if method == "gnj" else ())
    }
    return FACTORS | scales | {"*/weight/mean": WEIGHT_FACTOR}


def parted(variant: str) -> tuple[str, str]:
    """Net and method of a variant."""
    net = next(name for name in LAYERS if variant.startswith(f"{name}_"))
    return net, variant.removeprefix(f"{net}_")


def base(variant: str, scale: str, net: str) -> ConfigDict:
    """What all variants share; every weight is a point still."""
    config = common.classifier(variant, scale)
    config.experiment = "sparsity"
    config.model = {"name": "lenet5", "posteriors": {}}
    if net == "lenet_500_300":
        config.model = {"name": "mlp", "widths": (500, 300), "posteriors": {}}
    config.kl_weight = ((0.0, 0.0),)  # points have no KL
    config.epochs = EPOCHS[scale]
    columns = ("det", "cut")
    config.evals.columns = columns
    config.probe = {"every": 1, "samples": 1, "columns": columns}
    if scale == "quick":
        config.probe.every = 5
    return config
