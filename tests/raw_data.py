"""Data sets of random pixels: raw files, a server in this process that has them, and
TFDS directories that TFDS's own builders prepare from them. No network is needed."""

import contextlib
import functools
import gzip
import http.server
import io
import os
import struct
import tarfile
import threading

import numpy as np
import pytest

from vnets import data

TRAIN, TEST = 200, 100  # images in the raw files
MNIST_FILES = {"train": "train", "test": "t10k"}


def random_split(seed, count, shape, classes=10):
    """Gives images and labels in which every class has equally many."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, *shape), np.uint8)
    return image, np.arange(count, dtype=np.uint8) % classes


def write_mnist(folder, seed):
    """Writes four idx files as the MNIST family has them; returns the splits."""
    splits = {}
    for offset, (split, prefix) in enumerate(MNIST_FILES.items()):
        count = {"train": TRAIN, "test": TEST}[split]
        image, label = splits[split] = random_split(seed + offset, count, (28, 28, 1))
        header = struct.pack(">IIII", 2051, count, 28, 28)
        images = gzip.compress(header + image.tobytes(), 1)
        labels = gzip.compress(struct.pack(">II", 2049, count) + label.tobytes())
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(images)
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(labels)
    return splits


def write_cifar(folder, name):
    """Writes CIFAR-10's or CIFAR-100's archive of binary batches."""
    info = builder_class(name)._cifar_info.fget(type("Builder", (), {"name": name}))
    fine = 100 if name == "cifar100" else 10
    splits = {
        "train": random_split(5, TRAIN, (32, 32, 3), fine),
        "test": random_split(6, TEST, (32, 32, 3), fine),
    }
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:

        def add(path, content):
            member = tarfile.TarInfo(info.prefix + path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        for path in info.label_files:
            classes = 20 if "coarse" in path else fine
            add(path, "".join(f"class{k}\n" for k in range(classes)).encode())
        for split, paths in (("train", info.train_files), ("test", info.test_files)):
            image, label = splits[split]
            labels = [label // 5, label] if name == "cifar100" else [label]
            planes = image.transpose(0, 3, 1, 2).reshape(len(image), -1)
            rows = np.concatenate([np.stack(labels, 1), planes], 1)
            for path, batch in zip(paths, np.split(rows, len(paths)), strict=True):
                add(path, batch.tobytes())
    return splits


def builder_class(name):
    from tensorflow_datasets.image_classification import cifar, mnist

    return {
        "mnist": mnist.MNIST,
        "fashion_mnist": mnist.FashionMNIST,
        "kmnist": mnist.KMNIST,
        "cifar10": cifar.Cifar10,
        "cifar100": cifar.Cifar100,
    }[name]


@contextlib.contextmanager
def serve(handler):
    """Runs an HTTP server; gives its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Unavailable(QuietFiles):
    def do_HEAD(self):
        self.send_error(503)


@contextlib.contextmanager
def downloads_from(name, folder, handler=QuietFiles):
    """Points the builder of `name` at raw files in `folder`."""
    from tensorflow_datasets.image_classification import mnist

    builder = builder_class(name)
    with (
        pytest.MonkeyPatch.context() as patch,
        serve(functools.partial(handler, directory=folder)) as url,
    ):
        patch.setenv("no_proxy", "127.0.0.1")
        if name.startswith("cifar"):
            official = builder._cifar_info.fget
            info = property(lambda b: official(b)._replace(url=f"{url}{name}.tar.gz"))
            patch.setattr(builder, "_cifar_info", info)
        else:
            patch.setattr(builder, "URL", url)
            patch.setattr(mnist, "_TRAIN_EXAMPLES", TRAIN)
            patch.setattr(mnist, "_TEST_EXAMPLES", TEST)
        yield


def prepare_fake(name, root, seed=0):
    """Prepares a small `name` in root/tfds; returns that directory and the splits."""
    raw = root / "raw"
    raw.mkdir(parents=True)
    cifar = name.startswith("cifar")
    splits = write_cifar(raw, name) if cifar else write_mnist(raw, seed)
    with downloads_from(name, raw):
        data.prepare(name, root / "tfds")
    return root / "tfds", splits


def assert_holds(split, image, label):
    """The split holds exactly these images, each with its label, in any order."""
    assert split.inputs.dtype == np.uint8
    assert split.target.dtype == np.int32
    assert len(split) == len(image)
    expected = dict(zip([x.tobytes() for x in image], label.tolist(), strict=True))
    found = zip([x.tobytes() for x in split.inputs], split.target.tolist(), strict=True)
    assert dict(found) == expected


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path, where=0.3):
    """Flips the bits of the byte at that fraction of a file."""
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 255
    path.write_bytes(content)


def flip_first(path):
    flip(path, 0)
