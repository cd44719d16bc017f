"""Autoencoders with and without noise, of one hidden layer each way.

    configs/vae.py:VARIANT[,SCALE]

Variants: ae_2, two latent variables without noise; vae_2, vae_5, vae_10 and vae_20,
variational autoencoders of so many; vae_2_weights and vae_10_weights, whose decoders
have noisy weights, too (approximate full Bayes); vae_20_28, of 28 x 28 pixels at scale
quick, too, where draws of the prior no longer find log p(x). Pixels are black or white:
those above half of the greatest value are white. Numbers published for other pixels do
not compare.

Kingma and Welling 2014 have 500 hidden units with tanh on MNIST, batches of 100 and
Adagrad; here it is Adam. Scales: quick, the digits in 8 x 8 and 100 units; short, MNIST
and 500 units, 10 epochs; paper, 500 epochs.
"""

from ml_collections import ConfigDict

from configs import common

NOISY = {layer: {"kind": "gaussian", "log_var": -8.0} for layer in ("dense1", "dense2")}
VARIANTS = ("ae_2", *(f"vae_{z}" for z in (2, 5, 10, 20)))
VARIANTS += ("vae_2_weights", "vae_10_weights", "vae_20_28")
EPOCHS = {"quick": 120, "short": 10, "paper": 500}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; where all pictures have 28 x 28 pixels, the last would be another's."""
    return VARIANTS if scale == "quick" else VARIANTS[:-1]


def get_config(which: str = "vae_2") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    kind, latent, *rest = variant.split("_")
    small, large = scale == "quick", rest == ["28"]
    epochs = 60 if small and large else EPOCHS[scale]
    config = common.autoencoder(variant, scale, int(latent), epochs)
    if small and not large:
        config.dataset.name = "digits_8x8"
    config.model.sampled = kind == "vae"
    if rest == ["weights"]:
        config.model.decoder.posteriors = NOISY
    config.evals = {
        "samples": 20,
        "pictures": (30 if large else 100) if small else 1000,
        "importance_samples": 500,
        "prior_samples": 10_000,
        "neighbours": 5,
        "cells": 1024,
        "tiles": 12 if small else 6,
    }
    return config
