"""A small task that learns in a second, for the tests of the trainer."""

import jax.numpy as jnp
import numpy as np
import optax

from vnets import nets, nodes, priors, sources, train
from vnets.data import Split
from vnets.layers import TRAIN
from vnets.likelihoods import Categorical
from vnets.loss import forward, neg_elbo

BATCH = 8


def make_split():
    """Forty separable 4 x 4 images in four classes."""
    rng = np.random.default_rng(0)
    label = np.arange(40, dtype=np.int32) % 4
    image = rng.integers(0, 60, (40, 4, 4, 1)).astype(np.uint8)
    image[np.arange(40), label, :, 0] += 150
    return Split(image, label)


def make_task(split, optimizer=None, source=None, mode=TRAIN, **kwargs):
    model = nets.MLP(
        widths=(16,),
        classes=4,
        posteriors={"dense1": nodes.multiplicative()},
    )
    source = source or sources.Resident(split, BATCH)
    return train.Task(
        init=train.initializer(model, jnp.zeros((1, 4, 4, 1), jnp.float32)),
        loss=neg_elbo(
            forward(model, mode=mode), Categorical(), priors.log_uniform, source.n
        ),
        optimizer=optimizer or optax.adam(1e-2),
        source=source,
        locate=train.first_nonfinite_layer(model),
        **kwargs,
    )


def fit(task, one_device, **kwargs):
    kwargs = {"epochs": 3, "seeds": [0], "mesh": one_device} | kwargs
    return train.fit(task, show_progress=False, **kwargs)
