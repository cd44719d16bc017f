"""Files of every format version are read for ever, and predict what they did."""

import golden_files
import numpy as np
import pytest
from compact_nets import Same

from vnets import compact
from vnets.compact import codec

FILES = [
    (version, name)
    for version in golden_files.versions()
    for name in golden_files.expected(version)
]


def test_there_are_files_of_every_version():
    """A new version comes with its own: `python -m tests.golden_files`."""
    assert golden_files.versions() == list(range(1, codec.VERSION + 1))


@pytest.mark.parametrize(("version", "name"), FILES)
def test_a_golden_file_predicts_what_it_did(version, name):
    path = golden_files.folder(version) / f"{name}.vnz"
    assert int.from_bytes(path.read_bytes()[4:6], "little") == version
    predictor = compact.load(path)
    wanted = golden_files.expected(version)[name]
    assert predictor.net.nonzeros() == wanted["nonzeros"]
    assert predictor.net.about == wanted["about"]
    x = golden_files.inputs(predictor.net)
    found = {"logits": predictor(x), "draw": predictor(x, Same())}
    assert ("draw" in wanted) == bool(np.any(found["logits"] != found["draw"]))
    for name in {"logits", "draw"} & set(wanted):
        logits = np.asarray(wanted[name], np.float32)
        # Sums of some hundred terms in another order, and six digits of the file.
        close = {"rtol": 1e-5, "atol": 1e-5 * np.ptp(logits)}
        np.testing.assert_allclose(found[name], logits, **close)


@pytest.mark.parametrize(("version", "name"), FILES)
def test_a_net_takes_no_more_bytes_than_then(version, name):
    content = (golden_files.folder(version) / f"{name}.vnz").read_bytes()
    assert len(compact.dumps(compact.loads(content))) <= len(content)
