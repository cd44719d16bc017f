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

`test_images` and `shifted_images` serve `studies.diversity` too.
"""

import contextlib
import functools
import math

import numpy as np
import scipy.ndimage
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from experiments import ranges
from experiments import spec as parts
from experiments.core import Measured, NetSpec, Study
from experiments.datasets import load_data
from experiments.perturbed import attacked, corrupted
from experiments.predictions import (
    MEANS,
    detection,
    mean,
    scores,
    summaries,
    unit_range,
)
from vnets import calibration, data, uncertainty
from vnets.rng import stream
from vnets.types import Key
from vnets.uncertainty import Summary

FIELDS = (
    *("dataset", "nets.net", "samples", "images", "batch_size", "shift.name"),
    *("rotation.images", "rotation.degrees"),
    *("nets.surrogate", "attack.epsilon", "attack.draws"),
    *("corruption.kinds", "corruption.strengths"),
)

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
        evals |= attacked(config, test, nets, inside, summarized, key)
    curves = {}
    if "corruption" in config:
        worse = corrupted(config.corruption, test, summarized)
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
    found = {"coverage": mean(sets[own]), "set_size": mean(sets.sum(-1))}
    if len(temperatures) < 2:
        return None, found
    found["temperature"] = mean(temperatures)
    found["nll"] = -mean(tempered[own])
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
