"""Seconds of an epoch and memory by way of sampling: section 2.2 of Kingma et al. 2015.

    configs/lrt_cost.py:PLATFORM[,SCALE]

PLATFORM, cpu or gpu, is what JAX must run on; cpu_plain is cpu, where a weight sample
for each example is drawn by `jax.random.normal`, as people do, not by our sampler.
`training` is the training of `configs/gradient_variance.py` (paper's width and
minibatch at short, too: a perceptron with three hidden layers of 1024, minibatches of
1000), of which `cost.steps` are timed in each of `cost.rounds` (of a weight sample per
example: one). `widths` and `batches` are of a single layer. Nothing is trained to the
end.
"""

from ml_collections import ConfigDict

from configs import common, gradient_variance

VARIANTS = ("cpu", "gpu", "cpu_plain")
ROUNDS = {"quick": 2, "short": 3, "paper": 5}
STEPS = {"quick": 2, "short": 5, "paper": 5}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The processor; at paper the GPU, too, which must be there then."""
    return tuple(v for v in VARIANTS if scale == "paper" or v != "gpu")


def get_config(which: str = "cpu") -> ConfigDict:
    """The config of "PLATFORM" (at scale paper) or "PLATFORM,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.start("lrt_cost", variant, scale)
    config.platform = variant.removesuffix("_plain")
    config.training = training(scale)
    config.dataset = config.training.dataset.copy_and_resolve_references()
    config.cost = {"rounds": ROUNDS[scale], "steps": STEPS[scale]}
    if scale == "quick":
        config.cost.update({"widths": (16, 64), "batches": (10, 100)})
    else:
        config.cost.update({"widths": (64, 128, 256, 512, 1024)})
        config.cost.update({"batches": (10, 30, 100, 300, 1000)})
    if variant == "cpu_plain":
        config.cost.draws = "random.normal"
    return config


def training(scale: str) -> ConfigDict:
    """How the net is trained that the steps are of."""
    config = gradient_variance.net("net_100", scale)
    config.epochs = gradient_variance.EPOCHS["100"]
    if scale == "short":
        width = gradient_variance.WIDTHS["paper"]
        config.model.widths = (width,) * gradient_variance.HIDDEN_LAYERS
    return config
