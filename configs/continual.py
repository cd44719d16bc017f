"""Tasks one after another: what is left of the first, and what still fits of the last.

    configs/continual.py:VARIANT[,SCALE]

The tasks are the same pictures with their pixels in orders of their own (permuted
MNIST; quick: the digits in 8 x 8), for one net 784-100-100-10 with one output layer.

fine_tuning goes on training, vcl takes the posterior of a task as the prior of the next
(Nguyen et al. 2018; Gaussian weights and biases, local reparameterization, from the
means of `net`, which knows the first task, and log sigma^2 -6), ewc and laplace a
normal law by curvature (classes drawn from the net; Gauss-Newton's diagonal), and joint
sees all tasks at once, with as many updates.

Adam begins anew with each task at a constant rate, which is 0 in the last epoch of a
task, where ewc and laplace measure. No setting was tuned: the strength 10 and log
sigma^2 -6 are of earlier trials on the digits with other code.
"""

from ml_collections import ConfigDict

from configs import common

ROWS = ("fine_tuning", "vcl", "ewc", "laplace", "joint")
VARIANTS = (*ROWS, "net")
TASKS = {"quick": 3, "short": 5, "paper": 10}
EPOCHS = {"quick": 20, "short": 20, "paper": 100}  # of each task, the last at rate 0
STRENGTH = 10.0
LAYERS = ("dense1", "dense2", "dense3")


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The rows; what they are made of is trained with them."""
    del scale
    return ROWS


def get_config(which: str = "vcl") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = common.classifier(variant, scale)
    if scale == "quick":
        config.dataset.name = "digits_8x8"
    config.model = {"name": "mlp", "widths": (100, 100), "posteriors": {}}
    config.epochs = EPOCHS[scale]
    config.batch_size = 50 if scale == "quick" else 256
    rate = 3e-3 if variant == "vcl" else 1e-3
    if variant == "net":
        config.experiment = "classify"
        config.optimizer.learning_rate = ((0.0, rate), (1.0, rate))
        config.evals.columns = ("det",)
        config.probe = {"every": config.epochs, "samples": 1, "columns": ("det",)}
        return config
    del config.prior, config.kl_weight
    config.experiment = "continual"
    config.continual = {"tasks": TASKS[scale], "method": variant}
    config.probe = {"every": config.epochs, "samples": 1}
    if variant != "joint":
        config.epochs *= TASKS[scale]
        config.optimizer.restarts = TASKS[scale]
    off = 1 - 1 / EPOCHS[scale]
    knots = ((0.0, rate), (off - 1e-3, rate), (off - 5e-4, 0.0), (1.0, 0.0))
    config.optimizer.learning_rate = knots
    config.evals.columns = ("det",)
    if variant == "vcl":
        noise = {"kind": "gaussian", "log_var": -6.0}
        names = (*LAYERS, *(f"{layer}/bias" for layer in LAYERS))
        config.model.posteriors = dict.fromkeys(names, noise)
        config.nets = {"start": {"run": "configs/continual.py:net"}}
        config.nets.start.edit = "carry_means"
        config.continual.scale = 1.0
        config.evals.columns = ("det", "ens")
    if variant in ("ewc", "laplace"):
        config.continual.strength = STRENGTH
    return config
