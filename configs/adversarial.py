"""Adversarial attacks: does a net without means resist them better?

    configs/adversarial.py:VARIANT[,SCALE]

Trains nothing: each variant is a way to predict with trained nets. deterministic (no
noise), dropout (0.5 before dense1, draws averaged), variance (dense1 has no mean, one
draw), deep_ensemble (five seeds of the deterministic net), variance_ensemble (draws of
the one variance net averaged), all of LeNet-5. vgg_deterministic and so on are the same
of the VGG-like net of `configs/vgg_cifar.py`, whose dropout and variance layers are
several. Scales: quick (digits), short (MNIST; CIFAR-10 and the narrow net), paper (more
images and updates, smaller steps).

The attacks know the net and its noise, but not the draws it is judged by. `draws` is
how many of each member the gradient is averaged over at an update, each number in
turn; `unbounded` is an attack that must succeed, with the largest of them. A step is
chosen so that a quarter of the updates cannot yet cross the whole ball at the largest
scale, and no scale stops short of its edge.

The published attack's radius, step and net are unknown (a figure on CIFAR-10, with
the success after 50, 100 and 200 updates): paper scale has its number of updates, and
nothing here is tuned towards its numbers. On CIFAR-10 the radius is the usual 8/255,
and the step, at paper, half a level of a pixel.
"""

from ml_collections import ConfigDict

from configs import common

DROPOUT = "configs/lenet5_mnist.py:dropout"
VARIANCE = "configs/lenet5_mnist.py:variance"
DETERMINISTIC = "configs/variance_lenet5.py:deterministic"
# The run, its members, and whether noise draws are averaged in a prediction.
NETS = {
    "deterministic": (DETERMINISTIC, 1, False),
    "dropout": (DROPOUT, 1, True),
    "variance": (VARIANCE, 1, False),
    "deep_ensemble": (DETERMINISTIC, 5, False),
    "variance_ensemble": (VARIANCE, 1, True),
}
VGG = {
    DETERMINISTIC: "configs/vgg_cifar.py:cifar10_deterministic",
    DROPOUT: "configs/vgg_cifar.py:cifar10_dropout",
    VARIANCE: "configs/vgg_cifar.py:cifar10_variance",
}
NETS |= {
    f"vgg_{name}": (VGG[run], members, averaged)
    for name, (run, members, averaged) in NETS.items()
}
VARIANTS = tuple(NETS)


def get_config(which: str = "variance_ensemble") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    run, members, averaged = NETS[variant]
    config = common.start("adversarial", variant, scale)
    config.dataset = common.mnist(scale)
    config.nets = {"net": {"run": run, "members": members}}
    config.samples = {"quick": 20, "short": 20, "paper": 100}[scale] if averaged else 1
    # The first images of the test set; those classified correctly count.
    config.images = {"quick": 100, "short": 300, "paper": 1000}[scale]
    config.batch_size = 100
    config.loss = "mean_cross_entropy"
    config.updates = {"quick": 20, "short": 60, "paper": 200}[scale]
    # In units of the pixels' range.
    config.attack = {
        "epsilon": 0.2,
        "step": {"quick": 0.02, "short": 0.01, "paper": 0.0025}[scale],
        "draws": (1, 10),
    }
    config.unbounded = {"epsilon": 1.0, "step": {"quick": 0.1}.get(scale, 0.05)}
    if variant.startswith("vgg_"):
        config.dataset, _ = common.cifar(scale)
        config.attack.epsilon = 8 / 255
        config.attack.step = {"quick": 2, "short": 1, "paper": 0.5}[scale] / 255
    return config
