"""`load`: the data sets by name, where each comes from, and its splits."""

import dataclasses
import operator
import os
from collections.abc import Callable, Mapping

import numpy as np

from vnets.data import (
    automaton,
    brought,
    cache,
    digits,
    markers,
    mushroom,
    preparation,
    records,
    streams,
    tables,
    text,
)
from vnets.data.files import Files
from vnets.data.splits import stratified
from vnets.data.types import (
    SPLITS,
    Arrays,
    DataError,
    Dataset,
    Places,
    Split,
    checksum,
    split_sum,
)

VALIDATION_SEED = 20190501  # independent of any training seed, and never to change


@dataclasses.dataclass(frozen=True)
class Label:
    """One kind of label: the array that holds it and its number of classes, or None
    where it is a number."""

    feature: str
    classes: int | None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from: `read(name, places, download)` gives its arrays.

    `labels` maps each kind of label to its feature, the default one first; None is the
    only kind of a data set that has but one. `splits` are those it has, perhaps with a
    "validation" of its own; `inputs` the arrays that are its inputs: an "image" or
    another one, or several, by name.
    """

    read: Callable[[str, Places, bool], Arrays]
    labels: Mapping[str | None, Label]
    splits: tuple[str, ...] = SPLITS
    inputs: tuple[str, ...] = ("image",)


def read_tfds(name: str, places: Places, download: bool) -> Arrays:
    """Gives a TFDS data set from its cache, or decoded from its records and cached.

    Where there is no TFDS directory, the cache alone will do; where there is one, only
    a cache that was decoded from it.
    """
    cached = places.cache_dir / name
    folder = records.locate(name, places.data_dir)
    if folder is None:
        found = cache.find(cached)
        if found is not None:
            return cache.read(found)
        if not download:
            raise DataError(_missing(name, places))
        try:
            folder = preparation.prepare(name, places.data_dir)
        except DataError as error:
            raise DataError(f"{error}\n{_missing(name, places)}") from error
    cached /= records.key(folder)
    if cached.is_dir():
        return cache.read(cached)
    data = records.decode(name, folder)
    cache.write(cached, data)
    return data


def _missing(name: str, places: Places) -> str:
    return (
        f"{name} is not on this machine. Looked for\n"
        f"  a TFDS data set of array_record files in {places.data_dir / name}\n"
        f"  a cache decoded from one in {places.cache_dir / name}\n"
        "To get it, do one of\n"
        f"  run `python scripts/fetch_data.py {name}`, which downloads it\n"
        f"  set TFDS_DATA_DIR to a directory in which TFDS has prepared {name}\n"
        '  use the "digits" data set instead, which needs no network'
    )


TEN_CLASSES: Mapping[str | None, Label] = {None: Label("label", 10)}
# Glyphs of the letters A to J in the form of MNIST (Bulatov 2011), of which TFDS has no
# builder: data from outside of MNIST's distribution, so there is only a test set.
NOTMNIST = Files(
    "notMNIST, a file of arrays",
    {"image": (np.uint8, (28, 28, 1)), "label": (np.int32, ())},
    "from the images of notMNIST_small by Yaroslav Bulatov: `numpy.savez(path, "
    "image=..., label=...)`, image uint8 [N, 28, 28], label [N], 0 for A to 9 for J",
    splits=("test",),
)
TEXT = ("tokens",)
OWN = ("train", "validation", "test")


def _stream(read: Callable, tokens: int) -> Source:
    """A text of tokens, the target of each being the next."""
    return Source(read, {None: Label("next", tokens)}, splits=OWN, inputs=TEXT)


SOURCES: dict[str, Source] = {
    "digits": Source(digits.read, TEN_CLASSES),
    "mnist": Source(read_tfds, TEN_CLASSES),
    "fashion_mnist": Source(read_tfds, TEN_CLASSES),
    "kmnist": Source(read_tfds, TEN_CLASSES),
    "notmnist": Source(NOTMNIST, TEN_CLASSES, splits=("test",)),
    "cifar10": Source(read_tfds, TEN_CLASSES),
    "cifar100": Source(
        read_tfds,
        {"fine": Label("label", 100), "coarse": Label("coarse_label", 20)},
    ),
    "digits_8x8": Source(digits.read, TEN_CLASSES),
    "frey": Source(brought.read_frey, {None: Label("label", None)}),
    "omniglot": Source(brought.read_omniglot, {None: Label("label", 292)}),
    "breast_cancer": Source(tables.read, {None: Label("label", 2)}, inputs=("table",)),
    "diabetes": Source(tables.read, {None: Label("label", None)}, inputs=("table",)),
    "mushroom": Source(mushroom.read, {None: Label("label", 2)}, inputs=("table",)),
    "imdb": Source(text.read_imdb, {None: Label("label", 2)}, inputs=TEXT),
    "rt_polarity": Source(
        text.read_rt_polarity, {None: Label("label", 2)}, inputs=TEXT
    ),
    "agnews_test_part": Source(
        text.read_agnews, {None: Label("label", 4)}, inputs=TEXT
    ),
    "ptb_words": _stream(text.read_ptb, 10_000),
    "ptb_2k": _stream(text.read_ptb, 2_000),
    "ptb_chars": _stream(text.read_ptb, 50),
    "automaton": _stream(automaton.read, automaton.SYMBOLS),
    "last_marker": Source(
        markers.read, {None: Label("label", markers.MARKERS)}, inputs=TEXT
    ),
}
PICTURES = tuple(name for name, one in SOURCES.items() if one.inputs == ("image",))
TABLES = tuple(name for name, one in SOURCES.items() if one.inputs == ("table",))
TEXTS = tuple(name for name, one in SOURCES.items() if one.inputs == TEXT)
NAMES = (*PICTURES, *streams.NAMES)


def load(
    name: str,
    *,
    labels: str | None = None,
    validation: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
) -> Dataset:
    """Loads a data set: pictures as uint8 [N, H, W, C], with classes int32 [N].

    One of TABLES is float32 [N, I], and its target may be numbers, float32 [N]. One of
    TEXTS is tokens with a class for each text, int32 [N, T] and [N], padded in front by
    0; or a stream of tokens int32 [N], of which each has the next as its target, with a
    validation split of its own (`vnets.data.text`).

    "imagenet2012" and "generated_shapes" are too large for that, or made as if they
    were: their splits are a `Stream` each, whose pictures are read with every batch.

    The training split of a data set that has none ("notmnist") holds no images and has
    no checksum.

    Args:
      name: one of NAMES, which are pictures, of TABLES or of TEXTS. All but the digits,
        scikit-learn's tables and the "automaton" are read from `data_dir` (by default
        $TFDS_DATA_DIR or ~/tensorflow_datasets) and those of TFDS cached,
        decoded, in `cache_dir` (by default $VNETS_CACHE_DIR or ~/.cache/vnets).
      labels: for "cifar100" "fine" (100 classes, the default) or "coarse" (20).
      validation: how many images to take from the training split as a validation
        split: stratified by (fine) class, the same in every run.
      download: fetch the data set if it is not on this machine (see `prepare`).
      image_size: of a stream, edge of the squares that its pictures are cut to; 224 by
        default.

    Raises:
      DataError: an argument is none of its choices, the data set is not to be had, or
        its records or its cache are damaged. No other data are loaded in its place.
    """
    if name not in SOURCES and name not in streams.NAMES:
        names = ", ".join((*NAMES, *TABLES, *TEXTS))
        raise DataError(f"Unknown data set {name!r}; choose from {names}")
    places = Places.resolve(data_dir, cache_dir)
    if name in streams.NAMES:
        if labels or validation:
            raise DataError(
                f"{name} is streamed: it has one kind of label and no validation split "
                "of ours; leave both unset"
            )
        return streams.load(name, places, image_size, download)
    if image_size is not None:
        raise DataError(f"{name} has inputs of one size; leave image_size unset")
    label = _choose_label(name, labels)
    source = SOURCES[name]
    try:
        data = source.read(name, places, download)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    for split in source.splits:
        _check_arrays(name, split, data, source.inputs, label)
    parts = {split: _split(data, split, source, label) for split in source.splits}
    test = parts["test"]
    train = parts.get("train", test.take(np.arange(0)))
    sums = {split: _whole_sum(data, split, source, label) for split in parts}
    held_out = parts.get("validation")
    size = _validation_size(name, validation, len(train))
    if size and held_out is not None:
        raise DataError(
            f"{name} has a validation split of its own; leave validation unset"
        )
    if size:
        # By the default label, whichever is asked for: one split for both kinds.
        strata = data.arrays["train_label"]
        if label.classes is None:
            strata = np.zeros(len(train), np.int32)
        chosen = stratified(strata, size, VALIDATION_SEED)
        held_out = train.take(chosen)
        train = train.take(np.delete(np.arange(len(train)), chosen))
        sums |= {"train": split_sum(train), "validation": split_sum(held_out)}
    return Dataset(name, train, held_out, test, label.classes or 0, sums, data.source)


def _choose_label(name: str, kind: str | None) -> Label:
    kinds = SOURCES[name].labels
    if kind is None:
        return next(iter(kinds.values()))
    if kind in kinds:
        return kinds[kind]
    choices = [repr(choice) for choice in kinds if choice is not None]
    advice = f"choose from {', '.join(choices)}" if choices else "leave it unset"
    raise DataError(f"{name} has no labels={kind!r}; {advice}")


def _validation_size(name: str, size: int, available: int) -> int:
    most = max(available - 1, 0)
    limits = f"validation must be a whole number from 0 to {most} for {name}"
    try:
        count = operator.index(size)
    except TypeError:
        raise DataError(f"{limits}, not {size!r}") from None
    if not 0 <= count <= most:
        raise DataError(f"{limits}, not {count}")
    return count


def _check_arrays(
    name: str, split: str, data: Arrays, inputs: tuple[str, ...], label: Label
) -> None:
    """Refuses what a source of one's own may get wrong; floats would be scaled, too."""
    needed = {f"{split}_{array}" for array in (*inputs, label.feature)}
    if missing := sorted(needed - set(data.arrays)):
        raise DataError(
            f"{name}: no {' and no '.join(missing)} among its arrays, which are "
            f"{', '.join(sorted(data.arrays))}; delete its cache"
        )
    values = data.arrays[f"{split}_{label.feature}"]
    for array in inputs:
        held = data.arrays[f"{split}_{array}"]
        picture = held.dtype == np.uint8 and held.ndim == 4
        if len(held) != len(values) or (array == "image" and not picture):
            form = "uint8 [N, H, W, C], " if array == "image" else ""
            raise DataError(
                f"{name}: {array}s are {form}as many as labels; the {split} split has "
                f"{held.dtype} {list(held.shape)} and {len(values)} labels"
            )
    if label.classes is None:
        if len(values) == 0 or not np.all(np.isfinite(values)):
            raise DataError(f"{name}: the {split} split is empty or not finite")
        return
    whole = np.issubdtype(values.dtype, np.integer)
    inside = len(values) and 0 <= values.min() <= values.max() < label.classes
    if not (whole and inside):
        raise DataError(
            f"{name}: the {split} split is empty or has a {label.feature} outside "
            f"0..{label.classes - 1}, or one that is no whole number"
        )


def _split(data: Arrays, split: str, source: Source, label: Label) -> Split:
    held = {array: data.arrays[f"{split}_{array}"] for array in source.inputs}
    inputs = held if len(held) > 1 else next(iter(held.values()))
    return Split(inputs, data.arrays[f"{split}_{label.feature}"])


def _whole_sum(data: Arrays, split: str, source: Source, label: Label) -> str:
    sums = (data.sha256[f"{split}_{array}"] for array in source.inputs)
    return checksum(" ".join(sums), data.sha256[f"{split}_{label.feature}"])
