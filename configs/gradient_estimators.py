"""Gradient estimators where the truth is known: one bit, or one number.

    configs/gradient_estimators.py:VARIANT[,SCALE]

Variants, of a bit whose probability is 1/4: score, score_baseline, straight_through,
and concrete_01, concrete_05 and concrete_1, by their temperature; of the mean of a
number: pathwise and score_number; of its deviation: pathwise_std, score_std, and
price_std, by the curvature. Nothing is trained but one probability, and there are no
data: the scales are alike.

The same within autoencoders: vae_pathwise and vae_score, of 10 numbers; bits_score,
bits_straight_through and bits_concrete, of 20 bits. Scales: quick, the digits and 60
epochs; short, MNIST and 10 epochs; paper, 500 epochs.
"""

from ml_collections import ConfigDict

from configs import common

TEMPERATURES = {"concrete_01": 0.1, "concrete_05": 0.5, "concrete_1": 1.0}
VARIANTS = ("score", "score_baseline", "straight_through", *TEMPERATURES)
VARIANTS += ("pathwise", "score_number", "pathwise_std", "score_std", "price_std")
LATENTS = {
    "vae_pathwise": (10, {"kind": "normal", "gradient": "pathwise"}),
    "vae_score": (10, {"kind": "normal", "gradient": "score"}),
    "bits_score": (20, {"kind": "bits", "gradient": "score"}),
    "bits_straight_through": (20, {"kind": "bits", "gradient": "straight_through"}),
    "bits_concrete": (20, {"kind": "bits", "gradient": "concrete", "temperature": 0.5}),
}
VARIANTS += tuple(LATENTS)
EPOCHS = {"quick": 60, "short": 10, "paper": 500}


def get_config(which: str = "score") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    if variant in LATENTS:
        size, latents = LATENTS[variant]
        config = common.autoencoder(variant, scale, size, EPOCHS[scale])
        config.model.latents, config.measures = latents, ()
        return config
    config = common.start("gradient_estimators", variant, scale)
    config.dataset = {"name": "none"}
    config.estimator = "concrete" if variant in TEMPERATURES else variant
    config.temperature = TEMPERATURES.get(variant, 1.0)
    config.theta, config.aim = 0.25, 0.45
    config.mean, config.std = 1.0, 0.5
    config.gradient = {"draws": 100_000}
    config.descent = {"steps": 5000, "learning_rate": 0.5, "draws": 10}
    return config
