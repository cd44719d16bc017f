"""Bayesian averages by other means, beside a variance net, of one net each.

    configs/comparators.py:VARIANT[,SCALE]

The rows train nothing: each is a way to predict with nets that the variants `net_...`
of this file train. one (a plain net), ensemble (five seeds of it), snapshot (five ends
of cosine cycles), dropout (a mask a draw), average and swag (the walk of SGD at a
constant rate, its mean and its normal law), sgld, sgld_cold and csgld (Langevin
dynamics at temperature 1, at 1 / N, and in cosine cycles), laplace (the last layer),
laplace_diagonal and laplace_kronecker (all dense layers, linearized), laplace_sampled
(draws of the diagonal in the net itself), svgd (ten Stein particles), ivon (Gaussian
weights, by natural gradients), fge (the ends of short cycles that begin at a trained
net) and variance (a hidden layer has no mean).

Scales: quick (a perceptron 64-100-100-10 on the digits in 8 x 8; the images from
elsewhere are the test digits with their pixels shuffled), short and paper (LeNet-5
without batch normalization, whose statistics no mean of weights has, on MNIST;
elsewhere is notMNIST). Those that sample have a prior N(0, 1/10) on weights and a flat
one on biases. No setting was tuned.
"""

import math

from ml_collections import ConfigDict

from configs import common

