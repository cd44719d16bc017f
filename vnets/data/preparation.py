"""Downloading a data set with TFDS's own builder, without TensorFlow.

TFDS needs TensorFlow for this in three places, none of them essential: the builders
and the extractor open files with `tf.io.gfile.GFile`, the extractor turns a path into
text with `tf.compat.as_text`, and arrays are encoded as PNG by `tf.image`. `open`,
`str` and Pillow stand in for them while a data set is prepared, and only then.
"""

import contextlib
import os
import pathlib
import queue
import threading
import types
import urllib.parse
from collections.abc import Iterator

from vnets import extras
from vnets.data import records, shapes
from vnets.data.types import DataError, Places

DOWNLOADABLE = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")
PREPARABLE = (*DOWNLOADABLE, shapes.NAME)
PROBE_SECONDS = 5.0


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Downloads or generates `name` and writes it in TFDS's array_record format.

    A data set that is already prepared is left alone. Files are checked by TFDS against
    its registered checksums. Returns the directory, DATA_DIR/NAME/VERSION; DATA_DIR is
    $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.

    Raises:
      DataError: the name is not one of PREPARABLE, the directory holds the data set in
        another format, the server does not answer within five seconds, or the download
        or the writing fails.
    """
    if name not in PREPARABLE:
        raise DataError(
            f"{name!r} is not to be downloaded; choose from {', '.join(PREPARABLE)}"
        )
    data_dir = Places.resolve(data_dir).data_dir
    if name == shapes.NAME:
        return shapes.prepare(data_dir)
    found = records.locate(name, data_dir)
    if found is not None:
        return found
    if any((data_dir / name).glob("*/*.tfrecord-*")):  # TFDS will not write beside them
        raise DataError(
            f"{name}: {data_dir / name} holds it as tfrecord, which only TensorFlow "
            "reads; choose another data directory to prepare it in"
        )

    extras.need("PIL")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        _probe(name, _first_url(builder))
        # Statistics would be computed by TensorFlow.
        config = tfds.download.DownloadConfig(
            compute_stats=tfds.download.ComputeStatsMode.SKIP
        )
        _encode_with_pillow(builder)
        with tensorflow_stand_ins():
            builder.download_and_prepare(download_config=config)
    except DataError:
        raise
    except Exception as error:  # TFDS raises its own, requests', promise's, the disk's
        raise DataError(
            f"{name}: TFDS could not prepare it in {data_dir}: {error}"
        ) from error
    return pathlib.Path(builder.data_dir)


@contextlib.contextmanager
def tensorflow_stand_ins() -> Iterator[None]:
    """Lets TFDS's builders and extractor run without TensorFlow, for a while."""
    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.image_classification import cifar, mnist

    gfile = types.SimpleNamespace(GFile=open)
    stand_in = types.SimpleNamespace(
        io=types.SimpleNamespace(gfile=gfile),
        compat=types.SimpleNamespace(as_text=str),
    )
    originals = [(module, vars(module)["tf"]) for module in (cifar, mnist, extractor)]
    try:
        for module, _ in originals:
            vars(module)["tf"] = stand_in
        yield
    finally:
        for module, original in originals:
            vars(module)["tf"] = original


def _encode_with_pillow(builder) -> None:
    """Has the builder yield Pillow images, which TFDS encodes without TensorFlow."""
    from PIL import Image

    generate = builder._generate_examples

    def generate_pillow(*args, **kwargs):
        for key, record in generate(*args, **kwargs):
            pixels = record["image"]
            grey = pixels.shape[-1] == 1
            record["image"] = Image.fromarray(pixels[..., 0] if grey else pixels)
            yield key, record

    builder._generate_examples = generate_pillow


class _Asked(Exception):  # noqa: N818 (it is no error: it carries an answer)
    """Ends a builder's run at its first download, with the URLs."""


def _first_url(builder) -> str:
    """Asks a builder what it would download: its first act is to hand over the URLs."""

    class Manager:
        def download_and_extract(self, urls):
            raise _Asked(urls)

    try:
        builder._split_generators(Manager())
    except _Asked as asked:
        urls = asked.args[0]
        return urls if isinstance(urls, str) else next(iter(urls.values()))
    raise DataError(f"{builder.name}: the TFDS builder asks for no download")


def _probe(name: str, url: str) -> None:
    """Fails at once when offline: TFDS would retry for three and a half minutes.

    The request is made as TFDS makes it (by requests: the same proxies and
    certificates), in a thread because looking up a host name has no time limit.
    """
    import requests

    answers: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            reply = requests.head(url, timeout=PROBE_SECONDS, allow_redirects=True)
            answers.put(reply.status_code)
        except Exception as error:  # carried over to the thread that waits
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        answer = TimeoutError(f"no answer within {PROBE_SECONDS:.0f} s")
    host = urllib.parse.urlsplit(url).netloc
    if isinstance(answer, Exception):
        raise DataError(
            f"{name} cannot be downloaded: {host} is out of reach "
            f"({type(answer).__name__}); is there a network?"
        ) from answer
    if answer >= 500:  # these TFDS would retry as well; at 4xx it fails at once
        raise DataError(f"{name} cannot be downloaded: {host} answers {answer}")
