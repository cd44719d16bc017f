"""Sparse variational dropout on MNIST, its ablations, and three ways of pruning.

    configs/sparse_vd.py:NET_METHOD[,SCALE]

NET is lenet_300_100 or lenet5 (Caffe's: no batch normalization). METHOD:

  sparse_vd    additive noise on every layer from log sigma^2 -10, log-uniform prior
  original     no noise, nothing pruned
  magnitude    the smallest weights switched off to the published sparsity of each
               layer, those left retrained (Han et al. 2015)
  surgery      dynamic network surgery (Guo et al. 2016)
  sharing      soft weight sharing (Ullrich et al. 2017)
  thresholded  sparse_vd as its authors' code has it: means that noise drowns are not
               used, and may come back (`nodes.Thresholded`)

and of LeNet-300-100 only, each one change of sparse_vd: nothing_dropped (such a mean is
used until the end), ard (the prior), no_warm_up (KL weight 1 from the start),
pretrained (starts from `original`), multiplicative (log alpha of each weight is trained
in place of log sigma^2, nothing is dropped), and gradient_noise: trains nothing, but
measures the variance of the gradient in both forms on the net of nothing_dropped.
NET_sparse_vd_long has the authors' 200 epochs at short, too.

All train on the same number of epochs, 60 at short; those of pretrained come after as
many of `original`. The authors' recipe: batches of 100, Adam from 1e-3 linearly to 0
(LeNet-300-100: constant for the first half), KL weight 0 for 5 epochs, then linearly to
1 at epoch 20, dense weights from N(0, 0.01^2) and convolutions from Glorot's uniform
distribution, means of weights with log alpha above 3 not used while training, all of
such a weight dropped at the end. We deviate so: pixels are in [0, 1] and the mean image
is not subtracted, such a mean is dropped for good after a step (but in thresholded),
the variances stay in convolutions, too, log alpha is not clipped. At short LeNet-5 has
batches of 200 and, with a sixth of the steps, a rate that is constant for the first
half. LeNet-300-100 starts from U(-1, 1) / sqrt(fan in). In trials of LeNet-300-100 on
validation images the net stayed denser unless means were dropped, and that start and
batches of 100 each gave a better ELBO at the same error.

The pruning methods train without pruning for a third of the run. Then magnitude prunes
until the half of it; surgery changes masks until three quarters of it. Its thresholds
lie `SURGERY_RATES` standard deviations above the mean size of a layer's weights as they
are then, where the authors have 4 and keep the threshold of the start. They were
chosen, in trials that held images out, to leave about as few weights of each layer as
published (3 in every layer of LeNet-300-100 left none of the last); at quick they are
2. quick is on the digits, which are 40 times fewer: there the KL counts 1/40, as if
they were as many.
"""

from ml_collections import ConfigDict

from configs import common