PRECISION = 10.0  # of the prior of what samples
SIZES = {"quick": 1437, "short": 60_000, "paper": 60_000}  # training images, N
HIDDEN = {"quick": "dense2", "short": "dense1", "paper": "dense1"}  # has the noise
DENSE = {
    "quick": ("dense1", "dense2", "dense3"),
    "short": ("dense1", "dense2"),
    "paper": ("dense1", "dense2"),
}
# The method, the run and its members.
ROWS = {
    "one": ("members", "net", 1),
    "ensemble": ("members", "net", 5),
    "snapshot": ("collected", "net_snapshot", 1),
    "dropout": ("members", "net_dropout", 1),
    "average": ("average", "net_walk", 1),
    "swag": ("swag", "net_walk", 1),
    "sgld": ("collected", "net_sgld", 1),
    "sgld_cold": ("collected", "net_sgld_cold", 1),
    "csgld": ("collected", "net_csgld", 1),
    "laplace": ("laplace", "net", 1),
    "laplace_diagonal": ("laplace_diagonal", "net", 1),
    "laplace_kronecker": ("laplace_kronecker", "net", 1),
    "laplace_sampled": ("laplace_sampled", "net", 1),
    "svgd": ("particles", "net_svgd", 1),
    "ivon": ("members", "net_ivon", 1),
    "fge": ("collected", "net_fge", 1),
    "variance": ("members", "net_variance", 1),
}
TRAINED = tuple(sorted({run for _, run, _ in ROWS.values()}))
VARIANTS = (*ROWS, *TRAINED)
NOISY = ("dropout", "variance", "ivon")
EPOCHS = {"quick": 30, "short": 12, "paper": 60}
LONG = ("net_sgld", "net_sgld_cold", "net_csgld", "net_snapshot")  # three times these
CYCLES = {"net_snapshot": 5, "net_csgld": 4}
FAST = {"quick": (20, 5), "short": (8, 4), "paper": (40, 10)}  # epochs and cycles
LAYERS = {
    "quick": DENSE["quick"],
    "short": ("conv1", "conv2", *DENSE["short"]),
    "paper": ("conv1", "conv2", *DENSE["paper"]),
}
CURVATURE = 0.5  # per example, where IVON starts: the authors' on CIFAR-10


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The rows; what they are made of is trained with them."""
    del scale
    return tuple(ROWS)


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    return (study if variant in ROWS else training)(variant, scale)


def data(scale: str) -> dict:
    """MNIST, or at quick the digits in 8 x 8."""
    return {
        **common.mnist(scale),
        **({"name": "digits_8x8"} if scale == "quick" else {}),
    }


def study(variant: str, scale: str) -> ConfigDict:
    """A row."""
    method, run, members = ROWS[variant]
    config = measured(variant, scale, method, f"configs/comparators.py:{run}", members)
    drawn = variant in NOISY or method == "swag" or method.startswith("laplace")
    config.samples = {"paper": 100}.get(scale, 20) if drawn else 1
    if method == "swag":
        config.rank = 20
    if method.startswith("laplace"):
        where = DENSE[scale][-1:] if variant == "laplace" else DENSE[scale]
        config.laplace = {"where": where, "batch_size": 20}
    return config


def measured(
    variant: str, scale: str, method: str, run: str, members: int = 1
) -> ConfigDict:
    """What is measured of the nets of a run that predict by a method, a draw each."""
    config = common.start("comparators", variant, scale)
    config.dataset, config.method, config.samples = data(scale), method, 1
    config.nets = {"net": {"run": run, "members": members}}
    config.images, config.batch_size = 10000, 200
    config.shift = {"name": "shuffled_pixels" if scale == "quick" else "notmnist"}
    return config


def trained(variant: str, scale: str, epochs: int) -> ConfigDict:
    """A classifier of these data that is tested without noise, at its end."""
    config = common.classifier(variant, scale)
    config.experiment, config.dataset = "classify", data(scale)
    config.epochs = epochs
    config.evals.columns = ("det",)
    config.probe = {"every": epochs, "samples": 1, "columns": ("det",)}
    return config


def training(variant: str, scale: str) -> ConfigDict:
    """What a row is made of."""
    longer = 3 if variant in LONG else 1
    epochs, cycles = FAST[scale]
    epochs = epochs if variant == "net_fge" else EPOCHS[scale] * longer
    config = trained(variant, scale, epochs)
    noise = {"net_dropout": {"kind": "dropout", "rate": 0.2}}
    noise["net_variance"] = {"kind": "variance"}
    own = {HIDDEN[scale]: noise[variant]} if variant in noise else {}
    if variant == "net_ivon":
        start = -math.log(SIZES[scale] * CURVATURE + PRECISION)
        weight = {"kind": "gaussian", "log_var": round(start, 2)}
        own = dict.fromkeys(LAYERS[scale], weight)
    if scale == "quick":
        config.model = {"name": "mlp", "widths": (100, 100), "posteriors": own}
    else:
        config.model = {"name": "lenet5", "posteriors": own}
    if variant in noise:
        return config
    decay = PRECISION / SIZES[scale]
    if variant == "net_walk":
        rates = ((0.0, 0.05), (0.5, 0.05), (0.75, 0.02), (1.0, 0.02))
        config.optimizer = {"name": "sgd", "learning_rate": rates, "momentum": 0.9}
        config.collect = {"count": 20, "begin": 0.75}
    if variant == "net_snapshot":
        wave = {"peak": 0.1, "cycles": CYCLES[variant]}
        config.optimizer = {"name": "sgd", "learning_rate": wave, "momentum": 0.9}
        config.collect = {"count": 1, "cycles": CYCLES[variant]}
    if variant in ("net_sgld", "net_sgld_cold"):
        heat = 1.0 if variant == "net_sgld" else 1 / SIZES[scale]
        config.optimizer = {"name": "sgld", "learning_rate": ((0.0, 0.05),)}
        config.optimizer.update({"weight_decay": decay, "temperature": heat})
        config.collect = {"count": 20, "begin": 0.4}
    if variant == "net_csgld":
        wave = {"peak": 0.1, "cycles": CYCLES[variant]}
        late = {"temperature": 1.0, "cycles": CYCLES[variant], "begin": 0.8}
        config.optimizer = {"name": "sgld", "learning_rate": wave}
        config.optimizer.update({"weight_decay": decay, "temperature": late})
        config.collect = {"count": 5, "begin": 0.8, "cycles": CYCLES[variant]}
    if variant == "net_svgd":
        rates = ((0.0, 2e-3), (1.0, 0.0))
        config.optimizer = {"name": "svgd", "learning_rate": rates}
        config.optimizer.update({"weight_decay": decay})
        config.particles = 10
    if variant == "net_fge":
        wave = {"shape": "triangle", "high": 0.05, "low": 5e-4, "cycles": cycles}
        config.optimizer = {"name": "sgd", "learning_rate": wave, "momentum": 0.9}
        config.collect = {"count": 1, "cycles": cycles}
        config.nets = {"start": {"run": "configs/comparators.py:net"}}
    if variant == "net_ivon":
        with config.ignore_type():
            config.prior = {"kind": "standard_normal", "scale": PRECISION**-0.5}
        rates = ((0.0, 0.1), (1.0, 0.0))
        config.optimizer = {"name": "ivon", "learning_rate": rates, "b2": 0.99}
    return config
