"""Sparse logistic regression: variational dropout against L1 and the RVM.

    configs/sparse_linear.py:DATA_METHOD[,SCALE]

After Molchanov, Ashukha and Vetrov 2016 ("Dropout-based Automatic Relevance
Determination", NIPS workshop; facts from their code too).

Data: digits (64 pixels), digits_noise (64 pixels and as many features of noise, as in
their code), mnist (784 pixels). Methods: vd (a Gaussian for each weight under the
log-uniform prior, their VD-ARD), ard (the same under N(0, lambda_i^2), each lambda_i at
its best), l1 (multinomial, SAGA), l1_each (the authors': one class against the rest,
its C by cross-validation; digits only) and rvm (digits only: the authors too gave up on
MNIST). Scales: quick (400 epochs), short (1,000; 60 of MNIST) and paper (5,000, which
is 140,000 updates; of MNIST their 15,000 updates of all images). mnist_vd_full has
these 15,000 at short, too. At quick the data of mnist are the digits scaled to 28 x 28.

What differs from theirs: their digits are split anew at random (1,200 for training),
ours once, 1,437 to 360, so that one error of ours is 0.28 %; their pixels have mean
zero and there is no bias, ours lie in [0, 1] and there is one; their noise is not
clipped; they start from log sigma^2 = 1 and weights of N(0, 1), which takes 100,000
and 200,000 updates, we from log sigma^2 = -6. Both count what log alpha > 5 removes.
"""

from ml_collections import ConfigDict

from configs import common

DATA = {
    "digits": {"name": "digits_8x8"},
    "digits_noise": {"name": "digits_8x8", "noise_features": 64},
    "mnist": {},
}
PRIORS = {"vd": "log_uniform", "ard": "ard"}
FITS = {
    "l1": {
        "method": "l1",
        "strengths": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        "held_out": 0.2,
        "sweeps": 300,
    },
    "l1_each": {"method": "l1_each", "strengths": 10, "folds": 3},
    "rvm": {"method": "rvm", "rounds": 1000},
}
FULL = "mnist_vd_full"
VARIANTS = (
    *(f"digits_{method}" for method in (*PRIORS, *FITS)),
    *(f"digits_noise_{method}" for method in (*PRIORS, *FITS)),
    *(f"mnist_{method}" for method in (*PRIORS, "l1")),
    FULL,
)
EPOCHS = {"quick": 400, "short": 1000, "paper": 5000}
MNIST_EPOCHS = {"quick": 400, "short": 60, "paper": 15000}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; where MNIST has as many updates, FULL would be the same again."""
    return tuple(v for v in VARIANTS if scale == "short" or v != FULL)


def get_config(which: str = "digits_vd") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    data = max((one for one in DATA if variant.startswith(f"{one}_")), key=len)
    method = variant.removeprefix(f"{data}_").removesuffix("_full")
    config = common.start("sparsity", variant, scale)
    config.dataset = {**common.mnist(scale), **DATA[data]}
    if method in FITS:
        config.experiment = "sparse_linear"
        config.fit = dict(FITS[method])
        if data == "mnist":
            config.fit.sweeps = 50
        return config
    training(config, PRIORS[method], data == "mnist")
    return config


def training(config: ConfigDict, prior: str, mnist: bool) -> None:
    """Adds the net of noisy weights and its training."""
    base = common.classifier(config.variant, config.scale)
    config.model = {
        "name": "mlp",
        "widths": (),
        "posteriors": {"dense1": {"kind": "gaussian", "log_var": -6.0}},
    }
    config.prior = prior
    config.kl_weight = ((0.0, 1.0),)
    config.max_log_alpha = base.max_log_alpha
    config.epochs = (MNIST_EPOCHS if mnist else EPOCHS)[config.scale]
    config.batch_size = 50
    config.optimizer = {
        "name": "adam",
        "learning_rate": ((0.0, 2e-2), (0.5, 2e-2), (1.0, 0.0)),
        "b1": 0.9,
        "log_alpha_rate": 1.0,
    }
    if config.variant == FULL and config.scale == "short":
        config.epochs, config.batch_size = MNIST_EPOCHS["paper"], 1000
        config.optimizer.accumulate = 60  # of all images, as paper has them at once
        config.optimizer.learning_rate = ((0.0, 1e-2),)
    elif mnist and config.scale == "short":
        config.batch_size = 200
        config.optimizer.learning_rate = ((0.0, 1e-2), (0.5, 1e-2), (1.0, 0.0))
    if mnist and config.scale == "paper":
        config.batch_size = 60000
        config.optimizer.learning_rate = ((0.0, 1e-2),)
    config.chunk_steps = 50
    config.evals = {"samples": 20, "batch_size": 500, "threshold": 5.0}
    config.probe = {"every": config.epochs // 10, "samples": 5}
