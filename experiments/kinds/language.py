"""Predicting the next token of a text; the KL counts by tokens.

A loss is nats a token. Training reads windows at random, or the text in order, in
parallel streams with a state that goes on from window to window (`sequences`). A test
reads its text in sequences of `evals.length` tokens, each from a state of zero.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments import spec as parts
from experiments.kinds import classify, text
from vnets import data, sequences
from vnets.data import automaton
from vnets.evaluate import score
from vnets.layers.recurrent import CARRY
from vnets.predictor import Member, as_is

RATES = {"automaton": automaton.entropy_rate}  # where it is known


def fields(config) -> tuple[str, ...]:
    """What this kind reads of a config."""
    own = ("dataset.length", "dataset.ordered", "dataset.train_tokens", "evals.length")
    return (*classify.fields(config), *own)


class Language(text.Text):
    """A language model, as a config describes it.

    Metrics beside those of `text`: perplexity, bits (a token), log_likelihood (nats a
    token, the negative nll) and, of a text whose entropy rate is known, excess: the nll
    above it, in nats.
    """

    watched: ClassVar[str] = "log_likelihood"

    def loss(self, **options) -> Callable:
        """See `Classify`; a carried state is forgotten where an epoch begins."""
        base = super().loss(**options)
        if not getattr(self.model, "carried", False):
            return base

        @functools.wraps(base)  # with its `logits`
        def loss(params, state, batch, key):
            goes_on = state.step % self.source.steps_per_epoch != 0
            carry = jax.tree.map(lambda h: h * goes_on, state.collections[CARRY[0]])
            held = {**state.collections, CARRY[0]: carry}
            return base(params, state.replace(collections=held), batch, key)

        return loss

    def tested(self, net: Member, spec, split, key) -> dict[str, float]:
        """See `Kind`."""
        variables = {k: v for k, v in net.variables.items() if k != CARRY[0]}
        config = self.config
        found = score(
            spec.predictor(Member(self.model, variables)),
            in_rows(split, config.evals.length),
            key,
            batch_size=config.evals.batch_size,
            prepare=as_is,
        )
        nll = found["nll"]
        found |= {
            "log_likelihood": -nll,
            "perplexity": math.exp(nll),
            "bits": nll / math.log(2),
        }
        if config.dataset.name in RATES:
            found["excess"] = nll - RATES[config.dataset.name]()
        return found | self._left(variables, spec, key)


def in_rows(split: data.Split, length: int) -> data.Split:
    """A stream [L] as sequences [N, length]; what fills the last one does not count."""
    rows = -(-len(split) // length)
    mask = np.arange(rows * length) < len(split)

    def shaped(stream: np.ndarray) -> np.ndarray:
        return np.resize(stream, rows * length).reshape(rows, length)

    return data.Split(
        shaped(split.inputs), shaped(split.target), mask.reshape(rows, length)
    )


def build(config) -> Language:
    """The parts that a config describes; see `configs/rnn_language.py`, and
    `configs/transformer_text.py` of a Transformer.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    spec = config.dataset
    parts.pick("dataset.name", spec.name, sequences_of_tokens())
    net = parts.pick("model.name", config.model.name, ("recurrent", "transformer"))
    if net == "transformer" and config.evals.length != spec.length:
        raise parts.ConfigError(
            f"config.evals.length is {config.evals.length}, but a Transformer knows "
            f"the positions that it was trained on: take {spec.length}, as "
            "config.dataset.length"
        )
    dataset = datasets.load(config)
    if "train_tokens" in spec:
        first = np.arange(min(spec.train_tokens, len(dataset.train)))
        dataset = dataclasses.replace(dataset, train=dataset.train.take(first))
    arguments = {
        "split": dataset.train,
        "batch_size": config.batch_size,
        "length": spec.length,
        "ordered": spec.get("ordered", False),
    }
    source = parts.call("batch_size", sequences.Tokens, arguments)
    example = jnp.zeros((config.batch_size, spec.length), jnp.int32)
    return classify.built(Language, config, dataset, source, example)


def sequences_of_tokens() -> tuple[str, ...]:
    """The data sets that are one text each."""
    return tuple(
        name for name in data.TEXTS if "validation" in data.SOURCES[name].splits
    )
