"""Laws of streamed data: cuts, order, shares of hosts, resuming, errors."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from claims import every
from jax import random
from PIL import Image

from tests.waiting import HANG
from vnets import data, evaluate, extras, objectives, parallel, sources, train
from vnets.data import pictures, records, shapes, streams
from vnets.evaluate import EvalSpec
from vnets.nets import MLP
from vnets.priors import log_uniform

BATCH, SIZE = 16, 8


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS directory with generated_shapes, not to be changed."""
    folder = tmp_path_factory.mktemp("shapes")
    data.prepare("generated_shapes", folder)
    return folder


@pytest.fixture(scope="module")
def dataset(prepared):
    return data.load("generated_shapes", data_dir=prepared, image_size=SIZE)


def trained(split, epoch=0, rows=slice(None), first=0, seed=7):
    return list(split.training_batches(BATCH, seed, epoch, rows, first))


@pytest.fixture(scope="module")
def whole(dataset):
    """The first epoch of seed 7, on one host."""
    return trained(dataset.train)


def assert_same(batches, others):
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_files_have_the_features_of_imagenet(prepared, dataset, tmp_path):
    """Those of TFDS's own builder, but for the number of classes."""
    import tensorflow_datasets as tfds

    folder = records.locate("generated_shapes", prepared)
    held = json.loads((folder / "features.json").read_text())
    official = tfds.builder("imagenet2012", data_dir=prepared).info.features
    official.save_config(tmp_path)
    wanted = json.loads((tmp_path / "features.json").read_text())
    wanted["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "8"
    assert held == wanted
    info = json.loads((folder / "dataset_info.json").read_text())
    assert {split["name"] for split in info["splits"]} == {"train", "validation"}
    assert (len(dataset.train), len(dataset.test)) == tuple(shapes.COUNTS.values())
    assert dataset.classes == len(shapes.CLASSES) == 8
    assert dataset.train.shape == (SIZE, SIZE, 3)
    assert dataset.checksum["train"] != dataset.checksum["test"]
    assert data.prepare("generated_shapes", prepared) == folder  # not again


def test_generated_pictures_are_a_function_of_their_number():
    sizes = set()
    for number in range(8):
        encoded, label = shapes.picture("train", number)
        assert shapes.picture("train", number) == (encoded, label)
        assert label == number
        sizes.add(Image.open(io.BytesIO(encoded)).size)
    assert len(sizes) > 4
    low, high = shapes.EDGES
    assert every(low <= edge <= high for size in sizes for edge in size)
    assert shapes.picture("validation", 0) != shapes.picture("train", 0)


def test_cuts_stay_inside_and_have_the_area_and_shape_that_is_said():
    areas, fallen_back = [], 0
    for number in range(300):
        draws = pictures.uniform(1, 2, number)
        assert ((draws >= 0) & (draws < 1)).all()
        left, upper, right, lower = box = pictures.random_box(300, 200, draws[:-1])
        if box == pictures.centre_box(300, 200):
            fallen_back += 1
            continue
        assert 0 <= left < right <= 300
        assert 0 <= upper < lower <= 200
        ratio = (right - left) / (lower - upper)
        assert 3 / 4 * 0.97 <= ratio <= 4 / 3 * 1.03  # edges are whole pixels
        areas.append((right - left) * (lower - upper) / 60_000)
    assert fallen_back < 3
    assert 0.07 < min(areas) < 0.12
    assert 0.7 < max(areas) <= 1
    # Nothing of these shapes fits into a strip: the centre.
    strip = pictures.random_box(400, 10, np.full(40, 0.99))
    assert strip == pictures.centre_box(400, 10)
    assert pictures.centre_box(256, 512) == (16.0, 144.0, 240.0, 368.0)


def test_half_of_the_cuts_are_mirrored():
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None], (50, 1, 3))
    picture = Image.fromarray(ramp)
    mirrored = 0
    for number in range(200):
        image = pictures.random_cut(picture, SIZE, pictures.uniform(0, 0, number))
        assert (image.shape, image.dtype) == ((SIZE, SIZE, 3), np.uint8)
        mirrored += int(image[0, 0, 0]) > int(image[0, -1, 0])
    assert abs(mirrored - 100) < 5 * np.sqrt(50)  # standard errors
    for mode in ("L", "CMYK"):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, "JPEG")
        assert pictures.decode(buffer.getvalue()).mode == "RGB"


