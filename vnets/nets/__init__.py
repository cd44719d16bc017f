"""Nets by family, each taking a posterior factory per layer by name.

net = LeNet5(posteriors={"dense1": variance()})
logits = net.apply(variables, x, Mode(), rngs={"noise": key})
"""

from vnets.nets.lenet import LeNet5
from vnets.nets.mlp import MLP, lenet_300_100

__all__ = ["MLP", "LeNet5", "lenet_300_100"]
