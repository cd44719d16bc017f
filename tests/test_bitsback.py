"""Laws of bits back: what is popped is what was pushed, and it costs the ELBO."""

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import expit, ndtri

from vnets.bitsback import BitsBack

D, Z = 30, 4
draw = default_rng(0)
A, B = draw.normal(size=(Z, D)), draw.normal(size=D)


def encode(x):
    return 0.1 * (A @ (x - 0.5)), np.full(Z, 0.5)


def decode(z):
    return expit(z @ A + B)


def elbo(x, draws=4000):
    """-ELBO of an example, bits."""
    mean, std = encode(x)
    z = mean + std * default_rng(1).normal(size=(draws, Z))
    p = decode(z)
    nll = -np.log(np.where(x, p, 1 - p)).sum(1).mean()
    return (nll + 0.5 * (mean**2 + std**2 - 1 - 2 * np.log(std)).sum()) / np.log(2)


@pytest.fixture(scope="module")
def coder():
    return BitsBack(Z, encode, decode)


@pytest.fixture(scope="module")
def examples():
    z = default_rng(2).normal(size=(400, Z))
    return (default_rng(3).random((400, D)) < decode(z)).astype(np.int32)


def start(words=32):
    return default_rng(4).integers(0, 2**32, words, np.uint32)


def test_what_is_popped_is_what_was_pushed(coder, examples):
    message = coder.push(start(), examples)
    found, before = coder.pop(message, len(examples))
    np.testing.assert_array_equal(found, examples)
    np.testing.assert_array_equal(before, start())
    last, rest = coder.pop(message, 3)
    np.testing.assert_array_equal(last, examples[-3:])
    np.testing.assert_array_equal(coder.pop(rest, 397)[0], examples[:-3])


def test_a_message_grows_by_the_bound(coder, examples):
    grown = 32 * (len(coder.push(start(), examples)) - len(start()))
    expected = sum(elbo(x) for x in examples)
    assert abs(grown / expected - 1) < 0.02
    assert expected < 0.95 * examples.size  # it is a compression


def test_bits_come_back(coder, examples):
    """Without them, the latent variables would cost their whole prior."""
    grown = 32 * (len(coder.push(start(), examples)) - len(start()))
    cells = Z * np.log2(coder.cells) * len(examples)
    means = [np.where(x, p := decode(encode(x)[0]), 1 - p) for x in examples]
    assert grown < cells - np.log2(means).sum()


def test_more_cells_cost_no_more_bits(examples):
    sizes = [
        len(BitsBack(Z, encode, decode, cells).push(start(), examples))
        for cells in (64, 256, 4096)
    ]
    assert max(sizes) - min(sizes) < 0.02 * min(sizes)


def test_what_cannot_be_coded_is_refused(coder, examples):
    with pytest.raises(ValueError, match="0 and 1"):
        coder.push(start(), examples + 1)
    with pytest.raises(ValueError, match="too short"):
        coder.push(start(1), examples)
    with pytest.raises(ValueError, match="at least 1"):
        coder.pop(start(), 0)
    with pytest.raises(ValueError, match="2 cells"):
        BitsBack(Z, encode, decode, 1)
    assert np.isinf(ndtri(0.0))  # the outermost cells reach to infinity
