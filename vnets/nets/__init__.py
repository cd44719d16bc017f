"""Nets by family, each taking a posterior factory per layer by name.

net = LeNet5(posteriors={"dense1": variance()})
logits = net.apply(variables, x, Mode(), rngs={"noise": key})
"""

from collections.abc import Callable

from vnets.nets.chain import Chain
from vnets.nets.coders import ConvDecoder, ConvEncoder
from vnets.nets.deep_gp import DeepGP
from vnets.nets.lenet import LeNet5
from vnets.nets.mlp import MLP, lenet_300_100
from vnets.nets.recurrent import RecurrentNet
from vnets.nets.resnet import ResNet
from vnets.nets.strided import StridedCNN
from vnets.nets.transformer import TextTransformer, transformer
from vnets.nets.vgg import VGG
from vnets.nets.whitened import WhitenedCNN

__all__ = [
    "MLP",
    "NETS",
    "VGG",
    "Chain",
    "ConvDecoder",
    "ConvEncoder",
    "DeepGP",
    "LeNet5",
    "RecurrentNet",
    "ResNet",
    "StridedCNN",
    "TextTransformer",
    "WhitenedCNN",
    "lenet_300_100",
    "transformer",
]

NETS: dict[str, Callable] = {
    "conv_decoder": ConvDecoder,
    "conv_encoder": ConvEncoder,
    "deep_gp": DeepGP,
    "lenet5": LeNet5,
    "lenet_300_100": lenet_300_100,
    "mlp": MLP,
    "strided_cnn": StridedCNN,
    "recurrent": RecurrentNet,
    "resnet": ResNet,
    "transformer": transformer,
    "vgg": VGG,
    "whitened_cnn": WhitenedCNN,
}
