"""Classifying texts by a Transformer that loses weights, units and heads.

As `experiments.kinds.text`, of another net: what is left are weights, the multiply-adds
of an example, and heads.
"""

from experiments import cuts, datasets
from experiments import spec as parts
from experiments.kinds import classify, text
from vnets import edits, overview
from vnets.rng import stream

fields = classify.fields


class Transformer(text.Text):
    """A classifier of texts, as a config describes it."""

    def _left(self, variables: dict, spec, key) -> dict[str, float]:
        if not self.sized:
            return {}
        edited = spec.edit(variables["params"], stream(key, "edit"))
        edited = edits.mean_only(edited)
        left = cuts.left(self.model, {**variables, "params": edited}, self.test.shape)
        return overview.sizes(edited) | left


def build(config) -> Transformer:
    """The parts that a config describes; see `configs/transformer_text.py`.

    Raises:
      ConfigError: a value that does not fit, or another net; DataError: data that are
        not there.
    """
    parts.pick("model.name", config.model.name, ("transformer",))
    dataset = datasets.load(config)
    source, example = datasets.source(config, dataset), datasets.example(dataset)
    return classify.built(Transformer, config, dataset, source, example)
