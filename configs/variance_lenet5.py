"""Which layers and which noise make a variance network: one factor at a time.

    configs/variance_lenet5.py:VARIANT[,SCALE]

The net, data and optimizer are those of `configs/lenet5_mnist.py`. The centre is
dense1: one variance layer, normal noise of unit variance, ReLU, biases. Around it
  conv1, conv2, dense2, hidden (conv1, conv2, dense1), all
                        which layers are variance layers
  dense2_ensemble, all_ensemble
                        the same under the authors' `--train-ens`: the loss is that of
                        the mean of 5 (2) draws. A variance layer at the output gives
                        logits that are symmetric around the bias for every input, so
                        by Jensen no weights beat a constant prediction on average
                        over single draws; the loss of an ensemble can be lower
  sampled               normal noise, too, but one weight sample per batch, no LRT
  sign, uniform         other noise, one weight sample per batch (no LRT for these)
  sign_half, uniform_half
                        noise in {-1/2, 1/2} and U(-1/2, 1/2), as in the authors' code
  tanh, abs             in place of every ReLU
  no_bias               no learned scale or shift in batch normalization
  abs_eps, abs_gaussian dense1 gives |eps| sqrt(v), or a normal of the same two moments
  deterministic         no noise at all (a member of the deep ensembles)
  sampled_long, sign_long, uniform_long, tanh_long, hidden_long, dense1_long
                        the same with ten times the epochs at short, 40: those that
                        learn slowly, and the centre

Besides the usual columns every net is tested with batch normalization on the test
batch's statistics (batches of 200), as the authors' MNIST code does.
"""

from ml_collections import ConfigDict

from configs import common

EVERY = ("conv1", "conv2", "dense1", "dense2")
LAYERS = {
    "deterministic": (),
    "conv1": ("conv1",),
    "conv2": ("conv2",),
    "dense2": ("dense2",),
    "dense2_ensemble": ("dense2",),
    "hidden": EVERY[:3],
    "all": EVERY,
    "all_ensemble": EVERY,
}
TRAIN_SAMPLES = {"dense2_ensemble": 5, "all_ensemble": 2}
# A uniform on (-1/2, 1/2) has standard deviation 1 / sqrt(12).
NOISE = {
    "sampled": {"noise": "normal"},
    "sign": {"noise": "sign"},
    "uniform": {"noise": "uniform"},
    "sign_half": {"noise": "sign", "gain": 0.5},
    "uniform_half": {"noise": "uniform", "gain": 12.0**-0.5},
}
ACTIVATIONS = ("tanh", "abs")
ESTIMATORS = {"abs_eps": "magnitude", "abs_gaussian": "magnitude_gaussian"}
# Each once: a noise may have an estimator of its own.
ROUND_DENSE1 = ("dense1", *LAYERS, *NOISE, *ACTIVATIONS, "no_bias", *ESTIMATORS)
SLOW = ("sampled", "sign", "uniform", "tanh", "hidden", "dense1")
LONG = {f"{name}_long": name for name in SLOW}
VARIANTS = tuple(dict.fromkeys((*ROUND_DENSE1, *LONG)))
EPOCHS = {"quick": 12, "short": 4, "paper": 200}
COLUMNS = ("det", "stoch", "ens", "det_batch", "stoch_batch", "ens_batch")


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; where the others have as many epochs, LONG would be the same again."""
    return tuple(v for v in VARIANTS if scale == "short" or v not in LONG)


def get_config(which: str = "dense1") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    named, scale = common.split(which, VARIANTS)
    variant = LONG.get(named, named)
    config = common.classifier(named, scale)
    config.epochs = EPOCHS[scale]
    if named in LONG and scale == "short":
        config.epochs *= 10
    noise = {"kind": "variance", **NOISE.get(variant, {"noise": "normal"})}
    layers = LAYERS.get(variant, ("dense1",))
    config.model.posteriors = dict.fromkeys(layers, noise)
    if variant in NOISE:
        config.estimator = "weight_sampling"
    if variant in ESTIMATORS:
        config.estimator = ESTIMATORS[variant]
    if variant in ACTIVATIONS:
        config.model.activation = variant
    if variant == "no_bias":
        config.model.norm_affine = False
    if variant in TRAIN_SAMPLES:
        config.train_samples = TRAIN_SAMPLES[variant]
    config.evals.columns = COLUMNS
    config.evals.batch_size = {"quick": 120}.get(scale, 200)
    config.probe.every = 4
    return config
