"""The training step of LeNet-5: deterministic, with a variance layer, and all LRT.

Float32, batches of 200 from data on the device, Adam; compiled as `train.fit` compiles
it (K steps under one scan), beside the same nets in PyTorch.
"""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from experiments.bench import timing, torch_lenet5
from vnets import backend, objectives, parallel, posteriors, priors, sources, train
from vnets.nets.lenet import LeNet5

TITLE = "Training step of LeNet-5"
UNIT = "ms per step"
ROUNDS = 30
BATCH, STEPS = 200, 5  # STEPS are compiled as one
TRAINING_SET = 60_000  # scales the KL
NETS: dict[str, dict[str, Any]] = {
    "deterministic": {},
    "variance": {"dense1": posteriors.variance()},
    "LRT": {layer: posteriors.gaussian() for layer in LeNet5().layers},
}


def sizes(quick: bool) -> tuple[int, int]:
    """Batch size and steps per call."""
    return (4, 2) if quick else (BATCH, STEPS)


def random_split(n: int) -> SimpleNamespace:
    """Random images and labels: nothing here depends on what is learned."""
    generator = np.random.default_rng(0)
    return SimpleNamespace(
        image=generator.integers(0, 256, (n, 28, 28, 1), np.uint8),
        label=generator.integers(0, 10, n, np.int32),
    )


def cases(quick: bool) -> dict[str, timing.Case]:
    """vnets and PyTorch; that PyTorch is there is checked by `run`."""
    batch, steps = sizes(quick)
    ours = {
        f"vnets {net}": timing.Case(functools.partial(build, net, batch, steps), steps)
        for net in NETS
    }
    split = random_split(batch * steps)
    return ours | torch_lenet5.cases(split, batch, steps, TRAINING_SET)


def build(net: str, batch: int, steps: int) -> timing.Thunk:
    """A compiled chunk of the net's training steps, ready to be called."""
    model = LeNet5(posteriors=NETS[net])
    source = sources.Resident(random_split(batch * steps), batch)

    init = train.initializer(model, jnp.zeros((1, 28, 28, 1), jnp.float32))
    loss = objectives.classification_loss(model, priors.log_uniform, TRAINING_SET)
    task = train.Task(init, loss, optax.adam(1e-3), source)
    mesh, key = parallel.mesh(jax.devices()[:1]), random.key(0)
    state = jax.jit(task.start)(key)
    item = next(source.chunks(key, 0, steps))
    chunk = functools.partial(train.train_chunk, task, mesh)
    arguments = (state, source.arrays, item, key)
    compiled = backend.jit(chunk, donate_argnums=0).lower(*arguments).compile()

    def thunk():
        nonlocal state
        state, _ = compiled(state, source.arrays, item, key)
        jax.block_until_ready(state)

    return thunk


def run(quick: bool, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures all cases; PyTorch's only if it is installed."""
    batch, steps = sizes(quick)
    chosen, notes = cases(quick), []
    try:
        torch_lenet5.load()
    except timing.BenchError as error:
        say(str(error))
        notes.append(str(error))
        chosen = {name: case for name, case in chosen.items() if "torch" not in name}
    summaries, times = timing.measure(
        "lenet5", chosen, rounds=rounds, quick=quick, say=say
    )
    pairs = {
        f"vnets {net} / vnets deterministic": (f"vnets {net}", "vnets deterministic")
        for net in ("variance", "LRT")
    }
    if not notes:
        # Eager PyTorch in whichever memory layout is the faster one for this net.
        best = {net: timing.best(times, torch_lenet5.names(net)) for net in NETS}
        pairs |= {
            f"torch {net} / torch deterministic": (best[net], best["deterministic"])
            for net in ("variance", "LRT")
        }
        pairs |= {
            f"vnets {net} / torch {net}": (f"vnets {net}", best[net]) for net in NETS
        }
        chosen_names = ", ".join(best.values())
        notes.append(
            f"PyTorch's layout in the ratios is the faster one: {chosen_names}."
        )
    return {
        "settings": {"batch": batch, "steps_per_call": steps, "dtype": "float32"},
        "cases": summaries,
        "ratios": timing.ratios(times, pairs),
        "notes": notes,
    }
