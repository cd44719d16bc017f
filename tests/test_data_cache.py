"""Laws of the cache of decoded pixels: it is whole, and says where it is from."""

import concurrent.futures
import json
import os
import shutil
import time

import numpy as np
import pytest

from tests.raw_data import TRAIN, assert_holds, flip, flip_first, prepare_fake, truncate
from vnets import data
from vnets.data import cache
from vnets.data.types import Arrays

pytestmark = pytest.mark.usefixtures("places")  # not this machine's own data


@pytest.mark.parametrize("name", ["train_image.npy", "test_label.npy", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip, flip_first])
def test_a_damaged_cache_is_named_and_can_be_made_again(
    damage, name, own_mnist, places
):
    before = data.load("mnist")
    (folder,) = (places[1] / "mnist").iterdir()
    damage(folder / name)
    with pytest.raises(data.DataError, match="Delete the folder") as error:
        data.load("mnist")
    assert str(folder / name) in str(error.value)
    shutil.rmtree(folder)
    assert data.load("mnist").checksum == before.checksum


def test_a_file_missing_from_the_cache_is_named(own_mnist, places):
    data.load("mnist")
    (path,) = places[1].rglob("train_image.npy")
    path.unlink()
    with pytest.raises(data.DataError, match=r"train_image.npy is damaged"):
        data.load("mnist")


def test_a_cache_serves_the_directory_it_was_decoded_from_only(mnist, tmp_path):
    other_dir, other_splits = prepare_fake("mnist", tmp_path / "other", seed=10)
    data.load("mnist", data_dir=mnist[0])
    assert_holds(data.load("mnist", data_dir=other_dir).train, *other_splits["train"])
    assert_holds(data.load("mnist", data_dir=mnist[0]).train, *mnist[1]["train"])
    with pytest.raises(data.DataError, match="several versions"):
        data.load("mnist")  # no TFDS directory here that would say which


def test_a_cache_that_cannot_be_written_only_warns(own_mnist, tmp_path, caplog):
    (tmp_path / "file").touch()
    loaded = data.load("mnist", cache_dir=tmp_path / "file")
    assert len(loaded.train) == TRAIN
    assert "could not be cached" in caplog.text


SMALL = Arrays({"train_image": np.zeros((4, 2, 2, 1), np.uint8)}, source="here")


def test_many_may_write_the_same_cache_at_once(tmp_path, caplog):
    folder = tmp_path / "name" / "key"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.write(folder, SMALL), range(16)))
    assert [path.name for path in folder.parent.iterdir()] == ["key"]
    assert cache.read(folder).sha256 == SMALL.sha256
    assert not caplog.records


def test_a_cache_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    cache.write(tmp_path / "name" / "key", SMALL)
    assert list((tmp_path / "name").iterdir()) == []
    assert cache.find(tmp_path / "name") is None


def test_versions_of_equal_content_are_one_data_set(tmp_path):
    """Decoded twice, under two names; the last of them is as good as any."""
    for key in ("1.0.0", "2.0.0"):
        cache.write(tmp_path / "name" / key, SMALL)
    assert cache.find(tmp_path / "name") == tmp_path / "name" / "2.0.0"
    other = Arrays({"train_image": np.ones((4, 2, 2, 1), np.uint8)}, source="here")
    cache.write(tmp_path / "name" / "3.0.0", other)
    with pytest.raises(data.DataError, match=r"1\.0\.0, 2\.0\.0, 3\.0\.0"):
        cache.find(tmp_path / "name")


def put_manifest(places, change):
    """Writes the small arrays where mnist is looked for, with another manifest."""
    folder = places[1] / "mnist" / "key"
    cache.write(folder, SMALL)
    path = folder / cache.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda manifest: manifest["arrays"].clear(), "manifest.json is damaged"),
        (lambda manifest: manifest.pop("arrays"), "manifest.json is damaged"),
        (lambda manifest: None, "no train_label among its arrays, .* train_image"),
    ],
)
def test_a_manifest_without_its_arrays_is_named(places, change, words):
    put_manifest(places, change)
    with pytest.raises(data.DataError, match=words):
        data.load("mnist")


@pytest.mark.parametrize("name", ["train_image.npy", cache.MANIFEST])
def test_a_fifo_in_the_cache_is_no_reason_to_wait(tmp_path, name):
    cache.write(tmp_path / "key", SMALL)
    (tmp_path / "key" / name).unlink()
    os.mkfifo(tmp_path / "key" / name)
    with pytest.raises(data.DataError, match="no regular file"):
        cache.read(tmp_path / "key")


def test_a_cache_that_may_not_be_read_is_not_called_damaged(places, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "x.npy")

    put_manifest(places, lambda manifest: None)
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(data.DataError, match=r"mnist cannot be read: .*Permission"):
        data.load("mnist")


def test_what_a_killed_process_left_is_removed_and_what_one_fills_is_not(tmp_path):
    long_ago = time.time() - 2 * cache.MINUTE
    for name in ("dead", "filled"):
        (tmp_path / f"{cache.PARTIAL}{name}").mkdir()
        os.utime(tmp_path / f"{cache.PARTIAL}{name}", (long_ago, long_ago))
    (tmp_path / f"{cache.PARTIAL}new").mkdir()
    with cache._locked(tmp_path / f"{cache.PARTIAL}filled") as mine:
        assert mine
        cache.write(tmp_path / "key", SMALL)
        cache.read(tmp_path / "key")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"key", f"{cache.PARTIAL}filled", f"{cache.PARTIAL}new"}
