"""Text by class and streams of tokens, from files that one brings.

Each set lies in a folder of the data directory, as its authors gave it (imdb: as arrays
of tokens), plain or as FILE.xz; a file whose SHA-256 is another is refused. Nothing is
downloaded.

    imdb              reviews of films (Maas et al. 2011), the first 200 tokens
    rt_polarity       sentences of reviews (Pang and Lee 2005), 50 tokens; a fixed 1,162
                      of them, by class, are the test set
    agnews_test_part  the TEST part alone of AG News (Zhang et al. 2015), 60 tokens, of
                      which a fixed 1,000 are a test set: another set than AG News
    ptb_words, ptb_2k, ptb_chars
                      Penn Treebank as Mikolov et al. 2010 prepared it: all of its
                      10,000 words, the 2,000 commonest with the rest as "<unk>", or its
                      50 characters, words joined by "_"

A text of a class is a row of tokens, padded in FRONT by 0, which stands for nothing
else; 1 begins it, 2 is a word outside of the vocabulary, and 3 its commonest one. Words
are `[a-z0-9']+` of the lower-cased text, and what is too long loses its end. A stream's
examples are its tokens, the target of each being the next.
"""

import collections
import csv
import hashlib
import io
import itertools
import lzma
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vnets.data.splits import stratified
from vnets.data.types import Arrays, DataError, Places, digest

START, UNKNOWN, FIRST = 1, 2, 3  # 0 is padding
TEST_SEED = 2005  # another seed would be other data sets


class File(NamedTuple):
    """A file of one content. `sha256` is of it, uncompressed."""

    name: str
    sha256: str


class Origin(NamedTuple):
    """Where the files of a data set are, and where they come from."""

    folder: str
    source: str
    files: Mapping[str, File]


