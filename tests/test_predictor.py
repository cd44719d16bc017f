"""Laws of the one way to predict: members, stacks, draws, edits, chunks, inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import random

from vnets import edits, layers
from vnets.data import Split, in_length
from vnets.evaluate import score
from vnets.likelihoods import Categorical, Gaussian
from vnets.nets import MLP
from vnets.nodes import gaussian
from vnets.predictor import Member, Predictor, Stack, as_is
from vnets.rng import stream

NET = MLP((5,), 3, posteriors={"dense2": gaussian(-2.0)})
X = random.normal(random.key(1), (6, 4), jnp.float32)
KEY = random.key(3)


def variables(seed):
    rngs = {"params": random.key(seed), "noise": random.key(0)}
    return jax.jit(NET.init)(rngs, X)


MEMBERS = [Member(NET, variables(seed)) for seed in range(3)]
STACK = Stack(
    NET, jax.tree.map(lambda *a: jnp.stack(a), *[m.variables for m in MEMBERS])
)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def alone(member, number, **how):
    """What a member of an ensemble predicts, by itself."""
    return Predictor(member, **how)(X, stream(KEY, "member", number))


def test_an_ensemble_is_the_mean_of_its_members_predicted_alone():
    """Whoever else is in it; the draws of the first come first."""
    draws = Predictor(MEMBERS[:2], samples=3)(X, KEY)
    each = [alone(member, i, samples=3) for i, member in enumerate(MEMBERS[:2])]
    np.testing.assert_array_equal(draws, jnp.concatenate(each))
    assert len({np.asarray(draw).tobytes() for draw in draws}) == 6
    both = Predictor(MEMBERS[:2], samples=3).log_mean(X, KEY)
    close(jnp.exp(both), jnp.exp(draws).mean(0))
    more = Predictor(MEMBERS, samples=3)(X, KEY)
    np.testing.assert_array_equal(more[:6], draws)


@pytest.mark.parametrize("edit", [edits.mean_only, edits.draw, edits.zero_mean])
@pytest.mark.parametrize("at_once", [None, 2])
def test_a_stack_is_a_list_of_its_members(edit, at_once):
    how = {"edit": edit, "samples": 3, "at_once": at_once}
    listed = Predictor([MEMBERS[0], *MEMBERS], **how)
    stacked = Predictor([MEMBERS[0], STACK], **how)
    assert len(listed) == len(stacked) == 12
    for ask in (Predictor.__call__, Predictor.log_mean):
        close(ask(stacked, X, KEY), ask(listed, X, KEY))
    close(Predictor(STACK, **how)(X, KEY), Predictor(MEMBERS, **how)(X, KEY))


@pytest.mark.parametrize("draw", [None, edits.draw])
@pytest.mark.parametrize("at_once", [1, 3])  # of 7: a last chunk is not full
def test_draws_in_chunks_are_those_at_once(draw, at_once):
    whole, parts = (
        Predictor(MEMBERS[:2], draw=draw, samples=7, at_once=n) for n in (None, at_once)
    )
    close(parts(X, KEY), whole(X, KEY))
    close(parts.log_mean(X, KEY), jax.nn.logsumexp(whole(X, KEY), 0) - np.log(14))
    logs, values = parts.means(X, KEY, lambda y: ({"p": y}, (y, y * y)))
    close(logs["p"], parts.log_mean(X, KEY))
    close(values[1], (whole(X, KEY) ** 2).mean(0))


def test_an_edit_is_made_once_and_a_draw_for_each_sample():
    """Drawn weights are the same for all inputs; LRT's noise is each input's own."""
    twice = jnp.concatenate([X[:1], X[:1]])
    once = np.asarray(Predictor(MEMBERS[0], edits.draw, samples=4)(twice, KEY))
    assert np.all(once == once[0, 0])
    each = np.asarray(Predictor(MEMBERS[0], draw=edits.draw, samples=4)(twice, KEY))
    np.testing.assert_array_equal(each[:, 0], each[:, 1])
    assert len(np.unique(each[:, 0, 0])) == 4
    own = np.asarray(Predictor(MEMBERS[0], samples=4)(twice, KEY))
    assert len(np.unique(own[..., 0])) == 8


def test_a_predictor_edited_before_is_one_edited_now():
    for nets in (MEMBERS[0], MEMBERS, STACK):
        before = Predictor(nets, edits.draw, samples=2).edited(KEY)
        now = Predictor(nets, edits.draw, samples=2)
        close(before(X, KEY), now(X, KEY))


def test_other_arrays_compile_nothing_new():
    traced = []

    @jax.jit
    def run(nets, x, key):
        traced.append(nets)
        return nets(x, key)

    for member in MEMBERS:
        run(Predictor([member], edits.scale_noise(0.5)).edited(KEY), X, KEY)
    assert len(traced) == 1


def test_what_cannot_predict_is_refused():
    with pytest.raises(ValueError, match="at least one net"):
        Predictor([])
    for name in ("samples", "at_once"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
            Predictor(MEMBERS, **{name: 0})
    with pytest.raises(ValueError, match="takes no mode"):
        Member(nn.Dense(3), {})
    with pytest.raises(ValueError, match=r"\[B, H, W, C\] are mirrored"):
        Predictor(MEMBERS, mirrored=True)(X, KEY)


class Bag(nn.Module):
    """The class of a sequence, from the words within its length."""

    @nn.compact
    def __call__(self, x):
        words = nn.Embed(7, 4, name="words")(x["tokens"])
        inside = jnp.arange(words.shape[1])[None] < x["length"][:, None]
        mean = (words * inside[..., None]).sum(1) / x["length"][:, None]
        return nn.Dense(3, name="last")(mean)


def sequences(padding):
    rng = np.random.default_rng(0)
    length = rng.integers(1, 6, 11)
    tokens = np.where(in_length(length, 6), rng.integers(0, 7, (11, 6)), padding)
    return Split({"tokens": tokens, "length": length}, rng.integers(0, 3, 11))


def test_sequences_of_any_length_are_inputs_like_others(one_device):
    """A dict of tokens and lengths; what is behind a sequence's end changes nothing."""
    net = layers.stochastic(Bag(), {"last": gaussian(-2.0)})
    first = sequences(0)
    learned = jax.jit(net.init)(random.key(0), first.inputs)
    nets = Predictor([Member(net, learned)] * 2, samples=2)
    draws = [nets(split.inputs, KEY) for split in (first, sequences(6))]
    assert draws[0].shape == (4, 11, 3)
    np.testing.assert_array_equal(*draws)
    how = {"batch_size": 4, "prepare": as_is, "mesh": one_device}
    found = [score(nets, split, KEY, **how) for split in (first, sequences(6))]
    assert found[0] == found[1]
    assert found[0]["samples"] == 4
    part = first.take(np.asarray([3, 1]))
    np.testing.assert_array_equal(part.inputs["tokens"], first.inputs["tokens"][[3, 1]])
    assert len(part) == 2


