"""A table of two nets, and records for it."""

from experiments import table_specs
from vnets import results

SPEC = """
title = "A table"
asks = "which net is better"
part = "variance networks"
metric = "accuracy"
factor = 100.0
unit = "%"
chance = 10.0

[scale.quick]
text = "Toy data."

[scale.short]
text = "The data."
tolerance = { stoch = 1.0, det = 0.3 }

[[column]]
eval = "stoch"
label = "Stochastic"

[[column]]
eval = "det"
label = "Deterministic"

[[published]]
name = "paper"
label = "the paper"
source = "Table 1"
tag = "P"

[[row]]
name = "a"
label = "Net A"
run = "configs/x.py:a"
paper.paper = { stoch = 99.0, det = 99.3 }

[[row]]
name = "b"
label = "Net B"
run = "configs/x.py:b"
note = "Nobody published it."

[[claim]]
text = "A is good"
row = "a"
column = "stoch"
at_least = { quick = 90.0, short = 98.0 }

[[claim]]
text = "B guesses"
row = "b"
column = "det"
at_most = { short = 12.0 }

[[claim]]
text = "B is as good as A"
row = "b"
other = "a"
column = "stoch"
within = { short = 0.3 }
"""


def spec(tmp_path, text=SPEC):
    path = tmp_path / "toy.toml"
    path.write_text(text)
    return table_specs.load(path)


def make(
    variant,
    seed,
    stoch=0.99,
    det=0.993,
    scale="short",
    failed=None,
    epochs=3,
    history=(),
):
    return results.build(
        run=f"configs/x.py:{variant}",
        scale=scale,
        seed=seed,
        config={"epochs": epochs, "dataset": {"name": "mnist"}},
        dataset={
            "name": "mnist",
            "source": "tfds",
            "checksum": {},
            "sizes": {"test": 10, "train": 60},
        },
        environment={
            "git": {"commit": "0123456789abcdef", "dirty": False},
            "versions": {},
            "device": {"platform": "cpu", "kind": "a CPU", "count": 1, "threads": 2},
        },
        wall_seconds={"total": 90.0, "compile": 1.0, "train": 80.0, "evaluate": 9.0},
        evals={
            "stoch": {"accuracy": stoch, "samples": 1},
            "det": {"accuracy": det, "samples": 1},
        },
        history=history,
        failed=failed,
    )


def store(folder, *records):
    for record in records:
        name = f"{record['variant']}-seed{record['seed']}.json"
        results.write(folder / "x" / record["scale"] / name, record)
    return results.collect(folder)
