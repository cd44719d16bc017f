"""Pictures explained by latent variables: autoencoders, with or without noise.

Columns are those of `vnets.columns.standard_evals`, of the noise in weights; latent
variables are drawn in all of them. In nats for each picture: nll, what its pixels cost
at a draw; and where codes have noise latent_kl, and elbo, less both of them. Where the
decoder's weights have noise, it says, too, how many of them are left.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments import datasets
from experiments import spec as parts
from experiments.kinds import Kind
from experiments.studies.latents import PIXELS, Pixels, pixels
from vnets import data, overview, train, tree
from vnets.columns import EvalSpec
from vnets.latent import LATENTS, Autoencoder
from vnets.likelihoods import Likelihood
from vnets.loss import forward, neg_elbo
from vnets.predictor import Member, as_is
from vnets.rng import stream

FIELDS = (
    *("prior", "kl_weight", "batch_size", "evals.samples", "probe.samples"),
    *("model.latent", "model.sampled", "model.latents"),
    *("model.encoder", "model.decoder"),
)


def latent_model(spec, outputs: int) -> Autoencoder:
    """The net that `config.model` describes, whose decoder has so many outputs."""
    arguments = dict(spec.get("latents", {"kind": "normal"}))
    kind = parts.pick("model.latents.kind", arguments.pop("kind", ""), LATENTS)
    latents = parts.call("model.latents", kind, arguments)
    arguments = {
        "encoder": parts.model(spec.encoder, latents.outputs * spec.latent),
        "decoder": parts.model(spec.decoder, outputs),
        "size": spec.latent,
        "sampled": parts.pick(
            "model.sampled", spec.get("sampled", True), (False, True)
        ),
        "latents": latents,
    }
    return parts.call("model", Autoencoder, arguments)


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    del config
    return (*FIELDS, "pixels", *datasets.FIELDS)


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencode(Kind):
    """An autoencoder, as a config describes it.

    Attributes:
      likelihood: of the pixels.
    """

    watched: ClassVar[str] = "nll"
    likelihood: Pixels = PIXELS["binary"]

    def loss(self) -> Callable:
        """The negative ELBO, of latent variables and of weights."""
        run = forward(self.model, latent=True)
        return neg_elbo(run, self.likelihood, self.prior, self.source.n, self.beta)

    def tested(self, net: Member, spec: EvalSpec, split, key) -> dict[str, float]:
        """See `Kind`."""
        exact = self.model.clone(latents=self.model.latents.exact)
        net = Member(exact, net.variables)
        found = _costs(spec, net, self.likelihood, pixels(split), key)
        if self.model.sampled:
            found["elbo"] = -found["nll"] - found["latent_kl"]
        else:  # without noise there is no density, and no bound on one
            del found["latent_kl"]
        costs = {name: float(jnp.mean(each)) for name, each in found.items()}
        return costs | self._left(net, spec, key)

    def _left(self, net: Member, spec: EvalSpec, key) -> dict[str, float]:
        """How many weights of a decoder with noise are left after an edit."""
        decoder = net.variables["params"]["decoder"]
        if not any(node.noisy for _, node in tree.nodes(decoder)):
            return {}
        return overview.sizes(spec.edit({"decoder": decoder}, stream(key, "edit")))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _costs(
    spec: EvalSpec, net: Member, likelihood: Likelihood, x, key
) -> dict[str, jax.Array]:
    """What the pixels cost, and the latent KL, each [B]."""

    def of_draw(outputs):
        return (), {"nll": likelihood.nll(outputs[0], x), "latent_kl": outputs[1]}

    return spec.predictor(net, as_is).means(x, key, of_draw)[1]


def build(config) -> Autoencode:
    """The autoencoder that a config describes; see `configs/vae.py`.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    dataset = datasets.load(config)
    learn = dataset.train
    flat = data.Split(learn.inputs.reshape(len(learn), -1))
    likelihood = parts.pick("pixels", config.get("pixels", "binary"), PIXELS)
    model = latent_model(config.model, likelihood.outputs * flat.inputs.shape[1])
    plain = dataclasses.replace(dataset, train=flat)
    return Autoencode(
        config=config,
        model=model,
        init=train.initializer(model, datasets.example(plain)),
        source=datasets.source(config, plain),
        dataset=dataset,
        prior=parts.prior(config.prior),
        likelihood=likelihood,
    )
