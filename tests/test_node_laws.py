"""Laws that every node keeps, alone and under edits, priors and projections.

The nodes are those of `node_table.py`. A rule that a node does not have must be refused
by a TypeError that names the node, so each law holds or is refused for each of them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claims import every
from jax import export, random
from node_table import (
    CONV,
    DENSE,
    FACTORIES,
    TOGETHER,
    every_node,
    is_point,
    node,
)
from scipy import stats

from vnets import edits, nodes, projections
from vnets.nodes import Scaled, ZeroMean, is_noisy, log_alpha
from vnets.rng import stream

DRAWS = 20_000
NAMES = sorted(FACTORIES)
NOISY = [name for name in NAMES if is_noisy(node(name))]
PARAMS = every_node()
LOUD = ("structured", "structured-gaussian", "horseshoe")  # have no quieter form
HALF = jnp.arange(DENSE[0])[:, None] % 2 == 0  # the input units that are kept


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def kernels(params):
    return {name: layer["kernel"] for name, layer in params.items()}


def moments(one):
    """Mean and variance as arrays; zeros where there is none."""
    zero = np.zeros(one.shape, np.float32)
    return tuple(zero if m is None else np.asarray(m) for m in one.moments())


def units(one):
    """The noise on the units of a node; itself where there is none."""
    return one.scale if isinstance(one, Scaled) else one


def parts_of(one):
    """A node and those that it is made of."""
    inner = (part for part in vars(one).values() if isinstance(part, nodes.Posterior))
    return [one, *(found for part in inner for found in parts_of(part))]


def held_or_refused(rule, one):
    """What a rule makes of a node; None where it is refused by the node's name."""
    kinds = {type(part).__name__ for part in (one, one.bare, units(one))}
    try:
        return rule(one)
    except TypeError as error:
        if not any(kind in str(error) for kind in kinds):
            raise
        return None


@pytest.mark.parametrize("name", [*NAMES, *TOGETHER])
def test_moments_are_those_of_the_samples(name, assert_moments):
    one = node(name)
    key = random.key(3) if is_noisy(one) else None
    draws = jax.jit(lambda q, k: q.sample(k, (DRAWS,)))(one, key)
    assert draws.shape == (DRAWS, *DENSE)
    assert_moments(draws, *moments(one))


@pytest.mark.parametrize("shape", [DENSE, CONV])
@pytest.mark.parametrize("name", [*NAMES, *TOGETHER])
def test_shapes_types_and_what_is_static(name, shape):
    one = node(name, shape)
    assert one.shape == shape
    for moment in one.moments():
        assert moment is None or moment.shape == shape
    for batch in ((), (6,), (2, 5)):
        drawn = jax.eval_shape(lambda q, k, b=batch: q.sample(k, b), one, random.key(0))
        assert (drawn.shape, drawn.dtype) == ((*batch, *shape), jnp.float32)
    for part in parts_of(one):
        for field in dataclasses.fields(part):
            if field.type in (bool, int, float, str):
                assert type(getattr(part, field.name)) is field.type, field.name
    leaves, treedef = jax.tree.flatten(one)
    assert every(leaf.dtype == jnp.float32 and not leaf.weak_type for leaf in leaves)
    assert jax.tree.structure(jax.tree.unflatten(treedef, leaves)) == treedef
    hash(treedef)


def test_noise_is_what_needs_a_key_and_has_a_variance():
    for name, one in kernels(PARAMS).items():
        mean, var = moments(one)
        assert is_noisy(one) == np.any(var), name
        if not is_noisy(one):
            np.testing.assert_array_equal(one.sample(None, (2,)), np.stack([mean] * 2))


def test_a_stored_function_takes_and_gives_every_node():
    pytest.importorskip("flatbuffers")  # which jax.export writes with

    def function(params):
        means = [edits.mean_of(layer["kernel"]).mean for layer in params.values()]
        return sum(means), params

    exported = export.export(jax.jit(function))(PARAMS)
    stored = exported.serialize()
    assert b"vnets.nodes.Additive" in stored  # and not the module, which may change
    loaded = export.deserialize(stored)
    assert loaded.in_tree == exported.in_tree
    assert_same(loaded.call(PARAMS), jax.jit(function)(PARAMS))


SMALL = {  # every law of one weight or one unit
    **{name: node(name, (1, 1)) for name in NAMES if node(name, (1, 1)).bare.noisy},
    **{f"{n}-scale": node(n, (1, 1)).scale for n in ("structured", "normal-jeffreys")},
    "log-normal": node("horseshoe", (1, 1)).scale.marginal,
}


