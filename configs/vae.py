"""Autoencoders with and without noise, of one hidden layer each way, or convolutional.

    configs/vae.py:VARIANT[,SCALE]

Variants: ae_2, two latent variables without noise; vae_2, vae_5, vae_10 and vae_20,
variational autoencoders of so many; vae_2_weights and vae_10_weights, whose decoders
have noisy weights, too (approximate full Bayes); vae_10_few and vae_10_few_weights, the
same two of 1,000 pictures (quick 200); vae_10_conv, of two convolutions each way, whose
decoder has a twentieth of the weights; vae_2_sparse, of 200 and 100 hidden units, whose
decoder loses weights by sparse variational dropout; vae_20_28, of 28 x 28 pixels at
scale quick, too, where draws of the prior no longer find log p(x); frey, of two latent
variables and 200 hidden units, and omniglot, of 20, which are of files that
one brings (`vnets.data.brought`). Pixels are black or white: those above half of the
greatest value are white. Those of frey are grey, with normal noise of their own.
Numbers published for other pixels do not compare.

Kingma and Welling 2014 have 500 hidden units with tanh on MNIST, batches of 100 and
Adagrad; here it is Adam. Scales: quick, the digits in 8 x 8 and 100 units; short, MNIST
and 500 units, 10 epochs; paper, 500 epochs. frey has 200 epochs and omniglot 40, each
some 3,600 or 1,900 updates.
"""

from ml_collections import ConfigDict

from configs import common

NOISY = {layer: {"kind": "gaussian", "log_var": -8.0} for layer in ("dense1", "dense2")}
VARIANTS = ("ae_2", *(f"vae_{z}" for z in (2, 5, 10, 20)))
VARIANTS += ("vae_2_weights", "vae_10_weights", "vae_10_conv", "vae_20_28")
VARIANTS += ("vae_10_few", "vae_10_few_weights", "vae_2_sparse", "frey", "omniglot")
SPARSE = {layer: {"kind": "gaussian", "log_var": -7.0} for layer in NOISY}
OTHER_DATA = {"frey": "vae_2", "omniglot": "vae_20"}
OTHER_EPOCHS = {"frey": 200, "omniglot": 40}
EPOCHS = {"quick": 120, "short": 10, "paper": 500}
FEW = {"quick": 200, "short": 1000, "paper": 1000}  # pictures, and epochs of them
FEW_EPOCHS = {"quick": 600, "short": 300, "paper": 2000}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; where all pictures have 28 x 28 pixels, vae_20_28 would be another's, and
    those of other data are nowhere quick."""
    if scale == "quick":
        return tuple(v for v in VARIANTS if v not in OTHER_DATA)
    return tuple(v for v in VARIANTS if v != "vae_20_28")


def get_config(which: str = "vae_2") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    kind, latent, *rest = OTHER_DATA.get(variant, variant).split("_")
    small, large = scale == "quick", rest == ["28"]
    epochs = 60 if small and large else EPOCHS[scale]
    if variant in OTHER_DATA:
        epochs = OTHER_EPOCHS[variant]
    if "few" in rest:
        epochs = FEW_EPOCHS[scale]
    config = common.autoencoder(variant, scale, int(latent), epochs)
    if small and not large:
        config.dataset.name = "digits_8x8"
    config.model.sampled = kind == "vae"
    if "weights" in rest:
        config.model.decoder.posteriors = NOISY
    if "few" in rest:
        config.dataset.train_images = FEW[scale]
    if variant in OTHER_DATA:
        config.dataset.name, config.dataset.binary = variant, variant == "omniglot"
    if variant == "frey":
        config.pixels = "grey"
        config.model.encoder.widths = config.model.decoder.widths = (200,)
    config.evals = {
        "samples": 20,
        "pictures": (30 if large else 100) if small else 1000,
        "importance_samples": 500,
        "prior_samples": 10_000,
        "neighbours": 5,
        "cells": 1024,
        "tiles": 12 if small else 6,
    }
    if variant == "frey":  # whose film is for research: no record holds a face
        config.evals.tiles = 0
    if rest == ["conv"]:
        _convolutional(config, (8, 8) if small else (28, 28))
    if small and rest == ["conv"]:  # whose training takes most of its few seconds
        config.measures, config.evals = (), {"samples": 20}
    if small:
        config.evals.columns = ("det",)
    if rest == ["sparse"]:
        _sparse(config)
    return config


def _convolutional(config: ConfigDict, size: tuple[int, int]) -> None:
    """Two convolutions each way, of pictures of this height and width."""
    net = {"size": size, "activation": "relu"}
    config.model.encoder = {"name": "conv_encoder", "widths": (16, 32), **net}
    config.model.decoder = {"name": "conv_decoder", "widths": (16, 16), **net}


def _sparse(config: ConfigDict) -> None:
    """A small net, and a log-uniform prior on its decoder's weights.

    Their noise starts below them, and the prior comes when they know something.
    """
    config.model.encoder.widths, config.model.decoder.widths = (200,), (100,)
    config.model.decoder.posteriors = SPARSE
    config.prior = "log_uniform"
    config.kl_weight = ((0.1, 0.0), (0.5, 1.0))
    config.optimizer.learning_rate = ((0.0, 3e-3), (0.6, 3e-3), (1.0, 0.0))
    config.evals.columns = ("det", "ens", "pruned")
