"""The variance net of the page in `docs/demo`: a LeNet-5 of 8 and 24 maps, 128 units.

    configs/demo.py:VARIANT[,SCALE]

Variant: variance (dense1 is a variance layer). All but the widths is as in
`configs/lenet5_mnist.py`, and so are the scales; short is what the page has.
"""

from ml_collections import ConfigDict

from configs import common, lenet5_mnist

VARIANTS = ("variance",)
WIDTHS = (8, 24, 128)


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.classifier(variant, scale)
    config.model.widths = WIDTHS
    config.model.posteriors = lenet5_mnist.DENSE1_VARIANCE
    return config
