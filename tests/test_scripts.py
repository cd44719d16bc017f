"""The scripts as a user calls them: exit codes, messages, a kill in the middle."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import cli, records
from experiments.tables import reading
from tests.waiting import HANG

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "--config=configs/lenet5_mnist.py:variance,quick"
# One MLP of eight units: what is tested here is not the net.
SMALL = (
    "--config.model={'name': 'mlp', 'widths': (8,), "
    "'posteriors': {'dense1': {'kind': 'variance'}}}",
)


def environment(tmp_path):
    hidden = {"TFDS_DATA_DIR", "VNETS_CACHE_DIR", "XLA_FLAGS"}
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    env["TFDS_DATA_DIR"] = str(tmp_path / "no-tfds")
    env["VNETS_CACHE_DIR"] = str(tmp_path / "no-cache")
    return env


def start(tmp_path, script, *arguments, **kwargs):
    return subprocess.Popen(
        [sys.executable, f"scripts/{script}.py", *arguments],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def call(tmp_path, script, *arguments):
    process = start(tmp_path, script, *arguments)
    out, err = process.communicate(timeout=HANG)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.epoch=2"], ["no field 'epoch'", "epochs", "optimizer.name"]),
        (["--config.epochs=two"], ["epochs", "two"]),
        (["--config.dataset.name=mnits"], ["mnits", "digits", "mnist"]),
        (["--config.prior=nope"], ["config.prior", "log_uniform"]),
        (["--config.dataset={}"], ["the config lacks dataset.name\n"]),
        (["--nosuchflag"], ["nosuchflag"]),
        (["--profile=15:10"], ["profile", "FIRST:END", "10:15"]),
        (["--runs=gs://mine/runs"], ["gs://mine/runs is no folder"]),
        (["word"], ["unexpected", "word"]),
    ],
)
def test_wrong_calls_are_answered_without_a_traceback(tmp_path, arguments, words):
    workdir = f"--workdir={tmp_path / 'run'}"
    code, _, err = call(tmp_path, "train", CONFIG, workdir, *arguments)
    assert code in (1, 2)
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("configs/lenet5_mnist.py:varience", ["varience", "variance_all"]),
        ("configs/lenet5_mnist.py:variance,tiny", ["tiny", "quick", "paper"]),
        ("configs/nope.py:variance", ["nope.py", "configs/lenet5_mnist.py"]),
    ],
)
def test_wrong_configs_list_the_valid_ones(tmp_path, config, words):
    code, _, err = call(tmp_path, "train", f"--config={config}", "--workdir=unused")
    assert code == 2
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_a_config_file_that_raises_is_named_with_its_line(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def get_config(variant):\n    return {}[variant]\n")
    code, _, err = call(tmp_path, "train", f"--config={file}:mine", "--workdir=unused")
    assert code == 2
    assert err == f"error: {file}, line 2: KeyError: 'mine'\n"


def test_without_a_config_that_is_said(tmp_path):
    code, _, err = call(tmp_path, "train", "--workdir=unused")
    assert code == 2
    assert "--config must have a value" in err
    assert "Traceback" not in err


def test_the_config_is_found_on_the_command_line():
    """As one word or as two; an override of a field is not it."""
    for words in ([CONFIG], CONFIG.split("=")):
        argv = ["train.py", "--config.epoch=2", *words, "--workdir=x"]
        assert cli._given(argv) == "configs/lenet5_mnist.py:variance,quick"
    field = KeyError("... Attempting to lookup: epochs.x")
    assert "no field 'epochs.x'; it has batch_size," in cli._explained(
        field, cli._given([CONFIG])
    )


def test_missing_data_are_named_soon_and_nothing_else_is_used(tmp_path):
    began = time.monotonic()
    code, _, err = call(
        tmp_path,
        "train",
        "--config=configs/lenet5_mnist.py:variance",
        f"--workdir={tmp_path / 'run'}",
    )
    if code == 0 or "Downloading" in err:  # pragma: no cover
        pytest.skip("there is a network here")
    assert code == 1
    assert time.monotonic() - began < 180  # retries would take 210
    for word in ("no-tfds", "no-cache", "fetch_data.py", "TFDS_DATA_DIR", "digits"):
        assert word in err
    assert not (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table=nope"], ["nope", "lenet5_mnist"]),
        (["--scale=nope"], ["nope", "quick", "short", "paper"]),
        (["--rows=nope"], ["nope", "dropout", "variance"]),
        (["--rows=vd_layer"], ["vd_layer", "at scale quick", "dropout"]),  # has no such
        (["--seeds=0"], ["seeds"]),
    ],
)
def test_reproduce_refuses_what_there_is_not(tmp_path, arguments, words):
    code, _, err = call(tmp_path, "reproduce", *arguments)
    assert code in (1, 2)
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_reproduce_names_what_it_has_no_time_for(tmp_path):
    code, out, _ = call(tmp_path, "reproduce", "--table=", "--minutes=0")
    assert code == 0
    left = out[out.index("Left out, as 0 minutes are over:") :]
    assert set(re.findall(r"\w+", left)) >= set(reading.names())


def test_a_figure_that_cannot_be_written_is_an_error_that_says_why(tmp_path):
    rows = [{"epoch": n, "probe_seconds": 0.1, "det": 0.5} for n in (1, 2)]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(log)
    (tmp_path / "file").touch()
    for output, status, words in (
        ("file/probes.gif", 1, "File exists"),
        ("probes.mp4", 2, "must end with .gif"),
    ):
        arguments = (f"--run={tmp_path}", f"--output={tmp_path / output}")
        code, _, err = call(tmp_path, "animate", *arguments)
        assert code == status
        assert words in err
        assert "Traceback" not in err


def values(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


@pytest.mark.slow
def test_killed_and_called_again_ends_as_if_never_killed(tmp_path):
    arguments = [CONFIG, *SMALL, "--config.probe.every=100", "--checkpoint_seconds=0"]

    def train(name, epochs):
        folder = f"--workdir={tmp_path / name}"
        return [*arguments, folder, f"--config.epochs={epochs}"]

    code, _, err = call(tmp_path, "train", *train("whole", 15))
    assert code == 0, err
    process = start(tmp_path, "train", *train("cut", 15))
    log = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "record.json").exists()
    survived = len(log.read_text().splitlines())
    assert 1 <= survived < 15
    code, _, err = call(tmp_path, "train", *train("cut", 15))
    assert code == 0, err
    whole, cut = (
        records.read(tmp_path / name / "record.json") for name in ("whole", "cut")
    )
    assert whole["evals"] == cut["evals"]
    assert values(tmp_path / "whole" / "metrics.jsonl") == values(log)


@pytest.mark.slow
def test_workdir_of_another_config_is_refused_and_left_alone(tmp_path):
    folder = f"--workdir={tmp_path / 'run'}"
    code, out, err = call(
        tmp_path, "train", CONFIG, *SMALL, folder, "--config.epochs=1"
    )
    assert code == 0, err
    assert "On the test set" in out
    record = (tmp_path / "run" / "record.json").read_bytes()
    code, _, err = call(tmp_path, "train", CONFIG, *SMALL, folder, "--config.epochs=2")
    assert code == 2
    assert "differs in epochs" in err
    assert (tmp_path / "run" / "record.json").read_bytes() == record


@pytest.mark.slow
def test_diverged_run_says_where_and_exits_with_1(tmp_path):
    rate = "--config.optimizer.learning_rate=((0.0, 1e30), (1.0, 1e30))"
    code, _, err = call(
        tmp_path, "train", CONFIG, *SMALL, f"--workdir={tmp_path / 'run'}", rate
    )
    assert code == 1
    assert "not finite at epoch 1, step" in err
    assert "layer dense" in err
    record = records.read(tmp_path / "run" / "record.json")
    assert "not finite" in record["status"]["failed"]


@pytest.mark.slow
def test_a_trained_net_gets_a_threshold_and_becomes_a_file(tmp_path):
    small = (
        "--config.model={'name': 'mlp', 'widths': (8,), "
        "'posteriors': {'dense1': {'kind': 'gaussian', 'log_var': -6.0}}}"
    )
    workdir = tmp_path / "run"
    config = "--config=configs/sparse_vd.py:lenet_300_100_sparse_vd,quick"
    brief = ("--config.epochs=2", "--keep_every=1", "--config.kl_weight=((0.0, 1.0),)")
    held_out = "--config.dataset.validation=200"
    code, out, err = call(
        tmp_path, "train", config, small, *brief, held_out, f"--workdir={workdir}"
    )
    assert code == 0, err
    assert "On the validation set" in out
    code, out, err = call(tmp_path, "threshold", f"--workdir={workdir}", "--animate")
    assert code == 0, err
    assert "validation images" in out
    names = {"threshold.png", "weights.png", "threshold.json", "weights.gif"}
    assert names <= {path.name for path in workdir.iterdir()}
    file = tmp_path / "net.vnz"
    arguments = (f"--workdir={workdir}", f"--out={file}", "--threshold=0")
    code, out, err = call(tmp_path, "compress", *arguments)
    assert code == 0, err
    report = json.loads(file.with_suffix(".json").read_text())
    assert report["bytes"]["file"] == file.stat().st_size
    assert f"{report['weights']['all']:,}" in out
    for out, word in (("net.zip", ".vnz"), (workdir / "record.vnz", "a run's own")):
        code, _, err = call(
            tmp_path, "compress", f"--workdir={workdir}", f"--out={out}"
        )
        assert code == 2
        assert word in err
    code, _, err = call(tmp_path, "threshold", f"--workdir={tmp_path}")
    assert code == 2
    assert "is no workdir of a run" in err
