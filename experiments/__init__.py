"""Experiments: one module per paper question, driven by the configs, run by `core`."""
