"""Laws of records: whole or absent, altered ones found out, others' code refused."""

import contextlib
import functools
import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import records
from experiments.config_files import load_config
from experiments.records import RecordError
from experiments.workdirs import plain_config
from vnets.files import FileError

ROOT = Path(__file__).resolve().parents[1]

CLEAN = {"commit": "0123456789abcdef", "dirty": False}


def make(seed=0, variant="variance", accuracy=0.99, git=CLEAN, **changes):
    record = {
        "run": f"configs/lenet5_mnist.py:{variant}",
        "scale": "short",
        "seed": seed,
        "config": {"epochs": 3, "dataset": {"name": "mnist"}, "widths": (20, 50)},
        "dataset": {"name": "mnist", "source": "tfds", "checksum": {}, "sizes": {}},
        "environment": {
            "git": git,
            "versions": {"python": "3.11"},
            "device": {"platform": "cpu", "kind": "cpu", "count": 1, "threads": 2},
        },
        "wall_seconds": {"total": 60.0, "compile": 1.0, "train": 50.0, "evaluate": 9.0},
        "evals": {"det": {"accuracy": accuracy, "nll": 0.5, "samples": 1}},
        "history": [{"epoch": 1, "loss": 0.123456789}, {"epoch": 2, "loss": math.nan}],
    }
    return records.build(**{**record, **changes})


def same(a, b):
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def test_what_is_written_is_read(tmp_path):
    record = make(evals={"det": {"accuracy": np.float32(0.5), "nll": math.inf}})
    path = records.write(tmp_path / "a" / "b" / "record.json", record)
    read = records.read(path)
    assert read["evals"] == {"det": {"accuracy": 0.5, "nll": math.inf}}
    assert read["history"][0] == {"epoch": 1, "loss": 0.123457}
    assert math.isnan(read["history"][1]["loss"])
    assert read["config"]["widths"] == [20, 50]
    assert read["variant"] == "variance"
    again = records.read(records.write(tmp_path / "again.json", read))
    assert same(again, read)


def test_the_file_is_json_for_everyone(tmp_path):
    path = records.write(tmp_path / "record.json", make())

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)


def test_config_hash_ignores_order_and_containers():
    config_dict = ConfigDict({"a": {"b": 1}})
    assert records.config_hash(config_dict) == records.config_hash({"a": {"b": 1}})
    first = records.config_hash({"a": 1, "b": {"c": (1, 2.5), "d": None}})
    second = records.config_hash({"b": {"d": None, "c": [1, np.float64(2.5)]}, "a": 1})
    assert first == second
    assert first != records.config_hash({"a": 2, "b": {"c": [1, 2.5], "d": None}})


def test_a_value_without_json_form_is_named():
    with pytest.raises(RecordError, match=r"config\.model\.act has no JSON form"):
        records.config_hash({"model": {"act": math.sin}})


def test_build_refuses_a_run_without_variant_and_missing_parts():
    with pytest.raises(RecordError, match="variant"):
        make(run="configs/lenet5_mnist.py")
    with pytest.raises(RecordError, match=r"wall_seconds lacks \['compile'"):
        make(wall_seconds={"total": 1.0})
    with pytest.raises(RecordError, match=r"missing \['device', 'git', 'versions'\]"):
        make(environment={})


def test_every_flipped_bit_of_the_content_is_found(tmp_path):
    path = records.write(tmp_path / "record.json", make())
    content = path.read_bytes()
    whole = records.read(path)
    for i in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[i] ^= 1
        path.write_bytes(flipped)
        # Only white space between fields may change without being noticed.
        if content[i : i + 1].isspace():
            with contextlib.suppress(RecordError):
                assert same(records.read(path), whole)
        else:
            with pytest.raises(RecordError, match=r"record\.json"):
                records.read(path)


@pytest.mark.parametrize("length", [0, 1, 100, -3])
def test_a_truncated_record_is_named(tmp_path, length):
    path = records.write(tmp_path / "record.json", make())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RecordError, match=r"record\.json is not JSON"):
        records.read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"accuracy":0.99', '"accuracy":0.993', "was altered"),
        ('"accuracy":0.99', '"accuracy":NaN', "not JSON"),
        ('"schema": 2', '"schema": 3', "schema 3; this code reads 1, 2"),
        ('"commit":"0', '"commit":"1', "was altered"),
    ],
)
def test_an_altered_record_is_refused(tmp_path, old, new, message):
    path = records.write(tmp_path / "record.json", make())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(RecordError, match=message) as error:
        records.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"schema": 1}'])
def test_other_json_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"record\.json"):
        records.read(path)
    path.unlink()
    with pytest.raises(RecordError, match=r"cannot read .*record\.json"):
        records.read(path)


