"""Diversity of LeNet-5's samples on MNIST, |eps| and its Gaussian, tolerance of noise.

    configs/diversity.py:VARIANT[,SCALE]

Trains nothing: each variant is a predictor made of trained nets, as in
`configs/uncertainty.py`, with the same data, samples and scales. To its variance,
dropout, vd and deep_ensemble come abs_eps and abs_gaussian: dense1 a variance layer
that gives |eps| sqrt(v), or a Gaussian of the same two moments in its place. Their
deterministic pass has the mean of |eps|, sqrt(2 / pi), for it; that of the others drops
all noise.

`noise.factors` multiply the standard deviation of all noise. Not for the two with |eps|
(it would scale their means as well), and there is nothing to scale in a deep ensemble.
"""

from ml_collections import ConfigDict

from configs import common, uncertainty

# How the nets were trained with a magnitude in place of the signed noise.
ESTIMATORS = {"abs_eps": "magnitude", "abs_gaussian": "magnitude_gaussian"}
NETS = {
    **{
        name: uncertainty.NETS[name]
        for name in ("variance", "dropout", "vd", "deep_ensemble")
    },
    **{name: (f"configs/variance_lenet5.py:{name}", 1) for name in ESTIMATORS},
}
VARIANTS = tuple(NETS)
FACTORS = {
    "quick": (0.0, 0.5, 1.0, 2.0, 4.0),
    "short": (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
    "paper": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0),
}


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = uncertainty.base("diversity", variant, scale, *NETS[variant])
    config.estimator = ESTIMATORS.get(variant, "lrt")
    config.deterministic = {"estimator": "lrt", "edit": "mean_only"}
    config.noise = {
        "factors": FACTORS[scale],
        "images": {"short": 2000}.get(scale, 10000),
    }
    if variant in ESTIMATORS:
        config.deterministic = {"estimator": "magnitude_mean", "edit": "nothing"}
    if variant in ESTIMATORS or variant == "deep_ensemble":
        config.noise.factors = ()
    return config
