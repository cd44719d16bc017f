"""Laws of curves: their ends and bends, what is trained of them, what they predict."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from train_tasks import fit, make_split, make_task

from vnets import curves, edits, nets, nodes, tree
from vnets.curves import between
from vnets.predictor import Member, Predictor
from vnets.rng import stream

X = jnp.ones((2, 4, 4, 1), jnp.float32)


def made(seed, posterior=None):
    """Parameters of a small net, and the net."""
    own = {"dense1": posterior} if posterior else {}
    model = nets.MLP(widths=(3,), classes=2, posteriors=own)
    return model.init(random.key(seed), X)["params"], model


def shifted(params, by):
    return jax.tree.map(lambda a: a + by, params)


def assert_close(one, other, **options):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **options), one, other)


@pytest.mark.parametrize("kind", curves.KINDS)
@pytest.mark.parametrize("posterior", [None, nodes.gaussian(-3.0)])
def test_a_curve_joins_its_ends_whatever_its_control_point(kind, posterior):
    (one, _), (other, _) = made(0, posterior), made(1, posterior)
    curve = between(one, other, kind)
    if curve.control is not None:
        curve = curve.replace(control=shifted(curve.control, 7.0))
    assert_close(curve.at(0.0), one, rtol=0)
    assert_close(curve.at(1.0), other, rtol=0)


@pytest.mark.parametrize("kind", curves.KINDS)
def test_shares_are_none_below_zero_and_add_up_to_one(kind):
    for t in np.linspace(0, 1, 9):
        shares = [float(s) for s in curves.KINDS[kind](t) if s is not None]
        assert min(shares) >= 0
        assert sum(shares) == pytest.approx(1)


def test_every_kind_begins_as_a_line():
    one, other = made(0)[0], made(1)[0]
    for kind in ("polychain", "bezier"):
        curve = between(one, other, kind)
        for t in (0.2, 0.5, 0.9):
            line = between(one, other, "line").at(t)
            assert_close(curve.at(t), line, rtol=1e-5, atol=1e-6)


def test_a_chain_passes_its_bend_in_straight_lines_and_a_bezier_halfway():
    one, other, bend = made(0)[0], made(1)[0], made(2)[0]
    chain = between(one, other).replace(control=bend)
    assert_close(chain.at(0.5), bend, rtol=0)
    assert_close(chain.at(0.125), between(one, bend, "line").at(0.25), atol=1e-6)
    assert_close(chain.at(0.75), between(bend, other, "line").at(0.5), atol=1e-6)
    bezier = between(one, other, "bezier").replace(control=bend)
    halfway = between(bend, between(one, other, "line").at(0.5), "line").at(0.5)
    assert_close(bezier.at(0.5), halfway, atol=1e-6)


def test_what_joins_no_two_nets_is_refused():
    (one, _), (other, _) = made(0), made(1, nodes.gaussian())
    with pytest.raises(ValueError, match="same layers, nodes and shapes"):
        between(one, other)
    wide = nets.MLP(widths=(4,), classes=2).init(random.key(0), X)["params"]
    with pytest.raises(ValueError, match="same layers, nodes and shapes"):
        between(one, wide)
    with pytest.raises(ValueError, match=r"bezier.*line.*polychain"):
        between(one, one, "arc")
    with pytest.raises(ValueError, match="no control point"):
        between(one, one, "line").along(lambda *rest: None)


def test_a_draw_is_a_net_on_the_curve_at_a_uniform_place():
    zero = jax.tree.map(jnp.zeros_like, made(0)[0])
    line = between(zero, shifted(zero, 1.0), "line")
    drawn = jax.vmap(lambda key: curves.draw(line, key))(
        random.split(random.key(0), 4000)
    )
    t = tree.weight(drawn, "dense1").mean[:, 0, 0]
    for leaf in jax.tree.leaves(drawn):  # one place for all weights
        each = leaf.reshape(len(t), -1)
        np.testing.assert_allclose(each, jnp.broadcast_to(t[:, None], each.shape))
    assert abs(float(t.mean()) - 0.5) < 5 * (1 / 12 / 4000) ** 0.5
    assert 0 <= float(t.min()) < 0.01
    assert 0.99 < float(t.max()) < 1


def test_a_predictor_averages_over_nets_on_the_curve():
    one, model = made(0)
    curve = between(one, made(1)[0], "bezier")
    predictor = Predictor(Member(model, {"params": curve}), draw=curves.draw, samples=3)
    key, found = random.key(5), []
    for sample in range(3):
        at = curves.draw(curve, stream(key, "draw", sample))
        found.append(jax.nn.log_softmax(model.apply({"params": at}, X)))
    np.testing.assert_allclose(predictor(X, key), jnp.stack(found), rtol=1e-5)


def test_training_moves_the_control_point_to_a_lower_loss_on_the_curve(one_device):
    task = make_task(make_split())
    ends = [task.init(random.key(seed))[0] for seed in range(2)]
    curve = between(*ends)
    along = dataclasses.replace(
        task,
        init=lambda key: (curve.control, {}),
        loss=curve.along(task.loss),
        locate=None,
    )
    [result] = fit(along, one_device, epochs=12)
    found = curve.replace(control=result.state.params)
    arrays, key = task.source.arrays, random.key(0)
    batch = task.source.batch(arrays, jnp.arange(40), key)

    @jax.jit
    def loss(curve, t):
        net = edits.mean_only(curve.at(t))
        return task.loss(net, result.state.model, batch, key)[0]

    places = np.linspace(0.1, 0.9, 9, dtype=np.float32)
    before, after = (np.mean([loss(c, t) for t in places]) for c in (curve, found))
    assert after < before - 0.1
    assert_close((found.start, found.end), tuple(ends), rtol=0)
