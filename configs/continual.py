"""Tasks one after another: what is left of the first, and what still fits of the last.

    configs/continual.py:VARIANT[,SCALE]

The tasks are the same pictures with their pixels in orders of their own (permuted
MNIST; quick: the digits in 8 x 8), for one net 784-100-100-10 with one output layer.

fine_tuning goes on training; vcl takes the posterior of a task as the prior of the next
(Nguyen et al. 2018; Gaussian weights and biases, local reparameterization, from the
means of `net`, which knows the first task, and log sigma^2 -6); ewc, ewc_online,
laplace and laplace_kronecker a normal law by curvature (classes drawn from the net, for
the first two; Gauss-Newton's diagonal; its Kronecker factors), and all but ewc around
the newest weights; and joint sees all tasks at once, with as many updates. vcl_coreset
keeps some images of each task from it; what predicts is a copy that has seen those of
all tasks until then, in 200 updates.

Other posteriors as the prior of the next task, beyond that paper: vcl_variance, whose
hidden layer has no mean, from random weights; vcl_layer_vd, layer-wise variational
dropout; and vcl_sparse, sparse variational dropout, whose weights that noise drowns
(log alpha above 3) have mean 0, then and in what they leave. Before the first task the
last two have a log-uniform prior, as their papers do, and the others N(0, 1).

Adam begins anew with each task at a constant rate, which is 0 in the last epoch of a
task, where curvature is measured. The strength 10 and log sigma^2 -6 are of earlier
trials on the digits with other code; at scale short, which has 10,000 images of each
task, it was EWC's best of 1, 10, 100 and 1,000 on 5,000 validation images, one seed.
"""

from ml_collections import ConfigDict

from configs import common

LAYERS = ("dense1", "dense2", "dense3")
CURVED = ("ewc", "ewc_online", "laplace", "laplace_kronecker")
HIDDEN = "dense2"
GAUSSIAN = {"kind": "gaussian", "log_var": -6.0}
WEIGHTS = {  # of vcl_..., by layer
    "vcl_variance": {HIDDEN: {"kind": "variance"}},
    "vcl_layer_vd": {layer: {"kind": "multiplicative"} for layer in LAYERS},
    "vcl_sparse": dict.fromkeys(LAYERS, GAUSSIAN | {"drop_above": 3.0}),
}
ROWS = ("fine_tuning", "vcl", "vcl_coreset", *WEIGHTS, *CURVED, "joint")
VARIANTS = (*ROWS, "net")
TASKS = {"quick": 3, "short": 5, "paper": 10}
EPOCHS = {"quick": 20, "short": 5, "paper": 100}  # of each task, the last at rate 0
STRENGTH = 10.0
IMAGES = 10_000  # of a task, at scale short
CORESET = {"quick": 40, "short": 200, "paper": 200}  # images of each task


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The rows; what they are made of is trained with them."""
    del scale
    return ROWS


def get_config(which: str = "vcl") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    if variant == "net":
        return first_net(variant, scale)
    method = "vcl" if variant.startswith("vcl") else variant
    return in_turn(variant, scale, method)


def first_net(variant: str, scale: str) -> ConfigDict:
    """A net that knows the first task."""
    config = base(variant, scale)
    rate = 1e-3
    config.experiment = "classify"
    config.optimizer.learning_rate = ((0.0, rate), (1.0, rate))
    config.evals.columns = ("det",)
    config.probe = {"every": config.epochs, "samples": 1, "columns": ("det",)}
    return config


def base(variant: str, scale: str) -> ConfigDict:
    """A perceptron 784-100-100-10 on the pictures of a scale."""
    config = common.classifier(variant, scale)
    if scale == "quick":
        config.dataset.name = "digits_8x8"
    config.model = {"name": "mlp", "widths": (100, 100), "posteriors": {}}
    config.epochs = EPOCHS[scale]
    config.batch_size = {"quick": 50, "short": 128, "paper": 256}[scale]
    if scale == "short":
        config.dataset.train_images = IMAGES
    return config


def in_turn(
    variant: str,
    scale: str,
    method: str,
    tasks: int | None = None,
    sizes: dict = CORESET,
    epochs: dict = EPOCHS,
    start: str = "configs/continual.py:net",
) -> ConfigDict:
    """Tasks by a method, those of this file unless told otherwise.

    Args:
      variant: its name; with a coreset if it ends so.
      scale: quick, short or paper.
      method: of `experiments.kinds.continual`.
      tasks: how many.
      sizes: of the coreset, by scale.
      epochs: of each task, by scale.
      start: the run that vcl starts from; from random means where it is "".
    """
    config = base(variant, scale)
    tasks = tasks or TASKS[scale]
    rate = 3e-3 if method == "vcl" else 1e-3
    del config.prior, config.kl_weight
    config.experiment = "continual"
    config.continual = {"tasks": tasks, "method": method}
    config.epochs = epochs[scale]
    config.probe = {"every": config.epochs, "samples": 1}
    if method != "joint":
        config.epochs *= tasks
        config.optimizer.restarts = tasks
    off = 1 - 1 / epochs[scale]
    knots = ((0.0, rate), (off - 1e-3, rate), (off - 5e-4, 0.0), (1.0, 0.0))
    config.optimizer.learning_rate = knots
    config.evals.columns = ("det",)
    if method == "vcl":
        names = (*LAYERS, *(f"{layer}/bias" for layer in LAYERS))
        own = WEIGHTS.get(variant, {})
        config.model.posteriors = dict.fromkeys(names, GAUSSIAN) | own
        if start and variant != "vcl_variance":
            config.nets = {"start": {"run": start, "edit": "carry_means"}}
        if variant in ("vcl_layer_vd", "vcl_sparse"):
            config.continual.first = "log_uniform"
        else:
            config.continual.scale = 1.0
        config.evals.columns = ("det", "ens")
    if variant.endswith("_coreset"):
        config.continual.coreset = {"size": sizes[scale], "updates": 200}
        config.continual.coreset.learning_rate = 1e-3
    if method in CURVED:
        config.continual.strength = STRENGTH
    return config
