"""What a launch would run: what is missing, in order, and what is refused."""

import os
import re
import shlex

import pytest

from experiments import workdirs
from experiments.launch import plan
from experiments.launch.plan import Run
from experiments.spec import ConfigError
from experiments.tables.specs import TableError
from tests.launches import ROOT, launch
from tests.waiting import HANG


def test_nets_come_before_what_starts_from_them(tmp_path):
    runs = plan.sweep("configs/uncertainty.py:deep_ensemble", "quick", range(2))
    todo = plan.missing(runs, tmp_path)
    order = list(todo)
    assert len(todo) == 2 + 10
    assert todo[runs[1]] == tuple(
        Run("configs/variance_lenet5.py:deterministic", "quick", k)
        for k in range(5, 10)
    )
    for run, needs in todo.items():
        for need in needs:
            assert order.index(need) < order.index(run)
    nets, studies = plan.stages(todo)
    assert set(studies) == set(runs)
    assert len(nets) == 10


def test_every_table_can_be_planned_at_each_of_its_scales(tmp_path):
    for scale in ("quick", "short", "paper"):
        runs = plan.tables("", scale, range(3))
        todo = plan.missing(runs, tmp_path)
        assert set(runs) <= set(todo)
        assert len(set(runs)) == len(runs)
        stages = plan.stages(todo)
        level = {run: k for k, stage in enumerate(stages) for run in stage}
        assert set(level) == set(todo)
        for run, needs in todo.items():
            for need in needs:
                assert level[need] < level[run]


def test_seeds_are_capped_as_in_the_table(tmp_path):
    del tmp_path
    runs = plan.tables("kl_approximations", "quick", range(3))
    assert {run.seed for run in runs} == {0}


@pytest.mark.parametrize(
    ("which", "scale", "words"),
    [
        ("configs/nope.py", "quick", ["nope.py", "configs/lenet5_mnist.py"]),
        ("configs", "quick", ["configs/lenet5_mnist.py"]),
        ("configs/lenet5_mnist.py:varience", "quick", ["varience", "variance_all"]),
        ("configs/lenet5_mnist.py", "tiny", ["tiny", "quick", "paper"]),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(which, scale, words):
    with pytest.raises(ConfigError) as caught:
        plan.sweep(which, scale, range(1))
    for word in words:
        assert word in str(caught.value)


def test_unknown_tables_are_answered_with_the_known():
    with pytest.raises(TableError, match=r"nope.*lenet5_mnist"):
        plan.tables("nope", "quick", range(1))


def test_a_changed_config_is_moved_aside_and_missing(sweep_file, tmp_path):
    home = tmp_path / "runs"
    [run] = plan.sweep(f"{sweep_file}:ard", "quick", range(1))
    folder = run.folder(home)
    folder.mkdir(parents=True)
    (folder / workdirs.CONFIG).write_text('{"config": {"other": 1}, "environment": {}}')
    todo = plan.missing([run], home)
    plan.prepare(todo, home)
    assert list(todo) == [run]
    assert not folder.exists()
    assert len(list((home / "stale").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=configs/nope.py"], ["nope.py", "configs/rl.py"]),
        (
            ["--table=rl", "--gpus=2", "--partition=x"],
            ["--gpus", "--partition", "slurm"],
        ),
    ],
)
def test_wrong_calls_exit_with_2_and_write_nothing(
    environment, tmp_path, arguments, words
):
    process = launch(environment, *arguments, f"--runs={tmp_path / 'runs'}")
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 2
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (tmp_path / "runs").exists()


def test_the_commands_of_the_documentation_plan_something(environment, tmp_path):
    text = (
        (ROOT / "docs/howto/launch.md").read_text(encoding="utf-8").replace("\\\n", " ")
    )
    commands = re.findall(r"^python scripts/launch.py(.*)$", text, re.MULTILINE)
    assert commands
    environment["PATH"] = os.environ["PATH"]
    home = tmp_path / "runs"
    started = [
        launch(environment, *shlex.split(one), "--dry_run", f"--runs={home}")
        for one in commands
    ]
    for process in started:
        out, err = process.communicate(timeout=HANG)
        assert process.returncode == 0, err
        assert not out.startswith("0 runs")
    assert not home.exists()