def test_a_failing_disk_loses_nothing(tmp_path, monkeypatch):
    path = records.write(tmp_path / "record.json", make(seed=0))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"record\.json: No space left"):
        records.write(path, make(seed=1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        records.write(tmp_path / "file" / "record.json", make())


def test_collect_takes_records_only(tmp_path):
    records.write(tmp_path / "variance" / "seed0" / "record.json", make(seed=0))
    records.write(tmp_path / "short" / "variance-seed1.json", make(seed=1))
    for other in ("checkpoint/_METADATA.json", "summary.json", ".record.json.12.tmp"):
        path = tmp_path / other
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    found = records.collect(tmp_path)
    assert sorted(record["seed"] for record in found.values()) == [0, 1]
    assert records.collect(tmp_path / "absent") == {}
    (tmp_path / "short" / "variance-seed1.json").write_text("{")
    with pytest.raises(RecordError, match="variance-seed1"):
        records.collect(tmp_path)


def test_publish_copies_what_can_be_trusted(tmp_path):
    runs, target = tmp_path / "runs", tmp_path / "results"
    good = records.write(runs / "0" / "record.json", make(seed=0))
    bad = {
        "dirty": make(seed=1, git={"commit": "abc", "dirty": True}),
        "commit": make(seed=2, git={"commit": None, "dirty": True}),
        "loss": make(seed=3, failed="non-finite loss at epoch 1"),
        "altered": make(seed=4),
        "no row": make(seed=5, variant="other"),
    }
    for name, record in bad.items():
        records.write(runs / name / "record.json", record)
    path = runs / "altered" / "record.json"
    path.write_text(path.read_text().replace("0.99", "0.999"))

    rows = ["configs/lenet5_mnist.py:variance"]
    done = records.publish(records.find(runs), target, runs=rows)
    place = target / "lenet5_mnist" / "short" / "variance-seed0.json"
    assert done.written == [place]
    assert same(records.read(place), records.read(good))
    assert list(records.collect(target)) == [place]
    assert set(done.refused) == {runs / name / "record.json" for name in bad}
    reasons = {path.parent.name: reason for path, reason in done.refused.items()}
    words = {"dirty": "uncommitted", "commit": "no commit", "loss": "non-finite loss"}
    for name in bad:
        assert words.get(name, name) in reasons[name]


def test_publish_replaces_only_when_told(tmp_path):
    path = records.write(tmp_path / "runs" / "record.json", make(accuracy=0.98))
    first = records.publish([path], tmp_path)
    assert records.publish([path], tmp_path).unchanged == first.written
    records.write(path, make(accuracy=0.97))
    refused = records.publish([path], tmp_path).refused
    assert "different record is in place" in refused[path]
    assert records.read(first.written[0])["evals"]["det"]["accuracy"] == 0.98
    assert records.publish([path], tmp_path, replace=True).written
    assert records.read(first.written[0])["evals"]["det"]["accuracy"] == 0.97


def test_every_committed_record_is_of_its_config_as_it_is_today():
    """Whichever version wrote it: its row would not be trained again."""
    today = functools.cache(
        lambda which: records.config_hash(plain_config(load_config(which)))
    )
    for path, record in records.collect(ROOT / "results").items():
        which = f"{record['run']},{record['scale']}"
        assert record["config_hash"] == today(which), path


def test_a_version_may_say_what_an_older_one_left_out():
    old = {"epochs": 3, "optimizer": {"name": "adam"}}
    whole = old | {"precision": "float32", "remat": False}
    whole["optimizer"] = {"name": "adam", "accumulate": 1}
    assert records.config_hash(whole) == records.config_hash(old)
    for change in ({"precision": "bfloat16"}, {"optimizer": {"accumulate": 2}}):
        assert records.config_hash(whole | change) != records.config_hash(old)
    assert whole["optimizer"]["accumulate"] == 1


@pytest.mark.parametrize("schema", [1, 2])
def test_a_record_states_its_version(tmp_path, schema):
    path = records.write(tmp_path / "record.json", make() | {"schema": schema})
    assert records.read(path)["schema"] == schema
    assert make()["schema"] == 2


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_dirty_is_about_the_code(tmp_path):
    state = records.environment(tmp_path)["git"]
    assert state == {"commit": None, "dirty": True}

    code = tmp_path / "vnets" / "layers.py"
    code.parent.mkdir()
    code.write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    (tmp_path / "README.md").write_text("hello\n")
    git(tmp_path, "init", "--quiet")
    assert records.environment(tmp_path)["git"]["commit"] is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message=code")
    state = records.environment(tmp_path)["git"]
    assert len(state["commit"]) == 40
    assert state["dirty"] is False

    (tmp_path / "README.md").write_text("changed\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.json").write_text("{}")
    (tmp_path / "vnets" / "layers.pyc").write_text("")
    assert records.environment(tmp_path)["git"] == state

    code.write_text("x = 2\n")
    assert records.environment(tmp_path)["git"]["dirty"] is True
    git(tmp_path, "checkout", "--quiet", ".")
    (tmp_path / "vnets" / "new.py").write_text("")
    assert records.environment(tmp_path)["git"]["dirty"] is True
    # A package installed below a checkout is not the code of that checkout.
    assert records.environment(tmp_path / "vnets")["git"]["commit"] is None


def test_environment_fits_a_record():
    environment = records.environment()
    assert environment["versions"]["jax"]
    assert environment["device"]["count"] >= 1
    make(environment=environment)


def test_curves_and_nets_are_kept_and_may_be_absent(tmp_path):
    curve = {"x": [0.1234567891, 1.0], "y": [float("nan"), 2.0]}
    nets = {"configs/a.py:b seed 0": {"checksum": "c"}}
    record = make()
    assert not {"curves", "nets"} & set(record)
    record |= {"curves": {"c": curve}, "nets": nets}
    back = records.read(records.write(tmp_path / "record.json", record))
    assert np.isnan(back["curves"]["c"]["y"][0])
    assert back["nets"] == nets
    with pytest.raises(RecordError, match="unknown"):
        records.write(tmp_path / "record.json", record | {"curve": {}})
