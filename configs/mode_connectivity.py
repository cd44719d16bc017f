"""Between two nets: the straight line, curves that are trained, units in another order.

    configs/mode_connectivity.py:VARIANT[,SCALE]

The rows measure the loss along a path, at 61 places: line, polychain and bezier from
one seed of a net to another; shuffled_line, shuffled_polychain and shuffled_bezier from
a net to a copy of it whose hidden units have another order, the same function; matched
from one seed to another whose units are put in the order that fits it best. And of a
net whose middle layer has one log alpha: the line along which its means go to zero
while its variances stay, before its phase transition (means_before) and after it
(means_after).

What they measure is trained by the variants net_...: `net`, two seeds of which a path
joins; a curve's control point, as long as they; and `net_vd`, layer-wise variational
dropout by the optimizer of `configs/phase_transition.py`. Its KL has no weight in the
first half of its updates, after which it is kept, too.

Scales: quick (a perceptron 64-100-100-10 on the digits in 8 x 8), short and paper
(LeNet-5 without batch normalization, whose statistics no net between has, on MNIST).
The settings of the curves are those of the nets. No setting was tuned on test images.
"""

from ml_collections import ConfigDict

from configs import common, comparators, phase_transition

NET = "configs/mode_connectivity.py:net"
DECAY = 1e-4
# The path, the run and its members.
ROWS = {
    "line": ("line", "net", 2),
    "polychain": ("trained", "net_polychain", 1),
    "bezier": ("trained", "net_bezier", 1),
    "shuffled_line": ("shuffled", "net", 1),
    "shuffled_polychain": ("trained", "net_shuffled_polychain", 1),
    "shuffled_bezier": ("trained", "net_shuffled_bezier", 1),
    "matched": ("matched", "net", 2),
    "means_before": ("without_means", "net_vd", 1),
    "means_after": ("without_means", "net_vd", 1),
}
TRAINED = tuple(dict.fromkeys(run for _, run, _ in ROWS.values()))
VARIANTS = (*ROWS, *TRAINED)
EPOCHS = {"quick": 60, "short": 12, "paper": 60}
HIDDEN = {"quick": "dense2", "short": "dense1", "paper": "dense1"}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """The rows; what they are made of is trained with them."""
    del scale
    return tuple(ROWS)


def get_config(which: str = "bezier") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    if variant == "net_vd":
        return with_transition(variant, scale)
    return (study if variant in ROWS else training)(variant, scale)


def study(variant: str, scale: str) -> ConfigDict:
    """A row."""
    path, run, members = ROWS[variant]
    config = common.start("mode_connectivity", variant, scale)
    config.dataset = comparators.data(scale)
    config.nets = {"net": {"run": f"{NET}{run.removeprefix('net')}"}}
    config.nets.net.members = members
    config.path, config.points, config.batch_size = path, 61, 500
    config.samples = {"paper": 100}.get(scale, 20)
    if path == "without_means":
        config.kept = 0 if variant == "means_before" else 1
    return config


def training(variant: str, scale: str) -> ConfigDict:
    """An end, or a curve."""
    config = comparators.trained(variant, scale, EPOCHS[scale])
    if scale == "quick":
        config.model = {"name": "mlp", "widths": (100, 100), "posteriors": {}}
    else:
        config.model = {"name": "lenet5", "posteriors": {}}
    if variant == "net":
        config.optimizer.weight_decay = DECAY
        return config
    *shuffled, kind = variant.removeprefix("net_").split("_")
    end, members = ("shuffled", 1) if shuffled else ("other", 2)
    config.experiment = "connect"
    config.nets = {"ends": {"run": NET, "members": members}}
    config.connect = {"kind": kind, "end": end, "weight_decay": DECAY}
    return config


def with_transition(variant: str, scale: str) -> ConfigDict:
    """A net whose middle layer loses its means on the way."""
    config = phase_transition.base(variant, scale)
    like = training("net", scale)
    for field in ("experiment", "dataset", "model", "probe"):
        config[field] = like[field]
    config.evals = {**like.evals, "columns": ("det", "ens")}
    noise = {"kind": "multiplicative", "per": "layer", "log_alpha": -2.0}
    config.model.posteriors = {HIDDEN[scale]: noise}
    config.epochs, config.probe.every = like.epochs, like.probe.every
    config.kl_weight = ((0.0, 0.0), (0.5, 0.0), (0.6, 12.0), (0.8, 12.0), (1.0, 1.0))
    config.collect = {"count": 2}
    return config
