"""Fully factorized Gaussians on MNIST: how the scale of their prior is chosen.

    configs/ffg.py:VARIANT[,SCALE]

LeNet-300-100 with a Gaussian for every weight, N(mu, sigma^2), and the prior N(0, s^2):

  fixed_SCALE     s = SCALE, 005, 01, 03 or 1, for 0.05, 0.1, 0.3 and 1
  empirical       each layer's best s: empirical Bayes, type-II maximum likelihood
  empirical_each  the best mean and s of each weight: no KL is left
  hierarchical    as empirical, with an inverse gamma law over s^2, of shape 1000 and
                  rate 10 (its mode is 0.1^2): it outweighs the 1000 weights of dense3,
                  not the 235,200 of dense1
  empirical_biases        empirical with Gaussian biases, each layer's with an s of
                          their own, in place of point estimates with a flat prior
  norm_empirical          empirical with batch normalization after the hidden layers
  norm_empirical_vectors  that with Gaussian scales and biases of the normalizations
                          and of the output layer

and as anchors deterministic (points) and log_uniform (the same Gaussians under the
log-uniform prior: sparse variational dropout without its pruning).

D. Molchanov's lecture on Bayesian neural networks has this model, its ELBO and these
choices, and no numbers; net, optimizer and lengths are ours. Local reparameterization,
log sigma^2 from -10 (its advice: start with a small sigma, train log sigma), ten times
as fast as the means, or the variances would not reach a wide prior in 20 epochs.
Batches of 100, Adam from 1e-3 linearly to 0, the whole KL from the start. quick is on
the digits with 100 and 50 units: the KL counts 1/40, since they are 40 times fewer. The
ELBO is that of the training set, with the whole KL; flat priors count as zero in it, so
that nets with different deterministic parameters do not compare by it.
"""

from ml_collections import ConfigDict

from configs import common

FIXED = {"fixed_005": 0.05, "fixed_01": 0.1, "fixed_03": 0.3, "fixed_1": 1.0}
PRIORS = {
    **{name: {"kind": "standard_normal", "scale": s} for name, s in FIXED.items()},
    "empirical": {"kind": "empirical_normal"},
    "empirical_each": {"kind": "empirical_each"},
    "hierarchical": {"kind": "hierarchical_normal", "shape": 1000.0, "rate": 10.0},
    "log_uniform": {"kind": "log_uniform"},
}
VECTORS = {
    "empirical_biases": ("dense1/bias", "dense2/bias", "dense3/bias"),
    "norm_empirical_vectors": (
        "norm1/scale",
        "norm1/bias",
        "norm2/scale",
        "norm2/bias",
        "dense3/bias",
    ),
}
VARIANTS = ("deterministic", *PRIORS, "norm_empirical", *VECTORS)
LAYERS = ("dense1", "dense2", "dense3")
GAUSSIAN = {"kind": "gaussian", "log_var": -10.0}
WIDTHS = {"quick": (100, 50), "short": (300, 100), "paper": (300, 100)}
EPOCHS = {"quick": 20, "short": 20, "paper": 100}


def get_config(which: str = "empirical") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.classifier(variant, scale)
    noisy = variant != "deterministic"
    weights = dict.fromkeys(LAYERS, GAUSSIAN if noisy else {"kind": "point"})
    vectors = dict.fromkeys(VECTORS.get(variant, ()), GAUSSIAN)
    config.model = {
        "name": "mlp",
        "widths": WIDTHS[scale],
        "batch_norm": variant.startswith("norm_"),
        "posteriors": {**weights, **vectors},
    }
    with config.ignore_type():  # a mapping where the base has a name
        config.prior = PRIORS.get(variant, PRIORS["empirical"])
    config.epochs = EPOCHS[scale]
    config.batch_size = 50 if scale == "quick" else 100
    config.kl_weight = ((0.0, 1 / 40 if scale == "quick" else 1.0),)
    config.optimizer.log_alpha_rate = 10.0
    config.evals.columns = ("det", "stoch", "ens") if noisy else ("det",)
    proper = noisy and variant != "log_uniform"
    config.evals.elbo_samples = 5 if proper else 0
    config.probe.columns = ("det", "ens") if noisy else ("det",)
    return config
