"""The libraries of convolutions that this machine has."""

from vnets import backend

LIBRARIES = tuple(dict.fromkeys(("xla", backend.CPU.library)))
