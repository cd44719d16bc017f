"""LeNet-5 on MNIST: dropout and variance layers; the base of the other LeNet-5 configs.

    configs/lenet5_mnist.py:VARIANT[,SCALE]

Variants: dropout (0.5 before dense1), variance (dense1), variance_all (every hidden
layer). Scales: quick (the embedded digits), short (MNIST, 12 epochs), paper (MNIST, the
200 epochs of the authors' `lenet5-vn.py`).

The net, Adam from 1e-3 linearly to 0, batches of 200, pixels in [0, 1] and N CE + KL
are the authors' (PyTorch code); quick takes batches of 50 and Adam from 2e-3.

The output layer keeps its mean in variance_all: with a variance layer there, logits are
symmetric around the bias for every input, so by Jensen no weights give a better
expected log likelihood than a constant prediction. We test with running statistics of
batch normalization, the authors with those of the test batch.
"""

from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

SCALES = ("quick", "short", "paper")
DENSE1_VARIANCE = {"dense1": {"kind": "variance", "noise": "normal"}}
POSTERIORS = {
    "dropout": {"dense1": {"kind": "dropout", "rate": 0.5}},
    "variance": DENSE1_VARIANCE,
    "variance_all": {
        layer: {"kind": "variance", "noise": "normal"}
        for layer in ("conv1", "conv2", "dense1")
    },
}
VARIANTS = tuple(POSTERIORS)


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = split(which, VARIANTS)
    config = base(variant, scale)
    config.model.posteriors = POSTERIORS[variant]
    return config


def split(
    which: str, variants: Sequence[str], scales: Sequence[str] = SCALES
) -> tuple[str, str]:
    """ "VARIANT[,SCALE]" as the two; both must be known."""
    variant, _, scale = which.partition(",")
    scale = scale or "paper"
    if variant not in variants:
        raise ValueError(f"unknown variant {variant!r}; choose from {tuple(variants)}")
    if scale not in scales:
        raise ValueError(f"unknown scale {scale!r}; choose from {tuple(scales)}")
    return variant, scale


def all_of(variants: Sequence[str]) -> Callable[..., tuple[str, ...]]:
    """The `sweep` of a config whose variants are all worth running at every scale."""

    def sweep(scale: str = "paper") -> tuple[str, ...]:
        """The variants that a launch at a scale runs."""
        del scale
        return tuple(variants)

    return sweep


sweep = all_of(VARIANTS)


def base(variant: str, scale: str) -> ConfigDict:
    """What all LeNet-5 configs share; every layer is a point still."""
    config = ConfigDict()
    config.experiment = "variance_networks"
    config.variant = variant
    config.scale = scale
    config.seed = 0
    config.dataset = {"name": "mnist", "labels": "", "validation": 0}
    config.model = {
        "name": "lenet5",
        "batch_norm": True,
        "posteriors": {},
    }
    config.prior = "log_uniform"
    # Schedules are (fraction of the run, value) knots.
    config.kl_weight = ((0.0, 1.0),)
    config.epochs = {"quick": 12, "short": 12, "paper": 200}[scale]
    config.batch_size = 200
    config.chunk_steps = 50
    config.precision = "float32"  # or bfloat16, with variances in float32
    config.remat = False  # compute again what a layer keeps for its gradient
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 1e-3), (1.0, 0.0)),
        "b1": 0.9,
        "log_alpha_rate": 1.0,
        "accumulate": 1,  # batches for one update
    }
    config.max_log_alpha = float("inf")
    config.evals = {"samples": 20, "batch_size": 500, "threshold": 3.0}
    config.probe = {"every": 1, "samples": 5}

    if scale == "quick":
        config.dataset.name = "digits"
        config.batch_size = 50
        config.optimizer.learning_rate = ((0.0, 2e-3), (1.0, 0.0))
        config.probe.every, config.probe.samples = 10, 20
    if scale == "paper":
        config.evals.samples = 100
        config.probe.samples = 20
    return config