def test_the_order_is_a_function_of_seed_and_epoch(dataset, whole):
    assert len(whole) == 320 // BATCH
    assert whole[0]["image"].dtype == np.uint8
    assert whole[0]["label"].dtype == np.int32
    labels = np.concatenate([batch["label"] for batch in whole])
    assert np.bincount(labels).tolist() == [40] * 8  # each picture once
    assert_same(trained(pickle.loads(pickle.dumps(dataset.train))), whole)
    for other in (trained(dataset.train, epoch=1), trained(dataset.train, seed=8)):
        assert len(other) == len(whole)
        assert any((other[i]["label"] != whole[i]["label"]).any() for i in range(9))


def test_shares_of_hosts_are_disjoint_and_complete(dataset, whole):
    halves = [trained(dataset.train, rows=slice(a, a + 8)) for a in (0, 8)]
    joined = [
        jax.tree.map(lambda *parts: np.concatenate(parts), *pair)
        for pair in zip(*halves, strict=True)
    ]
    assert_same(joined, whole)


def test_a_resumed_epoch_has_the_same_batches(dataset, whole):
    assert_same(trained(dataset.train, first=13), whole[13:])
    source = sources.Pictures(dataset.train, BATCH)
    key = random.key(3)
    chunks = list(source.chunks(key, 2, 5))
    assert len(chunks) == 4
    assert chunks[0]["image"].shape == (5, BATCH, SIZE, SIZE, 3)
    [last] = source.chunks(key, 2, 5, slice(0, 4), 15)
    jax.tree.map(
        np.testing.assert_array_equal, last, jax.tree.map(lambda x: x[:, :4], chunks[3])
    )


@pytest.mark.slow
def test_processes_make_the_same_batches_as_threads(prepared, whole):
    """Outside of an absl program, too, where nothing has parsed Grain's flags."""
    code = f"""
import numpy as np
from vnets import data
if __name__ == "__main__":
    split = data.load(
        "generated_shapes", data_dir={str(prepared)!r}, image_size={SIZE}
    ).train
    batches = list(split.training_batches({BATCH}, 7, 0, slice(None)))
    np.savez({str(prepared / "made.npz")!r}, *(batch["image"] for batch in batches))
"""
    script = prepared / "make.py"
    script.write_text(code)
    env = {**os.environ, "VNETS_DATA_WORKERS": "2"}
    subprocess.run([sys.executable, script], env=env, check=True, timeout=HANG)
    made = np.load(prepared / "made.npz")
    for number, batch in enumerate(whole):
        np.testing.assert_array_equal(made[f"arr_{number}"], batch["image"])


def test_a_stream_is_evaluated_as_the_same_images_in_memory(dataset):
    """In batches that neither divide the split nor the devices, on one and on many."""
    test = dataset.test
    batches = list(test.test_batches(40))
    assert [int(batch["inside"].sum()) for batch in batches] == [40, 40, 16]
    image = np.concatenate([batch["image"] for batch in batches])[:96]
    label = np.concatenate([batch["label"] for batch in batches])[:96]
    assert np.bincount(label).tolist() == [12] * 8
    some = test.take(np.asarray([95, 0, 40]))
    np.testing.assert_array_equal(some.image, image[[95, 0, 40]])
    np.testing.assert_array_equal(some.label, label[[95, 0, 40]])
    assert test.take(np.asarray([], int)).image.shape == (0, *test.shape)
    with pytest.raises(IndexError, match=r"96 pictures, none at \[-1, 96\]"):
        test.take(np.asarray([0, -1, 96]))
    net = MLP((4,), 8)
    variables = jax.jit(net.init)(random.key(0), jnp.zeros((1, *test.shape)))
    split, spec = data.Split(image, label), EvalSpec()
    expected = evaluate.evaluate(net, variables, split, spec, random.key(1), 40)
    for on in (parallel.mesh(jax.devices()[:1]), parallel.mesh()):
        got = evaluate.evaluate(net, variables, test, spec, random.key(1), 36, mesh=on)
        assert got == pytest.approx(expected, rel=1e-5)


