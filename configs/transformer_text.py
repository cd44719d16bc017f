"""A small Transformer that loses weights, units and heads: classes and characters.

    configs/transformer_text.py:DATA_METHOD[,SCALE]

DATA is imdb (IMDB complete), rt (rotten tomatoes' sentences) or markers (generated
texts, which need no files: the class is the marker that stands last); or what comes
next is predicted, of chars (Penn Treebank's characters) or automaton (a generated text
whose entropy rate is known). METHOD:

  original    no noise, at its best epoch by the validation split
  sparse_vd   Gaussian weights on embedding, attention and dense layers
  heads       the same, with noise on heads, which lets whole ones go
  magnitude   no noise; the smallest weights of every layer switched off, to as many
              times fewer as sparse_vd is claimed to have (Han et al. 2015)

Two blocks of width 64 (characters: 128) with 4 heads and four times as many hidden
units, of Flax's own layers; normalizations and biases are points. Noise is additive
under the log-uniform prior by the fit of NIPS 2016, weights from log variance -10,
heads from N(1, e^-6). Values, embedding and positions have one draw of their weights a
batch, other layers local reparameterization. Adam goes from 1e-3 linearly to 0. The KL,
divided by the number of training texts (of tokens, where what comes next is predicted),
is 0 until a tenth of the run and whole from a third of it on: at the whole KL from the
start Adam erases weights before they can learn (`rnn_text`). A test is deterministic,
without what has log alpha above 3. Magnitude trains without pruning for a third of the
run, and prunes until two thirds. Nothing of this is tuned, and nothing of it was
published.

Characters are read in windows of 100 (automaton: 50), in training and in tests: the
first of a window are predicted from little. So the bits do not compare with those of
`rnn_language`. Short reads the first 1.25 million, quick 40,000 of the automaton's.
"""

from ml_collections import ConfigDict

from configs import common

METHODS = ("original", "sparse_vd", "heads", "magnitude")
DATA = {
    "imdb": {"name": "imdb", "labels": "", "validation": 3750},  # 15 %
    "rt": {"name": "rt_polarity", "labels": "", "validation": 500},
    "markers": {"name": "last_marker", "labels": "", "validation": 400},
    "chars": {"name": "ptb_chars", "labels": "", "validation": 0, "length": 100},
    "automaton": {"name": "automaton", "labels": "", "validation": 0, "length": 50},
}
NEXT = ("chars", "automaton")  # what comes next is predicted
WORDS = {"imdb": 20_003, "rt": 10_003, "markers": 20, "chars": 50, "automaton": 8}
WIDTHS = {"chars": 128}
EPOCHS = {"imdb": 20, "rt": 22, "markers": 30, "chars": 20, "automaton": 15}  # short
BATCHES = {"markers": 50, "chars": 64, "automaton": 32}
VARIANTS = tuple(f"{data}_{method}" for data in DATA for method in METHODS)
BLOCKS = ("block1", "block2")
ATTENTION = ("query", "key", "value", "out")
OF_BLOCK = (*(f"attention/{name}" for name in ATTENTION), "dense1", "dense2")
ROWS = ("embed", "place")
SPARSITY = 0.95  # of every layer, magnitude: 20 times fewer weights
WEIGHT = {"kind": "gaussian", "log_var": -10.0}
MASKED = {"kind": "masked", "revivable": False}
HEADS = {"kind": "group_normal_jeffreys", "scale_log_var": -6.0}


def get_config(which: str = "rt_heads") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    data, _, method = variant.partition("_")
    config = common.classifier(variant, scale)
    config.experiment, config.dataset = "transformer", DATA[data]
    config.model = {"name": "transformer", "vocabulary": WORDS[data]}
    if data in WIDTHS:
        config.model.update(width=WIDTHS[data], hidden=4 * WIDTHS[data])
    config.epochs = EPOCHS[data] if scale != "paper" else 100
    if data == "automaton" and scale == "quick":
        config.epochs, config.dataset.train_tokens = 5, 40_000
    config.batch_size = BATCHES.get(data, 128)
    config.optimizer.learning_rate = ((0.0, 1e-3), (1.0, 0.0))
    config.evals.split, config.evals.samples = "test", 1
    config.probe.samples = 1
    config.kl_weight = ((0.0, 0.0),)
    if data in NEXT:
        config.experiment, config.model.every = "language", True
        config.dataset.ordered, config.measures = False, ("heads",)
        config.evals.length, config.evals.batch_size = config.dataset.length, 50
        if data == "chars" and scale != "paper":
            config.dataset.train_tokens = 1_250_000
    if method == "original":
        config.model.posteriors = posteriors({"kind": "point"})
        config.early_stopping = {"metric": "det", "patience": config.epochs}
        return config
    if method == "magnitude":
        config.model.posteriors = posteriors(MASKED)
        ramp = ((1 / 3, 0.0), (2 / 3, 1.0))
        sparsity = dict.fromkeys(names(), SPARSITY)
        pruning = {"method": "magnitude", "sparsity": sparsity, "ramp": ramp}
        config.pruning = {**pruning, "every": 20}
        return config
    config.kl_weight = ((0.1, 0.0), (1 / 3, 1.0))
    config.prior = "log_uniform_2016"
    config.model.posteriors = posteriors(WEIGHT)
    if method == "heads":
        on_heads = {**HEADS, "axis": "in", "per": "batch", "weight": WEIGHT}
        config.model.posteriors["attention/value"] = on_heads
    return config


def posteriors(weight: dict) -> dict[str, dict]:
    """The same kind of weight in all layers; rows of words start small."""
    rows = {**weight, "init": {"name": "normal", "stddev": 0.1}}
    return {
        **dict.fromkeys(ROWS, rows),
        **dict.fromkeys((*OF_BLOCK, "head"), weight),
    }


def names() -> list[str]:
    """The layers of the net, by what they are called in its parameters."""
    blocks = [f"{block}/{layer}" for block in BLOCKS for layer in OF_BLOCK]
    return [*(f"{rows}/embedding" for rows in ROWS), *blocks, "head"]
