"""Laws of the noise families: moments, support, tails, independence, reproducibility.

The Box-Muller form has 2^30 values with an exact distribution: a product of 2^16 radii
and 2^14 angles with two signs. It is enumerated, so that its laws need no luck.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.sharding import NamedSharding, PartitionSpec
from scipy import special, stats

from vnets import backend, noise, parallel

ROWS, COLUMNS = 2000, 1000


@pytest.fixture(scope="module")
def draws():
    """One big matrix of each family."""
    shape = (ROWS, COLUMNS)
    make = jax.jit(
        lambda key: {name: f.sample(key, shape) for name, f in noise.FAMILIES.items()}
    )
    return jax.tree.map(np.asarray, make(random.key(1)))


@pytest.fixture(scope="module")
def enumerated():
    """Radii [2^16] and factors of the angle [2^14, 2], read off the code itself."""
    words = jnp.arange(2**16, dtype=jnp.uint32) << 16
    radii = np.asarray(noise._pair(words)[1], np.float64)
    words = (jnp.uint32(2**15) << 16) + (jnp.arange(2**14, dtype=jnp.uint32) << 2)
    angles = np.stack([np.asarray(half, np.float64) for half in noise._pair(words)], 1)
    # Both are up to the factor that the other was held at.
    angles /= np.sqrt((angles**2).mean(axis=0))  # E cos^2 = E sin^2 = 1/2, below
    scale = np.sqrt(np.mean(-2 * np.log((np.arange(2**16) + 0.5) / 2**16)))
    return radii / np.sqrt((radii**2).mean()) * scale, angles * np.sqrt(0.5)


def exact_upper_tail(enumerated, bounds):
    """P(value > bound) for positive bounds, over radii, angles and signs."""
    radii, angles = enumerated
    tails = []
    for half in (0, 1):
        sizes = np.sort(np.abs(angles[:, half]))
        above = [
            len(sizes) - np.searchsorted(sizes, bound / radii, "right")
            for bound in bounds
        ]
        tails.append(0.5 * np.mean(above, axis=1) / len(sizes))
    return tails


@pytest.mark.parametrize("family", sorted(noise.FAMILIES))
def test_zero_mean_and_unit_variance(family, draws, assert_moments):
    assert_moments(draws[family].ravel(), 0.0, 1.0)


@pytest.mark.parametrize("family", sorted(noise.FAMILIES))
def test_sums_are_of_the_family_where_lrt_is_exact(family, draws):
    first, second = draws[family].reshape(2, -1)[:, :100_000]
    distance = stats.ks_2samp((first + second) / np.sqrt(2), first).statistic
    assert (distance < 1.63 * np.sqrt(2 / first.size)) == noise.lrt_is_exact(family)


def test_supports(draws):
    assert set(np.unique(draws["sign"])) == {-1.0, 1.0}
    bound = np.sqrt(3)
    assert -bound <= draws["uniform"].min() < -0.999 * bound
    assert 0.999 * bound < draws["uniform"].max() <= bound
    # 16 bits of radius: the largest is sqrt(2 * 17 * log 2).
    assert 4 < np.abs(draws["normal"]).max() <= np.sqrt(34 * np.log(2)) * (1 + 1e-6)


def test_uniform_is_uniform(draws):
    sample = draws["uniform"].ravel()
    distance = stats.kstest(sample, stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)).cdf)
    assert distance.statistic < 1.63 / np.sqrt(sample.size)


def test_default_on_cpu_is_box_muller():
    key, shape = random.key(0), (9,)

    def both(key):
        default = noise.normal(key, shape), noise.box_muller(key, shape)
        with backend.use(normal="inverse_cdf"):
            return *default, noise.normal(key, shape), random.normal(key, shape)

    default, box_muller, other, inverse_cdf = jax.jit(both)(key)
    np.testing.assert_array_equal(default, box_muller)
    np.testing.assert_array_equal(other, inverse_cdf)
    assert not np.array_equal(default, other)


def test_normal_passes_kolmogorov_smirnov_at_ten_million_draws():
    n = 10_000_000
    sample = np.sort(
        np.asarray(jax.jit(lambda k: noise.normal(k, (2500, 4000)))(random.key(7)))
        .ravel()
        .astype(np.float64)
    )
    cdf = special.ndtr(sample)
    steps = np.arange(n + 1) / n
    distance = max(np.max(steps[1:] - cdf), np.max(cdf - steps[:-1]))
    # Kolmogorov: P(sqrt(n) D > x) = 2 exp(-2 x^2) + ..., which is 1 % at x = 1.63.
    assert distance < np.sqrt(-np.log(0.005) / 2) / np.sqrt(n)


def test_normal_has_a_product_distribution(enumerated):
    """What makes the enumeration right: value = radius x angle, signs apart."""
    radii, angles = enumerated
    words = random.bits(random.key(3), (10_000,), jnp.uint32)
    r = radii[np.asarray(words >> 16)]
    a = angles[np.asarray((words >> 2) & 0x3FFF)]
    signs = 1 - 2.0 * np.stack([words & 1, (words >> 1) & 1], 1)
    got = np.stack(noise._pair(words), 1)
    np.testing.assert_allclose(got, r[:, None] * a * signs, rtol=3e-6, atol=3e-6)


def test_normal_moments_enumerated(enumerated):
    """Signs are fair and apart, so odd moments vanish; the even ones are products."""
    words = jnp.asarray(12345 << 2, jnp.uint32) + jnp.arange(4, dtype=jnp.uint32)
    first, second = (np.sign(half) for half in noise._pair(words))
    assert sorted(zip(first, second, strict=True)) == [
        (-1, -1),
        (-1, 1),
        (1, -1),
        (1, 1),
    ]
    radii, _ = enumerated
    words = (jnp.uint32(2**15) << 16) + (jnp.arange(2**14, dtype=jnp.uint32) << 2)
    held = np.sqrt(-2 * np.log((2**15 + 0.5) / 2**16))
    for half in noise._pair(words):
        circle = np.asarray(half, np.float64) / held
        # Midpoints of a quadrant integrate cos^2 and cos^4 exactly: 1/2 and 3/8.
        assert np.mean(circle**2) == pytest.approx(1 / 2, rel=1e-5)
        assert np.mean(circle**4) == pytest.approx(3 / 8, rel=2e-5)
        var = np.mean(radii**2) * np.mean(circle**2)
        # Promised: 5e-6, beside what float32 does to the angles.
        assert abs(var - 1) < 5e-6 + 1e-5
        kurtosis = np.mean(radii**4) * np.mean(circle**4)
        assert kurtosis == pytest.approx(3, rel=1e-3)


def test_normal_cdf_and_tails_enumerated(enumerated):
    bounds = np.linspace(0.05, 3, 60)
    for tail in exact_upper_tail(enumerated, bounds):
        # Radii are quantiles of their law at 2^16 levels, a step of 2^-16 each.
        assert np.max(np.abs(tail - special.ndtr(-bounds))) < 2.0**-16
    for tail in exact_upper_tail(enumerated, [4.0]):
        assert tail[0] == pytest.approx(special.ndtr(-4.0), rel=0.1)


def test_normal_tail_of_the_draws(draws):
    """Counts beyond 4 are Poisson about the enumerated number."""
    n = draws["normal"].size
    expected = 2 * n * special.ndtr(-4.0)
    count = np.sum(np.abs(draws["normal"]) > 4)
    assert abs(count - expected) < 5 * np.sqrt(expected) + 0.1 * expected


@pytest.mark.parametrize("family", sorted(noise.FAMILIES))
def test_neighbours_are_uncorrelated(family, draws):
    """Columns, rows, quarters of a row (one Threefry block) and keys."""
    x = draws[family].astype(np.float64)
    other_key = random.fold_in(random.key(1), 1)
    other = np.asarray(noise.FAMILIES[family].sample(other_key, x.shape))
    pairs = {
        "column": (x[:, :-1], x[:, 1:]),
        "row": (x[:-1], x[1:]),
        "key": (x, other),
        **{f"{q}/4": (x[:, : -q * 250], x[:, q * 250 :]) for q in (1, 2, 3)},
    }
    for name, (a, b) in pairs.items():
        for power in (1, 2):  # the squares too: a shared radius would show there
            u, v = a**power, b**power
            u, v = (u - u.mean()).ravel(), (v - v.mean()).ravel()
            bound = 5 * u.std() * v.std() / np.sqrt(u.size)
            if bound > 0:  # the square of a sign is a constant
                assert abs(np.mean(u * v)) < bound + 1e-12, (name, power)


@pytest.mark.parametrize(
    ("family", "axis"), [("normal", 0), ("normal", 1), ("sign", 0), ("uniform", 0)]
)
def test_draws_are_bit_equal_on_any_number_of_devices(family, axis):
    shape = (16, 40)
    spec = PartitionSpec(*[parallel.DATA if i == axis else None for i in (0, 1)])

    def on(count):
        split = NamedSharding(parallel.mesh(jax.devices()[:count]), spec)
        draw = jax.jit(
            lambda k: noise.FAMILIES[family].sample(k, shape), out_shardings=split
        )(random.key(5))
        assert len(draw.sharding.device_set) == count
        return np.asarray(draw)

    reference = on(1)
    for count in (2, 8):
        np.testing.assert_array_equal(on(count), reference)


def test_legacy_and_rbg_keys():
    draw = jax.jit(noise.normal, static_argnums=1)
    typed, legacy = (draw(key(9), (50, 7)) for key in (random.key, random.PRNGKey))
    np.testing.assert_array_equal(legacy, typed)
    rbg = np.asarray(draw(random.key(9, impl="rbg"), (1000, 100)))
    assert abs(rbg.mean()) < 5 / np.sqrt(rbg.size)
    assert abs(rbg.var() - 1) < 5 * np.sqrt(2 / rbg.size)


@pytest.mark.parametrize("family", sorted(noise.FAMILIES))
def test_keys_matter_and_vmap_equals_a_loop(family):
    draw = noise.FAMILIES[family].sample
    keys = random.split(random.key(2), 3)
    one = jax.jit(lambda k: draw(k, (4, 33)))
    together = jax.jit(jax.vmap(one))(keys)
    apart = jnp.stack([one(k) for k in keys])
    np.testing.assert_array_equal(together, apart)
    assert not np.array_equal(apart[0], apart[1])


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 1), (2, 3, 5), (0, 4), (4, 0)])
@pytest.mark.parametrize("family", sorted(noise.FAMILIES))
def test_shapes_and_dtypes(family, shape):
    for dtype in (jnp.float32, jnp.bfloat16):
        draw = jax.eval_shape(
            lambda key, dtype=dtype: noise.FAMILIES[family].sample(key, shape, dtype),
            random.key(0),
        )
        assert (draw.shape, draw.dtype) == (shape, dtype)


def test_rows_do_not_depend_on_how_many_there_are():
    few, many = jax.jit(
        lambda key: [noise.normal(key, (rows, 6, 5)) for rows in (3, 11)]
    )(random.key(4))
    np.testing.assert_array_equal(few, many[:3])


def test_unknown_family_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"'gauss'.*normal.*sign.*uniform"):
        noise.sampler("gauss")
