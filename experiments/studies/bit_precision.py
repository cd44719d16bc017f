"""How few bits do the weights of a trained net need? Error against bits, by layer.

The posterior variance says how exactly a weight must be kept (Louizos, Ullrich and
Welling 2017; `vnets.bits`). The net is cut and silenced, then its means are rounded: to
the bits that the posterior gives each layer, and, for comparison, to equally many bits
everywhere.
"""

import functools

from experiments import cuts
from experiments.core import Measured, Net, NetSpec, Study
from experiments.datasets import load_data
from vnets import bits, data, edits, plan
from vnets.bits import Bits
from vnets.evaluate import EvalSpec
from vnets.rng import stream
from vnets.types import Key, Params

FIELDS = (*("dataset", "nets.net", "cut", "significands", "evals.batch_size"),)

FLOAT = 32  # bits of a weight that is not rounded


def build(config) -> Study:
    """The study of a config; see `configs/bit_precision.py` for its fields."""
    change = cuts.pruning(config)
    dataset = load_data(config.dataset)
    test = dataset.validation or dataset.test
    measure = functools.partial(_measure, config, change, test)
    return Study({"net": NetSpec(config.nets.net.run)}, measure, dataset)


def _measure(
    config, change: edits.Edit, test: data.Split, nets: dict[str, list[Net]], key: Key
) -> Measured:
    """Error and size at 32 bits, at those of the posterior, and at equally many.

    Compression is that of all weights at 32 bits to those between units that are left,
    zeros among them included: what a dense net of low precision takes (the scenario
    that Louizos et al. call fast prediction). Biases do not count.
    """
    [net] = nets["net"]
    cut = change(net.params, None)
    quiet = edits.mean_only(cut)
    shape = test.inputs.shape[1:]
    small = cuts.smaller(net.model, net.variables(quiet), shape)
    costs = cuts.live_costs(small)
    kept = {name: cost.weights for name, cost in costs.items()}
    every = sum(cost.weights for cost in plan.costs(net.model.plan, shape).values())

    def measured(name: str, params: Params) -> dict[str, float]:
        size, own = config.evals.batch_size, stream(key, name)
        found = net.evaluate(test, EvalSpec(), own, params, batch_size=size)
        return {"error": 1.0 - found["accuracy"], "nll": found["nll"]}

    def sizes(by_layer: dict[str, int]) -> dict[str, float]:
        stored = sum(by_layer[name] * count for name, count in kept.items())
        return {"compression": FLOAT * every / max(stored, 1)}

    found = bits.layer_bits(cut)
    totals = {name: one.total for name, one in found.items()}
    evals = {
        "full": measured("full", quiet) | sizes(dict.fromkeys(kept, FLOAT)),
        "bits": measured("bits", bits.rounded_to(found)(quiet))
        | sizes(totals)
        | {f"bits/{name}": float(total) for name, total in totals.items()}
        | {f"significand/{k}": float(one.significand) for k, one in found.items()}
        | {f"exponent/{k}": float(one.exponent) for k, one in found.items()},
    }
    curve = [
        measured(f"uniform_{t}", bits.rounded_to(Bits(t, bits.MAX_EXPONENT))(quiet))
        for t in config.significands
    ]
    points = {name: [one[name] for one in curve] for name in ("error", "nll")}
    significand = [float(t) for t in config.significands]
    return Measured(evals, {"bits": {"significand": significand, **points}})
