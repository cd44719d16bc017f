"""Classes told by latent variables alone: the deep variational information bottleneck.

Alemi et al. 2017. The encoder draws z for a picture, the decoder tells the class by z,
and `bottleneck` is the price of a nat that z may know of the picture: the beta of

    mean(nll) + beta mean(KL(q(z | x) || N(0, 1)))

The mean KL is an upper bound on I(Z; X). Columns are those of
`vnets.columns.standard_evals`, of the noise in weights; the probabilities of classes
are a mean over draws of z: accuracy, error, nll, and where codes have noise latent_kl.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments import datasets
from experiments import spec as parts
from experiments.kinds import Kind, autoencode
from vnets import train
from vnets.columns import EvalSpec
from vnets.likelihoods import Categorical, of_class
from vnets.loss import forward, neg_elbo
from vnets.predictor import Member, as_is

CLASSES = Categorical()


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    del config
    return (*autoencode.FIELDS, *datasets.FIELDS, "bottleneck")


@dataclasses.dataclass(frozen=True, eq=False)
class Bottleneck(Kind):
    """A classifier that sees latent variables, as a config describes it."""

    def loss(self) -> Callable:
        """The bound with the KL of latent variables at the price of the config."""
        run = forward(self.model, latent=True)
        return parts.call(
            "bottleneck",
            lambda latent_beta: neg_elbo(
                run,
                CLASSES,
                self.prior,
                self.source.n,
                self.beta,
                latent_beta=latent_beta,
            ),
            {"latent_beta": self.config.get("bottleneck")},
        )

    def tested(self, net: Member, spec: EvalSpec, split, key) -> dict[str, float]:
        """See `Kind`."""
        x = datasets.prepare_of(split)(jnp.asarray(split.inputs))
        log_p, latent_kl = _means(spec, net, x, key)
        accuracy = float(jnp.mean(jnp.argmax(log_p, -1) == split.target))
        found = {
            "accuracy": accuracy,
            "error": 1.0 - accuracy,
            "nll": -float(jnp.mean(of_class(log_p, split.target))),
        }
        if self.model.sampled:
            found["latent_kl"] = float(jnp.mean(latent_kl))
        return found


@functools.partial(jax.jit, static_argnums=0)
def _means(spec: EvalSpec, net: Member, x, key) -> tuple[jax.Array, jax.Array]:
    """log p of the classes, [B, K], and the latent KL, [B]."""

    def of_draw(outputs):
        logits, latent_kl = outputs
        return jax.nn.log_softmax(logits), latent_kl

    return spec.predictor(net, as_is).means(x, key, of_draw)


def build(config) -> Bottleneck:
    """The classifier that a config describes; see `configs/vib.py`.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    dataset = datasets.with_classes(config)
    model = autoencode.latent_model(config.model, dataset.classes)
    if model.sampled != ("bottleneck" in config):
        raise parts.ConfigError(
            "config.bottleneck is the price of codes with noise, which need one; of "
            "codes without noise (config.model.sampled) leave it out"
        )
    return Bottleneck(
        config=config,
        model=model,
        init=train.initializer(model, datasets.example(dataset)),
        source=datasets.source(config, dataset),
        dataset=dataset,
        prior=parts.prior(config.prior),
    )
