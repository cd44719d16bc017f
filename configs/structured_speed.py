"""The nets of `configs/structured.py` before and after they are cut: error and time.

    configs/structured_speed.py:NET_METHOD[,SCALE]

Trains nothing but the nets that are missing. The net without noise and the one without
its useless units run by the same code on the same images, in turns: by NumPy's matrix
products on the processor, and by XLA on the device that JAX uses.
"""

from ml_collections import ConfigDict

from configs import common, structured

VARIANTS = tuple(v for v in structured.VARIANTS if not v.endswith("_original"))


def get_config(which: str = "lenet5_sbp") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = base("structured", variant, scale)
    config.latency = {"batch_size": 100, "rounds": {"quick": 10}.get(scale, 50)}
    return config


def base(experiment: str, variant: str, scale: str) -> ConfigDict:
    """What this study and `configs/bit_precision.py` share."""
    net = structured.get_config(f"{variant},{scale}")
    config = common.start(experiment, variant, scale)
    config.dataset = net.dataset.copy_and_resolve_references()
    config.nets = {"net": {"run": f"configs/structured.py:{variant}"}}
    config.cut = net.evals.cut.copy_and_resolve_references()
    config.evals = {"batch_size": 500}
    return config
