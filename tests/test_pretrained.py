"""Parameters from elsewhere: checkpoints of all kinds become means."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze
from flax.traverse_util import unflatten_dict
from jax import random

from vnets import edits, layers, pretrained
from vnets.nodes import Gaussian, Point, gaussian, log_alpha, variance


class Net(nn.Module):
    """Two layers and a head."""

    classes: int = 3

    @nn.compact
    def __call__(self, x):
        for name in ("one", "two"):
            x = nn.relu(nn.Dense(4, name=name)(x))
        return nn.Dense(self.classes, name="head")(x)


X = jnp.ones((2, 5), jnp.float32)


def trained(classes=3):
    return Net(classes).init(random.key(0), X)["params"]


def fresh(classes=3, names=("one", "two", "head"), make=None):
    model = layers.stochastic(Net(classes), dict.fromkeys(names, make or gaussian()))
    return model.init(random.key(1), X)["params"]


def assert_means(got, params, names):
    for name in names:
        mean = edits.mean_of(got[name]["kernel"]).mean
        assert mean.dtype == got[name]["bias"].dtype == jnp.float32
        want = np.asarray(params[name]["kernel"], np.float32)
        np.testing.assert_array_equal(mean, want)
        want = np.asarray(params[name]["bias"], np.float32)
        np.testing.assert_array_equal(got[name]["bias"], want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64, np.float32])
@pytest.mark.parametrize("frozen", [False, True])
def test_means_of_every_precision_become_float32(dtype, frozen):
    params = jax.tree.map(lambda x: np.asarray(x + 1).astype(dtype), trained())
    into = fresh()
    got = edits.carry_means(freeze(params) if frozen else params, into)
    assert jax.tree.structure(got) == jax.tree.structure(into)
    assert_means(got, params, params)
    frozen_into = edits.carry_means(params, freeze(into))
    assert jax.tree.structure(frozen_into) == jax.tree.structure(freeze(into))
    starts = pretrained.from_weights(params)
    assert_means(starts, params, params)


@pytest.mark.parametrize("dtype", [np.int8, np.complex64])
def test_what_are_no_real_numbers_is_refused(dtype):
    params = jax.tree.map(lambda x: np.asarray(x).astype(dtype), trained())
    wrong = f"'head/bias' is of {np.dtype(dtype)}, and a weight is a real number"
    with pytest.raises(ValueError, match=wrong):
        edits.carry_means(params, fresh())
    with pytest.raises(ValueError, match=f"kernel' is of {np.dtype(dtype)}"):
        pretrained.from_weights(params)


def test_a_new_head_is_named():
    params, into = trained(), fresh(7)
    wrong = r"'head/kernel' is \(4, 3\) in params and \(4, 7\) in into"
    with pytest.raises(ValueError, match=wrong):
        edits.carry_means(params, into)
    got = edits.carry_means(params, into, new=("head",))
    assert_means(got, params, ("one", "two"))
    for name in ("kernel", "bias"):
        assert got["head"][name] is into["head"][name]


def test_partial_trees_say_what_is_missing_and_what_is_too_much():
    params = trained()
    params["old"] = params.pop("head")
    into = fresh()
    wrong = r"lack \['head/bias', 'head/kernel'\].*no \['old/bias', 'old/kernel'\]"
    with pytest.raises(ValueError, match=wrong):
        edits.carry_means(params, into)
    with pytest.raises(ValueError, match="lack"):
        edits.carry_means(params, into, unused=("old",))
    with pytest.raises(ValueError, match="into has no"):
        edits.carry_means(params, into, new=("h*",))
    got = edits.carry_means(params, into, new=("head",), unused=("old",))
    assert_means(got, params, ("one", "two"))
    alone = edits.carry_means({"one": params["one"]}, into, new=("two", "head"))
    assert_means(alone, params, ("one",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new": ("heads",)}, r"new: nothing is called 'heads' in \['head/bias'"),
        ({"unused": ("old",)}, "unused: nothing is called 'old'"),
    ],
)
def test_names_of_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        edits.carry_means(trained(), fresh(), **options)


def test_a_layer_without_means_is_named():
    into = fresh(names=("two",), make=variance())
    with pytest.raises(ValueError, match="two is a ZeroMean, which has no mean"):
        edits.carry_means(trained(), into)


def test_weights_become_gaussians_in_one_line():
    """Which the model runs as they are, and whose noise is a fraction of them."""
    params = trained()
    start = pretrained.from_weights(params, 0.2, layers=("one", "h*"))
    assert isinstance(start["one"]["kernel"], Gaussian)
    assert not isinstance(start["two"]["kernel"], Point | Gaussian)
    node = start["head"]["kernel"]
    np.testing.assert_allclose(log_alpha(node), 2 * np.log(0.2), rtol=1e-5)
    _, var = node.moments()
    np.testing.assert_allclose(np.sqrt(var), 0.2 * np.abs(node.mean), rtol=1e-4)
    model = layers.stochastic(Net(), {})
    noisy = model.apply({"params": start}, X, rngs={"noise": random.key(0)})
    quiet = model.apply({"params": edits.mean_only(start)}, X)
    expected = Net().apply({"params": params}, X)
    np.testing.assert_allclose(quiet, expected, rtol=1e-5)
    assert np.all(noisy != quiet)
    # Zeros of a trained net learn on: their noise is not zero.
    zeros = pretrained.from_weights({"a": {"kernel": jnp.zeros((2, 2))}})["a"]["kernel"]
    assert np.all(np.isfinite(zeros.log_var))
    assert not np.any(zeros.pruned())


@pytest.mark.parametrize("fraction", [0.0, -1.0, np.nan])
def test_errors_of_from_weights(fraction):
    with pytest.raises(ValueError, match="a fraction of the weights must be positive"):
        pretrained.from_weights(trained(), fraction)
    with pytest.raises(ValueError, match=r"layers: nothing is called 'three' in"):
        pretrained.from_weights(trained(), layers=("three",))


def write_safetensors(path, arrays):
    """The format as it is described: a length, a header of JSON, raw numbers."""
    header, start = {}, 0
    for name, array in arrays.items():
        end = start + array.nbytes
        kind = {"float32": "F32", "bfloat16": "BF16"}[str(array.dtype)]
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header).encode()
    raw = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw)


def read_safetensors(path):
    """What the guide's `safetensors.numpy.load_file` gives, in ten lines."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    kinds = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}
    return {
        name: np.frombuffer(data[slice(*one["data_offsets"])], kinds[one["dtype"]])
        .reshape(one["shape"])
        .copy()
        for name, one in header.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_safetensors_file_of_pytorch_becomes_a_start(tmp_path, dtype):
    """There a layer's `weight` is [O, I], the transpose of a kernel."""
    params = trained()
    arrays = {
        f"{layer}.{'weight' if leaf == 'kernel' else leaf}": np.ascontiguousarray(
            np.asarray(value).T.astype(dtype)
        )
        for layer, leaves in params.items()
        for leaf, value in leaves.items()
    }
    write_safetensors(tmp_path / "net.safetensors", arrays)
    flat = {
        name.replace("weight", "kernel"): value.T
        for name, value in read_safetensors(tmp_path / "net.safetensors").items()
    }
    checkpoint = unflatten_dict(flat, sep=".")
    got = edits.carry_means(checkpoint, fresh(7), new=("head",))
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(dtype), params)
    assert_means(got, rounded, ("one", "two"))


def test_the_package_reads_that_file_alike(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = {"one.kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
    write_safetensors(tmp_path / "net.safetensors", arrays)
    got = safetensors.load_file(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(got["one.kernel"], arrays["one.kernel"])
