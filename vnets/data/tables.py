"""Two small tables that come with scikit-learn: real data, no network.

"breast_cancer": 569 tumours, 30 measures, malignant (0) or benign (1) (Street et al.
1993). "diabetes": 442 patients, 10 measures that scikit-learn has standardized, and how
far the disease went in a year (Efron et al. 2004), a number. Our split is fixed: a
fifth is the test set, of "breast_cancer" by class.
"""

import functools

import numpy as np

from vnets.data.splits import stratified
from vnets.data.types import Arrays, Places

TEST_SHARE = 5  # one in
TEST_SEED = 1993  # another seed would be another data set


def read(name: str, places: Places, download: bool) -> Arrays:
    """Gives train and test tables, float32 [N, I], with their targets.

    The arrays are shared by all calls and read-only.
    """
    del places, download  # the package has them
    return _read(name)


@functools.cache
def _read(name: str) -> Arrays:
    from sklearn import datasets

    load = {
        "breast_cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
    }[name]
    table, target = (np.asarray(part) for part in load(return_X_y=True))
    classes = np.issubdtype(target.dtype, np.integer)
    strata = target if classes else np.zeros(len(target), np.int32)
    in_test = np.zeros(len(target), bool)
    in_test[stratified(strata, len(target) // TEST_SHARE, TEST_SEED)] = True
    arrays = {}
    for split, rows in {"train": ~in_test, "test": in_test}.items():
        arrays[f"{split}_table"] = table[rows].astype(np.float32)
        kind = np.int32 if classes else np.float32
        arrays[f"{split}_label"] = target[rows].astype(kind)
    for array in arrays.values():
        array.flags.writeable = False
    return Arrays(arrays, source=f"scikit-learn load_{name}")