LAYERS = {
    "lenet_300_100": ("dense1", "dense2", "dense3"),
    "lenet5": ("conv1", "conv2", "dense1", "dense2"),
}
# The authors'; LeNet-300-100 starts as all our nets do, from U(-1, 1) / sqrt(fan in).
INITS = {
    "lenet_300_100": {},
    "lenet5": {
        "conv": {"init": {"name": "glorot_uniform"}},
        "dense": {"init": {"name": "normal", "stddev": 0.01}},
    },
}
METHODS = ("sparse_vd", "thresholded", "original", "magnitude", "surgery", "sharing")
ABLATIONS = ("nothing_dropped", "ard", "no_warm_up", "pretrained", "multiplicative")
GRADIENT_NOISE = "lenet_300_100_gradient_noise"
LONG = tuple(f"{net}_sparse_vd_long" for net in LAYERS)
VARIANTS = (
    *(f"{net}_{method}" for net in LAYERS for method in METHODS),
    *(f"lenet_300_100_{one}" for one in ABLATIONS),
    *LONG,
    GRADIENT_NOISE,
)
BATCHES = {"lenet_300_100": 100, "lenet5": 200}  # at short
EPOCHS = {"quick": 30, "short": 60, "paper": 200}
# Han et al. 2015, as the poster of Molchanov et al. gives them.
PUBLISHED_SPARSITY = {
    "lenet_300_100": (0.92, 0.91, 0.74),
    "lenet5": (0.34, 0.88, 0.92, 0.81),
}
# Standard deviations above the mean size of a layer's weights, below which they go.
SURGERY_RATES = {
    "lenet_300_100": {"dense1": 3.0, "dense2": 3.0, "dense3": 2.0},
    "lenet5": {"conv1": 1.2, "conv2": 2.5, "dense1": 4.1, "dense2": 2.2},
}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; where the others have as many epochs, LONG would be the same again."""
    return tuple(v for v in VARIANTS if scale == "short" or v not in LONG)


def get_config(which: str = "lenet_300_100_sparse_vd") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    if variant == GRADIENT_NOISE:
        return gradient_noise(variant, scale)
    net = next(name for name in LAYERS if variant.startswith(f"{name}_"))
    method = variant.removeprefix(f"{net}_").removesuffix("_long")
    config = base(variant, scale, net)
    if variant in LONG and scale == "short":
        config.epochs = EPOCHS["paper"]
    if method in ("sparse_vd", "thresholded", *ABLATIONS):
        noisy(config, net, method)
    if method in ("magnitude", "surgery", "sharing"):
        pruned(config, net, method)
    return config


def base(variant: str, scale: str, net: str) -> ConfigDict:
    """What all variants share; every weight is a point still."""
    config = common.classifier(variant, scale)
    config.experiment = "sparsity"
    config.model = {"name": net, "posteriors": weights(net, {"kind": "point"})}
    config.epochs = EPOCHS[scale]
    config.batch_size = {"quick": 50, "short": BATCHES[net], "paper": 100}[scale]
    config.kl_weight = ((0.0, 0.0),)  # points have no KL
    rate = config.optimizer.learning_rate[0][1]
    authors = scale == "paper" and net == "lenet5"
    constant = () if authors else ((0.5, rate),)
    config.optimizer.learning_rate = ((0.0, rate), *constant, (1.0, 0.0))
    config.evals.columns = ("det", "pruned")
    config.probe = {"every": 1, "samples": 1, "columns": ("det", "pruned")}
    if scale == "quick":
        config.probe.every = 5
    return config


def weights(net: str, kind: dict) -> dict[str, dict]:
    """The same kind of weight in all layers, each from its own distribution."""
    return {
        layer: {**kind, **INITS[net].get(layer.rstrip("0123456789"), {})}
        for layer in LAYERS[net]
    }


def gradient_noise(variant: str, scale: str) -> ConfigDict:
    """The study of the gradient's variance on the trained net."""
    config = common.start("gradient_noise", variant, scale)
    config.dataset = common.mnist(scale)
    config.nets = {"net": {"run": "configs/sparse_vd.py:lenet_300_100_nothing_dropped"}}
    draws = {"quick": 50, "short": 200, "paper": 1000}[scale]
    config.gradient = {"images": 200, "draws": draws, "bins": 20, "range": (-8.0, 12.0)}
    return config


def noisy(config: ConfigDict, net: str, method: str) -> None:
    """Noise on all layers, the KL and its warm-up."""
    noise = {"kind": "gaussian", "log_var": -10.0}
    if method == "multiplicative":  # whose variances would go with the means
        # Weights start near 0.02: the same variance as log sigma^2 -10, about.
        noise = {"kind": "multiplicative", "per": "weight", "log_alpha": -2.2}
    elif method == "thresholded":
        noise["drop_above"] = 3.0
    config.model.posteriors = weights(net, noise)
    if method not in ("multiplicative", "thresholded", "nothing_dropped"):
        config.pruning = {"method": "log_alpha", "threshold": 3.0}
    full = 1 / 40 if config.scale == "quick" else 1.0
    warm_up = ((5 / config.epochs, 0.0), (20 / config.epochs, full))
    config.kl_weight = ((0.0, full),) if method == "no_warm_up" else warm_up
    config.evals.columns = ("det", "pruned", "ens")
    if method == "ard":
        config.prior = "ard"
    if method == "pretrained":
        run = f"configs/sparse_vd.py:{net}_original"
        config.nets = {"start": {"run": run, "edit": "carry_means"}}


def pruned(config: ConfigDict, net: str, method: str) -> None:
    """Masks, or a mixture, from a third of the run on."""
    third, half = 1 / 3, 1 / 2
    if method == "sharing":
        config.sharing = {"components": 16, "weight": ((third, 0.0), (half, 0.003))}
        config.optimizer.factors = {
            "mixture/means": 0.1,
            "mixture/log_precision": 3.0,
            "mixture/logits": 3.0,
        }
        return
    layers = LAYERS[net]
    surgical = method == "surgery"
    posterior = {"kind": "masked", "revivable": surgical}
    config.model.posteriors = weights(net, posterior)
    config.pruning = {"method": method}
    if surgical:
        rates = SURGERY_RATES[net]
        if config.scale == "quick":
            rates = dict.fromkeys(rates, 2.0)
        config.pruning.update({"rate": rates, "begin": third, "end": 0.75, "every": 10})
    else:
        sparsity = dict(zip(layers, PUBLISHED_SPARSITY[net], strict=True))
        ramp = ((third, 0.0), (half, 1.0))
        config.pruning.update({"sparsity": sparsity, "ramp": ramp, "every": 100})
