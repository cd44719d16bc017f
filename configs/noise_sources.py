"""Sources of noise beside one another: a net with each, off, drawn once, averaged.

    configs/noise_sources.py:VARIANT[,SCALE]

The rows measure one net each: none; dropout (binary, of a half of the hidden units);
augmentation (random shifts of the images, averaged over in the test, too); statistics
(batch normalization by those of a random training batch); all (these three); gaussian
(a normal law for each weight, under N(0, 0.1^2)) and variance (a hidden layer has no
mean), which are tested with their variances shuffled, too. Dropout is tested by moments
without a draw, too, beside 200 draws; the net of moments has the same dropout, and is
trained by its moments, too (fast dropout). The variants net_... train the nets.

Scales: quick (a perceptron 64-100-100-10 on the digits in 8 x 8, shifts of a pixel),
short and paper (LeNet-5 on MNIST, shifts of up to two). No setting was tuned.
"""

from ml_collections import ConfigDict

from configs import common, comparators

ROWS = (
    *("none", "dropout", "augmentation", "statistics", "all"),
    *("gaussian", "variance", "moments"),
)
VARIANTS = (*ROWS, *(f"net_{name}" for name in ROWS))
DROPOUT, MOVED = ("dropout", "all", "moments"), ("augmentation", "all")
NORMALIZED = ("statistics", "all")
ALSO = {
    **dict.fromkeys(("dropout", "moments"), ("moments",)),
    **dict.fromkeys(("gaussian", "variance"), ("permuted",)),
}
EPOCHS = {"quick": 40, "short": 12, "paper": 60}
LAYERS = {
    "quick": ("dense1", "dense2", "dense3"),
    "short": ("conv1", "conv2", "dense1", "dense2"),
    "paper": ("conv1", "conv2", "dense1", "dense2"),
}
DROPPED = {"kind": "dropout", "rate": 0.5}
GAUSSIAN = {"kind": "gaussian", "log_var": -10.0}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The rows; what they are made of is trained with them."""
    del scale
    return ROWS


def get_config(which: str = "dropout") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    return (study if variant in ROWS else training)(variant, scale)


def shifts(scale: str) -> dict:
    """How images are moved."""
    return {"pad": 1 if scale == "quick" else 2, "flip": False}


def study(variant: str, scale: str) -> ConfigDict:
    """A row."""
    config = common.start("noise_sources", variant, scale)
    config.dataset = comparators.data(scale)
    run = f"configs/noise_sources.py:net_{variant}"
    config.nets = {"net": {"run": run, "members": 1}}
    config.samples = {"paper": 100}.get(scale, 20)
    config.batch_size, config.also = 500, ALSO.get(variant, ())
    trained = training(f"net_{variant}", scale)
    config.noise = {}
    if variant in NORMALIZED:
        config.noise.batch_size = trained.batch_size
    if variant in MOVED:
        config.noise.augment = shifts(scale)
    return config


def training(variant: str, scale: str) -> ConfigDict:
    """The net of a row."""
    config = comparators.trained(variant, scale, EPOCHS[scale])
    row, layers = variant.removeprefix("net_"), LAYERS[scale]
    own = {}
    if row in DROPOUT:
        own = dict.fromkeys(layers[-2:], DROPPED)
    if row == "gaussian":
        own = dict.fromkeys(layers, GAUSSIAN)
        with config.ignore_type():
            config.prior = {"kind": "standard_normal", "scale": 0.1}
        config.kl_weight = ((0.0, 1 / 40 if scale == "quick" else 1.0),)
        config.optimizer.log_alpha_rate = 10.0
    if row == "moments":
        config.train_by = "moments"
    if row == "variance":
        own = {layers[-2]: {"kind": "variance"}}
    net = {"posteriors": own, "batch_norm": row in NORMALIZED}
    if scale == "quick":
        config.model = {"name": "mlp", "widths": (100, 100), **net}
    else:
        config.model = {"name": "lenet5", **net}
    if row in MOVED:
        config.dataset.augment = shifts(scale)
    return config
