"""The mark that a run leaves in its workdir."""

import pytest

from experiments import core, workdirs
from experiments.config_files import load_config
from vnets import results


def test_a_field_that_came_later_counts_once_it_is_set():
    """At its first value a record from before it came is still of the same config."""
    config = load_config("configs/lenet5_mnist.py:variance,quick")
    plain = workdirs.plain_config(config)
    assert not {"precision", "remat"} & set(plain)
    assert "accumulate" not in plain["optimizer"]
    config.precision, config.remat = "bfloat16", True
    config.optimizer.accumulate = 2
    changed = workdirs.plain_config(config)
    assert changed["precision"] == "bfloat16"
    assert changed["remat"] is True
    assert changed["optimizer"]["accumulate"] == 2
    assert core.build(config)  # and both are fields that an experiment takes


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
            with pytest.raises(results.RecordError, match=r"config\.json is damaged"):
                look()
