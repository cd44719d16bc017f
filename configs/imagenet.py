"""ResNet-50 on ImageNet: sparse variational dropout, pruning by magnitude, at random.

    configs/imagenet.py:METHOD[_SPARSITY][,SCALE]

After Gale, Elsen and Hooker 2019, "The state of sparsity in deep neural networks".
METHOD is dense, or with a SPARSITY in per cent that the published run reached:

  sparse_vd   additive noise on every layer, log-uniform prior, KL weighed by c / N:
              50, 80, 90, 95, 98 and 99; `SPARSE_VD` has c and the ramp of each
  magnitude   the smallest weights of every layer switched off, ever more of them as
              Zhu and Gupta 2017 do: 50, 70, 80, 90, 95 and 98
  random      likewise any weights

Of the grids of the study each variant is the setting that its result tables have for
the best net at that sparsity (at 95 and 99 a near one). Theirs and ours: batches of
1024; Nesterov's momentum of 0.9; a rate of 0.4 after five epochs of warm-up, divided by
10 after 30, 60 and 80 epochs; weight decay 1e-4 of the means of weights alone, through
the gradient; label smoothing of 0 or 0.1, as in that run; random cuts of 8 to 100 % of
a picture, mirrored half of the time, tests on the central 7/8; convolutions from a
truncated normal of variance 1 / fan in, the dense layer from N(0, 0.01^2); the last
normalization of each block from scale 0; log sigma^2 from -15 (what the ResNet code
passes; the default of its layers is -10), log alpha within +-8, weights with log alpha
above 0.5 pruned for the test.

What differs: 102 epochs of 1251 whole batches in place of 128,000 steps, and all times
as fractions of these; log alpha is kept within its bounds by moving the variance after
a step, not within the forward pass; a weight that has been switched off stays off (they
choose anew by the size that it had); random masks depend on no seed; where a stride
meets an even size, padding is one less before than behind; Pillow scales with
averaging, the shape of a cut is log-uniform.

Scales: paper, ImageNet, made for a machine with accelerators. quick, for two cores, is
not ImageNet but a few hundred generated pictures of coloured shapes of the same format
(`generated_shapes`), cut to 32 x 32, in a net of one narrow block: it shows that the
pieces fit, and nothing else.
"""

from ml_collections import ConfigDict

from configs import common