@pytest.mark.parametrize("name", SMALL)
def test_densities_have_the_moments_that_nodes_say(name):
    one = SMALL[name].bare
    value = jnp.ones(one.shape, jnp.float32)
    if one.noise in ("sign", "binary") or isinstance(one, nodes.AdaptiveDropout):
        with pytest.raises(TypeError, match=f"no density|{type(one).__name__}"):
            one.log_prob(value)
        return
    mean, var = (float(np.squeeze(m)) for m in moments(one))
    low, high = mean - 9 * var**0.5, mean + 9 * var**0.5
    low, high = (
        (max(low, 1e-6), max(high, 30 * var**0.5))
        if one.noise
        not in (
            "normal",
            "uniform",
        )
        else (low, high)
    )
    if one.noise == "truncated log-normal":
        high = 1.0
    grid = np.linspace(low, high, 200_001)
    log_p = jax.vmap(one.log_prob)(
        jnp.asarray(grid, jnp.float32).reshape(-1, *one.shape)
    )
    p = np.exp(np.asarray(log_p, np.float64)).ravel()
    for power, expected in ((0, 1.0), (1, mean), (2, mean**2 + var)):
        found = np.trapezoid(p * grid**power, grid)
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-6), power


def test_pruning_leaves_neither_mean_nor_noise():
    able = 0
    for name, one in kernels(PARAMS).items():
        cut = held_or_refused(lambda q: q.kept(HALF), one)
        assert cut is not None, name
        kept = np.broadcast_to(HALF, DENSE)
        for before, after in zip(moments(one), moments(cut), strict=True):
            np.testing.assert_array_equal(after, np.where(kept, before, 0), name)
        if cut.bare.noisy:
            able += 1
            silent = cut.bare.quieter(0.0)
            assert not any(np.any(m[~kept]) for m in moments(silent)), name
            gone = np.broadcast_to(cut.pruned(), DENSE)
            np.testing.assert_array_equal(gone, ~kept, name)
            np.testing.assert_array_equal(
                np.isposinf(log_alpha(cut)) & kept, np.isposinf(log_alpha(one)) & kept
            )
            draws = np.asarray(edits.draw({"": cut}, random.key(0))[""].mean)
            np.testing.assert_array_equal(draws[~kept], 0)
        else:
            assert not np.any(one.pruned())
    assert able > 10


@pytest.mark.parametrize("name", TOGETHER)
def test_what_varies_together_is_changed_as_a_whole_or_not_at_all(name):
    """Means, scales and pruning have rules; what needs weights apart is refused."""
    one = node(name)
    params = {"a": {"kernel": one}}
    (mean, var), (new, half) = moments(one), moments(one.quieter(0.5))
    np.testing.assert_array_equal(new, mean)
    np.testing.assert_allclose(half, var / 4, rtol=1e-5)
    moved = one.with_mean(mean + 1)
    np.testing.assert_array_equal(moments(moved)[0], mean + 1)
    np.testing.assert_array_equal(moments(moved)[1], var)
    cut = held_or_refused(lambda q: q.kept(HALF), one)
    assert (cut is None) == (name == "matrix-normal")
    if cut is not None:
        kept = np.broadcast_to(HALF, DENSE)
        np.testing.assert_array_equal(cut.pruned(), ~kept)
        np.testing.assert_array_equal(moments(cut)[1], np.where(kept, var, 0))
    silent = edits.mean_only(params)["a"]["kernel"]
    np.testing.assert_array_equal(silent.mean, mean)
    for refused in (edits.zero_mean, edits.permute_variance):
        with pytest.raises(TypeError, match=type(one).__name__):
            refused(params, random.key(0))


def covariance(one, draws):
    """Of all weights of a node, from draws."""
    return np.cov(np.asarray(draws).reshape(len(draws), -1).T)


def test_the_covariance_of_a_matrix_normal_is_a_kronecker_product():
    one = node("matrix-normal")
    draws = jax.jit(lambda q: q.sample(random.key(5), (DRAWS,)))(one)
    rows, cols = (np.asarray(f @ f.T) for f in (one.row_factor, one.col_factor))
    exact = np.kron(rows, cols)
    # The variance of a covariance of normal variables.
    error = np.sqrt((np.outer(*2 * [np.diag(exact)]) + exact**2) / DRAWS)
    assert np.all(np.abs(covariance(one, draws) - exact) <= 5 * error)


