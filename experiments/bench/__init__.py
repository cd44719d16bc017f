"""Benchmarks: what a training step, a draw and an estimator cost; see `make bench`."""