SCALES = ("quick", "paper")
# c of the KL's weight c / N, first and last step of its ramp, label smoothing.
SPARSE_VD = {
    50: (0.01, 8_000, 68_000, 0.1),
    80: (0.05, 40_000, 68_000, 0.0),
    90: (0.1, 20_000, 68_000, 0.0),
    95: (0.3, 20_000, 76_000, 0.0),
    98: (1.0, 8_000, 76_000, 0.1),
    99: (10.0, 8_000, 76_000, 0.1),
}
# First and last step of pruning, steps between changes, label smoothing.
MAGNITUDE = {
    50: (40_000, 100_000, 2_000, 0.1),
    70: (40_000, 100_000, 4_000, 0.1),
    80: (40_000, 100_000, 2_000, 0.1),
    90: (40_000, 76_000, 2_000, 0.1),
    95: (40_000, 68_000, 2_000, 0.0),
    98: (40_000, 100_000, 2_000, 0.1),
}
RANDOM = {
    50: (20_000, 40_000, 4_000, 0.1),
    70: (8_000, 40_000, 8_000, 0.1),
    80: (0, 40_000, 8_000, 0.0),
    90: (0, 40_000, 2_000, 0.0),
    95: (0, 40_000, 2_000, 0.0),
    98: (20_000, 40_000, 8_000, 0.0),
}
METHODS = {"sparse_vd": SPARSE_VD, "magnitude": MAGNITUDE, "random": RANDOM}
DENSE = "dense"
VARIANTS = (
    DENSE,
    *(f"{name}_{sparsity}" for name, grid in METHODS.items() for sparsity in grid),
)
QUICK = (DENSE, "sparse_vd_90", "magnitude_90", "random_90")
STEPS = 128_000  # of the study
EPOCHS = {"quick": 6, "paper": 102}
RATE, DROPS = 0.4, (30, 60, 80)  # epochs; a tenth from each on
WARM_UP, CURVE = 5, 20  # epochs of the rate; straight pieces that stand for a cubic
STAGES = {"quick": (1,), "paper": (3, 4, 6, 3)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the channels, in [0, 1]


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; at quick one of each method."""
    return QUICK if scale == "quick" else VARIANTS


def get_config(which: str = "sparse_vd_90") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS, SCALES)
    config = base(variant, scale)
    if variant == DENSE:
        return config
    method, _, percent = variant.rpartition("_")
    first, *_, config.label_smoothing = METHODS[method][int(percent)]
    if method == "sparse_vd":
        _, begin, end, _ = SPARSE_VD[int(percent)]
        noisy(config, first, begin / STEPS, end / STEPS)
    else:
        begin, end, every, _ = METHODS[method][int(percent)]
        pruned(config, method, int(percent) / 100, begin / STEPS, end / STEPS, every)
    return config


def base(variant: str, scale: str) -> ConfigDict:
    """What all variants share; every weight is a point still."""
    config = common.classifier(variant, scale)
    config.experiment = "sparsity"
    config.dataset = {"name": "imagenet2012", "labels": "", "validation": 0}
    config.dataset.image_size = 224
    config.model = {"name": "resnet", "stages": STAGES[scale], "width": 64}
    config.model.update({"input_mean": MEAN, "input_std": STD})
    config.epochs = EPOCHS[scale]
    config.batch_size, config.chunk_steps = 1024, 3
    config.label_smoothing = 0.1
    config.kl_weight = ((0.0, 0.0),)  # points have no KL
    config.optimizer = {
        "name": "sgd",
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        "learning_rate": rates(RATE, config.epochs),
    }
    config.evals = {"samples": 1, "batch_size": 1000, "threshold": 0.5}
    config.evals.columns = ("det", "pruned")
    config.probe = {"every": 5, "samples": 1, "columns": ("pruned",)}
    if scale == "quick":
        config.dataset.name, config.dataset.image_size = "generated_shapes", 32
        config.model.width = 4
        config.batch_size, config.chunk_steps = 32, 10
        config.optimizer.learning_rate = rates(0.1, EPOCHS["paper"])
        config.evals.batch_size, config.probe.every = 96, 3
    config.model.posteriors = weights(scale, {"kind": "point"})
    return config


def rates(rate: float, epochs: int) -> tuple[tuple[float, float], ...]:
    """Linear warm-up, then a tenth after each drop, within a thousandth of an epoch."""
    found = [(0.0, 0.0), (WARM_UP / epochs, rate)]
    for drop in DROPS:
        found += [(drop / epochs, rate), ((drop + 1e-3) / epochs, rate / 10)]
        rate /= 10
    return tuple(found)


def layers(scale: str) -> tuple[str, ...]:
    """The names of `vnets.nets.ResNet`'s layers."""
    found = ["stem"]
    for stage, blocks in enumerate(STAGES[scale], start=1):
        for block in range(1, blocks + 1):
            parts = ["conv1", "conv2", "conv3", *(["shortcut"] if block == 1 else [])]
            found += [f"stage{stage}_block{block}_{part}" for part in parts]
    return (*found, "dense1")


def weights(scale: str, kind: dict) -> dict[str, dict]:
    """The same kind of weight in all layers, each from its own distribution."""
    held = {name: {**kind, "init": {"name": "lecun_normal"}} for name in layers(scale)}
    held["dense1"]["init"] = {"name": "normal", "stddev": 0.01}
    return held


def noisy(config: ConfigDict, weight: float, begin: float, end: float) -> None:
    """Noise on all layers; the KL's weight goes linearly from 0 to `weight`."""
    noise = {"kind": "gaussian", "log_var": -15.0}
    config.model.posteriors = weights(config.scale, noise)
    config.clip_log_alpha = {"low": -8.0, "high": 8.0, "additive": True}
    if config.scale == "quick":
        weight /= 4000  # as many pictures fewer
        config.model.posteriors = weights(config.scale, noise | {"log_var": -8.0})
    config.kl_weight = ((begin, 0.0), (end, weight))


def pruned(
    config: ConfigDict,
    method: str,
    sparsity: float,
    begin: float,
    end: float,
    every: int,
) -> None:
    """Masks whose part of zeros goes along 1 - (1 - t)^3 from begin to end."""
    config.model.posteriors = weights(config.scale, {"kind": "masked"})
    parts = [part / CURVE for part in range(CURVE + 1)]
    ramp = tuple((begin + t * (end - begin), 1 - (1 - t) ** 3) for t in parts)
    config.pruning = {
        "method": method,
        "sparsity": dict.fromkeys(layers(config.scale), sparsity),
        "ramp": ramp,
        "every": 5 if config.scale == "quick" else every,
    }
