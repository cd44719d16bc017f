"""Active learning: which noise, and which use of it, saves labels?

    configs/active_learning.py:NET_ACQUISITION[,SCALE]

A net is trained on two labelled images of each class, chooses images that are labelled
then, and is trained from scratch on all of them, round by round. Nets: plain (no
noise), dropout (half of the units that a hidden layer sees), variance (that layer has
no mean), vd (it has a learned alpha) and ensemble (five plain nets). Acquisitions are
those of `vnets.active`: bald, entropy, variation_ratio, mean_std, random. Of one net
without noise bald and mean_std say nothing, so plain has neither.

Scales: quick (a perceptron 64-100-100-10 on the digits in 8 x 8, all 1,437 training
images as the pool, 20 labels a round, 22 rounds), short (a perceptron 784-100-100-10 on
MNIST, 40 labels a round, 24 rounds) and paper (LeNet-5 on MNIST, ten labels a round, to
1,000). Of MNIST the pool is 5,000 of the training images; the rounds look at all of it.
A round is 200 updates of batches of 32 (paper: 1,000), drawn from what has a label, by
Adam from 1e-2 (short: 5e-3, paper: 2e-3) to 0. Updates, rate and layer of scale quick
were chosen by the errors of a few trials on 237 validation digits, at short nothing.
"""

from ml_collections import ConfigDict

from configs import common, comparators

NOISE = {
    "plain": {},
    "dropout": {"kind": "dropout", "rate": 0.5, "per": "example"},
    "variance": {"kind": "variance"},
    "vd": {"kind": "multiplicative"},
    "ensemble": {},
}
LOOKS = ("bald", "entropy", "variation_ratio", "mean_std", "random")
NOTHING = ("plain_bald", "plain_mean_std")  # as plain_random
VARIANTS = tuple(
    f"{net}_{look}" for net in NOISE for look in LOOKS if f"{net}_{look}" not in NOTHING
)
MEMBERS = 5
SAMPLES = {"quick": 20, "short": 10, "paper": 20}  # draws of a net with noise


def get_config(which: str = "dropout_bald") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    net, _, look = variant.partition("_")
    config = common.start("active_learning", variant, scale)
    config.dataset = comparators.data(scale)
    config.labels = {"per_class": 2, "per_round": 20, "rounds": 22}
    config.model = {"name": "mlp", "widths": (100, 100)}
    layer = comparators.HIDDEN["quick"]
    if scale != "quick":
        config.dataset.train_images = 5000
        config.labels = {"per_class": 2, "per_round": 40, "rounds": 24}
    if scale == "paper":
        config.labels = {"per_class": 2, "per_round": 10, "rounds": 99}
        config.model, layer = {"name": "lenet5"}, comparators.HIDDEN[scale]
    config.model.posteriors = {layer: NOISE[net]} if NOISE[net] else {}
    config.acquisition = look
    config.members = MEMBERS if net == "ensemble" else 1
    config.samples = SAMPLES[scale] if NOISE[net] else 1
    config.updates = {"paper": 1000}.get(scale, 200)
    config.batch_size = 32
    rate = {"quick": 1e-2, "short": 5e-3, "paper": 2e-3}[scale]
    config.optimizer = {"name": "adam", "learning_rate": ((0.0, rate), (1.0, 0.0))}
    config.prior, config.kl_weight = "log_uniform", ((0.0, 1.0),)
    return config
