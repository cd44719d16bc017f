"""What is trained in the benchmarks: nets, methods, and sizes by device.

One description for vnets and PyTorch: a net is a plan (`vnets.plan`), a method says
which layers have which posterior, and by which estimator they are sampled.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import numpy as np

from vnets import estimators, nodes
from vnets.data import Split
from vnets.nets import VGG, LeNet5
from vnets.nets.net import Net
from vnets.nets.resnet import ResNet
from vnets.plan import Shape, costs

COMPILED = "compiled"
FORMS = ("NCHW", "channels_last", COMPILED)  # of PyTorch
GAUSSIAN, VARIANCE = "gaussian", "variance"
FACTORIES = {GAUSSIAN: nodes.gaussian(), VARIANCE: nodes.variance()}
BACKWARD = 2  # forward passes that the gradients of weights and inputs take


@dataclasses.dataclass(frozen=True)
class Method:
    """How the weights of a net are learned.

    Attributes:
      kind: of the noisy layers, of FACTORIES; None: no layer is noisy.
      estimator: how they are sampled.
      everywhere: all layers are noisy, or those of the papers' variance networks.
    """

    kind: str | None = None
    estimator: Callable = estimators.lrt
    everywhere: bool = True


METHODS = {
    "deterministic": Method(),
    "variance": Method(VARIANCE, everywhere=False),
    "LRT": Method(GAUSSIAN),
    "per minibatch": Method(GAUSSIAN, estimators.weight_sampling),
    "per example": Method(GAUSSIAN, estimators.per_example_sampling),
}
IN_TORCH = ("deterministic", "variance", "LRT")


@dataclasses.dataclass(frozen=True)
class Size:
    """What of a workload is measured on one kind of device.

    Attributes:
      net: without posteriors.
      shape: of an image, [H, W, C].
      batch: B.
      steps: updates that are compiled as one and timed together.
      methods: of METHODS.
      half: those of them that are measured in bfloat16, too.
      remat: those that are measured with `Mode(remat=True)`, too.
      forms: of PyTorch, of FORMS.
      compiled: methods that COMPILED is measured with, if it is among `forms`:
        on a CPU its compiler takes most of a minute for each.
      torch_half: PyTorch is measured in bfloat16 where vnets is.
    """

    net: Net
    shape: Shape
    batch: int
    steps: int = 1
    methods: tuple[str, ...] = tuple(METHODS)
    half: tuple[str, ...] = ("deterministic", "LRT")
    remat: tuple[str, ...] = ("LRT",)
    forms: tuple[str, ...] = FORMS
    compiled: tuple[str, ...] = ("deterministic", "LRT")
    torch_half: bool = False

    @property
    def flops(self) -> int:
        """Useful operations of a step: the deterministic net's forward and backward."""
        adds = sum(c.multiply_adds for c in costs(self.net.plan, self.shape).values())
        return 2 * adds * (1 + BACKWARD) * self.batch


@dataclasses.dataclass(frozen=True)
class Workload:
    """A net and its data.

    Attributes:
      title: for people.
      examples: size of the training set, which scales the KL.
      variance: patterns of the layers that are noisy in a variance network.
      sizes: by kind of device (`device_kind`).
      rounds: calls of each case.
    """

    title: str
    examples: int
    variance: tuple[str, ...]
    sizes: Mapping[str, Size]
    rounds: int

    def size(self, quick: bool) -> Size:
        """What is measured here."""
        return self.sizes[device_kind(quick)]

    def kinds(self, net: Net, method: str) -> dict[str, str]:
        """The noisy layers of a net under a method, and what their weights are."""
        how = METHODS[method]
        if how.kind is None:
            return {}
        patterns = ("*",) if how.everywhere else self.variance
        return {
            layer: how.kind
            for layer in net.layers
            if any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)
        }

    def net(self, net: Net, method: str) -> Net:
        """The net with the method's posteriors."""
        kinds = self.kinds(net, method)
        return net.clone(
            posteriors={layer: FACTORIES[kind] for layer, kind in kinds.items()}
        )


def device_kind(quick: bool) -> str:
    """ "quick", "cpu" or "accelerator"."""
    if quick:
        return "quick"
    return "cpu" if jax.default_backend() == "cpu" else "accelerator"


def sizes(**by_kind: Size) -> Mapping[str, Size]:
    """Sizes by kind of device, all three."""
    return MappingProxyType(by_kind)


ALL = {"half": IN_TORCH, "compiled": IN_TORCH, "torch_half": True}
# Compiling is all that a quick run waits for: together they show each thing once.
QUICK = {"half": (), "remat": (), "forms": ("NCHW",)}

WORKLOADS = {
    "lenet5": Workload(
        "LeNet-5",
        60_000,
        ("dense1",),
        sizes(
            quick=Size(
                LeNet5(), (28, 28, 1), 4, 2, ("deterministic", "per example"), **QUICK
            ),
            cpu=Size(LeNet5(), (28, 28, 1), 200, 5),
            accelerator=Size(LeNet5(), (28, 28, 1), 1024, 50, **ALL),
        ),
        rounds=10,
    ),
    "vgg": Workload(
        "the VGG-like net",
        50_000,
        ("conv11", "conv12", "conv13", "dense1"),
        sizes(
            quick=Size(
                VGG(width=0.05, blocks=1),
                (8, 8, 3),
                4,
                methods=("deterministic", "variance", "per minibatch"),
                half=("deterministic",),
                remat=("variance",),
                forms=("NCHW",),
            ),
            cpu=Size(VGG(width=0.25), (32, 32, 3), 100),
            accelerator=Size(VGG(), (32, 32, 3), 1024, 5, **ALL),
        ),
        rounds=6,
    ),
    "resnet50": Workload(
        "ResNet-50",
        1_281_167,
        ("stage4_block3_conv*",),  # as in VGG the last block: the papers have no ResNet
        sizes(
            quick=Size(
                ResNet(classes=3, stages=(1,), width=2),
                (16, 16, 3),
                2,
                methods=("deterministic", "LRT"),
                **QUICK,
            ),
            cpu=Size(
                ResNet(),
                (224, 224, 3),
                2,
                methods=IN_TORCH,
                half=(),
                forms=("NCHW", "channels_last"),
            ),
            accelerator=Size(ResNet(), (224, 224, 3), 128, **ALL),
        ),
        rounds=4,
    ),
}


def random_split(n: int, shape: Shape, classes: int) -> Split:
    """Random images and classes: nothing here depends on what is learned."""
    generator = np.random.default_rng(0)
    return Split(
        generator.integers(0, 256, (n, *shape), np.uint8),
        generator.integers(0, classes, n, np.int32),
    )