RT_POLARITY = Origin(
    "rt_polarity",
    "sentence polarity dataset v1.0 of Pang and Lee (rt-polaritydata)",
    {
        "pos": File(
            "rt-polarity.pos",
            "4134882974a28d0c7b5151256f0e33a6169984ee7372c279e673f1114f475d58",
        ),
        "neg": File(
            "rt-polarity.neg",
            "2d11cfbc790f1cd96d78339f41ce53ced1efa83cd22d37d6788fa3fe3d17e2fd",
        ),
    },
)
AGNEWS = Origin(
    "agnews",
    "test.csv of AG's news topic classification dataset by Zhang, Zhao and LeCun",
    {
        "test": File(
            "test.csv",
            "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
        )
    },
)
PTB = Origin(
    "ptb",
    "Penn Treebank with Mikolov's preprocessing (simple-examples/data)",
    {
        "train": File(
            "ptb.train.txt",
            "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        ),
        "validation": File(
            "ptb.valid.txt",
            "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        ),
        "test": File(
            "ptb.test.txt",
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        ),
    },
)
# The files of arrays may be compressed in any way: what is checked is their content.
IMDB_LONGEST, IMDB_SIZE = 200, 25_000
IMDB = Origin(
    "imdb",
    "Large Movie Review Dataset v1.0 by Maas et al. (aclImdb), of whose reviews "
    "(first train or test, then neg and pos, by number) `numpy.savez(path, tokens=..., "
    "length=..., label=...)` has the tokens end to end, uint16: of each 1 and its "
    "first 199 words, 3 being the commonest of the training set, 20,002 the last that "
    "is kept, 2 any other; their lengths, int32; and 1 for pos, uint8",
    {
        "train": File(
            "train.npz",
            "33e015bc1a29c0232f4815f6972e280c56343a65b86b98aea80d477a59d5dbbe",
        ),
        "test": File(
            "test.npz",
            "7bd1c9898c0bc6020fcd817177e23f395005761cbe1f30cf665fcf8644effed0",
        ),
    },
)


def words(text: str) -> list[str]:
    """The words of a text: `[a-z0-9']+` in lower case; "<br />" parts them."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("<br />", " "))


def commonest(tokens: Iterable[str], size: int) -> dict[str, int]:
    """The commonest tokens and their ranks from 0 on, ties by spelling."""
    counts = collections.Counter(tokens)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return {token: rank for rank, token in enumerate(ranked[:size])}


def padded(rows: Sequence[Any], longest: int) -> np.ndarray:
    """Rows of numbers as int32 [N, longest]: 0 in front, and no more than the first."""
    table = np.zeros((len(rows), longest), np.int32)
    for place, row in zip(table, rows, strict=True):
        first = row[:longest]
        place[longest - len(first) :] = first
    return table


def read_imdb(name: str, places: Places, download: bool) -> Arrays:
    """Reviews, tokens int32 [25000, 200] of 20,003; label 1 of those that praise."""
    del download  # there is nowhere to get it from
    arrays = {}
    for split, file in IMDB.files.items():
        path, content = contents(name, IMDB, file, places)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as held:
                tokens, length, label = (
                    held[part] for part in ("tokens", "length", "label")
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged: {error!r}; {IMDB.source}") from error
        fits = len(length) == len(label) == IMDB_SIZE and length.sum() == len(tokens)
        if not fits or digest(tokens) != file.sha256:
            raise DataError(
                f"{path} does not hold the reviews that it should (the SHA-256 of its "
                f"tokens is not {file.sha256}). It is made of {IMDB.source}"
            )
        reviews = np.split(tokens, np.cumsum(length)[:-1])
        arrays[f"{split}_tokens"] = padded(reviews, IMDB_LONGEST)
        arrays[f"{split}_label"] = label.astype(np.int32)
    return Arrays(arrays, source="Large Movie Review Dataset v1.0, first 200 tokens")


def read_rt_polarity(name: str, places: Places, download: bool) -> Arrays:
    """Sentences, tokens int32 [N, 50] of 10,003; label 1 of those that praise."""
    del download
    rows, label = [], []
    for side in ("neg", "pos"):
        _, content = _checked(name, RT_POLARITY, side, places)
        lines = content.decode("utf-8", errors="replace").splitlines()
        rows += [words(line) for line in lines]
        label += [int(side == "pos")] * len(lines)
    return _by_class(rows, label, 1162, 10_000, 50, "sentence polarity v1.0, our split")


def read_agnews(name: str, places: Places, download: bool) -> Arrays:
    """Articles of four topics, titles first, tokens int32 [N, 60] of 10,003."""
    del download
    _, content = _checked(name, AGNEWS, "test", places)
    articles = list(csv.reader(io.StringIO(content.decode())))
    rows = [words(f"{title} {text}") for _, title, text in articles]
    label = [int(topic) - 1 for topic, *_ in articles]
    return _by_class(rows, label, 1000, 10_000, 60, "AG News, its test part, our split")


def read_ptb(name: str, places: Places, download: bool) -> Arrays:
    """Streams of tokens and of those that follow them, int32 [L] each."""
    del download
    texts = {}
    for split in PTB.files:
        lines = _checked(name, PTB, split, places)[1].decode().splitlines()
        if name == "ptb_chars":
            texts[split] = list("".join("_".join(x.split()) + "\n" for x in lines))
        else:
            ended = ([*line.split(), "<eos>"] for line in lines)
            texts[split] = list(itertools.chain.from_iterable(ended))
    known = commonest(texts["train"], 2000 if name == "ptb_2k" else 10_000)
    arrays = {}
    for split, tokens in texts.items():
        other = known.get("<unk>", -1)  # -1 is refused as no class
        stream = np.array([known.get(token, other) for token in tokens], np.int32)
        arrays[f"{split}_tokens"] = stream[:-1]
        arrays[f"{split}_next"] = stream[1:]
    return Arrays(arrays, source="Penn Treebank, Mikolov's preprocessing")


def _by_class(rows, label, test: int, size: int, longest: int, source: str) -> Arrays:
    """Rows of words, parted and numbered by the words of those that are not tested."""
    label = np.asarray(label, np.int32)
    in_test = np.zeros(len(label), bool)
    in_test[stratified(label, test, TEST_SEED)] = True
    train = (row for row, out in zip(rows, in_test, strict=True) if not out)
    known = commonest(itertools.chain.from_iterable(train), size)
    numbers = [
        [START, *(known[word] + FIRST if word in known else UNKNOWN for word in row)]
        for row in rows
    ]
    tokens, arrays = padded(numbers, longest), {}
    for split, chosen in {"train": ~in_test, "test": in_test}.items():
        arrays |= {f"{split}_tokens": tokens[chosen], f"{split}_label": label[chosen]}
    return Arrays(arrays, source=source)


def _checked(name: str, origin: Origin, key: str, places: Places):
    """The content of a file that must be the one it should be."""
    file = origin.files[key]
    path, content = contents(name, origin, file, places)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{path} is not the file that it should be: its SHA-256 is {found}, not "
            f"{file.sha256}. It is of the {origin.source}"
        )
    return path, content


def contents(name: str, origin: Origin, file: File, places: Places):
    """A file's path and its bytes, uncompressed."""
    path = places.data_dir / origin.folder / file.name
    packed = path.with_name(f"{file.name}.xz")
    if path.exists():
        return path, path.read_bytes()
    if not packed.exists():
        raise DataError(
            f"{name} is not on this machine. Looked for\n  {path}\n  {packed}\n"
            f"It is not downloaded: get it yourself, it is of the {origin.source}; or "
            f"set TFDS_DATA_DIR to a directory that holds {origin.folder}/{file.name}"
        )
    try:
        return packed, lzma.decompress(packed.read_bytes())
    except lzma.LZMAError as error:
        raise DataError(f"{packed} is damaged: {error}") from error
