"""LRT in convolutions against weight samples: accuracy, time, what LRT neglects.

    configs/conv_lrt.py:VARIANT[,SCALE]

net_lrt, net_separate (a weight sample for each example), net_single (one for the
minibatch) and net_flipout train LeNet-5 (Caffe's, no batch normalization), each with
another estimator; lrt, separate, single and flipout measure them: tested by LRT and by
weight samples, a step's time beside that of LRT, and the covariance between the pixels
of the noise of each convolution.

Noise is on the two convolutions alone, so that nothing else differs: independent and
multiplicative, one alpha for each weight, which starts at 0.37 and stays at or below 1.
On the digits the KL counts 1/40, as in `configs/gradient_variance.py`.
"""

from ml_collections import ConfigDict

from configs import common

ESTIMATORS = {
    "lrt": "lrt",
    "separate": "per_example_sampling",
    "single": "weight_sampling",
    "flipout": "flipout",
}
NETS = tuple(f"net_{way}" for way in ESTIMATORS)
VARIANTS = (*NETS, *ESTIMATORS)
EPOCHS = {"quick": 4, "short": 5, "paper": 100}
NOISE = {"kind": "multiplicative", "per": "weight", "log_alpha": -1.0}


def get_config(which: str = "lrt") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    if variant in NETS:
        return net(variant, scale)
    config = common.start("conv_lrt", variant, scale)
    config.way = variant
    config.nets = {"net": {"run": f"configs/conv_lrt.py:net_{variant}"}}
    config.training = net(f"net_{variant}", scale)
    config.dataset = config.training.dataset.copy_and_resolve_references()
    config.evals = {"samples": {"quick": 10}.get(scale, 50), "batch_size": 500}
    config.covariance = {"images": 500, "offsets": 12}
    if scale == "quick":
        config.covariance.update({"images": 50, "offsets": 4})
    config.cost = {"rounds": {"quick": 5}.get(scale, 20)}
    return config


def net(variant: str, scale: str) -> ConfigDict:
    """LeNet-5 with noise on its convolutions."""
    config = common.classifier(variant, scale)
    config.estimator = ESTIMATORS[variant.removeprefix("net_")]
    config.model = {"name": "lenet5", "posteriors": {"conv1": NOISE, "conv2": NOISE}}
    config.prior = "log_uniform_2015"
    config.kl_weight = ((0.0, 1 / 40 if scale == "quick" else 1.0),)
    config.epochs = EPOCHS[scale]
    config.evals.columns = ("det", "stoch", "ens")
    config.probe = {"every": 5, "samples": 1, "columns": ("det", "stoch")}
    if scale == "quick":  # the study tests the net in any case
        config.evals.columns, config.probe.columns = ("det",), ("det",)
    return config
