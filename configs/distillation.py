"""Students of a deep ensemble and of a variance net: a bag of nets in one pass.

    configs/distillation.py:VARIANT[,SCALE]

The rows measure, as those of `configs/comparators.py` are measured, the students that
the variants net_... train: of the averaged probabilities of five plain nets, and of a
variance net, whose hidden layer has no mean, by 100 draws. Teachers are the runs of
that file, so rows of its table stand beside these. A student is the plain net, trained
as one, without true labels; `_copies` sees three copies of each image more, with noise
of 0.1 on its pixels.

Scales are those of `configs/comparators.py`. No setting was tuned.
"""

from ml_collections import ConfigDict

from configs import common, comparators

TEACHERS = {
    "ensemble": {"run": "configs/comparators.py:net", "members": 5},
    "variance": {"run": "configs/comparators.py:net_variance", "members": 1},
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
ROWS = tuple(STUDENTS)
VARIANTS = (*ROWS, *(f"net_{name}" for name in STUDENTS))


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The rows; what they are made of is trained with them."""
    del scale
    return ROWS


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    if variant in ROWS:
        run = f"configs/distillation.py:net_{variant}"
        return comparators.measured(variant, scale, "members", run)
    teacher, copies = STUDENTS[variant.removeprefix("net_")]
    config = comparators.training("net", scale)
    config.experiment, config.variant = "distill", variant
    config.nets = {"teacher": TEACHERS[teacher]}
    config.distill = {"samples": SAMPLES[teacher], "perturbed": copies}
    config.distill.deviation = DEVIATION if copies else 0.0
    if copies:  # as many updates
        config.epochs = max(1, config.epochs // (1 + copies))
        config.probe.every = config.epochs
    return config
