"""The mark that a run leaves in its workdir."""

import os

import pytest

from experiments import core, records, workdirs
from experiments.config_files import ConfigError, load_config
from vnets import checkpoint, monitor
from vnets.train import early


def test_a_mark_from_before_a_field_came_is_of_the_same_config(tmp_path):
    config = load_config("configs/lenet5_mnist.py:variance,quick")
    plain = workdirs.plain_config(config)
    assert plain["precision"] == "float32"
    assert plain["optimizer"]["accumulate"] == 1
    before = dict(records.identity(plain))
    assert "precision" not in before
    environment = workdirs.claim(tmp_path, before)
    assert workdirs.other_config(tmp_path, config) is None
    assert workdirs.claim(tmp_path, plain) == environment
    config.precision, config.remat = "bfloat16", True
    config.optimizer.accumulate = 2
    with pytest.raises(ConfigError, match=r"optimizer\.accumulate, precision, remat"):
        workdirs.claim(tmp_path, workdirs.plain_config(config))
    assert core.build(config)  # they are fields that an experiment takes


def test_numbers_that_are_not_finite_come_back_from_a_mark(tmp_path):
    config = load_config("configs/imagenet.py:sparse_vd_90,quick")
    low, high = -float("inf"), float("inf")
    config.clip_log_alpha.update({"low": low, "high": high})
    workdirs.claim(tmp_path, workdirs.plain_config(config))
    held = workdirs.read_config(tmp_path)
    assert (held.clip_log_alpha.low, held.clip_log_alpha.high) == (low, high)
    assert workdirs.other_config(tmp_path, config) is None


def test_a_damaged_mark_of_a_workdir_is_named(tmp_path):
    config = load_config("configs/lenet5_mnist.py:variance,quick")
    for content in ("", '{"config": {"epo', "[]", "{}"):
        (tmp_path / workdirs.CONFIG).write_text(content)
        for look in (
            lambda: workdirs.read_config(tmp_path),
            lambda: workdirs.claim(tmp_path, {}),
            lambda: workdirs.set_aside(tmp_path, config, tmp_path / "stale"),
        ):
            with pytest.raises(records.RecordError, match=r"config\.json is damaged"):
                look()


def test_a_folder_under_two_names_is_held_once(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    (tmp_path / "run").symlink_to(tmp_path / "home" / "run")
    names = ["home/run", "link/run", "run", "home/../run"]
    with workdirs.held([tmp_path / name for name in names]):
        locks = [path.relative_to(tmp_path) for path in tmp_path.rglob(".*.lock")]
    assert [str(lock) for lock in locks] == ["home/.run.lock"]


def test_who_holds_a_workdir_removes_what_a_killed_process_began_to_write(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (workdirs.RECORD, workdirs.CONFIG, monitor.METRICS):
        (folder / f".{name}.1234.tmp").touch()
    for kept in (early.LAST, early.BEST):
        (folder / kept / "7").mkdir(parents=True)
        (folder / kept / "7" / f".{checkpoint.SUMS}.1234.tmp").touch()
    (folder / ".mine.tmp").touch()
    with workdirs.held([folder]):
        assert [path.name for path in folder.rglob("*.tmp")] == [".mine.tmp"]


def test_what_is_no_file_is_no_reason_to_wait(tmp_path):
    config = load_config("configs/lenet5_mnist.py:variance,quick")
    os.mkfifo(tmp_path / workdirs.RECORD)
    os.mkfifo(tmp_path / workdirs.CONFIG)
    for look in (
        lambda: workdirs.held_record(tmp_path, config),
        lambda: workdirs.other_config(tmp_path, config),
        lambda: workdirs.claim(tmp_path, {}),
        lambda: workdirs.read_config(tmp_path),
    ):
        with pytest.raises(records.RecordError, match="no regular file"):
            look()


def test_a_workdir_that_may_not_be_looked_into_is_named(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(workdirs.Path, "exists", refuse)
    for look in (workdirs.held_record, workdirs.other_config):
        with pytest.raises(records.RecordError, match=r"json: Permission denied"):
            look(tmp_path, None)
