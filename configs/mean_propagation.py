"""Which weights of dense1 need their noise, and prediction without any sampling.

    configs/mean_propagation.py:VARIANT[,SCALE]

Trains nothing: each variant measures trained nets. vd (layer-wise variational dropout
past its transition; kappa also of two nets of the same run stopped before), vd_authors
(the same by the authors' optimizer, after all their 200 epochs at short, too), variance
(dense1 has no mean), dropout (0.5 before dense1: its noise belongs to units, so there
is no kappa of its weights, only the prediction from moments).

Scales: quick (the embedded digits), short and paper (MNIST). kappa is summed over the
first `kappa.images` training images and scaled to the whole training set.
"""

from ml_collections import ConfigDict

from configs import common

TRANSITION = "configs/phase_transition.py:accelerated"
# "net" is tested; of the others, kappa is measured too.
NETS = {
    "vd": {
        "early": f"{TRANSITION}_early",
        "middle": f"{TRANSITION}_middle",
        "net": TRANSITION,
    },
    "vd_authors": {"net": "configs/phase_transition.py:authors_kappa"},
    "variance": {"net": "configs/lenet5_mnist.py:variance"},
    "dropout": {"net": "configs/lenet5_mnist.py:dropout"},
}
VARIANTS = tuple(NETS)
# log10 of kappa0: a wide grid, and where the authors' slides give accuracies.
THRESHOLDS = (*(step / 2 for step in range(-8, 7)), 2.4, 2.6, 2.8)


def get_config(which: str = "vd") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.start("mean_propagation", variant, scale)
    config.dataset = common.mnist(scale)
    config.nets = {
        name: {"run": run, "members": 1} for name, run in NETS[variant].items()
    }
    config.samples = {"quick": 20, "short": 20, "paper": 100}[scale]
    config.batch_size = {"paper": 100}.get(scale, 500)
    config.kappa = {
        "layer": "" if variant == "dropout" else "dense1",  # none: no kappa
        "images": {"paper": 10000}.get(scale, 1000),
        "batch_size": 100,
        "threshold": 1.5,  # log10 of the authors' kappa0
        "thresholds": tuple(sorted(THRESHOLDS)),
        "histogram": {"low": -10.0, "high": 4.0, "bins": 140},
    }
    return config
