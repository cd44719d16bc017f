"""One of several processes that train together; what `test_processes.py` starts.

    python -m tests.cluster_run FOLDER KIND COORDINATOR PROCESSES PROCESS_ID [DIES_AT]

Leaves what it found in FOLDER/<process>.json. DIES_AT is an epoch in which it kills
itself.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from tests.waiting import HANG
from vnets import (
    data,
    evaluate,
    nets,
    nodes,
    parallel,
    priors,
    sources,
    train,
)
from vnets.likelihoods import Categorical
from vnets.loss import forward, neg_elbo

N, BATCH, EPOCHS, SEEDS = 240, 48, 4, (3, 4)


def streamed(split, made):
    """Batches in a new order each epoch, made on the host; notes which rows were."""

    def epochs(seed, epoch, rows):
        made.add((rows.start, rows.stop))
        order = np.random.default_rng((seed, epoch)).permutation(N)
        for first in range(0, N, BATCH):
            chosen = order[first : first + BATCH][rows]
            image = split.inputs[chosen].astype(np.float32) / 255
            yield {"input": image, "target": split.target[chosen]}

    return sources.Streamed(epochs, N, BATCH)


def main(folder: Path, kind: str, mesh=None, dies_at: int = 0) -> dict:
    """Trains on the digits; kind is "resident", "streamed" or "seeds": side by side."""
    digits = data.load("digits").train
    split = data.Split(digits.inputs[:N, ::4, ::4], digits.target[:N])
    model = nets.MLP((16,), 10, posteriors={"dense1": nodes.gaussian(-4.0)})
    made: set = set()
    epochs_done = []
    resident = sources.Resident(split, BATCH)
    key, spec = random.key(9), evaluate.EvalSpec(samples=3)

    def probe(params, collections, _):
        epochs_done.append(1)
        if len(epochs_done) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        variables = {"params": params, **collections}
        # In batches that neither two nor eight devices divide.
        options = {"batch_size": 67, "mesh": mesh}
        return evaluate.evaluate(model, variables, split, spec, key, **options)

    task = train.Task(
        init=train.initializer(
            model, jnp.zeros((1, *split.inputs.shape[1:]), jnp.float32)
        ),
        loss=neg_elbo(forward(model), Categorical(), priors.standard_normal(1.0), N),
        optimizer=optax.adam(1e-2),
        source=streamed(split, made) if kind == "streamed" else resident,
        probe=probe,
    )
    together = kind == "seeds"
    fitted = train.fit(
        task,
        epochs=EPOCHS,
        seeds=SEEDS if together else SEEDS[:1],
        workdir=lambda seed: folder / str(seed),
        checkpoint_seconds=0.0,
        vectorize=together,
        mesh=parallel.mesh(seeds=2) if together and mesh is None else mesh,
        show_progress=False,
    )
    return {
        "rows": sorted(made),
        "epochs": len(epochs_done),
        "draw": np.asarray(random.normal(key, (4,))).tolist(),
        "histories": [one.history for one in fitted],
        "params": [
            [np.asarray(x).ravel().tolist() for x in jax.tree.leaves(one.state.params)]
            for one in fitted
        ],
    }


if __name__ == "__main__":
    where, which, address, processes, number, *dies = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    parallel.initialize(address, int(processes), int(number), timeout=HANG)
    try:
        found = main(Path(where), which, dies_at=int(dies[0]) if dies else 0)
    except Exception:
        traceback.print_exc()
        parallel.abandon(1)
        raise
    (Path(where) / f"{number}.json").write_text(json.dumps(found))
