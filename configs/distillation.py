"""Students of many nets, and of nets with noise: a bag of nets in one pass.

    configs/distillation.py:VARIANT[,SCALE]

The rows measure, as those of `configs/comparators.py` are measured, what the variants
net_... train: a plain net; teachers, which are five plain nets, a variance net, whose
hidden layer has no mean, one with dropout of that layer's inputs, one with layer-wise
variational dropout, and a chain of Langevin dynamics; and a student of each, of the
probabilities that all draws give on average, 100 of a net with noise. A student is the
plain net, trained as one, without true labels; `_copies` sees three copies of each
image more, with noise of 0.1 on its pixels, and `_online` is taught by another net of
the chain at each update. `lenet5` is LeNet-5 with batch normalization on all of MNIST,
as its teacher, whose dense1 has no mean (`configs/lenet5_mnist.py`); it sees three
copies of each image, moved by up to one pixel each way.

Scales are those of `configs/comparators.py`, but short is a perceptron 784-100-100-10
and 10,000 images of MNIST. No setting was tuned; that of `lenet5` was tried on
validation images first.
"""

from ml_collections import ConfigDict

from configs import common, comparators

# The run, its members, and draws of each.
TEACHERS = {
    "ensemble": ("net_plain", 5, 1),
    "variance": ("net_noisy", 1, 100),
    "dropout": ("net_with_dropout", 1, 100),
    "vd": ("net_with_vd", 1, 100),
    "chain": ("net_of_chain", 1, 1),
    "lenet5": ("net_noisy_lenet5", 1, 100),
}
NOISE = {
    "net_noisy": {"kind": "variance"},
    "net_noisy_lenet5": {"kind": "variance"},
    "net_with_dropout": {"kind": "dropout", "rate": 0.2},
    "net_with_vd": {"kind": "multiplicative"},
}
KEPT = 20  # nets of the chain
DEVIATION = (
    0.1  # of pixels in [0, 1], as in the demonstration of Bayesian dark knowledge
)
# The teacher, further copies of each image, and groups of the teacher's draws.
STUDENTS = {
    "ensemble": ("ensemble", 0, 1),
    "variance": ("variance", 0, 1),
    "variance_copies": ("variance", 3, 1),
    "dropout": ("dropout", 0, 1),
    "vd": ("vd", 0, 1),
    "chain": ("chain", 0, 1),
    "chain_online": ("chain", 0, KEPT),
    "lenet5": ("lenet5", 3, 1),
}
# What a row predicts with: the run and its members.
ROWS = {
    "one": ("net_plain", 1),
    **{f"{name}_teacher": made[:2] for name, made in TEACHERS.items()},
    **{name: (f"net_{name}", 1) for name in STUDENTS},
}
RUNS = tuple(run for run, *_ in TEACHERS.values())
TAUGHT = tuple(f"net_{name}" for name in STUDENTS)
VARIANTS = (*ROWS, *RUNS, *TAUGHT)
IMAGES = 10_000  # at scale short


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The rows; what they are made of is trained with them."""
    del scale
    return tuple(ROWS)


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = (measured if variant in ROWS else trained)(variant, scale)
    if "lenet5" in variant:
        config.dataset = common.mnist(scale)
    elif scale == "short":
        config.dataset.train_images = IMAGES
    return config


def measured(variant: str, scale: str) -> ConfigDict:
    """A row."""
    run, members = ROWS[variant]
    method = "collected" if run == "net_of_chain" else "members"
    config = comparators.measured(
        variant, scale, method, f"configs/distillation.py:{run}", members
    )
    if run in NOISE:
        config.samples = {"paper": 100}.get(scale, 20)
    return config


def trained(variant: str, scale: str) -> ConfigDict:
    """A net, plain, noisy, of a chain or taught."""
    chain, lenet5 = variant == "net_of_chain", "lenet5" in variant
    config = comparators.training("net_sgld" if chain else "net", scale)
    config.variant = variant
    if chain:
        config.collect.count = KEPT
    if lenet5:
        config.model = {"name": "lenet5", "batch_norm": True, "posteriors": {}}
    elif scale == "short":
        config.model = {"name": "mlp", "widths": (100, 100), "posteriors": {}}
        if chain:
            config.optimizer.weight_decay = comparators.PRECISION / IMAGES
    if variant in NOISE:
        wide = lenet5 or scale == "paper"
        layer = comparators.HIDDEN["paper" if wide else "quick"]
        config.model.posteriors = {layer: NOISE[variant]}
    if variant in TAUGHT:
        teacher, copies, groups = STUDENTS[variant.removeprefix("net_")]
        run, members, samples = TEACHERS[teacher]
        config.experiment = "distill"
        run = f"configs/distillation.py:{run}"
        config.nets = {"teacher": {"run": run, "members": members}}
        config.distill = {"samples": samples, "perturbed": copies, "deviation": 0.0}
        if lenet5:
            config.distill.shift = 1
        elif copies:
            config.distill.deviation = DEVIATION
        if groups > 1:
            config.distill.groups = groups
        if copies:  # as many updates
            config.epochs = max(1, config.epochs // (1 + copies))
            config.probe.every = config.epochs
    return config
