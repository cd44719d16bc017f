"""Bayes by Backprop: Gaussian weights whose KL is drawn, on MNIST.

    configs/bayes_by_backprop.py:VARIANT[,SCALE]

Perceptrons with two hidden layers of 400 ReLUs, in `..._1200` of 1200 (quick: 100, on
the digits in 8 x 8), and

  sgd              points
  dropout          points, masks with rate 0.2 on inputs and 0.5 on hidden units
  gaussian         Gaussian weights under N(0, 1); the KL is drawn
  gaussian_lrt     the same in closed form, with local reparameterization
  mixture          1/2 N(0, 1) + 1/2 N(0, e^-12), drawn
  mixture_halving  the same, the KL's share halving from batch to batch of an epoch
  mixture_samples_2, _5, _10
                   so many draws of the weights for an update, where others take one

Of a draw the whole batch, log q and log p see the same weights. The paper (Blundell et
al. 2015) tried pi in {1/4, 1/2, 3/4}, -log sigma_1 in {0, 1, 2} and -log sigma_2 in {6,
7, 8} and does not say which it took: ours is the middle, the widest and the widest. It
parameterizes sigma = log(1 + exp(rho)), we by log sigma^2: the same family. Sigma
starts at 0.011, between softplus(-5) and softplus(-4), as its replication on
Fashion-MNIST has it; the paper does not say.

Batches of 128, Adam from 1e-3 linearly to 0; the paper has SGD for 600 epochs with a
rate of 1e-3 to 1e-5, short 60. At quick batches are of 50, log sigma^2 learns ten times
as fast, and the KL counts 1/40, since the digits are 40 times fewer than MNIST's
images. No setting was tuned.
"""

from ml_collections import ConfigDict

from configs import common

SAMPLES = {f"mixture_samples_{n}": n for n in (2, 5, 10)}
PLAIN = ("sgd", "dropout", "gaussian", "mixture")
VARIANTS = (*PLAIN, "gaussian_lrt", "mixture_halving", *SAMPLES)
VARIANTS += tuple(f"{name}_1200" for name in PLAIN)
LAYERS = ("dense1", "dense2", "dense3")
GAUSSIAN = {"kind": "gaussian", "log_var": -9.0}
RATES = {"dense1": 0.2, "dense2": 0.5, "dense3": 0.5}  # of each layer's inputs
# Of one scale the mixture is N(0, 1), drawn.
NORMAL = {"kind": "scale_mixture", "wide": 1.0, "narrow": 1.0}
MIXTURE = {"kind": "scale_mixture", "share": 0.5, "wide": 1.0}
MIXTURE["narrow"] = 0.00247875  # e^-6
REMOVED = (0.5, 0.75, 0.9, 0.95, 0.98)


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All variants, but at quick the smaller net alone."""
    small = [name for name in VARIANTS if not name.endswith("_1200")]
    return tuple(small) if scale == "quick" else VARIANTS


def get_config(which: str = "mixture") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    name = variant.removesuffix("_1200")
    config = common.classifier(variant, scale)
    config.experiment = "classify"
    config.measures = ()
    units = 400 if name == variant else 1200
    if scale == "quick":
        config.dataset.name = "digits_8x8"
        units //= 4
    noise = {
        "sgd": {},
        "dropout": {at: {"kind": "dropout", "rate": p} for at, p in RATES.items()},
    }.get(name, dict.fromkeys(LAYERS, GAUSSIAN))
    config.model = {"name": "mlp", "widths": (units, units), "posteriors": noise}
    config.epochs = {"quick": 40, "short": 60, "paper": 600}[scale]
    config.batch_size = 50 if scale == "quick" else 128
    config.kl_weight = ((0.0, 1 / 40 if scale == "quick" else 1.0),)
    config.optimizer.log_alpha_rate = 10.0 if scale == "quick" else 1.0
    columns = ("det",) if name == "sgd" else ("det", "ens")
    config.evals.columns = columns
    config.probe = {"every": config.epochs, "samples": 1, "columns": ("det",)}
    if name in ("sgd", "dropout"):
        return config
    config.measures = ("removal",)
    config.evals.removed = REMOVED
    if name == "gaussian_lrt":
        config.prior = "standard_normal"
        return config
    config.estimator = "weight_sampling"
    with config.ignore_type():  # a mapping where the base has a name
        config.prior = NORMAL if name == "gaussian" else MIXTURE
    if name == "gaussian":
        config.measures = ("removal", "kl_gradients")
        config.evals.kl_draws = 20
    if name == "mixture_halving":
        config.kl_shares = "halving"
    if name in SAMPLES:
        config.train_samples, config.train_average = SAMPLES[name], "losses"
    return config
