"""A table of two nets, and records for it."""

from experiments.records import build, collect, write
from experiments.tables import reading

SPEC = """
title = "A table"
asks = "which net is better"
part = "variance networks"
metric = "accuracy"
factor = 100.0
unit = "%"
chance = 10.0

column = [
  { eval = "stoch", label = "Stochastic" },
  { eval = "det", label = "Deterministic" },
]

row = [
  { name = "a", label = "Net A", run = "configs/x.py:a", paper.paper = { at = "their A", stoch = 99.0, det = 99.3 } },
  { name = "b", label = "Net B", run = "configs/x.py:b" },
]

claim = [
  { row = "a", column = "stoch", at_least = { quick = 90.0, short = 98.0 }, text = "A is good" },
  { row = "b", column = "det", at_most = { short = 12.0 }, text = "B guesses" },
  { row = "b", other = "a", column = "stoch", within = { short = 0.3 }, text = "B is as good as A" },
]

[scale.quick]

[scale.short]
tolerance = { stoch = 1.0, det = 0.3 }

[published.paper]
label = "the paper"
tag = "P"
columns = { stoch = "one draw", det = "means" }
"""  # noqa: E501
PROSE = """
## scale quick

Toy data.

## scale short

The
data.

## published paper

Table 1

## row b

Nobody published it.
"""


def spec(tmp_path, text=SPEC, prose=PROSE):
    path = tmp_path / "toy.toml"
    path.write_text(text)
    path.with_suffix(".md").write_text(prose)
    return reading.load(path)


def make(
    variant,
    seed,
    stoch=0.99,
    det=0.993,
    scale="short",
    failed=None,
    epochs=3,
    history=(),
    curves=None,
):
    return build(
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
        curves=curves,
        failed=failed,
    )


def store(folder, *records):
    for record in records:
        name = f"{record['variant']}-seed{record['seed']}.json"
        write(folder / "x" / record["scale"] / name, record)
    return collect(folder)