@pytest.mark.parametrize("batch_size", [2, 6])
def test_what_has_no_target_is_explained_itself(batch_size, one_device):
    net = MLP((5,), 4)
    member = Member(net, jax.jit(net.init)(random.key(0), X))
    found = score(
        *(Predictor(member, link=as_is), Split(np.asarray(X)), KEY, Gaussian(0.5)),
        **{"batch_size": batch_size, "prepare": as_is, "mesh": one_device},
    )
    errors = np.asarray(net.apply(member.variables, X) - X, np.float64)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)
    each = (errors / 0.5) ** 2 / 2 + np.log(0.5 * np.sqrt(2 * np.pi))
    assert found["nll"] == pytest.approx(each.sum(1).mean(), rel=1e-5)
    assert found["expected_log_p"] == pytest.approx(-each.sum(), rel=1e-5)


def test_soft_targets_of_a_teacher_are_scored(one_device):
    """A student is nearest to its teacher where it is the teacher."""
    teacher = Predictor(MEMBERS, samples=4)
    target = np.exp(np.asarray(teacher.log_mean(X, KEY)))
    split = Split(np.asarray(X), target)
    how = {"prepare": as_is, "mesh": one_device}
    soft = Categorical(soft=True)
    own = score(teacher, split, stream(KEY), soft, **how)
    entropy = -(target * np.log(target)).sum(1).mean()
    assert own["nll"] >= entropy - 1e-6
    for member in MEMBERS:
        assert score(Predictor(member), split, KEY, soft, **how)["nll"] > entropy
    with pytest.raises(ValueError, match="targets are float32; classes are integers"):
        score(teacher, split, KEY, **how)
