"""A fast recipe for CIFAR, with dropout, a variance layer or variational dropout.

    configs/cifar_fast.py:DATA_METHOD[,SCALE]

DATA is cifar10 or cifar100 (the 20 superclasses: what the paper calls CIFAR-100).
METHOD:

  dropout   binary dropout, 0.5 of the inputs of dense1
  variance  dense1 is a variance layer: no mean from the start; a step averages the loss
            over 4 draws of it
  vd        layer-wise variational dropout, one log alpha for each of conv5, conv6 and
            dense1, the paper's own arrangement; the columns zero_mean and zero_mean_ens
            drop what its means still are

The recipe is after Jordan 2024 ("94 % on CIFAR-10 in 3.29 seconds on a single GPU") and
its predecessors: whitened patches, three groups of two convolutions that start by
handing their inputs on, Muon on their kernels, Adam on the rest, label smoothing,
reflected crops and flips that alternate by epoch. Ours are dense1 (normalized, ReLU)
between the last pooling and the logits, Adam where they take SGD, a bias of the
whitening that learns throughout, and images seen once as they are, not mirrored: what
sees the mirror image too is a column of its own.

Scales: short and paper are the same 12 epochs of batches of 1000; quick is one group of
16 maps on the digits in 8 x 8, not mirrored in training and with noise on dense1 alone:
it shows that the pieces fit.

vd starts log alpha at -2, lets it learn 25 times faster (0.1 an update at first, the
rate that `phase_transition` found), and lets the KL count 12 times until 70 % of the
run, from there linearly down to once.
"""

from ml_collections import ConfigDict

from configs import common, phase_transition

DATA = {"cifar10": "", "cifar100": "coarse"}
METHODS = ("dropout", "variance", "vd")
VARIANTS = tuple(f"{data}_{method}" for data in DATA for method in METHODS)
EPOCHS = {"quick": 15, "short": 12, "paper": 12}
COLUMNS = ("det", "stoch", "ens", "ens_mirrored")
DRAWS = 4
CROP_PIXELS = 2


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; of one of the data sets at quick, where both are the digits."""
    return tuple(v for v in VARIANTS if scale != "quick" or v.startswith("cifar10_"))


def get_config(which: str = "cifar10_variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    data, method = variant.split("_")
    config = base(variant, scale, data)
    nodes = config.model.posteriors
    if method == "dropout":
        nodes.dense1 = {"kind": "dropout", "rate": 0.5, "weight": nodes.dense1}
    if method == "variance":
        nodes.dense1 = {"kind": "variance", "init": {"name": "lecun_normal"}}
        config.train_samples, config.train_average = DRAWS, "losses"
    if method == "vd":
        last = () if scale == "quick" else convolutions(config)[-2:]
        for layer in (*last, "dense1"):
            init = {"name": "dirac" if layer in last else "lecun_normal"}
            nodes[layer] = {
                "kind": "multiplicative",
                "per": "layer",
                "log_alpha": -2.0,
                "init": init,
            }
        fast = phase_transition.base(variant, scale)
        config.optimizer.log_alpha_rate = 25.0
        config.kl_weight = fast.kl_weight
        config.max_log_alpha = 20.0
        if scale != "quick":
            config.evals.columns = (*COLUMNS, "zero_mean", "zero_mean_ens")
            config.probe.columns = ("stoch", "det", "zero_mean")
    return config


def base(variant: str, scale: str, data: str) -> ConfigDict:
    """What all variants share; every weight is a point still."""
    config = common.classifier(variant, scale)
    config.dataset, pixels = common.cifar(scale, data, DATA[data])
    config.dataset.augment = {
        "pad": CROP_PIXELS,
        "flip": False if scale == "quick" else "alternate",
        "per": "example",
        "margin": "reflect",
    }
    config.model = {
        "name": "whitened_cnn",
        "widths": (64, 256, 256),
        "hidden": 1024,
        "posteriors": {},
        **pixels,
    }
    config.epochs = EPOCHS[scale]
    config.precision = "float32" if scale == "quick" else "bfloat16"
    config.batch_size, config.chunk_steps = 1000, 5
    config.label_smoothing = 0.2
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 4e-3), (1.0, 0.0)),
        "b1": 0.9,
        "b2": 0.99,
        "log_alpha_rate": 1.0,
        "accumulate": 1,
        "groups": {
            "conv*/kernel/mean": {
                "name": "muon",
                "learning_rate": ((0.0, 0.24), (1.0, 0.0)),
                "momentum": 0.6,
                "iterations": 3,
                "keep_norm": True,
            }
        },
        "factors": {"whiten/kernel/*": 0.0},
    }
    config.evals = {"samples": 20, "batch_size": 500, "threshold": 3.0}
    config.evals.columns = COLUMNS
    config.probe = {"every": 1, "samples": 1, "columns": ("stoch", "det")}
    if scale == "quick":
        config.dataset.augment.pad = 1
        small = {"widths": (16,), "hidden": 64, "last_pool": 1, "channels": 1}
        config.model.update(small)
        config.batch_size, config.chunk_steps = 50, 50
        config.probe.every = 15
    config.model.posteriors = {
        "whiten": {"kind": "point", "init": {"name": "whitening", "eps": 5e-4}},
        **{
            layer: {"kind": "point", "init": {"name": "dirac"}}
            for layer in convolutions(config)
        },
        "dense1": {"kind": "point", "init": {"name": "lecun_normal"}},
    }
    return config


def convolutions(config: ConfigDict) -> tuple[str, ...]:
    """Names of the convolutions that learn, two for each group."""
    return tuple(f"conv{i + 1}" for i in range(2 * len(config.model.widths)))
