"""Wrong command lines: each ends with its exit code and a line, none in a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attack.sizes import some

from experiments import workdirs
from experiments.config_files import load_config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONFIG = "--config=configs/lenet5_mnist.py:variance,quick"
NUMBERS = ("nan", "-1", "x", "")
# Of train.py, by field: what it cannot be.
FIELDS = {
    "epochs": ("0", "-1", "two", "1.5"),
    "batch_size": ("0", "-1", "100000000"),
    "chunk_steps": ("0", "nan"),
    "seed": ("-1", "4294967296", "x"),
    "kl_weight": ("((0.0, -1.0),)", "((0.0, nan),)", "((0.0, 1e999),)", "()"),
    "max_log_alpha": ("nan", "x"),
    "optimizer.b1": ("2.0", "-1.0", "nan", "1.0"),
    "optimizer.learning_rate": (
        "((0.0, -0.1),)",
        "((1.0, 0.1), (0.0, 0.1))",
        "((0.0, 1e999),)",
        "nan",
    ),
    "optimizer.log_alpha_rate": ("-1.0", "nan", "inf"),
    "optimizer.accumulate": ("0", "-1", "x"),
    "optimizer.name": ("nope", ""),
    "optimizer.nope": ("1",),
    "evals.samples": ("0", "-1"),
    "evals.batch_size": ("0",),
    "evals.threshold": ("nan",),
    "probe.every": ("0", "-3"),
    "probe.samples": ("0",),
    "dataset.name": ("mnits", "../x", ""),
    "dataset.validation": ("-1", "100000000"),
    "dataset.labels": ("nope",),
    "model.name": ("nope", ""),
    "model.nope": ("1",),
    "prior": ("nope", ""),
    "precision": ("float8",),
    "experiment": ("nope", "../x", "core"),
    "scale": ("../../x", "short", "", "nope"),
    "variant": ("other", "../x", ""),
    "nope": ("1",),
    "model": ("{}", "5", "{'name': 'mlp', 'widths': (0,)}", "{'name': 'mlp', 'a': 1}"),
    "optimizer": ("{}", "{'name': 'adam'}"),
    "dataset": ("{}", "{'name': 'digits'}"),
    "evals": ("{}",),
    "probe": ("{}",),
}
# Flags with their wrong values, beside the right ones of `BASE`.
BASE = {
    "train": [CONFIG, "--workdir={folder}/run"],
    "launch": ["--config=configs/lenet5_mnist.py", "--dry_run", "--runs={folder}"],
    "compress": ["--workdir={folder}/list", "--out={folder}/net.vnz"],
    "threshold": ["--workdir={folder}/list"],
    "animate": ["--run={folder}/five"],
    "publish": ["--table=lenet5_mnist", "--scale=quick", "--runs={folder}/none"],
    "tables": ["--table=lenet5_mnist", "--scale=quick"],
    "reproduce": ["--table=lenet5_mnist", "--scale=quick", "--runs={folder}"],
    "fetch_data": ["mnist"],
    "bench": ["--quick", "--only=noise"],
}
FLAGS = {
    "train": {
        "checkpoint_seconds": (*NUMBERS, "inf"),
        "keep_every": (*NUMBERS, "1.5"),
        "processes": (*NUMBERS, "0"),
        "process_id": ("-1", "x"),
        "connect_seconds": ("nan", "-1"),
        "workdir": ("", " "),
        "runs": ("",),
        "config": (
            "",
            "configs/nope.py:variance",
            "configs",
            "README.md",
            "/etc/passwd",
            "configs/tables/rl.toml:x",
            "configs/lenet5_mnist.py:nope",
            "configs/lenet5_mnist.py:variance,nope",
            "{folder}/broken.py:x",
            "{folder}/raises.py:x",
        ),
        "nosuchflag": ("1",),
    },
    "launch": {
        "config": (
            "",
            "configs/nope.py",
            "configs/lenet5_mnist.py:nope",
            "{folder}/bare.py",
            "{folder}/broken.py",
            "{folder}/raises.py",
            "/etc/passwd",
        ),
        "table": ("lenet5_mnist", "nope"),
        "seeds": (*NUMBERS, "0"),
        "processes": (*NUMBERS, "0"),
        "scale": ("nope", "", "../x"),
        "backend": ("nope",),
        "gpus": ("1", "-1"),
        "time_limit": ("1", "nan"),
        "runs": ("",),
    },
    "compress": {
        "workdir": ("", "{folder}/nothing", *("{folder}/" + n for n in ("list", "no"))),
        "out": ("", "net.zip", "{folder}/record.vnz", "{folder}/nothing/net.vnz"),
        "bits": (*NUMBERS, "1", "9"),
        "tolerance": (*NUMBERS, "2"),
        "threshold": ("nan", "x"),
        "threads": ("nan", "0"),
    },
    "threshold": {
        "workdir": ("", "{folder}/nothing", "{folder}/no", "{folder}/evil"),
        "tolerance": (*NUMBERS, "2"),
    },
    "animate": {
        "run": ("", "{folder}/nothing", "{folder}/five", "{folder}/rows"),
        "frames": (*NUMBERS, "0", "inf"),
        "output": ("x.mp4",),
    },
    "publish": {
        "table": ("nope", "../x"),
        "scale": ("nope", "../x", ""),
        "runs": ("",),
        "results": ("",),
    },
    "tables": {"table": ("nope",), "scale": ("nope",), "records": ("",)},
    "reproduce": {
        "table": ("nope",),
        "scale": ("nope", ""),
        "seeds": ("0", "nan"),
        "rows": ("nope",),
        "runs": ("",),
    },
    "fetch_data": {"data_dir": ("",), "nope": ("1",)},
    "bench": {"only": ("nope", ""), "rounds": ("-1", "nan"), "out": ("",)},
}
WORDS = {"fetch_data": "nope"}  # a word that it cannot be given; others take none
# What could not be done, as far as it was asked for rightly.
FAILED = {"animate", "publish", "compress", "threshold"}


def lines(folder):
    """Script and arguments of each wrong call."""
    found = [
        ("train", [*BASE["train"], f"--config.{field}={value}"])
        for field, values in FIELDS.items()
        for value in values
    ]
    for script, flags in FLAGS.items():
        for flag, values in flags.items():
            others = [one for one in BASE[script] if not one.startswith(f"--{flag}=")]
            found += [(script, [*others, f"--{flag}={value}"]) for value in values]
        found.append((script, [*BASE[script], WORDS.get(script, "word")]))
    table = ["--table=lenet5_mnist", "--dry_run"]
    slurm = [*BASE["launch"], "--backend=slurm"]
    for others in (
        [],
        [*table, "--scale="],
        [*table, "--scale=nope"],
        [*slurm, "--sbatch=account"],
        [*slurm, "--sbatch==x"],
        [*slurm, "--cores=0"],
    ):
        found.append(("launch", others))
    required = ("train", "compress", "threshold", "animate", "publish", "fetch_data")
    found += [(script, []) for script in required]
    return [(s, [one.replace("{folder}", str(folder)) for one in a]) for s, a in found]


def strangers(folder):
    """Workdirs and config files of somebody who means harm, or made a mistake."""
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    made = load_config("configs/uncertainty.py:variance,quick")
    config = workdirs.plain_config(made)
    for net in config["nets"].values():
        net["run"] = f"{folder}/evil.py:x"
    held = {
        "list": [1, 2],
        "no": {"experiment": "variance_networks", "variant": "a", "scale": "quick"},
        "evil": config,
    }
    for name, one in held.items():
        (folder / name).mkdir()
        text = json.dumps({"config": one, "environment": {}})
        (folder / name / "config.json").write_text(text)
    for name, text in (("five", "5\n"), ("rows", '{"probe_seconds": 1}\n')):
        (folder / name).mkdir()
        (folder / name / "metrics.jsonl").write_text(text)
    (folder / "bare.py").write_text("def get_config(which):\n    return {}\n")
    (folder / "broken.py").write_text("def get_config(:\n")
    (folder / "raises.py").write_text("raise RuntimeError('on purpose')\n")


@pytest.mark.slow
def test_wrong_command_lines_end_without_a_traceback(tmp_path, environment):
    strangers(tmp_path)
    every = lines(tmp_path)
    assert len(every) >= 150
    calls = [every[number] for number in some(len(every))]
    environment |= {"TFDS_DATA_DIR": str(tmp_path / "no-tfds"), "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, str(HERE / "commands.py")],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    bad = []
    for (script, arguments), (code, text) in zip(
        calls, json.loads(done.stdout), strict=True
    ):
        told = [line for line in text.splitlines() if line.strip()]
        held = any(one.startswith("--config.dataset.") for one in arguments)
        codes = (
            (1, 2) if script in FAILED or held else (2,)
        )  # or there are no such data
        if "Traceback" in text or code not in codes or len(told) != 1:
            bad.append(f"{script} {' '.join(arguments)}: {code}\n{text}")
    assert not bad, f"{len(bad)} of {len(calls)}:\n" + "\n".join(bad)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()
