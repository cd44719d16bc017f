"""What measures trained nets, and benchmarks: each has `build(config) -> Study`."""
