"""The dropout family on MNIST: perceptrons of three hidden layers and many widths.

    configs/vd_mnist.py:METHOD_WIDTH[,SCALE]

After Kingma, Salimans and Welling 2015, figure 1(a). WIDTH is that of each hidden
layer, 100 to 1250. METHOD:

  none        no noise
  binary      binary dropout of the inputs of each layer (Srivastava et al. 2014)
  gaussian_a  Gaussian dropout of the same variance: noise N(1, alpha) on the inputs of
              each layer, which correlates the noise of the weights (type A)
  vd_a        the same with an alpha for each input, learned (variational dropout A)
  vd_a2       vd_a with a third of the KL
  vd_a_once   vd_a whose KL counts once for each alpha, not once for each weight
  vd_a2_once  the same with a third of the KL
  gaussian_b  noise N(w, alpha w^2) on each weight by itself, by local
              reparameterization (type B; Wang and Manning 2013)
  vd_b        the same with an alpha for each weight, learned (variational dropout B)

The dropout rates are 0.2 for the pixels and 0.5 for hidden units; alpha = p / (1 - p)
stays there, or starts there and is learned with alpha <= 1, the domain of the 2015
polynomial of the KL, which is our prior here, too. The prior is on weights, so a KL of
type A counts once for each weight that shares its alpha; the noise is on inputs, so it
may be meant to count once for each of these, which the two named once try; _fresh of
them is for other seeds. ReLU, Adam from 1e-3 linearly to 0 over the most epochs that a
run may have, batches of 100, weights from U(-1, 1) / sqrt(fan in).

10,000 of the 60,000 training images are held out, and the epoch of the best accuracy
there, noise off, is the one that is tested: early stopping, which the paper has, too.
Rates, batch, optimizer and patience are not in what we could read of the paper. Short
has at most 40 epochs, paper 200. quick is on the digits, which are 40 times fewer:
there the KL counts 1/40.
"""

import math

from ml_collections import ConfigDict

from configs import common

METHODS = ("none", "binary", "gaussian_a", "vd_a", "vd_a2", "gaussian_b", "vd_b")
WIDTHS = (100, 250, 500, 750, 1000, 1250)
READINGS = ("vd_a_once", "vd_a2_once")  # of vd_a and vd_a2: the paper leaves two
# Of the readings, for claims that seeds 0 to 2 of them suggested.
FRESH = ("vd_a_once_fresh_100", "vd_a_once_fresh_500", "vd_a2_once_fresh_500")
VARIANTS = (
    *(f"{method}_{w}" for w in WIDTHS for method in METHODS + READINGS),
    *FRESH,
)
LAYERS = ("dense1", "dense2", "dense3", "dense4")
RATES = dict(zip(LAYERS, (0.2, 0.5, 0.5, 0.5), strict=True))
KL_WEIGHTS = {"vd_a": 1.0, "vd_a2": 1 / 3, "vd_b": 1.0}  # of the others: 0
EPOCHS = {"quick": 20, "short": 40, "paper": 200}
PATIENCE = {"quick": 10, "short": 10, "paper": 30}
HELD_OUT = {"quick": 237, "short": 10_000, "paper": 10_000}
AT = {"quick": (100,), "short": (100, 250, 500), "paper": WIDTHS}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All methods and readings at the widths of a scale; FRESH is for other seeds."""
    widths = tuple(f"_{width}" for width in AT[scale])
    return tuple(v for v in VARIANTS if v.endswith(widths) and v not in FRESH)


def get_config(which: str = "vd_a_500") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    method, _, width = variant.replace("_fresh", "").rpartition("_")
    config = common.classifier(variant, scale)
    config.dataset.validation = HELD_OUT[scale]
    config.model = {"name": "mlp", "widths": (int(width),) * 3, "posteriors": {}}
    config.epochs = EPOCHS[scale]
    noisy(config, method, RATES)
    if method in READINGS:
        factors = once_per_alpha(config.model.widths)
        with config.ignore_type():  # a name, or a name with arguments
            config.prior = {"kind": config.prior, "factors": factors}
    return config


def once_per_alpha(widths: tuple[int, ...]) -> dict[str, float]:
    """Factors of the KL of layers, so that it counts once for each input's alpha."""
    units = zip(LAYERS, (*widths, 10), strict=True)
    return {layer: 1 / outputs for layer, outputs in units}


def noisy(config: ConfigDict, method: str, rates: dict[str, float]) -> None:
    """The noise of a method on layers with these dropout rates, and how it trains."""
    scale = config.scale
    config.model.posteriors = {layer: noise(method, p) for layer, p in rates.items()}
    config.prior = "log_uniform_2015"
    full = 1 / 40 if scale == "quick" else 1.0
    weight = KL_WEIGHTS.get(method.removesuffix("_once"), 0.0)
    config.kl_weight = ((0.0, full * weight),)
    config.batch_size = 50 if scale == "quick" else 100
    if method == "gaussian_b":
        config.optimizer.log_alpha_rate = 0.0  # alpha stays where it is
    config.early_stopping = {"metric": "det", "patience": PATIENCE[scale]}
    config.probe = {"every": 1, "samples": 1, "columns": ("det",)}
    config.evals.columns = ("det",) if method == "none" else ("det", "stoch", "ens")


def noise(method: str, rate: float) -> dict:
    """The posterior of a layer whose inputs have this dropout rate."""
    family = method.partition("_")[0]
    if family == "none":
        return {"kind": "point"}
    if family == "binary":
        return {"kind": "dropout", "rate": rate}
    if method == "gaussian_a":
        return {"kind": "dropout", "rate": rate, "noise": "normal"}
    if method.startswith("vd_a"):
        return {"kind": "adaptive_dropout", "rate": rate, "alpha": "unit"}
    log_alpha = math.log(rate / (1 - rate))
    per = "layer" if method == "gaussian_b" else "weight"
    return {"kind": "multiplicative", "per": per, "log_alpha": log_alpha}
