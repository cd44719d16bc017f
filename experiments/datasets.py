"""The data of a config, and the batches that a net learns from."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import points
from experiments import spec as parts
from vnets import data, parallel, sources
from vnets.evaluate import to_float
from vnets.predictor import as_is

CHANGES = ("train_images", "random_labels_seed", "noise_features", "binary")
CHANGES += ("standard",)
FIELDS = tuple(
    f"dataset.{name}"
    for name in ("name", "labels", "validation", "augment", "image_size", *CHANGES)
)


def load(config) -> data.Dataset:
    """The config's data set, made on the fly or as `load_data` has it."""
    if config.dataset.name in points.MADE:
        return points.load(config)
    return load_data(config.dataset)


def with_classes(config) -> data.Dataset:
    """The config's data set; ConfigError if its targets are no classes."""
    dataset = load(config)
    if not dataset.classes:
        raise parts.ConfigError(
            f"config.dataset.name: {dataset.name} has no classes, but numbers"
        )
    return dataset


def prepare_of(split: data.Split | data.Stream) -> Callable:
    """From what a split has to what nets take: pixels in [0, 1], all else as it is."""
    pixels = isinstance(split, data.Stream) or (
        getattr(split.inputs, "dtype", None) == np.uint8
    )
    return to_float if pixels else as_is


def example(dataset: data.Dataset):
    """One input of a net, of zeros: its shape and type are what counts."""
    learn = dataset.train
    if prepare_of(learn) is to_float:
        return jnp.zeros((1, *learn.shape), jnp.float32)
    return jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), learn.inputs)


def source(config, dataset: data.Dataset):
    """Batches of a data set: of points the whole of it, `copies` times."""
    if config.dataset.name in points.MADE:
        return sources.Whole(dataset.train, config.steps, config.get("copies", 1))
    make, batches = sources.Resident, {"split": dataset.train}
    if isinstance(dataset.train, data.Stream):
        make = sources.Pictures
        if "augment" in config.dataset:
            raise parts.ConfigError(
                f"config.dataset.augment: {dataset.name} is streamed, and cut at "
                "random as it is read; leave it out"
            )
    else:
        batches["augment"] = parts.augment(config.dataset.get("augment"))
        batches["prepare"] = prepare_of(dataset.train)
    return parts.call("batch_size", make, {**batches, "batch_size": config.batch_size})


def load_data(spec) -> data.Dataset:
    """The config's data set, downloaded if need be, and changed where it says so.

    `train_images` keeps as many, `random_labels_seed` redraws the training labels,
    `noise_features` appends as many to the pixels, `binary` makes these black or white,
    `standard` gives the columns of a table mean 0 and variance 1
    (`vnets.data.changes`).
    """
    parts.pick("dataset.name", spec.name, (*data.SOURCES, *data.STREAMED))
    options = {"labels": spec.labels or None, "validation": spec.validation}
    if "image_size" in spec:
        options["image_size"] = spec.image_size
    loaded = parallel.after_first(
        lambda: data.load(spec.name, download=True, **options)
    )
    changes = set(CHANGES) & set(spec)
    if isinstance(loaded.train, data.Stream) and changes:
        raise parts.ConfigError(
            f"config.dataset: {spec.name} is streamed and cannot be changed by "
            f"{sorted(changes)}"
        )
    if "train_images" in spec:
        loaded = data.with_fewer_images(loaded, spec.train_images)
    if "random_labels_seed" in spec:
        loaded = data.with_random_labels(loaded, spec.random_labels_seed)
    if "noise_features" in spec:
        loaded = data.with_noise_features(loaded, spec.noise_features, seed=0)
    if parts.pick("dataset.binary", spec.get("binary", False), (False, True)):
        loaded = data.with_binary_pixels(loaded)
    if parts.pick("dataset.standard", spec.get("standard", False), (False, True)):
        loaded = data.with_standard_columns(loaded)
    return loaded
