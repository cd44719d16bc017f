"""Laws of vnets.data. No network and no prepared data set is needed.

Files that one brings are those of `test_data_brought`.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from claims import every

from tests.raw_data import (
    TEST,
    Unavailable,
    assert_holds,
    downloads_from,
    flip,
    prepare_fake,
    truncate,
)
from tests.waiting import HANG
from vnets import data
from vnets.data import loading, preparation, records
from vnets.data.files import Files
from vnets.data.splits import stratified
from vnets.data.types import Arrays, split_sum

pytestmark = pytest.mark.usefixtures("places")  # not this machine's own data

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def offline(monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror("offline")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)


def assert_same(left, right):
    np.testing.assert_array_equal(left.inputs, right.inputs)
    np.testing.assert_array_equal(left.target, right.target)


# Digits, which need no network.


def test_digits_are_real_fixed_and_stratified():
    digits = data.load("digits")
    assert (len(digits.train), len(digits.test), digits.classes) == (1437, 360, 10)
    assert digits.validation is None
    for split in (digits.train, digits.test):
        assert split.inputs.shape == (len(split), 28, 28, 1)
        assert (split.inputs.dtype, split.target.dtype) == (np.uint8, np.int32)
        assert split.inputs.max() == 255
    train, test = (np.bincount(s.target) for s in (digits.train, digits.test))
    assert np.abs(test - (train + test) * 360 / 1797).max() < 1
    assert digits.checksum == {
        "train": "0718a849b4325ee8bffd7e77adeaab40f179c2b055a11a8afd1aa835f5edb292",
        "test": "e7fdb3e53da979307c74e6faf722b6c3fc161125c0d24963deb0ee899145b9da",
    }


def test_validation_is_stratified_disjoint_and_fixed():
    whole, parted = data.load("digits"), data.load("digits", validation=300)
    again = data.load("digits", validation=300)
    assert parted.validation is not None
    assert again.validation is not None
    assert (len(parted.train), len(parted.validation)) == (1137, 300)
    counts = np.bincount(whole.train.target)
    held_out = np.bincount(parted.validation.target)
    assert np.abs(held_out - counts * 300 / 1437).max() < 1
    pixels = [x.tobytes() for s in (parted.train, parted.validation) for x in s.inputs]
    assert sorted(pixels) == sorted(x.tobytes() for x in whole.train.inputs)
    assert_same(parted.validation, again.validation)
    assert_same(parted.test, whole.test)
    assert parted.checksum == again.checksum
    assert parted.checksum.keys() == {"train", "validation", "test"}
    assert parted.checksum["test"] == whole.checksum["test"]
    assert parted.checksum["train"] != whole.checksum["train"]


def test_stratified_is_the_same_in_every_version_of_numpy():
    label = np.arange(20) % 3
    assert stratified(label, 6, seed=1).tolist() == [2, 9, 14, 16, 18, 19]
    assert stratified(label, 20, seed=1).tolist() == list(range(20))
    assert stratified(label, 0, seed=1).tolist() == []


@pytest.mark.parametrize("size", [-1, 1437, 10**9])
def test_validation_outside_its_limits_is_refused(size):
    with pytest.raises(data.DataError, match=f"from 0 to 1436 .*not {size}"):
        data.load("digits", validation=size)


def test_validation_is_a_count():
    with pytest.raises(data.DataError, match=r"whole number.*not 0\.1"):
        data.load("digits", validation=0.1)  # pyright: ignore


def test_unknown_names_and_labels_are_refused_with_the_choices():
    with pytest.raises(data.DataError, match=r"'mnits'.*digits, mnist, .*cifar100"):
        data.load("mnits")
    with pytest.raises(data.DataError, match=r"cifar100.*'medium'.*'fine', 'coarse'"):
        data.load("cifar100", labels="medium")
    with pytest.raises(data.DataError, match=r"digits has no labels='fine'.*unset"):
        data.load("digits", labels="fine")
    with pytest.raises(data.DataError, match="'digits' is not to be downloaded"):
        data.prepare("digits")


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        (np.zeros((1, 2, 2, 1), np.uint8), np.int32([3]), r"train split .* 0\.\.2"),
        (np.zeros((1, 2, 2, 1), np.uint8), np.float32([2]), "no whole number"),
        (np.zeros((2, 2, 2, 1), np.uint8), np.int32([2]), "as many as labels"),
        (np.zeros((1, 2, 2, 1), np.float32), np.int32([2]), r"float32 \[1, 2, 2, 1\]"),
        (np.zeros((1, 4), np.uint8), np.int32([2]), r"uint8 \[1, 4\]"),
    ],
)
def test_arrays_of_another_form_are_refused(image, label, words, monkeypatch):
    one = {"image": image, "label": label}
    arrays = {
        f"{split}_{key}": a for split in ("train", "test") for key, a in one.items()
    }
    three = loading.Source(
        lambda *_: Arrays(arrays, "here"), {None: loading.Label("label", 3)}
    )
    monkeypatch.setitem(loading.SOURCES, "three", three)  # pyright: ignore
    with pytest.raises(data.DataError, match=words):
        data.load("three")


# Tables and tokens, which are read, split and summed like pictures.


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("breast_cancer", (30,), 2), ("diabetes", (10,), 0)]
)
def test_tables_are_fixed_splits_of_all_rows(name, shape, classes):
    whole, parted = data.load(name), data.load(name, validation=50)
    assert (whole.classes, whole.train.shape) == (classes, shape)
    assert len(whole.test) == (len(whole.train) + len(whole.test)) // 5
    kind = np.int32 if classes else np.float32
    assert (whole.train.inputs.dtype, whole.train.target.dtype) == (np.float32, kind)
    rows = [x.tobytes() for s in (parted.train, parted.validation) for x in s.inputs]
    assert sorted(rows) == sorted(x.tobytes() for x in whole.train.inputs)
    assert len(set(parted.checksum.values())) == 3
    assert parted.checksum["test"] == whole.checksum["test"]


def test_tokens_with_their_lengths_are_read_from_files(places, monkeypatch):
    """Several arrays as inputs; the sum of a split is that of what it holds."""
    forms = {"tokens": (np.int32, (5,)), "length": (np.int32, ())}
    brought = Files("text", forms | {"label": (np.int32, ())}, "anyhow")
    source = loading.Source(
        brought, {None: loading.Label("label", 2)}, inputs=tuple(forms)
    )
    monkeypatch.setitem(loading.SOURCES, "text", source)  # pyright: ignore
    (places[0] / "text").mkdir(parents=True)
    with pytest.raises(data.DataError, match=r"train\.npz"):
        data.load("text")
    arrays = {
        split: {
            "tokens": np.arange(5 * n).reshape(n, 5),
            "length": np.arange(n) % 5 + 1,
            "label": np.arange(n) % 2,
        }
        for split, n in {"train": 8, "test": 3}.items()
    }
    for split, one in arrays.items():
        np.savez(places[0] / "text" / f"{split}.npz", **one)
    loaded = data.load("text")
    np.testing.assert_array_equal(
        loaded.test.inputs["tokens"], arrays["test"]["tokens"]
    )
    assert (len(loaded.train), loaded.train.inputs["length"].dtype) == (8, np.int32)
    assert loaded.checksum["train"] == split_sum(loaded.train)
    changed = arrays["train"] | {"length": np.full(8, 2)}
    np.savez(places[0] / "text" / "train.npz", **changed)
    again = data.load("text")
    assert again.checksum["train"] != loaded.checksum["train"]
    assert again.checksum["test"] == loaded.checksum["test"]
    np.savez(places[0] / "text" / "train.npz", **changed | {"length": np.zeros(7, int)})
    with pytest.raises(data.DataError, match=r"its lengths are int64 \(7,\)"):
        data.load("text")


@pytest.mark.parametrize("length", [[6], [-1]])
def test_a_length_that_no_sequence_has_is_refused(length):
    assert data.in_length([0, 2, 3], 3).sum(1).tolist() == [0, 2, 3]
    with pytest.raises(data.DataError, match="lengths must be within 0 and 5"):
        data.in_length(length, 5)


def test_old_names_say_the_new_ones():
    split = data.load("digits").test
    for old, new in {"image": "inputs", "label": "target"}.items():
        with pytest.raises(AttributeError, match=f"{old} is called {new}"):
            getattr(split, old)
    with pytest.raises(AttributeError, match="no pixels"):
        _ = split.pixels


# What is not there, and no network.


def test_a_missing_data_set_says_where_it_was_looked_for_and_how_to_get_it(places):
    with pytest.raises(data.DataError) as error:
        data.load("cifar10")
    for part in (
        str(places[0] / "cifar10"),
        str(places[1] / "cifar10"),
        "python scripts/fetch_data.py cifar10",
        "TFDS_DATA_DIR",
        '"digits"',
    ):
        assert part in str(error.value)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", preparation.DOWNLOADABLE)
def test_offline_a_download_fails_at_once(name, places):
    start = time.monotonic()
    with pytest.raises(data.DataError, match="out of reach") as error:
        data.load(name, download=True)
    assert time.monotonic() - start < 100  # retries would take 210
    assert f"fetch_data.py {name}" in str(error.value)
    assert records.locate(name, places[0]) is None


def test_a_name_server_that_never_answers_does_not_hold_up(monkeypatch, offline):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(30))
    monkeypatch.setattr(preparation, "PROBE_SECONDS", 0.2)
    with pytest.raises(data.DataError, match=r"out of reach .TimeoutError"):
        data.prepare("mnist")
    release.set()


def test_a_server_out_of_order_is_named(tmp_path):
    with (
        downloads_from("mnist", tmp_path, Unavailable),
        pytest.raises(data.DataError, match=r"127.0.0.1:.* answers 503"),
    ):
        data.prepare("mnist")


def test_a_failed_download_is_a_data_error(tmp_path, places):
    with (
        downloads_from("cifar10", tmp_path),  # an empty folder: 404
        pytest.raises(data.DataError, match="cifar10: TFDS could not prepare it"),
    ):
        data.prepare("cifar10")
    assert records.locate("cifar10", places[0]) is None


# Through TFDS and back.


def test_what_is_prepared_is_what_is_loaded(mnist, places):
    data_dir, splits = mnist
    first = data.load("mnist", data_dir=data_dir)
    assert_holds(first.train, *splits["train"])
    assert_holds(first.test, *splits["test"])
    assert first.source == "TFDS mnist:3.0.1"
    # Without a TFDS directory (TFDS_DATA_DIR is empty here) the cache is enough.
    second = data.load("mnist")
    assert_same(second.train, first.train)
    assert (second.checksum, second.source) == (first.checksum, first.source)


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist", "cifar10"])
def test_the_other_builders_make_the_same_round(name, tmp_path):
    data_dir, splits = prepare_fake(name, tmp_path)
    loaded = data.load(name, data_dir=data_dir)
    assert_holds(loaded.train, *splits["train"])
    assert_holds(loaded.test, *splits["test"])


def test_cifar100_keeps_both_kinds_of_labels(tmp_path):
    data_dir, splits = prepare_fake("cifar100", tmp_path)
    fine = data.load("cifar100", data_dir=data_dir, validation=100)
    shutil.rmtree(data_dir)
    coarse = data.load("cifar100", labels="coarse", validation=100)
    whole = data.load("cifar100", labels="coarse")
    assert (fine.classes, coarse.classes) == (100, 20)
    assert_holds(fine.test, *splits["test"])
    image, label = splits["train"]
    assert_holds(whole.train, image, label // 5)
    assert fine.validation is not None
    assert coarse.validation is not None
    np.testing.assert_array_equal(fine.validation.inputs, coarse.validation.inputs)
    np.testing.assert_array_equal(fine.validation.target // 5, coarse.validation.target)
    assert fine.checksum["test"] != coarse.checksum["test"]


def test_preparing_leaves_no_stand_in_behind_and_does_nothing_twice(mnist, offline):
    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.image_classification import cifar
    from tensorflow_datasets.image_classification import mnist as builders

    modules = (builders, cifar, extractor)
    before = [vars(module)["tf"] for module in modules]
    with contextlib.suppress(RuntimeError), preparation.tensorflow_stand_ins():
        assert every(module.tf.io.gfile.GFile is open for module in modules)
        raise RuntimeError
    assert [vars(module)["tf"] for module in modules] == before
    assert data.prepare("mnist", mnist[0]) == mnist[0] / "mnist" / "3.0.1"


def test_records_for_tensorflow_are_not_taken(own_mnist):
    for path in own_mnist.glob("*.array_record-*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    info = own_mnist / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(data.DataError, match="not on this machine"):
        data.load("mnist")
    with pytest.raises(data.DataError, match="tfrecord, which only TensorFlow reads"):
        data.load("mnist", download=True)


@pytest.mark.parametrize("damage", [truncate, flip, pathlib.Path.unlink])
def test_a_damaged_record_is_named(damage, own_mnist, places):
    damage(next(own_mnist.glob("*-test.array_record-*")))
    with pytest.raises(data.DataError, match="mnist: the test split") as error:
        data.load("mnist")
    assert str(own_mnist) in str(error.value)
    assert not places[1].exists()


@pytest.mark.parametrize("count", [TEST - 10, TEST + 10])
def test_another_count_than_that_of_tfds_is_an_error(count, own_mnist):
    info = own_mnist / "dataset_info.json"
    info.write_text(info.read_text().replace(f'"{TEST}"', f'"{count}"'))
    with pytest.raises(data.DataError, match=f"{count} examples, .* hold {TEST}"):
        data.load("mnist")


# In processes of their own.


def run_python(*arguments, **environment):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def test_neither_tensorflow_nor_jax_is_imported(own_mnist):
    script = """
