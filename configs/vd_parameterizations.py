"""Four ways to share the noise of variational dropout, its priors and its start.

    configs/vd_parameterizations.py:VARIANT[,SCALE]

LeNet-5 with noise on dense1, as `configs/phase_transition.py` trains it (`base` there):
neuron (alpha_j mu^2), weight (alpha_ij mu^2), additive (sigma_ij^2). The fourth, layer
(alpha mu^2), is `configs/phase_transition.py:accelerated`. Weight and additive start
from small variances, as the authors say they did: log alpha -2 and log sigma^2 -10
(weights start from U(+-0.035), so log alpha is about -2 there too). With that faster
optimizer and its heavier KL all of these go through the transition, which the published
runs of weight and additive did not; neuron_plain, weight_plain and additive_plain have
the authors' optimizer and KL weight 1 instead (12 epochs at short). neuron_long,
weight_long and additive_long have more of these (60 at short, as
`configs/phase_transition.py:authors`) and the smaller starts of the authors' code, log
alpha -5 and log sigma^2 -20; additive_long_-10 is the last of them from -10.

LeNet-300-100 with additive noise on all layers: mlp_log_uniform, mlp_ard and
mlp_student_t_<nu> change the prior; start_<log sigma^2> changes where it starts, which
the talk says is why sparse variational dropout is sparse. These train with Adam at one
rate for all parameters and KL weight 1.
"""

from ml_collections import ConfigDict

from configs import common, phase_transition

NOISE = {
    "neuron": {"kind": "multiplicative", "per": "output", "log_alpha": -2.0},
    "weight": {"kind": "multiplicative", "per": "weight", "log_alpha": -2.0},
    "additive": {"kind": "gaussian", "log_var": -10.0},
}
PRIORS = {
    "mlp_log_uniform": "log_uniform",
    "mlp_ard": "ard",
    "mlp_student_t_1": {"kind": "student_t", "nu": 1.0},
    "mlp_student_t_1e-4": {"kind": "student_t", "nu": 1e-4},
    "mlp_student_t_1e-8": {"kind": "student_t", "nu": 1e-8},
}
STARTS = {f"start_{-log_var}": -log_var for log_var in (8, 6, 4, 2, 0)}
PLAIN = {f"{name}_plain": name for name in NOISE}
LONG = {f"{name}_long": name for name in NOISE} | {"additive_long_-10": "additive"}
AUTHORS_STARTS = {"log_alpha": -5.0, "log_var": -20.0}
VARIANTS = (*NOISE, *PLAIN, *LONG, *PRIORS, *STARTS)
MLP_EPOCHS = {"quick": 20, "short": 30, "paper": 200}


def sweep(scale: str = "paper") -> tuple[str, ...]:
    """All; where others have as many epochs, the last of LONG would be the same."""
    return tuple(v for v in VARIANTS if scale == "short" or v != "additive_long_-10")


def get_config(which: str = "neuron") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    if variant in NOISE:
        config = phase_transition.base(variant, scale)
        config.model.posteriors = {"dense1": NOISE[variant]}
        config.evals.columns = (*config.evals.columns, "pruned")
        return config
    if variant in PLAIN | LONG:
        config = get_config(f"{(PLAIN | LONG)[variant]},{scale}")
        fresh = common.classifier(variant, scale)
        config.variant, config.epochs = variant, fresh.epochs
        config.optimizer, config.kl_weight = fresh.optimizer, fresh.kl_weight
        noise = config.model.posteriors.dense1
        if variant in LONG:
            config.epochs = phase_transition.AUTHORS_EPOCHS[scale]
        if variant in (f"{name}_long" for name in NOISE):
            noise.update({k: v for k, v in AUTHORS_STARTS.items() if k in noise})
        return config
    config = common.classifier(variant, scale)
    noise = {"kind": "gaussian", "log_var": float(STARTS.get(variant, -10))}
    layers = ("dense1", "dense2", "dense3")
    config.model = {"name": "lenet_300_100", "posteriors": dict.fromkeys(layers, noise)}
    with config.ignore_type():  # a name, or a name with arguments
        config.prior = PRIORS.get(variant, "log_uniform")
    config.epochs = MLP_EPOCHS[scale]
    config.evals.elbo_samples = 10
    return config
