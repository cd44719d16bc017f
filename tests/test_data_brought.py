"""Laws of data sets in files that one brings: glyphs, mushrooms, a face, characters."""

import numpy as np
import pytest

from tests.raw_data import assert_holds, flip, random_split, truncate
from vnets import data
from vnets.data import brought, mushroom

pytestmark = pytest.mark.usefixtures("places")  # not this machine's own data


# notMNIST, a test set in a file of arrays.


def write_notmnist(folder, **changes):
    image, label = random_split(3, 30, (28, 28))
    (folder / "notmnist").mkdir(parents=True)
    np.savez(
        folder / "notmnist" / "test.npz", **{"image": image, "label": label} | changes
    )
    return image, label


def test_notmnist_is_a_test_set_only(places):
    image, label = write_notmnist(places[0])
    loaded = data.load("notmnist")
    assert_holds(loaded.test, image[..., None], label)
    assert (len(loaded.train), loaded.validation, loaded.classes) == (0, None, 10)
    assert loaded.train.inputs.shape == (0, 28, 28, 1)
    assert loaded.checksum.keys() == {"test"}
    assert loaded.checksum == data.load("notmnist", data_dir=places[0]).checksum
    with pytest.raises(data.DataError, match="from 0 to 0 for notmnist, not 1"):
        data.load("notmnist", validation=1)


@pytest.mark.parametrize("download", [False, True])
def test_a_missing_notmnist_says_where_it_was_looked_for(download, places):
    with pytest.raises(data.DataError) as error:
        data.load("notmnist", download=download)
    words = (str(places[0] / "notmnist" / "test.npz"), "TFDS_DATA_DIR", "numpy.savez")
    for part in words:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": np.zeros((30, 28, 28), np.float32)}, "images are float32"),
        ({"image": np.zeros((30, 32, 32), np.uint8)}, r"uint8 \(30, 32, 32\)"),
        ({"label": np.zeros(29, np.int64)}, r"labels are int64 \(29,\)"),
        ({"label": np.full(30, 10, np.int64)}, r"label outside 0\.\.9"),
    ],
)
def test_a_notmnist_of_another_form_is_refused(changes, words, places):
    write_notmnist(places[0], **changes)
    with pytest.raises(data.DataError, match=words):
        data.load("notmnist")


def test_a_damaged_notmnist_is_named(places):
    write_notmnist(places[0])
    path = places[0] / "notmnist" / "test.npz"
    for damage in (truncate, flip, lambda path: np.savez(path, pixels=np.zeros(3))):
        write = path.read_bytes()
        damage(path)
        with pytest.raises(data.DataError, match=r"test\.npz is damaged or not what"):
            data.load("notmnist")
        path.write_bytes(write)


# Mushrooms, a face and characters.


def test_mushrooms_are_one_hot_and_of_one_file(places):
    with pytest.raises(data.DataError, match=r"agaricus-lepiota\.data"):
        data.load("mushroom")
    (places[0] / "mushroom").mkdir(parents=True)
    path = places[0] / "mushroom" / "agaricus-lepiota.data"
    path.write_text("e,x,s\np,f,?\n")
    with pytest.raises(data.DataError, match="SHA-256"):
        data.load("mushroom")
    words = np.array([["x", "s"], ["f", "?"], ["x", "?"]])
    table = mushroom.one_hot(words)
    np.testing.assert_array_equal(table, [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 1, 0]])


@pytest.mark.parametrize("name", ["frey", "omniglot"])
def test_pictures_that_one_brings_are_of_one_content(name, places):
    origin = {"frey": brought.FREY, "omniglot": brought.OMNIGLOT}[name]
    file = next(iter(origin.files.values())).name
    with pytest.raises(data.DataError, match=f"(?s){file}.*not downloaded.*numpy.sav"):
        data.load(name)
    (places[0] / name).mkdir(parents=True)
    path = places[0] / name / file
    path.write_bytes(b"no arrays")
    with pytest.raises(data.DataError, match=f"{file} is damaged"):
        data.load(name)
    with path.open("wb") as out:
        frames = np.zeros((1965, 28, 20), np.uint8)
        if name == "frey":
            np.save(out, frames)
        else:
            np.savez(out, bits=frames[:, 0], label=frames[:, 0, 0])
    with pytest.raises(data.DataError, match="does not hold the arrays"):
        data.load(name)


def test_what_is_brought_is_split_and_cut(places, monkeypatch):
    """Every tenth frame, the last 4 of 20 drawings; ink is kept by its blocks."""
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 256, (30, 28, 20), dtype=np.uint8)
    ink = draw.integers(0, 2, (40, 105 * 105), dtype=np.uint8)
    bits, label = np.packbits(ink, axis=1), np.repeat([0, 1], 20).astype(np.int16)
    for name in ("frey", "omniglot"):
        (places[0] / name).mkdir(parents=True)
    np.save(places[0] / "frey" / "frey.npy", frames)
    for one in ("small1", "small2"):
        np.savez(places[0] / "omniglot" / f"{one}.npz", bits=bits, label=label)
    sums = iter([{"frames": frames}, *2 * [{"bits": bits, "label": label}]])
    for origin in (brought.FREY, brought.OMNIGLOT):
        files = {
            key: file._replace(sha256=brought.array_sum(next(sums)))
            for key, file in origin.files.items()
        }
        monkeypatch.setattr(
            brought, origin.folder.upper(), origin._replace(files=files)
        )
    film = data.load("frey")
    np.testing.assert_array_equal(film.test.target, [9, 19, 29])
    np.testing.assert_array_equal(film.test.inputs[..., 0], frames[9::10])
    assert (len(film.train), film.classes) == (27, 0)
    drawn = data.load("omniglot")
    np.testing.assert_array_equal(drawn.test.target, np.repeat([0, 1, 2, 3], 4))
    assert len(drawn.train) == 64
    white = drawn.test.inputs[:4].mean((1, 2, 3)) / 255
    np.testing.assert_allclose(white, ink[16:20].mean(1), atol=2e-3)


def test_blocks_are_means():
    ink = np.random.default_rng(0).integers(0, 2, (3, 6, 6))
    whole = ink.reshape(3, 3, 2, 3, 2).mean((2, 4))
    np.testing.assert_array_equal(brought.in_blocks(ink, 3), np.rint(255 * whole))
    cut = brought.in_blocks(ink, 4).astype(float)  # 1.5 pixels a block
    first = (ink[:, 0, 0] + (ink[:, 0, 1] + ink[:, 1, 0]) / 2 + ink[:, 1, 1] / 4) / 2.25
    np.testing.assert_allclose(cut[:, 0, 0], 255 * first, atol=0.51)
