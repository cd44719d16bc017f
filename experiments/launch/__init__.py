"""Launching sweeps: what is missing (`plan`), run here (`local`) or by SLURM."""


class LaunchError(RuntimeError):
    """What a backend needs is not there; says what, and how to get it."""
