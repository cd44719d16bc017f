"""Mushrooms of the UCI repository, from the file that one brings: edible or poisonous.

8,124 kinds of gilled mushrooms, 22 attributes (Schlimmer 1987), in DATA_DIR/mushroom,
plain or as agaricus-lepiota.data.xz; a file whose SHA-256 is another is refused, but
for the end of its last line. Nothing is downloaded. Class 0 is poisonous, 1 edible. Our
split is fixed: a fifth, by class, is the test set.
"""

import hashlib

import numpy as np

from vnets.data import text
from vnets.data.splits import stratified
from vnets.data.types import Arrays, DataError, Places

TEST_SHARE = 5  # one in
TEST_SEED = 1987  # another seed would be another data set
MUSHROOM = text.Origin(
    "mushroom",
    "Mushroom data set of the UCI Machine Learning Repository",
    {
        "all": text.File(
            "agaricus-lepiota.data",
            "5f337a91aba07bec5caaad73decfce48dcc34b265e8fe864652699ef39a5178e",
        )
    },
)


def read(name: str, places: Places, download: bool) -> Arrays:
    """Gives train and test tables, float32 [N, 117], of zeros and ones, and classes.

    There is a column for each value that an attribute has, "?" among them.
    """
    del download  # there is nowhere to get it from
    [file] = MUSHROOM.files.values()
    path, content = text.contents(name, MUSHROOM, file, places)
    found = hashlib.sha256(content.rstrip(b"\n")).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{path} is not the file that it should be: without the end of its last "
            f"line its SHA-256 is {found}, not {file.sha256}. It is of the "
            f"{MUSHROOM.source}"
        )
    rows = np.array([line.split(",") for line in content.decode().split()])
    label = (rows[:, 0] == "e").astype(np.int32)
    table = one_hot(rows[:, 1:])
    in_test = np.zeros(len(label), bool)
    in_test[stratified(label, len(label) // TEST_SHARE, TEST_SEED)] = True
    arrays = {}
    for split, chosen in {"train": ~in_test, "test": in_test}.items():
        arrays[f"{split}_table"] = table[chosen]
        arrays[f"{split}_label"] = label[chosen]
    return Arrays(arrays, source=MUSHROOM.source)


def one_hot(columns: np.ndarray) -> np.ndarray:
    """Words [N, D] as zeros and ones, float32 [N, K]: one 1 for each column.

    Columns in their order, the values of each by spelling.
    """
    parts = [column[:, None] == np.unique(column) for column in columns.T]
    return np.concatenate(parts, axis=1).astype(np.float32)