def test_the_density_of_a_matrix_normal_is_that_of_all_its_weights():
    one = node("matrix-normal")
    rows, cols = (np.float64(f @ f.T) for f in (one.row_factor, one.col_factor))
    law = stats.multivariate_normal(np.ravel(one.mean), np.kron(rows, cols))
    for seed in range(3):
        w = one.sample(random.key(seed))
        expected = law.logpdf(np.ravel(w))
        assert float(jnp.sum(one.log_prob(w))) == pytest.approx(expected, rel=1e-4)


def test_a_weight_and_its_bias_are_drawn_as_rows_of_one_matrix():
    """Where the tree is drawn as a whole; alone they have no density."""
    whole = node("matrix-normal")
    kernel, bias = (
        nodes.MatrixNormal(
            *(whole.mean[part], whole.row_factor[part], whole.col_factor), group="a"
        )
        for part in (slice(-1), -1)
    )
    bias = bias.replace(row_factor=bias.row_factor[None])
    drawn = edits.draw({"a": {"bias": bias, "kernel": kernel}}, random.key(2))["a"]
    both = jnp.concatenate([drawn["kernel"].mean, drawn["bias"].mean[None]])
    shared = stream(stream(random.key(2), "shared"), "a")
    np.testing.assert_allclose(both, whole.sample(shared), rtol=1e-6, atol=1e-6)
    for refused in (
        lambda: kernel.log_prob(kernel.mean),
        lambda: kernel.kl_from(kernel),
    ):
        with pytest.raises(TypeError, match="shares its noise"):
            refused()


def test_prune_at_infinity_is_the_identity():
    assert_same(edits.prune(float("inf"))(PARAMS), PARAMS)


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_prune_removes_what_is_above_the_threshold(threshold):
    edited = kernels(edits.prune(threshold)(PARAMS))
    partly = 0
    for name, one in kernels(PARAMS).items():
        before, after = one.bare, edited[name].bare
        assert type(after) is type(before)
        gone = np.zeros(DENSE, bool)
        if before.noisy:
            gone = np.asarray(log_alpha(before) > threshold)
        partly += gone.any() and not gone.all()
        for was, now in zip(moments(before), moments(after), strict=True):
            np.testing.assert_array_equal(now, np.where(gone, 0, was))
        if isinstance(one, Scaled):
            assert_same(edited[name].scale, one.scale)
    assert partly >= 2


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 3.0])
def test_scaling_noise_scales_the_variance_alone(factor):
    """Var(f noise) = f^2 Var; where units and weights are noisy, each of the two."""
    scaled = 0
    for name, one in kernels(PARAMS).items():
        new = held_or_refused(lambda q: q.quieter(factor), one)
        if new is None:
            assert name in LOUD
            continue
        pairs = [(one, new)]
        if isinstance(one, Scaled):
            pairs = [(one.scale, new.scale), (one.weight, new.weight)]
        for before, after in pairs:
            if isinstance(before, Scaled):
                continue
            (mean, var), (new_mean, new_var) = moments(before), moments(after)
            np.testing.assert_allclose(new_mean, mean, rtol=1e-6, err_msg=name)
            np.testing.assert_allclose(new_var, var * factor**2, rtol=1e-5)
            assert after.noise == before.noise
            scaled += 1
    assert scaled > 20


def test_without_noise_left_a_sample_is_the_mean():
    names = [
        n for n in NAMES if n not in ("structured", "structured-gaussian", "horseshoe")
    ]
    silent = edits.scale_noise(0.0)(every_node(names))
    means = kernels(edits.mean_only(every_node(names)))
    for name, one in kernels(edits.draw(silent, random.key(0))).items():
        # Where there is no noise at all `draw` has nothing to do.
        value = one.sample(None) if not is_noisy(one) else one.mean
        np.testing.assert_array_equal(value, moments(means[name])[0], err_msg=name)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_multiple_has_the_same_log_alpha(factor):
    for one in kernels(PARAMS).values():
        for part in (units(one), one.bare):
            new = held_or_refused(lambda q: q.times(jnp.float32(factor)), part)
            if new is None:
                assert type(part).__name__ in (
                    *("Dropout", "AdaptiveDropout", "AdaptiveBinaryDropout"),
                    *("TruncatedLogNormal", "Scaled"),
                )
                continue
            (mean, var), (new_mean, new_var) = moments(part), moments(new)
            np.testing.assert_allclose(new_mean, factor * mean, rtol=1e-5)
            np.testing.assert_allclose(new_var, factor**2 * var, rtol=1e-5)
            np.testing.assert_allclose(log_alpha(new), log_alpha(part), atol=1e-4)


