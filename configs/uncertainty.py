"""Uncertainty of LeNet-5 on MNIST: inputs from elsewhere, and rotated digits.

    configs/uncertainty.py:VARIANT[,SCALE]

Trains nothing: each variant is a way to predict with trained nets. deterministic (no
noise), dropout (0.5 before dense1), variance (dense1 has no mean), vd (layer-wise
variational dropout on dense1, past its transition), deep_ensemble (five seeds of the
deterministic net). `samples` noise draws of each net are averaged.

attacked_... are nets of `configs/comparators.py` (quick: a perceptron), at short of
`configs/distillation.py` (a perceptron, 10,000 images), which see the test set
attacked, too, by FGSM of radius 0.1 on pixels in [0, 1]: with the gradient of another
plain net, and with their own, averaged over `attack.draws` draws. corrupted_... are
nets of CIFAR-10 (`configs/cifar_fast.py`; at quick those of the digits), which see the
test set made worse in five ways, too, by code and strengths of our own; their inputs
from elsewhere are the test images with their pixels shuffled.

Scales: quick (the embedded digits; the inputs from elsewhere are the test digits with
their pixels shuffled, for no data set of that kind comes without a download), short and
paper (MNIST; elsewhere is notMNIST, or any data set of `vnets.data` with such images,
as `shift.name`). All three measure what nets trained at their scale do.
"""

from ml_collections import ConfigDict

from configs import common, comparators, distillation

DETERMINISTIC = "configs/variance_lenet5.py:deterministic"
# The run and its members; nets without noise have one draw.
NETS = {
    "deterministic": (DETERMINISTIC, 1),
    "dropout": ("configs/lenet5_mnist.py:dropout", 1),
    "variance": ("configs/lenet5_mnist.py:variance", 1),
    "vd": ("configs/phase_transition.py:accelerated", 1),
    "deep_ensemble": (DETERMINISTIC, 5),
}
PLAIN = "configs/comparators.py:net"
SMALL = "configs/distillation.py:net"  # at scale short
# The run, that at scale short, and members.
ATTACKED = {
    "attacked_deterministic": (PLAIN, f"{SMALL}_plain", 1),
    "attacked_dropout": (f"{PLAIN}_dropout", f"{SMALL}_with_dropout", 1),
    "attacked_variance": (f"{PLAIN}_variance", f"{SMALL}_noisy", 1),
    "attacked_deep_ensemble": (PLAIN, f"{SMALL}_plain", 5),
}
CORRUPTED = ("corrupted_dropout", "corrupted_variance")
VARIANTS = (*NETS, *ATTACKED, *CORRUPTED)
QUIET = (DETERMINISTIC, PLAIN, f"{SMALL}_plain")
KINDS = ("noise", "impulses", "brightness", "contrast", "blur")
SAMPLES = {"quick": 20, "short": 20, "paper": 100}


def get_config(which: str = "variance") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    config = base("uncertainty", variant, scale, *_net(variant, scale))
    step = {"quick": 45, "short": 15, "paper": 10}[scale]
    config.rotation = {
        "degrees": tuple(range(0, 181, step)),
        "images": {"short": 2000}.get(scale, 10000),
    }
    if variant in ATTACKED:
        config.dataset = comparators.data(scale)
        if scale == "short":
            config.dataset.train_images = distillation.IMAGES
        # Seeds that none of the nets has that are measured.
        run, _ = _net("attacked_deterministic", scale)
        config.nets.surrogate = {"run": run, "members": 1, "first": 100}
        config.attack = {"epsilon": 0.1, "draws": min(config.samples, 10)}
    if variant in CORRUPTED:
        config.dataset, _ = common.cifar(scale)
        config.shift.name = "shuffled_pixels"
        config.corruption = {"kinds": KINDS, "strengths": (1, 3, 5)}
    return config


def _net(variant: str, scale: str) -> tuple[str, int]:
    """The run and the members."""
    if variant in ATTACKED:
        run, small, members = ATTACKED[variant]
        return small if scale == "short" else run, members
    if variant in CORRUPTED:
        method = variant.removeprefix("corrupted_")
        of_cifar = f"configs/cifar_fast.py:cifar10_{method}"
        return f"{PLAIN}_{method}" if scale == "quick" else of_cifar, 1
    return NETS[variant]


def base(
    experiment: str, variant: str, scale: str, run: str, members: int
) -> ConfigDict:
    """What this study and `configs/diversity.py` share."""
    config = common.start(experiment, variant, scale)
    config.dataset = common.mnist(scale)
    config.nets = {"net": {"run": run, "members": members}}
    config.samples = 1 if run in QUIET else SAMPLES[scale]
    # At most as many test images, and as many from elsewhere.
    config.images = 10000
    config.batch_size = {"paper": 100}.get(scale, 200)
    config.shift = {"name": "shuffled_pixels" if scale == "quick" else "notmnist"}
    return config
