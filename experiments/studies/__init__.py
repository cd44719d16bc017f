"""What measures trained nets, and benchmarks.

Each has `build(config) -> Study`, and FIELDS, the paths of what it reads of a config.
"""
