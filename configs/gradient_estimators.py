"""Gradient estimators where the truth is known: one bit, or one number.

    configs/gradient_estimators.py:VARIANT[,SCALE]

Variants, of a bit whose probability is 1/4: score, score_baseline, straight_through,
and concrete_01, concrete_05 and concrete_1, by their temperature; of a number: pathwise
and score_number. Nothing is trained but one probability, and there are no data: the
scales are alike.
"""

from ml_collections import ConfigDict

from configs import common

TEMPERATURES = {"concrete_01": 0.1, "concrete_05": 0.5, "concrete_1": 1.0}
VARIANTS = ("score", "score_baseline", "straight_through", *TEMPERATURES)
VARIANTS += ("pathwise", "score_number")


def get_config(which: str = "score") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.start("gradient_estimators", variant, scale)
    config.dataset = {"name": "none"}
    config.estimator = "concrete" if variant in TEMPERATURES else variant
    config.temperature = TEMPERATURES.get(variant, 1.0)
    config.theta, config.aim = 0.25, 0.45
    config.mean, config.std = 1.0, 0.5
    config.gradient = {"draws": 100_000}
    config.descent = {"steps": 5000, "learning_rate": 0.5, "draws": 10}
    return config
