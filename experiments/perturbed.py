"""Test images that are attacked, or made worse, and what a predictor says of them."""

import functools
import math
from collections.abc import Callable

import numpy as np

from experiments.predictions import SCORES, in_batches, scores, unit_range
from vnets import attacks, backend, data, uncertainty
from vnets.predictor import Predictor
from vnets.rng import stream
from vnets.types import Key
from vnets.uncertainty import Summary

Summarized = Callable[[np.ndarray, str], Summary]  # (images, the name of the draws)


def attacked(
    config,
    test: data.Split,
    nets,
    inside: Summary,
    summarized: Summarized,
    key: Key,
) -> dict[str, dict[str, float]]:
    """{attack: what it does, and how well each of SCORES tells what it fools}.

    Answers that were right count: `success` is the fraction of them that an attack
    makes wrong, AUROCs are of these against all of them without the attack; NaN where
    there are none.

    Args:
      config: with `attack`, as `configs/uncertainty.py` has it, and a batch_size.
      test: images and classes.
      nets: "net", whose own gradients are used, and "surrogate", of the other.
      inside: of the images without the attack.
      summarized: of the predictor, images and a name -> their summary.
      key: of the draws of the gradients.
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
    """Compiled for one backend: (epsilon, attacker, images, labels, key) -> images."""
    del forms

    def run(epsilon, attacker, x, label, key):
        return attacks.fgsm(attacker, x, label, epsilon, key)

    return backend.jit(run)


def corrupted(
    spec, test: data.Split, summarized: Summarized
) -> dict[int, dict[str, float]]:
    """{strength: `scores` of the test set made worse, their means over all kinds}.

    Args:
      spec: kinds and strengths, of `data.corrupted`.
      test: images and classes.
      summarized: as in `attacked`.
    """
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
