"""Pictures explained by latent variables: autoencoders, with or without noise.

Columns are those of `vnets.columns.standard_evals`, of the noise in weights; latent
variables are drawn in all of them. In nats for each picture: nll, what its pixels cost
at a draw; and where codes have noise latent_kl, and elbo, less both of them.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments import datasets
from experiments import spec as parts
from experiments.kinds import Kind
from experiments.studies.latents import PIXELS, pixels
from vnets import data, train
from vnets.columns import EvalSpec
from vnets.latent import Autoencoder
from vnets.loss import forward, neg_elbo
from vnets.predictor import Member, as_is

FIELDS = (
    *("prior", "kl_weight", "batch_size", "evals.samples", "probe.samples"),
    *("model.latent", "model.sampled", "model.encoder", "model.decoder"),
)


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    del config
    return (*FIELDS, *datasets.FIELDS)


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencode(Kind):
    """An autoencoder, as a config describes it."""

    watched: ClassVar[str] = "nll"

    def loss(self) -> Callable:
        """The negative ELBO, of latent variables and of weights."""
        run = forward(self.model, latent=True)
        return neg_elbo(run, PIXELS, self.prior, self.source.n, self.beta)

    def tested(self, net: Member, spec: EvalSpec, split, key) -> dict[str, float]:
        """See `Kind`."""
        x = pixels(split)

        def of_draw(outputs):
            return (), {"nll": PIXELS.nll(outputs[0], x), "latent_kl": outputs[1]}

        run = jax.jit(lambda net: spec.predictor(net, as_is).means(x, key, of_draw)[1])
        found = run(net)
        if self.model.sampled:
            found["elbo"] = -found["nll"] - found["latent_kl"]
        else:  # without noise there is no density, and no bound on one
            del found["latent_kl"]
        return {name: float(jnp.mean(each)) for name, each in found.items()}


def build(config) -> Autoencode:
    """The autoencoder that a config describes; see `configs/vae.py`.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    dataset, spec = datasets.load(config), config.model
    learn = dataset.train
    flat = data.Split(learn.inputs.reshape(len(learn), -1))
    model = Autoencoder(
        parts.model(spec.encoder, 2 * spec.latent),
        parts.model(spec.decoder, flat.inputs.shape[1]),
        spec.latent,
        parts.pick("model.sampled", spec.get("sampled", True), (False, True)),
    )
    plain = dataclasses.replace(dataset, train=flat)
    return Autoencode(
        config=config,
        model=model,
        init=train.initializer(model, datasets.example(plain)),
        source=datasets.source(config, plain),
        dataset=dataset,
        prior=parts.prior(config.prior),
    )