def test_a_stopped_run_goes_on_as_if_it_had_not(dataset, one_device, tmp_path):
    """Inside an epoch, to the bit; what was behind it is not read again."""
    net = MLP((4,), 8)
    example = jnp.zeros((1, SIZE, SIZE, 3), jnp.float32)

    def task(source):
        return train.Task(
            init=train.initializer(net, example),
            loss=objectives.classification_loss(net, log_uniform, source.n),
            optimizer=optax.sgd(0.1),
            source=source,
        )

    def fit(source, **options):
        options |= {"mesh": one_device, "chunk_steps": 5, "show_progress": False}
        [result] = train.fit(task(source), epochs=2, seeds=[0], **options)
        return result.state.params

    asked = []

    def stop():
        asked.append(len(asked))
        return len(asked) > 2

    source = sources.Pictures(dataset.train, BATCH)
    with pytest.raises(train.Preempted, match="in epoch 1 after"):
        fit(source, workdir=lambda seed: tmp_path, stop=stop)
    first = []
    read = source._batches
    source._batches = lambda *which: first.append(which[1::2]) or read(*which)
    resumed = fit(source, workdir=lambda seed: tmp_path)
    assert [start for epoch, start in first if epoch == 0 and start]
    whole = fit(sources.Pictures(dataset.train, BATCH))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_what_is_missing_or_wrong_is_said(prepared, monkeypatch, tmp_path):
    with pytest.raises(data.DataError, match=r"image-net.org.*tfds build imagenet2012"):
        data.load("imagenet2012", data_dir=tmp_path, download=True)
    with pytest.raises(data.DataError, match=r"fetch_data.py generated_shapes"):
        data.load("generated_shapes", data_dir=tmp_path)
    for options in ({"labels": "fine"}, {"validation": 10}):
        with pytest.raises(data.DataError, match="leave both unset"):
            data.load("generated_shapes", data_dir=prepared, **options)
    with pytest.raises(data.DataError, match="image_size must be at least 1"):
        data.load("generated_shapes", data_dir=prepared, image_size=0)
    with pytest.raises(data.DataError, match="leave image_size unset"):
        data.load("digits", image_size=32)
    split = data.load("generated_shapes", data_dir=prepared, image_size=4).train
    with pytest.raises(ValueError, match="between 1 and 320, not 321"):
        sources.Pictures(split, 321)
    monkeypatch.setenv(streams.WORKERS, "two")
    with pytest.raises(data.DataError, match="VNETS_DATA_WORKERS must be"):
        next(split.test_batches(4))
    monkeypatch.setitem(sys.modules, "grain", None)  # as where it is not installed
    with pytest.raises(extras.MissingExtra, match=r"vnets\[imagenet\]"):
        data.load("generated_shapes", data_dir=prepared)


def test_damaged_records_name_the_picture_and_the_folder(prepared, tmp_path):
    broken = tmp_path / "generated_shapes"
    shutil.copytree(prepared / "generated_shapes", broken)
    split = data.load("generated_shapes", data_dir=tmp_path, image_size=4).test
    path = next(broken.glob("*/*-validation.array_record-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"picture \d+ of the validation split"):
        list(split.test_batches(8))
    path.unlink()
    with pytest.raises(data.DataError, match="prepare it again"):
        data.load("generated_shapes", data_dir=tmp_path)
