"""Dropout and variance layers in the VGG-like net on CIFAR-10 and CIFAR-100.

    configs/vgg_cifar.py:DATA_METHOD[_PRESET][,SCALE]

After Neklyudov et al. 2019 (their TensorFlow code). DATA is cifar10, cifar100 (the 20
superclasses: what the paper calls CIFAR-100) or cifar100_fine (the 100 classes).
METHOD:

  deterministic
            no noise at all
  dropout   binary dropout, no other noise
  vd        layer-wise variational dropout, one log alpha for each of conv11, conv12,
            conv13 and dense1, which is the paper's "Variance" row; the binary dropout
            of blocks 1 to 4 and around dense1 stays
  variance  the same with variance layers in place of variational dropout: there are no
            means from the start

PRESET: without one, ours: 55 epochs, a tenth of the authors'. Pixels are standardized
by the mean and deviation of each channel of CIFAR-10's training images, each image has
a crop and flip of its own, and log alpha goes through its transition early
(`configs/phase_transition.py` says how). Each of these changes ours in one thing:

  shared_crop   one crop and flip for all images of a minibatch, as the authors
  raw_pixels    pixels of 0 to 255, as the authors
  slow_alpha    of vd: log alpha from -10 at the net's own rate, KL weight 1
  momentum      of dropout: SGD with Nesterov's momentum in place of Adam
  dense1        of vd and variance: dense1 alone has noise on its weights

and `authors` is all of theirs: 550 epochs of Adam from 1e-3 linearly to 1e-5 (their
floor) with beta1 0.95, raw pixels, shared crops, log alpha from -10 within [-20, 20],
dense1 from a normal of mean 0.01 and deviation 1 without its tails (they pass the mean
where the deviation was meant).

Theirs and ours: batches of 100; 3 x 3 convolutions from Glorot's uniform distribution,
batch normalization of decay 0.9 and epsilon 1e-3 without a learned scale; dropout 0.3
after conv1, 0.4 after every other convolution but the last of a block, 0.5 before
dense1 and before dense2; N CE + KL. What differs: their net for CIFAR-100 keeps 100
outputs for the 20 superclasses, ours has 20.

Scales: paper, made for an accelerator; short, for two cores: a quarter of the width, 18
epochs, a quarter of each dropout rate; quick: the first two blocks at a quarter of the
width on the digits in 8 x 8, shifted by a pixel and not mirrored, noise on dense1
alone.
"""

from ml_collections import ConfigDict

from configs import common, phase_transition, vgg_width_sweep

