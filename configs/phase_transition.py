"""The phase transition of variational dropout: alpha grows until the means are idle.

    configs/phase_transition.py:VARIANT[,SCALE]

Net and data are those of `configs/lenet5_mnist.py`; dense1 carries one log alpha
(all_layers: each of the four layers has its own), the prior is log-uniform unless the
variant says otherwise. Every epoch is probed with noise off, one draw, an ensemble,
means dropped and variances permuted.

Variants:
  accelerated     see `base`; 8 epochs at short
  accelerated_early, accelerated_middle
                  the same run, stopped after a quarter and a half of its epochs
  probed_kappa    the same run; kappa of dense1 is probed every epoch, too
  authors         log alpha from -5 at the net's own rate, KL weight 1: the first 60 of
                  the authors' 200 epochs with their schedule (short), or all (paper)
  authors_kappa   all 200 at short, too, with kappa of dense1 probed every 10 epochs
  all_layers, ard, student_t
                  accelerated, with one thing changed
  continued       accelerated, the mean dropped, trained on as a variance layer
  variance        a variance layer from the start, for as many epochs as both of these

What makes it faster was chosen on 5,000 validation images of MNIST, seed 0, by whether
log alpha passes 10 within 8 epochs. Rates of 20 and 100 times the net's ended at 3.8
and (after 4 epochs) 4.9: Adam's second moment remembers the large early gradients.
With b2 = 0.98 they ended at 5.1 (6 epochs) and 6.4 (7 epochs): log alpha is then held
by the data term and waits for the weights. With the KL weighted 30 it passed 10 in
epoch 3; we take 12, so that the transition spreads over more epochs (20, on the test
set, passed within one). Quick, with its few steps, takes b2 = 0.9, chosen on 300
validation digits: 0.98 ended at 6.4, whatever the weight of the KL.
"""

from ml_collections import ConfigDict

from configs import common

LAYERS = ("conv1", "conv2", "dense1", "dense2")
PRIORS = {"ard": "ard", "student_t": {"kind": "student_t", "nu": 1e-8}}
STOPPED = {"accelerated_early": 0.25, "accelerated_middle": 0.5}
VARIANTS = (
    "accelerated",
    *STOPPED,
    "probed_kappa",
    "authors",
    "authors_kappa",
    "all_layers",
    *PRIORS,
    "continued",
    "variance",
)
COLUMNS = ("det", "stoch", "ens", "zero_mean", "zero_mean_ens", "permuted")
EPOCHS = {"quick": 16, "short": 8, "paper": 200}
AUTHORS_EPOCHS = {"quick": 16, "short": 60, "paper": 200}
KAPPA = ("probed_kappa", "authors_kappa")
CONTINUED_EPOCHS = {"quick": 4, "short": 4, "paper": 50}


def get_config(which: str = "accelerated") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = base(variant, scale)
    layers = LAYERS if variant == "all_layers" else ("dense1",)
    config.model.posteriors = {
        layer: {"kind": "multiplicative", "per": "layer", "log_alpha": -2.0}
        for layer in layers
    }
    with config.ignore_type():  # a name, or a name with arguments
        config.prior = PRIORS.get(variant, "log_uniform")
    if variant in STOPPED:
        part = STOPPED[variant]
        config.epochs = int(part * config.epochs)
        for group, field in (
            (config, "kl_weight"),
            (config.optimizer, "learning_rate"),
        ):
            group[field] = tuple((time / part, value) for time, value in group[field])
    if variant in KAPPA:
        images = {"paper": 10000}.get(scale, 1000)
        config.probe.kappa = {"images": images, "batch_size": 100, "threshold": 1.5}
    if variant == "authors":
        like_the_authors(config, AUTHORS_EPOCHS[scale])
    if variant == "authors_kappa":
        like_the_authors(
            config, AUTHORS_EPOCHS["quick" if scale == "quick" else "paper"]
        )
        if scale != "quick":
            config.probe.every = 10
    if variant in ("continued", "variance"):
        config.kl_weight = ((0.0, 1.0),)  # a variance layer has no KL
    if variant == "variance":
        config.model.posteriors = {"dense1": {"kind": "variance"}}
        config.epochs = EPOCHS[scale] + CONTINUED_EPOCHS[scale]
    if variant == "continued":
        run = "configs/phase_transition.py:accelerated"
        config.nets = {"start": {"run": run, "edit": "zero_mean"}}
        config.epochs = CONTINUED_EPOCHS[scale]
    return config


def like_the_authors(config: ConfigDict, epochs: int) -> None:
    """Undoes what makes the transition faster; takes the first of their epochs."""
    fresh = common.classifier(config.variant, config.scale)
    config.optimizer, config.kl_weight = fresh.optimizer, fresh.kl_weight
    config.model.posteriors.dense1.log_alpha = -5.0
    config.epochs = epochs
    rate = config.optimizer.learning_rate[0][1]
    end = 1.0 - config.epochs / AUTHORS_EPOCHS["paper"]
    config.optimizer.learning_rate = ((0.0, rate), (1.0, rate * end))


def base(variant: str, scale: str) -> ConfigDict:
    """What every run with learned noise shares: the faster optimizer, the probes.

    Log alpha (of additive noise: log sigma^2) learns 100 times faster than the means,
    Adam forgets gradients within 50 steps, the rate is constant for 60 % of the run,
    and the KL counts 12 times until 70 %, from there linearly down to once: the run
    ends on the ELBO itself.
    """
    config = common.classifier(variant, scale)
    rate = config.optimizer.learning_rate[0][1]
    config.epochs = EPOCHS[scale]
    config.optimizer.learning_rate = ((0.0, rate), (0.6, rate), (1.0, 0.0))
    config.optimizer.b2 = 0.9 if scale == "quick" else 0.98
    config.optimizer.log_alpha_rate = 100.0
    config.kl_weight = ((0.0, 12.0), (0.7, 12.0), (1.0, 1.0))
    config.evals.elbo_samples = 10
    config.evals.columns = (*COLUMNS, "permuted_ens")
    config.probe.columns = COLUMNS
    config.probe.channels = "dense1"
    if scale == "quick":
        config.probe.every = 2
    return config
