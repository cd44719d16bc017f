"""Classifying sequences by a recurrent net that loses words, neurons and gates.

As `experiments.kinds.classify`, but for what is pruned and what is counted: a group of
weights goes with its noise, a hidden unit with its scale (`nets.recurrent.used`), a
head with all its weights (`nets.transformer.weights_of_heads`).
"""

from typing import Any

import numpy as np

from experiments import spec as parts
from experiments.kinds import classify
from vnets import edits, overview
from vnets.columns import EvalSpec
from vnets.layers import Stochastic
from vnets.nets import TextTransformer
from vnets.nets.recurrent import used
from vnets.nets.transformer import weights_of_heads
from vnets.rng import stream

fields = classify.fields


def pruned(threshold: float) -> edits.Edit:
    """The net without noise, and without what has log alpha above the threshold: words,
    columns and gates, hidden units by their scale, single weights."""
    return edits.chain(
        edits.prune_units(threshold),
        edits.edit(edits.pruned_at(threshold)),
        edits.mean_only,
    )


class Text(classify.Classify):
    """A classifier of sequences, as a config describes it."""

    def specs(self, samples: int) -> dict[str, EvalSpec]:
        """See `Kind`; "pruned" prunes groups of weights, too."""
        edit = pruned(self.config.evals.get("threshold", 3.0))
        return super().specs(samples) | {"pruned": EvalSpec(edit, 1, self.mode)}

    def _left(self, variables: dict, spec: EvalSpec, key) -> dict[str, float]:
        if not self.sized:
            return {}
        edited = edits.mean_only(spec.edit(variables["params"], stream(key, "edit")))
        net = inner(self.model)
        if isinstance(net, TextTransformer):
            alive = weights_of_heads(net, edited)
            return overview.sizes(edited) | {
                f"units/{block}/attention/heads": float(np.count_nonzero(counts))
                for block, counts in alive.items()
            }
        return used(edited)


def inner(model) -> Any:
    """The net itself, of one whose layers have posteriors."""
    return model.model if isinstance(model, Stochastic) else model


def build(config) -> Text:
    """The parts that a config describes; see `configs/rnn_text.py`.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    parts.pick("model.name", config.model.name, ("recurrent",))
    return classify.of_data(Text, config)
