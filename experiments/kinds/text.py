"""Classifying sequences by a recurrent net that loses words, neurons and gates.

As `experiments.kinds.classify`, but for what is pruned and what is counted: a group of
weights goes with its noise, a hidden unit with its scale (`nets.recurrent.used`).
"""

from experiments import spec as parts
from experiments.kinds import classify
from vnets import edits
from vnets.columns import EvalSpec
from vnets.nets import RecurrentNet
from vnets.nets.recurrent import used
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
        edited = spec.edit(variables["params"], stream(key, "edit"))
        return used(edits.mean_only(edited))


def build(config) -> Text:
    """The parts that a config describes; see `configs/rnn_text.py`.

    Raises:
      ConfigError: a value that does not fit; DataError: data that are not there.
    """
    return recurrent(classify.of_data(Text, config))


def recurrent(kind: classify.Kept) -> classify.Kept:
    """The kind, of a recurrent net.

    Raises:
      ConfigError: another net.
    """
    if not isinstance(kind.model, RecurrentNet):
        raise parts.ConfigError(
            f"config.model.name: experiment {kind.config.experiment!r} counts what is "
            "left of a recurrent net; choose 'recurrent'"
        )
    return kind
