"""Data sets as plain arrays, read without TensorFlow: pictures, tables and text.

`load(name)` gives every split as NumPy arrays. MNIST and its relatives and CIFAR
are read from a directory prepared by TensorFlow Datasets (TFDS) in its array_record
format, decoded once and then kept in a checksummed cache; `prepare` downloads them
and writes such a directory. Digits and tables come with scikit-learn, with no network;
`notmnist`, a test set only, is a file of arrays that one has to bring, and so are
faces and characters (`vnets.data.brought`), mushrooms (`vnets.data.mushroom`), text
(`vnets.data.text`), but for one that is generated, and regressions in many splits
(`vnets.data.uci`).
What is asked for is what is loaded: there is no stand-in for a data set that is not
there, only a `DataError` that says how to get it.

"imagenet2012" fits no memory: its splits are streams (`streams.Stream`), read ahead by
Grain; "generated_shapes" is a small set of the same form to try the pieces on.

Importing this package loads NumPy and nothing heavier. A further data set is one row
of `vnets.data.loading.SOURCES` and a function that reads its arrays.
"""

from vnets.data.changes import (
    noisy_copies,
    with_binary_pixels,
    with_fewer_images,
    with_noise_features,
    with_permuted_pixels,
    with_random_labels,
    with_split_classes,
    with_standard_columns,
)
from vnets.data.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from vnets.data.loading import NAMES, SOURCES, TABLES, TEXTS, load
from vnets.data.preparation import PREPARABLE, prepare
from vnets.data.streams import NAMES as STREAMED
from vnets.data.streams import Stream
from vnets.data.types import DataError, Dataset, Split, in_length

__all__ = [
    "CORRUPTIONS",
    "NAMES",
    "PREPARABLE",
    "SOURCES",
    "STREAMED",
    "STRENGTHS",
    "TABLES",
    "TEXTS",
    "DataError",
    "Dataset",
    "Split",
    "Stream",
    "corrupted",
    "in_length",
    "load",
    "noisy_copies",
    "prepare",
    "with_binary_pixels",
    "with_fewer_images",
    "with_noise_features",
    "with_permuted_pixels",
    "with_random_labels",
    "with_split_classes",
    "with_standard_columns",
]