def test_mean_only_ignores_the_key_and_silences_every_noise():
    quiet = edits.mean_only(PARAMS)
    assert_same(quiet, edits.mean_only(PARAMS, random.key(1)))
    for name, one in kernels(quiet).items():
        assert not is_noisy(one)
        np.testing.assert_array_equal(moments(one)[0], moments(node(name))[0])
        assert_same(quiet[name]["bias"], PARAMS[name]["bias"])


def test_zero_mean_keeps_variances_and_permuting_their_multiset():
    zero = kernels(edits.zero_mean(PARAMS))
    mixed = kernels(edits.permute_variance(PARAMS, random.key(3)))
    moved = 0
    for name, one in kernels(PARAMS).items():
        before = one.bare
        if not before.noisy:
            assert_same((zero[name], mixed[name]), (one, one))
            continue
        mean, var = moments(before)
        assert isinstance(zero[name].bare, ZeroMean)
        assert zero[name].bare.noise == mixed[name].bare.noise == before.noise
        np.testing.assert_allclose(moments(zero[name].bare)[1], var, rtol=1e-6)
        new_mean, new_var = moments(mixed[name].bare)
        np.testing.assert_array_equal(new_mean, mean)
        # Through exp and log: log variances are about -10, so 10 float32 roundings.
        np.testing.assert_allclose(np.sort(new_var.ravel()), np.sort(var.ravel()), 1e-5)
        moved += not np.allclose(new_var, var, rtol=1e-4)
    assert moved == sum(one.bare.noisy for one in kernels(PARAMS).values())


def test_draws_are_points_of_the_nodes_law_for_each_layer_alone(assert_moments):
    keys = random.split(random.key(0), 4000)
    drawn = jax.jit(jax.vmap(edits.draw, in_axes=(None, 0)))(PARAMS, keys)
    for name in NOISY:
        assert is_point(drawn[name]["kernel"])
        assert_moments(drawn[name]["kernel"].mean, *moments(node(name)))
    one = edits.draw(every_node(["variance-normal"]), random.key(4))
    both = edits.draw(PARAMS, random.key(4))
    assert_same(one["variance-normal"], both["variance-normal"])


def test_balanced_weights_are_the_same():
    for name, one in kernels(PARAMS).items():
        new = one.balanced()
        if name in ("structured", "structured-gaussian") or not isinstance(one, Scaled):
            assert_same(new, one)
        for before, after in zip(moments(one), moments(new), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-6)


def test_means_are_carried_into_every_node_that_has_one():
    mean = random.normal(random.key(9), DENSE)
    for one in kernels(PARAMS).values():
        trees = {"a": {"kernel": mean}}, {"a": {"kernel": one}}
        if not one.bare.has_mean:
            with pytest.raises(ValueError, match="ZeroMean"):
                edits.carry_means(*trees)
            continue
        new = edits.carry_means(*trees)
        again = edits.carry_means({"a": {"kernel": moments(one.bare)[0]}}, new)
        assert_same(again["a"]["kernel"], one)  # whose noise has stayed
        np.testing.assert_array_equal(moments(new["a"]["kernel"].bare)[0], mean)


