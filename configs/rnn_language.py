"""Recurrent nets that lose words, neurons and gates: language models.

    configs/rnn_language.py:DATA_METHOD[,SCALE]

DATA is chars (Penn Treebank's characters), words (its words; at short the 2,000
commonest and "<unk>", so that its perplexity is another one) or automaton (a generated
text whose entropy rate is known, `vnets.data.automaton`). METHOD is as in
`configs/rnn_text.py`: original, w, voc, w_n, w_g_n; and so are noise, groups and what
is pruned.

The KL is divided by the number of training TOKENS, and whole from the start, as the
authors have it: by so many its gradient is below that of the data. The norm of the
gradient is at most 1 (words: 10). Characters are read by shuffled windows; words in
order, by 32 streams whose state goes on, with a forget bias of 1. The dense layer of
characters has local reparameterization with noise that lasts for a window, that of
words a draw a batch. original is at its best epoch by the validation text, all others
are at their last one. A test reads sequences of 1,000 tokens, each from a state of
zero; its loss is per token, "<eos>" and ends of lines included.

Short reads the first 1.25 million characters with 256 units, and words with 128; its
rate falls linearly to 0 from 2e-3, its weights start at log variance -10. Paper has the
authors' sizes, epochs, constant rate and start at -6, and all words. Deviations: tokens
have an embedding, the authors' are one-hot; the LSTM starts from U(-1, 1) / sqrt(fan
in), theirs of characters orthogonal; a window has a target for each of its tokens,
theirs for all but the last.
"""

from ml_collections import ConfigDict

from configs import common, rnn_text

METHODS = rnn_text.METHODS
DATA = {
    "chars": {"name": "ptb_chars", "length": 100, "ordered": False},
    "words": {"name": "ptb_words", "length": 35, "ordered": True},
    "automaton": {"name": "automaton", "length": 50, "ordered": False},
}
VARIANTS = tuple(f"{data}_{one}" for data in DATA for one in METHODS)
BATCHES = {"chars": 64, "words": 32, "automaton": 32}
EPOCHS = {
    "paper": {"chars": 250, "words": 150, "automaton": 15},
    "short": {"chars": 40, "words": 40, "automaton": 15},
}
# Vocabulary, embedding and hidden units.
SIZES = {
    "paper": {
        "chars": (50, 50, 1000),
        "words": (10_000, 256, 256),
        "automaton": (8, 8, 32),
    },
    "short": {
        "chars": (50, 50, 256),
        "words": (2_000, 128, 128),
        "automaton": (8, 8, 32),
    },
}
CLIP = {"chars": 1.0, "words": 10.0, "automaton": 1.0}


def get_config(which: str = "automaton_w") -> ConfigDict:
    """The config of "VARIANT" (at scale paper) or "VARIANT,SCALE"."""
    variant, scale = common.split(which, VARIANTS)
    data, _, method = variant.partition("_")
    size = "paper" if scale == "paper" else "short"
    paper = size == "paper" and data != "automaton"
    config = common.classifier(variant, scale)
    config.experiment = "language"
    config.dataset = {**DATA[data], "labels": "", "validation": 0}
    if not paper and data == "words":
        config.dataset.name = "ptb_2k"
    if not paper and data == "chars":
        config.dataset.train_tokens = 1_250_000
    vocabulary, embedding, features = SIZES[size][data]
    config.model = {
        "name": "recurrent",
        "vocabulary": vocabulary,
        "embedding": embedding,
        "features": features,
        "every": True,
        "carried": data == "words",
        "forget_bias": 1.0 if data == "words" else 0.0,
    }
    config.estimator = "weight_sampling" if data == "words" else "sequence_lrt"
    config.epochs, config.batch_size = EPOCHS[size][data], BATCHES[data]
    rate = 1e-2 if data == "automaton" else 2e-3
    config.optimizer.learning_rate = ((0.0, rate), (1.0, rate if paper else 0.0))
    config.optimizer.clip_norm = CLIP[data]
    config.evals = {"split": "test", "samples": 1, "length": 1000, "threshold": 3.0}
    config.evals.batch_size = 10 if data == "words" else 50
    config.probe = {"every": 5 if data == "automaton" else 1, "samples": 1}
    config.kl_weight = ((0.0, 0.0),)
    if method == "original":
        config.early_stopping = {"metric": "det", "patience": config.epochs}
        return config
    config.kl_weight = ((0.0, 1.0),)
    config.prior = "log_uniform_2016"
    weight = {**rnn_text.WEIGHT, "log_var": -6.0} if paper else rnn_text.WEIGHT
    config.model.posteriors = rnn_text.groups(method, weight)
    return config
