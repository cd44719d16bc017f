"""Recurrent nets that lose words, neurons and gates: text by class.

    configs/rnn_text.py:DATA_METHOD[,SCALE]

DATA is imdb (IMDB complete, as in the paper), rt (rotten tomatoes' sentences), agnews
(AG News' test part alone, 6,000 articles to learn from: not AG News) or digits (8 x 8
pixels read row by row, which need no files). METHOD, by the rows of Chirkova, Lobacheva
and Vetrov 2018:

  original   no noise, at its best epoch by the validation split
  w          Gaussian weights: embedding, LSTM, dense layer
  voc        the same, with noise on words
  w_n        w, with noise on inputs and on hidden units
  w_g_n      w_n, with noise on gates before their bias

and of rt no_ramp (w with the whole KL from the start) and per_step (w whose recurrent
weights are drawn again at each step, which the noise of a weight must not be).

Noise is additive under the log-uniform prior by the fit of NIPS 2016, groups start from
N(1, e^-6), weights from log variance -10. A test is deterministic, without what has log
alpha above 3. The KL is divided by the number of training texts. It is 0 until epoch 4
and whole from epoch 14 on: Adam moves a weight by about its rate a step, so that a
whole KL erases a weight from 0.1 within 50 steps of 2e-3, whatever the data say. The
authors have no ramp but steps of 5e-4, word2vec vectors of 300 and up to 1,000 epochs;
paper has their sizes, but starts from random vectors. Other deviations: noise on words
is one draw a batch, as that of weights is, and all other noise on units one a sequence;
noise on inputs is on the columns of the embedding; the dense layer has local
reparameterization; log alpha is not clipped at 8; biases are points, as theirs.
"""

from ml_collections import ConfigDict

from configs import common

METHODS = ("original", "w", "voc", "w_n", "w_g_n")
DATA = {
    "imdb": {"name": "imdb", "labels": "", "validation": 3750},  # 15 %
    "rt": {"name": "rt_polarity", "labels": "", "validation": 500},
    "agnews": {"name": "agnews_test_part", "labels": "", "validation": 600},
    "digits": {"name": "digits_8x8", "labels": "", "validation": 137},
}
WORDS = {"imdb": 20_003, "rt": 10_003, "agnews": 10_003}
EPOCHS = {"imdb": 40, "rt": 22, "agnews": 30, "digits": 40}  # at short
AT_PAPER = {"imdb": 800, "rt": 22, "agnews": 150, "digits": 40}
RAMP = (4, 14)
ABLATIONS = ("rt_no_ramp", "rt_per_step")
VARIANTS = (*(f"{data}_{one}" for data in DATA for one in METHODS), *ABLATIONS)
VARIANTS = tuple(one for one in VARIANTS if one != "digits_voc")  # there are no words
WEIGHT = {"kind": "gaussian", "log_var": -10.0}
GROUP = {"kind": "group_normal_jeffreys", "scale_log_var": -6.0}


def get_config(which: str = "rt_w") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    data, _, method = variant.partition("_")
    paper = scale == "paper" and data in ("imdb", "agnews")
    config = common.classifier(variant, scale)
    config.experiment, config.dataset = "text", DATA[data]
    sizes = {"embedding": 300, "features": 128} if paper else {}
    if data == "digits":
        sizes = {"features": 32}
    config.model = {"name": "recurrent", "vocabulary": WORDS.get(data, 0), **sizes}
    config.epochs = (AT_PAPER if scale == "paper" else EPOCHS)[data]
    config.batch_size = 50 if data == "digits" else 128
    rate = 5e-4 if paper else 2e-3
    config.optimizer.learning_rate = ((0.0, rate), (1.0, rate if paper else 0.0))
    if data == "digits":
        config.optimizer.learning_rate = ((0.0, 1e-2), (1.0, 0.0))
    config.evals.split, config.evals.samples = "test", 1
    config.probe.samples = 1
    config.kl_weight = ((0.0, 0.0),)
    if method == "original":
        config.early_stopping = {"metric": "det", "patience": config.epochs}
        return config
    first, whole = (epoch / config.epochs for epoch in RAMP)
    config.kl_weight = ((first, 0.0), (whole, 1.0))
    if method == "no_ramp" or paper:
        config.kl_weight = ((0.0, 1.0),)
    config.prior = "log_uniform_2016"
    config.model.redraw = method == "per_step"
    weight = {**WEIGHT, "log_var": -6.0} if paper else WEIGHT
    posteriors = groups(method, weight)
    if data == "digits":
        posteriors.pop("embed")
    config.model.posteriors = posteriors
    return config


def groups(method: str, weight: dict) -> dict[str, dict]:
    """Noise on the weights of all layers, and on the units of a method."""
    start = {"name": "normal", "stddev": 0.1}
    found = {"embed": {**weight, "init": start}, "lstm": weight, "dense1": weight}
    if method in ("w_n", "w_g_n"):
        found["embed"] = _on(found["embed"], "out", "example")
        ones = {"name": "zeros"}  # beside the 1 that a scale starts from
        found["lstm/scale"] = {"kind": "gaussian", "log_var": -6.0, "init": ones}
    if method == "w_g_n":
        found["lstm"] = _on(weight, "out", "example")
    if method == "voc":
        found["embed"] = _on(found["embed"], "in", "batch")
    return found


def _on(weight: dict, axis: str, per: str) -> dict:
    """A weight with noise on its units."""
    return {**GROUP, "axis": axis, "per": per, "weight": weight}
