"""Every net of the shelf loads, is what was shelved, and predicts as it says."""

import hashlib
import importlib.resources
import json

import numpy as np
import pytest

from experiments import records, shelf
from vnets import compact, data
from vnets.compact import nets as shelved

NETS = compact.shelved()
DIGITS = [name for name, told in NETS.items() if told["dataset"].startswith("digits")]


def test_the_shelf_is_small_and_whole():
    assert len(NETS) >= 12
    assert sum(told["bytes"] for told in NETS.values()) <= shelf.MOST
    files = {f"{name}{end}" for name in NETS for end in (".vnz", ".json")}
    folder = importlib.resources.files("vnets.compact.nets")
    code = {"__init__.py", "__pycache__"}
    assert {path.name for path in folder.iterdir()} - code == files | {shelved.TOLD}


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_what_it_says(name):
    told = NETS[name]
    content = (shelf.FOLDER / f"{name}.vnz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == told["sha256"]
    assert len(content) == told["bytes"]
    predictor = compact.pretrained(name)
    outputs = predictor(shelved.example(predictor.net.plan, predictor.net.shape))
    wanted = np.asarray(told["outputs"])
    np.testing.assert_allclose(outputs, wanted, atol=1e-4 * np.ptp(wanted))
    record = records.read(shelf.FOLDER / f"{name}.json")
    assert not record["git"]["dirty"]
    about = predictor.net.about
    assert about["commit"] == told["commit"] == record["git"]["commit"]
    assert about["run"] == f"{record['run']},{record['scale']}"
    assert about["epochs"] == told["epochs"] == record["config"]["epochs"]
    noisy = [n for n, layer in predictor.net.layers.items() if layer.deviations]
    assert bool(noisy) == told["noise"]
    # Small, it is as good as the net was: four standard errors of the test set.
    for column, accuracy in told["accuracy"].items():
        recorded = told["recorded"][column]
        error = 4 * np.sqrt(recorded * (1 - recorded) / told["examples"])
        assert abs(accuracy - recorded) < error + 0.005, column
    columns = [column["accuracy"] for column in record["evals"].values()]
    assert set(told["recorded"].values()) <= set(columns)


@pytest.mark.parametrize("name", DIGITS)
def test_a_net_of_the_digits_has_its_accuracy(name):
    told = NETS[name]
    test = data.load(told["dataset"]).test
    predictor = compact.pretrained(name)
    found = np.mean(np.argmax(predictor(test.inputs), -1) == test.target)
    assert found == pytest.approx(told["accuracy"]["det"], abs=1.5 / len(test.target))
    assert len(test.target) == told["examples"]


def test_another_name_is_answered_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"unknown net 'lenet'; .* from .*digits_"):
        compact.pretrained("lenet")


def test_a_file_that_was_changed_is_refused(monkeypatch, tmp_path):
    name = DIGITS[0]
    (tmp_path / f"{name}.vnz").write_bytes(b"VNZ")
    (tmp_path / shelved.TOLD).write_text(json.dumps(NETS))
    monkeypatch.setattr(shelved, "_file", lambda file: tmp_path / file)
    with pytest.raises(ValueError, match="not the file it should be"):
        compact.pretrained(name)