DATA = {"cifar10": "", "cifar100": "coarse", "cifar100_fine": "fine"}
METHODS = ("dropout", "vd", "variance")
PLAIN = "deterministic"
NOISY = ("conv11", "conv12", "conv13", "dense1")
# One change of cifar10's nets each: what it is, and for which methods.
PRESETS = {
    "shared_crop": METHODS[:2],
    "raw_pixels": METHODS[:2],
    "slow_alpha": ("vd",),
    "momentum": ("dropout",),
    "dense1": ("vd", "variance"),
    "authors": METHODS[:2],
}
VARIANTS = (
    *(f"{data}_{PLAIN}" for data in DATA),
    *(f"{data}_{method}" for data in DATA for method in METHODS),
    *(f"cifar10_{m}_{preset}" for preset, which in PRESETS.items() for m in which),
    *(f"{data}_{m}_authors" for data in ("cifar100",) for m in METHODS[:2]),
)
EPOCHS = {"quick": 20, "short": 18, "paper": 55}
AUTHORS_EPOCHS = 550
WIDTHS = {"quick": 0.25, "short": 0.25, "paper": 1.0}
CROP_PIXELS = 4


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; at quick, where all data are the digits and all noise on dense1, once."""
    if scale != "quick":
        return VARIANTS
    once = (v for v in VARIANTS if v.startswith("cifar10_"))
    return tuple(v for v in once if not v.endswith("_dense1"))


def get_config(which: str = "cifar10_vd") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    data = max((d for d in DATA if variant.startswith(f"{d}_")), key=len)
    method, _, preset = variant.removeprefix(f"{data}_").partition("_")
    config = base(variant, scale, data)
    config.model.posteriors = posteriors(config, method, preset)
    if method == "vd" and preset not in ("slow_alpha", "authors"):
        accelerate(config)
    if preset in ("raw_pixels", "authors"):
        config.model.input_mean, config.model.input_std = (0.0,), (1 / 255,)
    if preset in ("shared_crop", "authors"):
        config.dataset.augment.per = "batch"
    if preset == "momentum":
        config.optimizer = {
            "name": "sgd",
            "momentum": 0.9,
            "nesterov": True,
            "learning_rate": ((0.0, 0.01), (0.2, 0.1), (1.0, 0.0)),
        }
    if preset == "authors":
        config.optimizer.b1 = 0.95
        config.optimizer.learning_rate = ((0.0, 1e-3), (1.0, 1e-5))
        if scale == "paper":
            config.epochs = AUTHORS_EPOCHS
    return config


def base(variant: str, scale: str, data: str) -> ConfigDict:
    """What all variants share; every weight is a point still."""
    config = common.classifier(variant, scale)
    config.dataset, pixels = common.cifar(scale, data.split("_")[0], DATA[data])
    config.dataset.augment = {"pad": CROP_PIXELS, "flip": True, "per": "example"}
    config.model = {
        "name": "vgg",
        "width": WIDTHS[scale],
        "norm_scale": False,
        "posteriors": {},
        **pixels,
    }
    config.epochs = EPOCHS[scale]
    config.batch_size = 100
    if scale == "quick":
        config.dataset.augment.update({"pad": 1, "flip": False})
        config.model.blocks = vgg_width_sweep.QUICK["blocks"]
        config.batch_size = 50
        config.optimizer.learning_rate = ((0.0, 2e-3), (1.0, 0.0))
    config.max_log_alpha = 20.0
    config.evals.columns = ("stoch", "det", "ens")
    config.probe.columns, config.probe.samples = ("stoch", "det"), 1
    config.probe.every = {"quick": 10, "short": 6, "paper": 5}[scale]
    return config


def posteriors(config: ConfigDict, method: str, preset: str) -> dict:
    """Noise on the weights of some layers, binary dropout on the inputs of others."""
    less = 1.0 if config.scale == "paper" else 0.25
    alone = preset == "dense1" or "blocks" in config.model
    noisy = ("dense1",) if alone else NOISY
    if method not in ("vd", "variance"):
        noisy = ()
    nodes = {
        layer: weight(layer, method if layer in noisy else PLAIN, preset)
        for layer in vgg_width_sweep.layers(config)
    }
    rates = {} if method == PLAIN else vgg_width_sweep.dropout(config)
    for layer, spec in rates.items():
        # The block whose convolutions are noisy has no binary dropout within.
        if layer not in noisy or layer == "dense1":
            nodes[layer] = {
                "kind": "dropout",
                "rate": less * spec["rate"],
                "weight": nodes[layer],
            }
    return nodes


def weight(layer: str, method: str, preset: str) -> dict:
    """The weight of a layer, with the noise of a method or without."""
    init = {"name": "glorot_uniform"}
    if layer == "dense1" and preset == "authors" and method == "vd":
        init = {"name": "truncated_normal", "mean": 0.01, "stddev": 1.0}
    if method == PLAIN:
        return {"kind": "point", "init": init}
    if method == "variance":
        return {"kind": "variance", "init": init}
    slow = preset in ("slow_alpha", "authors")
    start = -10.0 if slow else -2.0
    return {"kind": "multiplicative", "per": "layer", "log_alpha": start, "init": init}


def accelerate(config: ConfigDict) -> None:
    """Log alpha runs away early, as in `configs/phase_transition.py`."""
    fast = phase_transition.base(config.variant, config.scale)
    rate = config.optimizer.learning_rate[0][1]
    config.optimizer.learning_rate = ((0.0, rate), (0.6, rate), (1.0, 0.0))
    config.optimizer.b2 = fast.optimizer.b2
    config.optimizer.log_alpha_rate = fast.optimizer.log_alpha_rate
    config.kl_weight = fast.kl_weight
