"""Students of a deep ensemble and of a variance net: a bag of nets in one pass.

    configs/distillation.py:VARIANT[,SCALE]

The rows measure, as those of `configs/comparators.py` are measured, what the variants
net_... train: plain nets, of which one or five predict; a variance net, whose hidden
layer has no mean, with draws; and students, of the averaged probabilities of five plain
nets, and of a variance net by 100 draws. A student is the plain net, trained as one,
without true labels; `_copies` sees three copies of each image more, with noise of 0.1
on its pixels.

Scales are those of `configs/comparators.py`, but short is a perceptron 784-100-100-10
and 10,000 images of MNIST. No setting was tuned.
"""

from ml_collections import ConfigDict

from configs import common, comparators

TEACHERS = {
    "ensemble": {"run": "configs/distillation.py:net_plain", "members": 5},
    "variance": {"run": "configs/distillation.py:net_noisy", "members": 1},
}
SAMPLES = {"ensemble": 1, "variance": 100}
DEVIATION = (
    0.1  # of pixels in [0, 1], as in the demonstration of Bayesian dark knowledge
)
# The teacher, and noisy copies of each image.
STUDENTS = {
    "ensemble": ("ensemble", 0),
    "variance": ("variance", 0),
    "variance_copies": ("variance", 3),
}
# What a row predicts with: the run and its members.
ROWS = {
    "one": ("net_plain", 1),
    "ensemble_teacher": ("net_plain", 5),
    "variance_teacher": ("net_noisy", 1),
    **{name: (f"net_{name}", 1) for name in STUDENTS},
}
TAUGHT = tuple(f"net_{name}" for name in STUDENTS)
VARIANTS = (*ROWS, "net_plain", "net_noisy", *TAUGHT)
IMAGES = 10_000  # at scale short


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The rows; what they are made of is trained with them."""
    del scale
    return tuple(ROWS)


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = (measured if variant in ROWS else trained)(variant, scale)
    if scale == "short":
        config.dataset.train_images = IMAGES
    return config


def measured(variant: str, scale: str) -> ConfigDict:
    """A row."""
    run, members = ROWS[variant]
    run = f"configs/distillation.py:{run}"
    config = comparators.measured(variant, scale, "members", run, members)
    if variant == "variance_teacher":
        config.samples = {"paper": 100}.get(scale, 20)
    return config


def trained(variant: str, scale: str) -> ConfigDict:
    """A net, plain, noisy or taught."""
    noisy = variant == "net_noisy"
    config = comparators.training("net_variance" if noisy else "net", scale)
    config.variant = variant
    if scale == "short":
        layer, own = comparators.HIDDEN["quick"], {"kind": "variance"}
        config.model = {"name": "mlp", "widths": (100, 100)}
        config.model.posteriors = {layer: own} if noisy else {}
    if variant in TAUGHT:
        teacher, copies = STUDENTS[variant.removeprefix("net_")]
        config.experiment = "distill"
        config.nets = {"teacher": TEACHERS[teacher]}
        config.distill = {"samples": SAMPLES[teacher], "perturbed": copies}
        config.distill.deviation = DEVIATION if copies else 0.0
        if copies:  # as many updates
            config.epochs = max(1, config.epochs // (1 + copies))
            config.probe.every = config.epochs
    return config