import json, sys
from vnets import data
light = {"tensorflow_datasets", "sklearn", "PIL", "requests"} & set(sys.modules)
data.load("digits"); data.load("mnist")
print(json.dumps([sorted(light), sorted({"tensorflow", "jax"} & set(sys.modules))]))
"""
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[], []]


@pytest.mark.parametrize("names", [[], ["mnist", "mnits"], ["digits"]])
def test_fetch_data_refuses_names_it_cannot_fetch(names):
    result = run_python("scripts/fetch_data.py", *names)
    assert result.returncode == 2
    assert ", ".join(data.PREPARABLE) in result.stderr
    assert "Traceback" not in result.stderr


def test_fetch_data_offline_says_so():
    nowhere = "http://127.0.0.1:9"  # the discard port: nothing listens
    proxies = {"http_proxy": nowhere, "https_proxy": nowhere, "no_proxy": ""}
    result = run_python("scripts/fetch_data.py", "cifar10", **proxies)
    assert result.returncode == 1
    assert "cifar10 cannot be downloaded: www.cs.toronto.edu" in result.stderr
    assert "Traceback" not in result.stderr


def test_fetch_data_prints_where_it_is(own_mnist):
    result = run_python("scripts/fetch_data.py", "mnist")
    assert (result.returncode, result.stdout) == (0, f"mnist: {own_mnist}\n")


def test_standard_columns_are_those_of_the_training_split():
    loaded = data.load("breast_cancer")
    made = data.with_standard_columns(loaded)
    x = np.asarray(made.train.inputs, np.float64)
    np.testing.assert_allclose(x.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1.0, rtol=1e-5)
    mean, std = loaded.train.inputs.mean(0), loaded.train.inputs.std(0)
    expected = (loaded.test.inputs - mean) / std
    np.testing.assert_allclose(made.test.inputs, expected, rtol=1e-3, atol=1e-4)
    assert made.checksum["test"] != loaded.checksum["test"]
    still = np.repeat(np.float32(0.1), len(x))[:, None]
    held = dataclasses.replace(
        loaded, train=data.Split(still, loaded.train.target), test=loaded.test.take([0])
    )
    held = dataclasses.replace(held, test=data.Split(still[:1], held.test.target))
    np.testing.assert_array_equal(data.with_standard_columns(held).train.inputs, 0.0)
    with pytest.raises(data.DataError, match="no table"):
        data.with_standard_columns(data.load("digits"))
