"""One of several processes that train together; what `test_processes.py` starts.

    python -m tests.cluster_run FOLDER EPOCHS SOURCE COORDINATOR PROCESSES PROCESS_ID

Prints a line once it has joined, and leaves what it found in FOLDER/<process>.json.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from vnets import (
    data,
    evaluate,
    nets,
    objectives,
    parallel,
    posteriors,
    priors,
    sources,
    train,
)

BATCH, SEEDS = 48, (3, 4)


def streamed(split, made):
    """The resident source's batches, made on the host; notes which rows were."""

    def epochs(seed, epoch, rows):
        made.add((rows.start, rows.stop))
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(split.label))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[first : first + BATCH][rows]
            image = split.image[chosen].astype(np.float32) / 255
            yield {"image": image, "label": split.label[chosen]}

    return sources.Streamed(epochs, len(split.label), BATCH)


def main(folder: Path, epochs: int, kind: str) -> dict:
    """Trains on the digits; kind is "resident", "streamed" or "seeds"."""
    digits = data.load("digits")
    image = digits.train.image[:480, ::4, ::4]
    split = data.Split(image, digits.train.label[:480])
    model = nets.MLP((16,), 10, posteriors={"dense1": posteriors.gaussian(-4.0)})
    made: set = set()
    source = streamed(split, made)
    if kind != "streamed":
        source = sources.Resident(split, BATCH)
    key = random.key(9)
    spec = evaluate.EvalSpec(samples=3)

    def probe(params, collections, key):
        variables = {"params": params, **collections}
        return {"ens": evaluate.evaluate(model, variables, split, spec, key)["nll"]}

    task = train.Task(
        init=train.initializer(model, jnp.zeros((1, *image.shape[1:]), jnp.float32)),
        loss=objectives.classification_loss(model, priors.standard_normal(1.0), 480),
        optimizer=optax.adam(1e-2),
        source=source,
        probe=probe,
    )
    together = kind == "seeds"
    fitted = train.fit(
        task,
        epochs=epochs,
        seeds=SEEDS if together else SEEDS[:1],
        workdir=lambda seed: folder / str(seed),
        checkpoint_seconds=0.0,
        vectorize=together,
        mesh=parallel.mesh(seeds=2 if together else 1),
        show_progress=False,
    )
    return {
        "rows": sorted(made),
        "draw": np.asarray(random.normal(key, (4,))).tolist(),
        "histories": [one.history for one in fitted],
        "params": [
            [np.asarray(x).ravel().tolist() for x in jax.tree.leaves(one.state.params)]
            for one in fitted
        ],
    }


if __name__ == "__main__":
    where, count, which, address, processes, number = sys.argv[1:]
    parallel.initialize(address, int(processes), int(number), timeout=60)
    print(f"joined, {jax.process_count()} processes", flush=True)
    found = main(Path(where), int(count), which)
    (Path(where) / f"{number}.json").write_text(json.dumps(found))
