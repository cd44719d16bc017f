"""Does a net know when it does not know? Inputs from elsewhere, and rotated ones.

After the out-of-domain entropies of Neklyudov et al. ("Variance Networks", their
slides say: similar to dropout, without numbers). A predictor sees the test set, a set
from outside of its distribution, and the test set rotated. Its uncertainty, as
predictive entropy or as mutual information, is judged by

  AUROC, FPR at 95 % TPR   does it tell the outside from the inside?
  rejection curve          does it tell wrong answers from right ones?
  risk at a coverage       how many of the answers that are kept are wrong?
  CDF of the entropy       how sure is it, inside and outside?
  reliability diagram      do its probabilities hold, at a temperature, too?
  conformal sets           how many classes hold the label as often as asked for?

With `corruption`, it sees the test set made worse (`vnets.data.corruptions`), too: what
is measured at a strength is the mean over kinds. With `attack`, it sees the test set
attacked, too, by FGSM with the gradient of another net ("transferred") and with its
own, averaged over draws ("white_box"): does it notice those that fool it?

`summaries`, `test_images` and `shifted_images` serve `studies.diversity` too.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from experiments import ranges
from experiments import spec as parts
from experiments.core import Measured, Net, NetSpec, Study
from experiments.datasets import load_data
from vnets import attacks, backend, calibration, data, likelihoods, uncertainty
from vnets.predictor import Predictor
from vnets.rng import stream
from vnets.types import Key
from vnets.uncertainty import Summary

FIELDS = (
    *("dataset", "nets.net", "samples", "images", "batch_size", "shift.name"),
    *("rotation.images", "rotation.degrees"),
    *("nets.surrogate", "attack.epsilon", "attack.draws"),
    *("corruption.kinds", "corruption.strengths"),
)

SCORES = ("entropy", "mutual_information")  # by which inputs are ranked
MEANS = (*SCORES, "expected_entropy", "disagreement")
KEPT = 0.95  # of the inputs, in the table; the curve has all fractions
COVERAGES = {"risk80": 0.8, "risk90": 0.9}
FRACTIONS = np.linspace(0.05, 1.0, 96)
GRID = 200  # entropies at which their CDF is given
COVERAGE = 0.95  # of the sets
BINS = 10  # of confidence, of the curve; there are few images at scale quick
SHUFFLE_SEED = 1  # the made-up images are the same in every run


def build(config) -> Study:
    """The study of a config; see `configs/uncertainty.py` for its fields."""
    if ("attack" in config) != ("surrogate" in config.nets):
        raise parts.ConfigError(
            "config.attack is with the gradients of config.nets.surrogate: give both, "
            "or neither"
        )
    if "attack" in config:
        ranges.Range(0.0, 1.0, above=True).check(
            "config.attack.epsilon", config.attack.epsilon
        )
    specs = {
        name: parts.call(f"nets.{name}", NetSpec, spec)
        for name, spec in config.nets.items()
    }
    for degrees in config.rotation.degrees:
        if not math.isfinite(degrees):
            raise parts.ConfigError(f"config.rotation.degrees: {degrees} is no angle")
    worse = config.get("corruption", {})
    for name, known in (("kinds", data.CORRUPTIONS), ("strengths", data.STRENGTHS)):
        for one in worse.get(name, ()):
            parts.pick(f"corruption.{name}", one, known)
    dataset, test = test_images(config)
    shifted = shifted_images(config, test)
    measure = functools.partial(_measure, config, test, shifted)
    return Study(specs, measure, dataset)


def test_images(config) -> tuple[data.Dataset, data.Split]:
    """The data set, and those of its test (or validation) images that are used."""
    dataset = load_data(config.dataset)
    return dataset, evenly(dataset.validation or dataset.test, config.images)


def evenly(split: data.Split, count: int) -> data.Split:
    """At most `count` images, evenly spaced: a data set's first may be its easiest."""
    count = min(count, len(split))
    return split.take(np.arange(count) * len(split) // count)


def _shuffled_pixels(images: np.ndarray) -> np.ndarray:
    """Each image's pixels in an order of its own: its grey levels and no shape."""
    flat = images.reshape(len(images), -1, images.shape[-1])
    rng = np.random.default_rng(SHUFFLE_SEED)
    return rng.permuted(flat, axis=1).reshape(images.shape)


# Made from the test images themselves; every other name is a data set of `vnets.data`.
MADE = {
    "shuffled_pixels": _shuffled_pixels,
    "inverted": lambda images: np.uint8(255) - images,
}


def shifted_images(config, test: data.Split) -> np.ndarray:
    """Images from outside, uint8 [M, H, W, C]: at most as many as config.images.

    Raises:
      ConfigError: an unknown name, the data set itself, or images of another shape.
    """
    name = config.shift.name
    held = set(data.NAMES) - set(data.STREAMED)  # in memory, as the test images are
    parts.pick("shift.name", name, sorted({*MADE, *held} - {config.dataset.name}))
    if name in MADE:
        return MADE[name](test.inputs)
    other = load_data(ConfigDict({"name": name, "labels": "", "validation": 0}))
    shape, needed = other.test.shape, test.shape
    if shape != needed:
        raise parts.ConfigError(
            f"config.shift.name: images of {name!r} are {shape}, not {needed} as those "
            f"of {config.dataset.name!r}; choose another or one of {sorted(MADE)}"
        )
    return evenly(other.test, config.images).inputs


def rotated(images: np.ndarray, degrees: float) -> np.ndarray:
    """Images [N, H, W, C] turned counterclockwise about their centre, bilinearly.

    What comes in from outside is 0, the background.
    """
    return scipy.ndimage.rotate(
        images, degrees, axes=(1, 2), reshape=False, order=1, mode="constant"
    )


def unit_range(images: np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def summaries(
    nets: Sequence[Net], images: np.ndarray, samples: int, key: Key, **options
) -> Summary:
    """What is kept of the predictions for all images; see `summary_of`.

    Args:
      nets: the members of an ensemble; one for a single net.
      images: float32 in [0, 1], [N, H, W, C].
      samples: noise draws of each member.
      key: of the edits and of the draws.
      **options: batch_size, and of a `Predictor` edit and mode.
    """
    batch_size = options.pop("batch_size")
    predictor = Predictor([net.member for net in nets], samples=samples, **options)
    return summary_of(predictor, images, key, batch_size)


def summary_of(
    predictor: Predictor, images: np.ndarray, key: Key, batch_size: int
) -> Summary:
    """What is kept of the predictions for all images; its arrays are of NumPy.

    Args:
      predictor: its edit is made once, for all images.
      images: float32 in [0, 1], [N, H, W, C].
      key: of the edit and of the draws.
      batch_size: images at once; their predictions by all members and samples are in
        memory, and the draws of `predictor.AT_ONCE` images.
    """
    run = functools.partial(_batch_summary(backend.forms()), predictor.edited(key))
    return in_batches(run, (images,), key, batch_size)


def in_batches(run: Callable, arrays: Sequence[np.ndarray], key: Key, batch_size: int):
    """run(*batch, key) of all examples, a tree of arrays [N, ...] of NumPy.

    Args:
      run: compiled once, for batches of one size.
      arrays: each [N, ...].
      key: of all batches; each has its own.
      batch_size: examples at once.
    """
    count = len(arrays[0])
    size = min(batch_size, count)
    padded = [np.concatenate([array, array[: -count % size]]) for array in arrays]
    batches = [
        jax.device_get(run(*(a[i : i + size] for a in padded), stream(key, "batch", i)))
        for i in range(0, len(padded[0]), size)
    ]
    joined = jax.tree.map(lambda *batch: np.concatenate(batch), *batches)
    return jax.tree.map(lambda array: array[:count], joined)


@functools.lru_cache(maxsize=4)
def _batch_summary(forms: backend.Forms):
    """Compiled for the types of the parameters: edits that keep them share it."""
    del forms  # what is traced depends on them, so the cache must too
    return backend.jit(lambda nets, x, key: uncertainty.summarize(nets(x, key)))


def scores(summary: Summary, label: np.ndarray | None = None) -> dict[str, float]:
    """The means over images of what a summary has; with labels, also how right it is.

    Returns:
      entropy, mutual_information, expected_entropy (nats) and disagreement; with labels
      [N] also accuracy, nll, brier and ece of the mean prediction, and accuracy_one,
      the mean accuracy of a single sample.
    """
    means = {name: _mean(getattr(summary, name)) for name in MEANS}
    if label is None:
        return means
    draws = jnp.asarray(summary.log_p)[None]
    right = likelihoods.Categorical().metrics(draws, jnp.asarray(label))
    one = np.take_along_axis(np.asarray(summary.votes), label[:, None], axis=1)
    return means | right | {"accuracy_one": _mean(one)}


def _mean(values) -> float:
    return float(np.mean(values, dtype=np.float64))


def detection(inside: Summary, outside: Summary) -> dict[str, float]:
    """How well each of SCORES tells the outside: auroc/<score> and fpr95/<score>."""
    found = {}
    for name in SCORES:
        pair = (np.asarray(getattr(each, name)) for each in (inside, outside))
        negative, positive = pair
        found[f"auroc/{name}"] = uncertainty.auroc(negative, positive)
        found[f"fpr95/{name}"] = uncertainty.fpr_at_tpr(negative, positive, 0.95)
    return found


def _measure(config, test: data.Split, shifted, nets, key: Key) -> Measured:
    """All of it for one predictor, made of the members of "net"."""

    def summarized(images: np.ndarray, name: str) -> Summary:
        return summaries(
            nets["net"],
            images,
            config.samples,
            stream(key, name),
            batch_size=config.batch_size,
        )

    inside = summarized(unit_range(test.inputs), "inside")
    outside = summarized(unit_range(shifted), "outside")
    correct = np.argmax(inside.log_p, -1) == test.target
    kept = uncertainty.rejection_curve(correct, inside.entropy, [KEPT])
    found = {"accuracy_kept": float(kept[0])} | rejection(correct, inside.entropy)
    tempered, calibrated = halves(inside.log_p, test.target)
    evals = {
        "inside": scores(inside, test.target) | found,
        "outside": scores(outside) | detection(inside, outside),
        "calibrated": calibrated,
    }
    evals["outside"]["foreign"] = foreign(inside.entropy, outside.entropy)
    if "attack" in config:
        evals |= _attacked(config, test, nets, inside, summarized, key)
    curves = {}
    if "corruption" in config:
        worse = _corrupted(config.corruption, test, summarized)
        evals |= {f"corrupted_{s}": found for s, found in worse.items()}
        names = ("accuracy", "nll", "ece", "entropy")
        curves["corruption"] = {
            "strength": [float(s) for s in worse],
            **{name: [one[name] for one in worse.values()] for name in names},
        }
    turned = evenly(test, config.rotation.images)
    pixels = unit_range(turned.inputs)
    for degrees in config.rotation.degrees:
        one = summarized(rotated(pixels, degrees), f"rotated {degrees}")
        evals[f"rotated_{degrees}"] = scores(one, turned.target)
    curves |= {
        "rotation": _by_angle(evals, config.rotation.degrees),
        "rejection": _rejection(correct, inside, outside),
        "entropy_cdf": _distributions(inside, outside),
        "reliability": _reliability(inside.log_p, tempered, test.target),
    }
    return Measured(evals, curves)


def _corrupted(spec, test: data.Split, summarized) -> dict[int, dict[str, float]]:
    """{strength: `scores` of the test set made worse, their means over all kinds}."""
    found = {}
    for strength in spec.strengths:
        each = []
        for kind in spec.kinds:
            images = unit_range(data.corrupted(test.inputs, kind, strength))
            seen = summarized(images, f"{kind} {strength}")
            each.append(scores(seen, test.target))
        found[strength] = {
            name: float(np.mean([one[name] for one in each])) for name in each[0]
        }
    return found


def rejection(correct: ArrayLike, score: ArrayLike) -> dict[str, float]:
    """What is left of the errors where a predictor rejects what it is unsure of.

    Args:
      correct: whether each answer is right, [N].
      score: of uncertainty, [N].

    Returns:
      aurc; risk80 and risk90, the error rates among the most certain 80 and 90 %; and
      left90, risk90 as a fraction of the error of all, 0 where there is none.
    """
    kept = uncertainty.rejection_curve(correct, score, [*COVERAGES.values(), 1.0])
    *risks, whole = (1 - kept).tolist()
    found = dict(zip(COVERAGES, risks, strict=True))
    found["aurc"] = calibration.aurc(correct, score).aurc
    return found | {"left90": found["risk90"] / whole if whole else 0.0}


def foreign(inside: ArrayLike, outside: ArrayLike) -> float:
    """The fraction of what is accepted that is from elsewhere, of both sets mixed.

    Accepted is what is no more uncertain than the KEPT of the inside that are least so.

    Args:
      inside: uncertainty of the test set, [N].
      outside: uncertainty of inputs from elsewhere, [M].
    """
    inside, outside = np.asarray(inside), np.asarray(outside)
    accepted = uncertainty.fpr_at_tpr(-outside, -inside, KEPT) * len(outside)
    return accepted / (accepted + KEPT * len(inside))


def _attacked(config, test: data.Split, nets, inside: Summary, summarized, key: Key):
    """{attack: what it does, and how well each of SCORES tells what it fools}.

    Answers that were right count: `success` is the fraction of them that an attack
    makes wrong, AUROCs are of these against all of them without the attack; NaN where
    there are none.
    """
    right = np.argmax(inside.log_p, -1) == test.target
    attackers = {
        "transferred": Predictor([net.member for net in nets["surrogate"]]),
        "white_box": Predictor(
            [net.member for net in nets["net"]], samples=config.attack.draws
        ),
    }
    pixels, found = unit_range(test.inputs), {}
    for name, attacker in attackers.items():
        fgsm = functools.partial(_fgsm(backend.forms()), config.attack.epsilon)
        run, own = functools.partial(fgsm, attacker), stream(key, "attack", name)
        images = in_batches(run, (pixels, test.target), own, config.batch_size)
        seen = summarized(images, name)
        fooled = right & (np.argmax(seen.log_p, -1) != test.target)
        found[name] = {"success": float(np.divide(fooled.sum(), right.sum()))}
        for score in SCORES:
            clean, noticed = (
                np.asarray(getattr(one, score))[which]
                for one, which in ((inside, right), (seen, fooled))
            )
            auroc = uncertainty.auroc(clean, noticed) if fooled.any() else math.nan
            found[name][f"auroc/{score}"] = auroc
    return found


@functools.lru_cache(maxsize=4)
def _fgsm(forms: backend.Forms):
    """As `_batch_summary`: (epsilon, attacker, images, labels, key) -> images."""
    del forms

    def run(epsilon, attacker, x, label, key):
        return attacks.fgsm(attacker, x, label, epsilon, key)

    return backend.jit(run)


def halves(log_p, label: np.ndarray) -> tuple[np.ndarray | None, dict[str, float]]:
    """Predictions [N, K] that are calibrated, and what that makes of them.

    Each half of the images (every other one) is held out for the other, so that nothing
    is measured on what it was fitted to; the numbers are means over the halves.

    Returns:
      Log probabilities at the temperature of the other half, [N, K]; and coverage and
      set_size of sets that are to hold the label COVERAGE of the time, temperature, and
      nll and ece at it. None and no such numbers where a half has no best temperature:
      all of it is right, or no better than chance.
    """
    log_p, tempered = np.asarray(log_p, np.float64), np.empty(np.shape(log_p))
    even = np.arange(len(label)) % 2 == 0
    temperatures, sets = [], np.empty(np.shape(log_p), bool)
    for held, new in ((even, ~even), (~even, even)):
        known = log_p[held], label[held]
        sets[new] = calibration.prediction_sets(log_p[new], *known, COVERAGE)
        with contextlib.suppress(ValueError):
            temperatures.append(calibration.temperature(*known))
            tempered[new] = calibration.tempered(log_p[new], temperatures[-1])
    own = np.arange(len(label)), label
    found = {"coverage": _mean(sets[own]), "set_size": _mean(sets.sum(-1))}
    if len(temperatures) < 2:
        return None, found
    found["temperature"] = _mean(temperatures)
    found["nll"] = -_mean(tempered[own])
    found["ece"] = calibration.reliability(tempered, label).ece
    return tempered, found


def _reliability(log_p, tempered, label: np.ndarray) -> dict[str, list[float]]:
    """Accuracy less confidence, by confidence, in bins that have images before and
    after; below 0 the predictor is too sure. Nothing where nothing was tempered."""
    if tempered is None:
        return {"confidence": [], "plain": [], "tempered": []}
    shown = [calibration.reliability(p, label, BINS) for p in (log_p, tempered)]
    there = (shown[0].count > 0) & (shown[1].count > 0)
    middle = (np.arange(BINS) + 0.5) / BINS
    gaps = [(one.accuracy - one.confidence)[there].tolist() for one in shown]
    return {"confidence": middle[there].tolist(), "plain": gaps[0], "tempered": gaps[1]}


def _by_angle(evals, angles) -> dict[str, list[float]]:
    shown = ("accuracy", "nll", *MEANS)
    curve = {name: [evals[f"rotated_{a}"][name] for a in angles] for name in shown}
    return {"degrees": [float(angle) for angle in angles], **curve}


def _rejection(
    correct: np.ndarray, inside: Summary, outside: Summary
) -> dict[str, list[float]]:
    """Accuracy by the fraction kept; `mixed`: of both sets, the outside all wrong."""
    entropy = np.concatenate([inside.entropy, outside.entropy])
    right = np.concatenate([correct, np.zeros(len(outside.entropy), bool)])
    mixed = uncertainty.rejection_curve(right, entropy, FRACTIONS)
    alone = uncertainty.rejection_curve(correct, inside.entropy, FRACTIONS)
    return {
        "kept": FRACTIONS.tolist(),
        "accuracy": alone.tolist(),
        "mixed": mixed.tolist(),
    }


def _distributions(inside: Summary, outside: Summary) -> dict[str, list[float]]:
    """CDFs on a grid from 0 to log K, the largest entropy there is."""
    grid = np.linspace(0, math.log(inside.log_p.shape[-1]), GRID)
    return {
        "entropy": grid.tolist(),
        "inside": uncertainty.cdf(np.asarray(inside.entropy), grid).tolist(),
        "outside": uncertainty.cdf(np.asarray(outside.entropy), grid).tolist(),
    }