def test_clips_move_log_alpha_only_and_once():
    clip = projections.clip_log_alpha(-0.5, 0.25, additive=True)
    once = clip(PARAMS)
    twice = clip(once)
    for name, one in kernels(once).items():
        np.testing.assert_array_equal(moments(one)[0], moments(node(name))[0])
        if one.bare.noisy and one.bare.has_mean:
            held = np.asarray(log_alpha(one))
            expected = np.clip(log_alpha(node(name)), -0.5, 0.25)
            np.testing.assert_allclose(held, expected, rtol=1e-5, atol=1e-5)
        for a, b in zip(
            *(jax.tree.leaves(t[name]) for t in (once, twice)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_node_says_what_it_is():
    """By the name of its row; a table and a loss for units go by it."""
    for name, one in [*kernels(PARAMS).items(), *((n, node(n)) for n in TOGETHER)]:
        first, *others = parts_of(one)
        words = [
            "Gaussian"
            if isinstance(part, nodes.Additive) and part.noise == "normal"
            else type(part).__name__
            for part in (others or [first])
            if not isinstance(part, Scaled | nodes.LogNormal)
        ]
        assert one.kind == " x ".join(words), name
        drops = name.split("-")[0] in ("dropout", "adaptive", "nested")
        assert one.dropout_of is (one.weight if drops else None), name
        learned = name.startswith("adaptive")
        assert one.learned_dropout is (one.scale if learned else None), name
        around = name.startswith(("gaussian", "alpha"))
        assert one.plain == (around or name == "point"), name
        units = isinstance(one, Scaled) and not name.startswith(("dropout", "nested"))
        assert one.has_units == (around or units), name
        assert one.bare.has_mean == (moments(one.bare)[0].any() or name == "point")
    for name in ("dropout-binary", "adaptive-binary"):
        var = moments(node(name).scale)[1]
        np.testing.assert_allclose(node(name).scale.drop_rate, var / (1 + var), 1e-5)
    assert node("adaptive-unit").scale.drop_rate is None


def test_log_variances_and_log_alphas_are_those_of_the_moments():
    noisy = 0
    for one in (*kernels(PARAMS).values(), *map(node, TOGETHER)):
        if not (one.bare.noisy and hasattr(one.bare, "log_variance")):
            continue
        noisy += 1
        mean, var = moments(one.bare)
        np.testing.assert_allclose(one.bare.log_variance(), np.log(var), rtol=1e-4)
        with np.errstate(divide="ignore"):
            ratio = np.log(var / np.square(mean))
        np.testing.assert_allclose(log_alpha(one), ratio, rtol=1e-3, atol=1e-3)
    assert noisy > 15


def test_a_sum_over_log_alphas_counts_every_weight():
    """Of noise on units with a KL of weights, each unit as often as it has weights."""

    def small(log_alpha):
        return jnp.exp(-jnp.abs(log_alpha))

    for name, one in kernels(PARAMS).items():
        for part in (units(one), one.bare):
            found = held_or_refused(lambda q: q.sum_over(small), part)
            if found is None:
                assert part.fixed or name in LOUD, name
                continue
            each = float(jnp.sum(small(log_alpha(part))))
            expected = each * getattr(part, "weights", 1)
            assert float(found) == pytest.approx(expected, rel=1e-5), name


def test_a_node_of_shapes_has_the_shape_of_its_weight():
    for one in (*kernels(PARAMS).values(), *map(node, TOGETHER)):
        shapes = jax.eval_shape(lambda held=one: held)
        assert shapes.shape == one.shape == np.shape(one.sample(random.key(0)))


def test_a_weight_of_mean_zero_is_not_pruned():
    for one in (*kernels(PARAMS).values(), *map(node, TOGETHER)):
        if one.bare.has_mean:
            zero = one.bare.with_mean(jnp.zeros(DENSE, jnp.float32))
            assert not np.any(zero.pruned())
            assert not np.any(np.isnan(log_alpha(zero)))


def test_masked_weights_are_off_where_they_are_cut_or_zero():
    one = node("masked")
    cut = one.kept(HALF)
    kept = np.broadcast_to(HALF, DENSE)
    np.testing.assert_array_equal(cut.mask, kept)
    np.testing.assert_array_equal(cut.mean, np.where(kept, one.mean, 0))
    mean = jnp.zeros(DENSE).at[0, 0].set(1.0).at[1, 1].set(-2.0)
    np.testing.assert_array_equal(one.with_mean(mean).mask, mean != 0)
    for revivable in (False, True):
        again = cut.replace(revivable=revivable)
        slope = jax.grad(lambda q: jnp.sum(q.sample(None)))(again).mean
        np.testing.assert_array_equal(slope, kept | revivable)
    off = cut.change_mask(lambda q: 0 * q.mask)
    assert not np.any(off.mask)
    other = node("alpha-layer")
    assert other.change_mask(len) is other
    # Noise on their units prunes none: zeros of theirs may come back.
    under = node("structured").replace(weight=cut)
    assert not np.any(under.pruned())
    assert np.any(node("structured").kept(HALF).pruned())


def test_every_node_has_a_row():
    kinds = [nodes.Posterior]
    for kind in kinds:
        kinds += kind.__subclasses__()
    ours = {
        kind
        for kind in kinds
        if kind.__module__.startswith("vnets.") and dataclasses.is_dataclass(kind)
    }
    every_one = (*kernels(PARAMS).values(), *map(node, TOGETHER))
    seen = {type(part) for one in every_one for part in parts_of(one)}
    assert ours - seen == {nodes.Drawn}  # stands in a net for one step only
