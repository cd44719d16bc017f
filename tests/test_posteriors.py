"""The how-to of posteriors: its blocks run in order as they stand, and what each way
to make several nets of one predicts is right."""

import re

import documents
import pytest

PAGE = "docs/howto/posteriors.md"
METHODS = (
    *("one", "ensemble", "snapshots", "fast ensemble", "curve"),
    *("SWA", "SWAG", "MultiSWAG", "SGLD", "cyclical SGLD", "SVGD"),
    *("last layer", "Kronecker", "MC dropout", "IVON"),
)
LINES = 15  # of a method

pytestmark = pytest.mark.slow  # a minute of compiling


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    code = "\n".join(documents.blocks(PAGE, "python"))
    lines = documents.printed(code, tmp_path_factory.mktemp("posteriors"))
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def numbers(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_classifies(printed, method):
    accuracy, nll = numbers(printed[method])
    assert accuracy >= 0.85
    assert nll <= 0.7  # of ten classes that it knows nothing of: 2.3


def test_a_line_is_found_and_its_band_holds_it(printed):
    rmse, coverage = numbers(printed["regression"])
    assert rmse <= 0.12  # the noise has 0.1
    assert 0.88 <= coverage <= 1


def test_a_method_is_short():
    _, *methods = documents.blocks(PAGE, "python")
    for block in methods[:-1]:
        assert sum(bool(line.strip()) for line in block.splitlines()) <= LINES, block
