"""The deep variational information bottleneck (Alemi et al. 2017).

    configs/vib.py:VARIANT[,SCALE]

Variants: point, the same net whose code has no noise; and beta_00001 to beta_1, whose
code pays so much for a nat that it knows of the picture: 0.0001, 0.001, 0.01, 0.1, 1.

As in the paper the encoder has two hidden layers of 1024 units, the code 256 latent
variables, the decoder is linear. Scales: quick, 300 of the digits in 8 x 8, layers of
100 units and 32 latent variables; short, MNIST and 10 epochs; paper, 200 epochs.
"""

from ml_collections import ConfigDict

from configs import common

BETAS = {
    "beta_00001": 1e-4,
    "beta_0001": 1e-3,
    "beta_001": 1e-2,
    "beta_01": 0.1,
    "beta_1": 1.0,
}
VARIANTS = ("point", *BETAS)
EPOCHS = {"quick": 100, "short": 10, "paper": 200}


def get_config(which: str = "beta_0001") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.start("bottleneck", variant, scale)
    small = scale == "quick"
    config.dataset = common.mnist(scale)
    if small:
        config.dataset.name, config.dataset.train_images = "digits_8x8", 300
    config.model = {
        "latent": 32 if small else 256,
        "sampled": variant in BETAS,
        "encoder": {"name": "mlp", "widths": (100, 100) if small else (1024, 1024)},
        "decoder": {"name": "mlp", "widths": ()},
    }
    if variant in BETAS:
        config.bottleneck = BETAS[variant]
    config.prior = "standard_normal"
    config.epochs, config.batch_size = EPOCHS[scale], 100
    config.chunk_steps = 15 if small else 50
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 2e-3 if small else 1e-3), (0.5, 1e-3), (1.0, 0.0)),
    }
    config.evals = {"samples": 12 if small else 20}
    config.probe = {"every": EPOCHS[scale] // 10, "samples": 12}
    return config
