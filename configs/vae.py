"""Autoencoders with and without noise, of one hidden layer each way.

    configs/vae.py:VARIANT[,SCALE]

Variants: ae_2, two latent variables without noise; vae_2, vae_5, vae_10 and vae_20,
variational autoencoders of so many; vae_2_weights and vae_10_weights, whose decoders
have noisy weights, too (approximate full Bayes). Pixels are black or white: those above
half of the greatest value are white. Numbers published for other pixels do not compare.

Kingma and Welling 2014 have 500 hidden units with tanh on MNIST, batches of 100 and
Adagrad; here it is Adam. Scales: quick, the digits in 8 x 8 and 100 units; short, MNIST
and 500 units, 50 epochs; paper, 500 epochs.
"""

from ml_collections import ConfigDict

from configs import common

NOISY = {layer: {"kind": "gaussian", "log_var": -8.0} for layer in ("dense1", "dense2")}
VARIANTS = ("ae_2", *(f"vae_{z}" for z in (2, 5, 10, 20)))
VARIANTS += ("vae_2_weights", "vae_10_weights")
EPOCHS = {"quick": 120, "short": 50, "paper": 500}


def get_config(which: str = "vae_2") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    kind, latent, *weights = variant.split("_")
    config = common.start("autoencode", variant, scale)
    small = scale == "quick"
    config.dataset = common.mnist(scale) | {"binary": True}
    if small:
        config.dataset.name = "digits_8x8"
    net = {"name": "mlp", "widths": (100 if small else 500,), "activation": "tanh"}
    config.model = {
        "latent": int(latent),
        "sampled": kind == "vae",
        "encoder": net,
        "decoder": {**net, "posteriors": NOISY if weights else {}},
    }
    config.prior = "standard_normal"
    config.epochs, config.batch_size, config.chunk_steps = EPOCHS[scale], 100, 15
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 5e-3 if small else 1e-3), (0.5, 1e-3), (1.0, 0.0)),
    }
    config.evals = {
        "samples": 20,
        "pictures": 100 if small else 1000,
        "importance_samples": 500,
        "prior_samples": 10_000,
        "neighbours": 5,
        "cells": 1024,
        "tiles": 12 if small else 6,
    }
    config.probe = {"every": EPOCHS[scale] // 10, "samples": 1}
    return config
