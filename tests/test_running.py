"""Runs that start from other nets: trained once, named, redone when stale."""

from pathlib import Path

import pytest

from experiments import core, records, running, workdirs
from experiments.config_files import load_config, run_folder
from experiments.spec import ConfigError
from vnets import monitor

RUN = "configs/lenet5_mnist.py:variance"


def small(which, config=None):
    """Any config, cut to an MLP that trains in a second."""
    config = load_config(which) if config is None else config
    if "model" in config:
        with config.ignore_type():
            config.model = {"name": "mlp", "widths": (8,), "posteriors": {}}
            config.model.posteriors = {"dense1": {"kind": "variance"}}
        config.epochs, config.batch_size = 1, 48
        config.evals.columns = config.probe.columns = ("det",)
    return config


@pytest.fixture
def shrunk(monkeypatch):
    """Runs see every config cut down; RATE changes it under the runs' feet."""
    rate = {"value": 1e-3}

    def load(which):
        config = small(which)
        if "optimizer" in config:
            config.optimizer.learning_rate = ((0.0, rate["value"]),)
        return config

    for module in (core, running, workdirs):
        monkeypatch.setattr(module, "load_config", load)
    return rate


@pytest.fixture
def study(monkeypatch):
    """A study that counts the members it gets and evaluates their first weight."""
    calls = []

    def build(config):
        if "nets" not in config:
            return real(config)

        def measure(nets, key):
            del key
            calls.append(nets)
            first = [float(n.params["dense2"]["bias"][0]) for n in nets["net"]]
            return core.Measured(
                {"members": {"count": len(first), "accuracy": 0.5}},
                {"first": {"member": list(range(len(first))), "bias": first}},
            )

        return core.Study({"net": core.NetSpec(**config.nets.net)}, measure)

    real = core.build
    monkeypatch.setattr(core, "build", build)
    return calls


def study_config(members=2):
    config = load_config("configs/uncertainty.py:variance,quick")
    config.nets = {"net": {"run": RUN, "members": members}}
    return config


def run(config, home: Path, seeds=(0,)):
    def folder(seed):
        return run_folder(home, "configs/uncertainty.py:variance", "quick", seed)

    return running.run(
        config, "configs/uncertainty.py:variance", folder, seeds, home=home
    )


@pytest.fixture
def shown(monkeypatch):
    """Titles of what was shown while it went on."""
    titles, real = [], monitor.shown

    def show(work, enabled=True):
        titles.append(work.title)
        return real(work, enabled)

    monkeypatch.setattr(monitor, "shown", show)
    return titles


def test_a_study_trains_its_nets_once_and_names_them(
    tmp_path, shrunk, study, shown, capsys
):
    record = run(study_config(), tmp_path)[0]
    assert record["status"] == "done"
    assert record["evals"]["members"]["count"] == 2
    assert "training seeds 0, 1" in capsys.readouterr().out
    assert shown[-1] == "variance quick seed 0, measuring"
    assert "variance quick seed 1, evaluating" in shown
    assert set(record["nets"]) == {f"{RUN} seed 0", f"{RUN} seed 1"}
    for member in (0, 1):
        net = records.read(run_folder(tmp_path, RUN, "quick", member) / workdirs.RECORD)
        named = record["nets"][f"{RUN} seed {member}"]
        assert named["checksum"] == net["checksum"]
        assert named["config_hash"] == net["config_hash"]
    # Different seeds are different nets, and a second study does not train again.
    biases = record["curves"]["first"]["bias"]
    assert biases[0] != biases[1]
    run(study_config(members=1), tmp_path, seeds=(1,))
    assert "training" not in capsys.readouterr().out
    assert len(study[0]["net"]) == 2
    assert len(study[1]["net"]) == 1


@pytest.mark.slow
def test_a_changed_net_makes_the_study_stale(tmp_path, shrunk, study):
    config = study_config(members=1)
    run(config, tmp_path)
    folder = run_folder(tmp_path, "configs/uncertainty.py:variance", "quick", 0)
    assert workdirs.held_record(folder, config) is not None
    shrunk["value"] = 5e-3
    assert workdirs.held_record(folder, config) is None
    assert workdirs.set_aside(folder, config, tmp_path / "stale").is_dir()
    run(config, tmp_path)  # the net's own folder is set aside too, not lost
    assert len(list((tmp_path / "stale").iterdir())) == 2


def test_what_a_run_cannot_do_is_refused(tmp_path, study):
    config = load_config("configs/uncertainty.py:variance,quick")
    for options in ({"keep_every": 2}, {"tensorboard": True}, {"profile": (1, 2)}):
        with pytest.raises(ConfigError, match="no net of its own"):
            running.run(
                config, "r", lambda seed: tmp_path, [0], home=tmp_path, **options
            )
    with pytest.raises(ConfigError, match="a seed must be at least 0, not -1"):
        running.run(config, "r", lambda seed: tmp_path, [-1], home=tmp_path)
    assert not study
    assert not list(tmp_path.iterdir())


def test_a_failed_net_is_an_error_that_names_it(tmp_path, shrunk, study):
    shrunk["value"] = 1e30
    with pytest.raises(records.RecordError, match=r"variance/seed0.*net failed"):
        run(study_config(members=1), tmp_path)


@pytest.mark.slow
def test_a_warm_start_takes_the_edited_net(tmp_path, shrunk):
    config = small("", load_config("configs/lenet5_mnist.py:variance,quick"))
    config.nets = {"start": {"run": RUN, "edit": "nothing"}}
    config.optimizer.learning_rate = ((0.0, 0.0),)

    def folder(seed):
        return tmp_path / "warm" / f"seed{seed}"

    [record] = running.run(config, RUN, folder, [0], home=tmp_path).values()
    source = records.read(run_folder(tmp_path, RUN, "quick", 0) / workdirs.RECORD)
    assert record["nets"][f"{RUN} seed 0"]["checksum"] == source["checksum"]
    # A rate of zero: the same net, tested with the same key.
    assert record["evals"]["det"] == source["evals"]["det"]
