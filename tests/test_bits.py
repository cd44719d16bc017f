"""Laws of rounding weights, and of how many bits a variance is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from vnets import bits, edits, nodes
from vnets.bits import Bits
from vnets.nodes import Gaussian, Point, gaussian, point

FULL = Bits(24, 8)


@pytest.fixture(scope="module")
def weights():
    """Of both signs, over twelve powers of two, with exact ones and zeros."""
    size = jnp.exp2(random.uniform(random.key(0), (300,), minval=-12.0))
    signs = random.rademacher(random.key(1), (300,), jnp.float32)
    return jnp.concatenate([signs * size, jnp.asarray([0.0, 1.0, -0.5, 0.75])])


@pytest.mark.parametrize("t", [1, 2, 5, 11, 23, 24])
def test_the_error_is_at_most_the_unit_roundoff(weights, t):
    values = bits.rounded(weights, Bits(t, 8))
    error = np.abs(np.asarray(values - weights))
    assert np.all(error <= bits.unit_roundoff(t) * np.abs(weights))
    np.testing.assert_array_equal(bits.rounded(values, Bits(t, 8)), values)
    # t bits suffice to write each: an integer below 2^t times a power of two.
    fraction = np.ldexp(np.frexp(np.asarray(values))[0], t)
    np.testing.assert_array_equal(fraction, np.round(fraction))


def test_the_error_reaches_half_of_it():
    """Else fewer bits would do."""
    error = abs(float(bits.rounded(jnp.float32(1 + 2.0**-4), Bits(4, 8))) - 1 - 2.0**-4)
    assert error == 2.0**-4


def test_enough_bits_change_nothing(weights):
    np.testing.assert_array_equal(bits.rounded(weights, FULL), weights)
    needed = bits.exponent_bits(weights)
    assert needed == 4  # 13 powers of two and zero
    np.testing.assert_array_equal(bits.rounded(weights, Bits(24, needed)), weights)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_few_exponents_keep_the_largest_weights(weights, k):
    values = np.asarray(bits.rounded(weights, Bits(24, k)))
    smallest = 2.0 ** (1 - (2**k - 1))  # of 2^k - 1 exponents with 2^0 the largest
    kept = np.abs(weights) >= smallest
    np.testing.assert_array_equal(values[kept], np.asarray(weights)[kept])
    assert set(np.abs(values[~kept])) <= {0.0, np.float32(smallest)}
    assert np.all(np.abs(values - weights)[~kept] <= smallest / 2)
    assert bits.exponent_bits(values) <= k
    np.testing.assert_array_equal(bits.rounded(values, Bits(24, k)), values)


def test_significand_bits():
    """The least t whose unit round-off is not above the variance."""
    for var in (0.9, 0.5, 0.3, 1e-2, 2.0**-9, 1e-6):
        t = bits.significand_bits(var)
        assert bits.unit_roundoff(t) <= var
        assert t == 1 or bits.unit_roundoff(t - 1) > var
    assert bits.significand_bits(0.0) == bits.significand_bits(1e-30) == 24
    assert bits.significand_bits(100.0) == 1


def make_params():
    wide = Gaussian(jnp.full((2, 3), 0.3), jnp.full((2, 3), np.log(1.1 * 2.0**-5)))
    mean = wide.mean.at[0].set(0.0)
    log_var = wide.log_var.at[0].set(5.0)  # of what is cut: it must not count
    return {
        "a": {"kernel": wide.replace(mean=mean, log_var=log_var), "bias": jnp.ones(3)},
        "b": {"kernel": Point(jnp.asarray([[0.3, 0.0], [-0.07, 1.9]]))},
        "c": {"kernel": nodes.group_normal_jeffreys()(random.key(0), (4, 2))},
    }


def test_layer_bits_count_what_is_kept():
    found = bits.layer_bits(make_params())
    assert found["a"] == Bits(5, 1)
    assert found["b"] == Bits(24, 3)  # 2^-4 ... 2^0 and zero
    _, var = make_params()["c"]["kernel"].moments()
    assert found["c"].significand == bits.significand_bits(float(jnp.mean(var)))
    assert found["a"].total == 1 + 5 + 1


def test_quantize_rounds_every_layer_and_no_bias():
    params = make_params()
    same = bits.rounded_to(FULL)(params)
    quiet = edits.mean_only(params)
    jax.tree.map(np.testing.assert_array_equal, same, quiet)
    by_layer = {"a": Bits(1, 8), "b": Bits(2, 8), "c": FULL}
    found = bits.rounded_to(by_layer)(params)
    np.testing.assert_array_equal(found["a"]["kernel"].mean[1], [0.25] * 3)
    np.testing.assert_array_equal(
        found["b"]["kernel"].mean, np.float32([[0.25, 0], [-0.0625, 2.0]])
    )
    np.testing.assert_array_equal(found["a"]["bias"], params["a"]["bias"])
    with pytest.raises(ValueError, match=r"given for .*'a', 'b'.* the layers are"):
        bits.rounded_to({"a": FULL, "b": FULL})(params)
    for wrong in (Bits(0, 8), Bits(3, -1)):
        with pytest.raises(ValueError, match="1 or more bits"):
            bits.rounded_to(wrong)


def test_nothing_kept():
    node = edits.prune(-100.0)({"a": {"kernel": gaussian()(random.key(0), (2, 3))}})
    assert bits.layer_bits(node)["a"] == Bits(24, 0)
    zero = bits.rounded_to(Bits(3, 0))(
        {"a": {"kernel": point()(random.key(0), (2, 3))}}
    )
    assert not np.any(zero["a"]["kernel"].mean)
