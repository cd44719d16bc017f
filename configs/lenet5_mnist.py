"""LeNet-5 on MNIST: dropout and variance layers.

    configs/lenet5_mnist.py:VARIANT[,SCALE]

Variants: dropout (0.5 before dense1), variance (dense1), variance_all (every hidden
layer), variance_all_long (the same with 48 epochs at short and the loss averaged over
four draws a step: three layers of noise make its gradient vary). Scales: quick (the
embedded digits), short (MNIST, 12 epochs), paper (MNIST, the 200 epochs of the authors'
`lenet5-vn.py`).

The net, Adam from 1e-3 linearly to 0, batches of 200, pixels in [0, 1] and N CE + KL
are the authors' (PyTorch code); quick takes batches of 50 and Adam from 2e-3.

The output layer keeps its mean in variance_all: with a variance layer there, logits are
symmetric around the bias for every input, so by Jensen no weights give a better
expected log likelihood than a constant prediction. We test with running statistics of
batch normalization, the authors with those of the test batch.
"""

from ml_collections import ConfigDict

from configs import common

DENSE1_VARIANCE = {"dense1": {"kind": "variance", "noise": "normal"}}
POSTERIORS = {
    "dropout": {"dense1": {"kind": "dropout", "rate": 0.5}},
    "variance": DENSE1_VARIANCE,
    "variance_all": {
        layer: {"kind": "variance", "noise": "normal"}
        for layer in ("conv1", "conv2", "dense1")
    },
}
LONG = "variance_all_long"
VARIANTS = (*POSTERIORS, LONG)


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.classifier(variant, scale)
    config.model.posteriors = POSTERIORS[variant.removesuffix("_long")]
    if variant == LONG:
        config.train_samples, config.train_average = 4, "losses"
        if scale == "short":
            config.epochs *= 4
    return config
