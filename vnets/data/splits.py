"""Fixed, stratified subsets: the same images in every run, on every machine."""

import numpy as np


def stratified(label: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Chooses `size` of the labels [N], each class in its share; sorted indices [size].

    Shares are rounded by largest remainder, so they differ from the exact ones by less
    than one image.
    """
    # The raw bits of PCG64 never change, while NumPy may change, between versions,
    # what Generator.permutation makes of them.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(label)), kind="stable")
    quotas = _shares(np.bincount(label), size)
    chosen = [order[label[order] == k][:quota] for k, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen))


def _shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Splits `size` in proportion to `counts` [K] into whole numbers [K]."""
    shares, remainders = np.divmod(counts * size, counts.sum())
    missing = size - shares.sum()
    shares[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return shares
