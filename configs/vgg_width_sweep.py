"""How sparse variational dropout copes with width: the VGG-like net on CIFAR.

    configs/vgg_width_sweep.py:DATA_WIDTH_METHOD[,SCALE]

After the poster of Molchanov, Ashukha and Vetrov 2017 (Sparse VD). DATA is cifar10 or
cifar100, by which the authors mean its 20 superclasses. WIDTH is k025, k05, k1 or k15:
all maps and hidden units times k. METHOD is dense (binary dropout) or sparse_vd
(additive noise on all 15 layers, log-uniform prior), which starts from dense's means.

Scales: paper has the authors' 200 epochs each for dense and sparse_vd, and is for an
accelerator; short has 15 for each, of which two cores do the narrowest net in some two
hours; quick is the first two blocks of the net at half of the width, on the digits
in 8 x 8, whatever DATA is: it shows that the pieces fit.

The authors' recipe for sparse_vd, at paper: log sigma^2 from -15 on top of a pretrained
net, Adam at 1e-5, constant for half of the run and then linearly to 0, batches of 100,
KL weight 0 for 5 epochs, then linearly to 1 at epoch 20. quick and short, which have
fewer updates, take Adam at 3e-3 and 5e-4 and start from -10; at quick the KL counts
1/35, as if the digits were as many as CIFAR's images.

What differs from theirs: pixels are in [0, 1] without ZCA whitening (conv1 is
normalized, so that its scale does not count); dense trains with Adam from 1e-3 linearly
to 0 and without their weight decay of 1e-5 (they: Adam at 1e-5), with the dropout of
their later code (0.3 after conv1, 0.4 inside of the blocks, 0.5 around dense1). As in
their released scripts there is no augmentation.
"""

from ml_collections import ConfigDict

from configs import common

DATA = {"cifar10": "", "cifar100": "coarse"}
WIDTHS = {"k025": 0.25, "k05": 0.5, "k1": 1.0, "k15": 1.5}
METHODS = ("dense", "sparse_vd")
VARIANTS = tuple(
    f"{data}_{width}_{method}"
    for data in DATA
    for width in WIDTHS
    for method in METHODS
)
LAYERS = (*(f"conv{i}" for i in range(1, 14)), "dense1", "dense2")
# Of the inputs of these layers: after every convolution but the last of a block.
DROPOUT = {
    "conv2": 0.3,
    **dict.fromkeys(("conv4", "conv6", "conv7", "conv9"), 0.4),
    **dict.fromkeys(("conv10", "conv12", "conv13"), 0.4),
    **dict.fromkeys(("dense1", "dense2"), 0.5),
}
EPOCHS = {"quick": 20, "short": 15, "paper": 200}
QUICK = {"blocks": 2, "narrower": 2}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; of one of the data sets at quick, where both are the digits."""
    return tuple(v for v in VARIANTS if scale != "quick" or v.startswith("cifar10_"))


def get_config(which: str = "cifar10_k1_sparse_vd") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    data, width, method = variant.split("_", 2)
    config = base(variant, scale, data, WIDTHS[width])
    config.epochs = EPOCHS[scale]
    if method == "dense":
        config.model.posteriors = dropout(config)
        return config
    config.model.posteriors = noisy(config, -15.0 if scale == "paper" else -10.0)
    rate = {"quick": 3e-3, "short": 5e-4, "paper": 1e-5}[scale]
    config.optimizer.learning_rate = ((0.0, rate), (0.5, rate), (1.0, 0.0))
    full = 1 / 35 if scale == "quick" else 1.0
    config.kl_weight = ((0.025, 0.0), (0.1, full))  # epochs 5 and 20 of 200
    run = f"configs/vgg_width_sweep.py:{data}_{width}_dense"
    config.nets = {"start": {"run": run, "edit": "carry_means"}}
    return config


def base(variant: str, scale: str, data: str, width: float) -> ConfigDict:
    """What all VGG-like nets share; every weight is a point still."""
    config = common.classifier(variant, scale)
    config.experiment = "sparsity"
    config.dataset, _ = common.cifar(scale, data, DATA[data])
    config.model = {"name": "vgg", "width": width, "posteriors": {}}
    config.kl_weight = ((0.0, 0.0),)  # points have no KL
    config.batch_size = 100
    config.optimizer.learning_rate = ((0.0, 1e-3), (1.0, 0.0))
    config.evals.columns = ("det", "pruned")
    config.evals.samples = 1
    config.probe = {"every": 1, "samples": 1, "columns": ("det", "pruned")}
    if scale == "quick":
        config.model.width = width / QUICK["narrower"]
        config.model.blocks = QUICK["blocks"]
        config.batch_size = 50
        config.probe.every = 5
    return config


def layers(config: ConfigDict) -> tuple[str, ...]:
    """Those of the config's net: quick has the first four convolutions."""
    return (*LAYERS[:4], *LAYERS[-2:]) if "blocks" in config.model else LAYERS


def dropout(config: ConfigDict) -> dict:
    """Binary dropout of the inputs of its layers."""
    return {
        layer: {"kind": "dropout", "rate": rate}
        for layer, rate in DROPOUT.items()
        if layer in layers(config)
    }


def noisy(config: ConfigDict, log_var: float) -> dict:
    """Additive noise on every layer."""
    spec = {"kind": "gaussian", "log_var": log_var}
    return dict.fromkeys(layers(config), spec)
