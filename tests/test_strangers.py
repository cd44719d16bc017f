"""What somebody else's folder, record or command line may not do."""

import json
import os
import subprocess

import numpy as np
import pytest
from compact_nets import lenet5
from test_records import make

from experiments import (
    cli,
    config_files,
    core,
    ranges,
    records,
    running,
    style,
    workdirs,
)
from experiments.config_files import load_config, load_module, run_folder
from experiments.launch import plan, slurm
from experiments.records import canonical
from experiments.spec import ConfigError
from vnets import compact, files

CONFIG = "configs/lenet5_mnist.py:variance,quick"
EVIL = (
    "import pathlib; pathlib.Path({!r}).touch()\ndef get_config(which): return {{}}\n"
)


@pytest.mark.parametrize("kind", ["absolute", "up", "link", "folder", "tables"])
def test_only_files_of_configs_are_run(kind, tmp_path, monkeypatch):
    ran, evil = tmp_path / "ran", tmp_path / "evil.py"
    evil.write_text(EVIL.format(str(ran)))
    root = tmp_path / "root"
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "link.py").symlink_to(evil)
    monkeypatch.setattr(config_files, "ROOT", root)
    monkeypatch.setattr(config_files, "CONFIGS", root / "configs")
    name = {
        "absolute": str(evil),
        "up": "configs/../../evil.py",
        "link": "configs/link.py",
        "folder": "configs",
        "tables": "configs/tables/x.py",
    }[kind]
    with pytest.raises(ConfigError, match="only files of configs/ are loaded by name"):
        load_config(f"{name}:x,quick")
    assert not ran.exists()


def test_a_workdir_runs_no_code_of_its_own(tmp_path):
    ran, evil = tmp_path / "ran", tmp_path / "evil.py"
    evil.write_text(EVIL.format(str(ran)))
    config = workdirs.plain_config(
        load_config("configs/toy_regression.py:ensemble,quick")
    )
    for net in config["nets"].values():
        net["run"] = f"{evil}:x"
    text = json.dumps({"config": config, "environment": {}})
    (tmp_path / workdirs.CONFIG).write_text(text)
    with pytest.raises(ConfigError, match="only files of configs/ are loaded by name"):
        running.restore(tmp_path)
    assert not ran.exists()


def test_a_file_that_the_user_names_is_loaded(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def get_config(which):\n    return {'which': which}\n")
    with pytest.raises(ConfigError):
        load_module(str(own))
    config_files.allow(own)
    assert load_config(f"{own}:x") == {"which": "x"}


@pytest.mark.parametrize("config", [[1], {}, {"experiment": "variance_networks"}, 5])
def test_a_workdir_of_no_config_is_told(config, tmp_path):
    text = json.dumps({"config": config, "environment": {}})
    (tmp_path / workdirs.CONFIG).write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json is no config of a run"):
        running.restore(tmp_path)


BAD_NAMES = ("../../x", "..", "", "/x", "a/b", ".a", "-a", "a b", "a\n", "é")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_become_paths_are_checked(name, tmp_path):
    for which in ("variant", "scale", "config file"):
        run = {"variant": f"configs/x.py:{name}", "config file": f"{name}:a"}
        if which == "config file" and name not in ("..", "", "a b", ".a"):
            continue  # a path, whose last part is taken
        with pytest.raises(ConfigError, match="is no name"):
            run_folder(
                tmp_path,
                run.get(which, "configs/x.py:a"),
                name if which == "scale" else "quick",
                0,
            )
    for field in ("variant", "scale"):
        config = load_config(CONFIG)
        config[field] = name
        with pytest.raises(ConfigError, match=rf"config\.{field} .* is no name"):
            core.build(config)


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("field", ["variant", "scale"])
def test_nothing_is_published_outside_of_results(field, name, tmp_path):
    path = records.write(tmp_path / "in" / "record.json", make())
    record = json.loads(path.read_text())
    record.pop("checksum")
    record[field] = name
    if field == "variant":
        record["run"] = f"configs/lenet5_mnist.py:{name}"
    record["checksum"] = canonical.sha256(record)
    path.write_text(json.dumps(record))
    done = records.publish([path], tmp_path / "deep" / "results")
    assert list(done.refused) == [path]
    assert "is no name" in done.refused[path]
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize(
    "run", ["..:variance", "configs/..:variance", "configs/a b.py:variance"]
)
def test_a_record_names_its_config_file(run, tmp_path):
    with pytest.raises(records.RecordError, match="is no name"):
        make(run=run)


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    """Neither at the target nor at any name that could be guessed."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for target in ("record.json", "net.vnz", "figure.png"):
        for guess in (
            target,
            f".{target}.{os.getpid()}",
            f".{target}.{os.getpid()}.tmp",
        ):
            (tmp_path / guess).symlink_to(victim)
    files.write_text(tmp_path / "record.json", "text")
    compact.save(tmp_path / "net.vnz", lenet5()[1])
    from matplotlib.figure import Figure

    style.write_figure(Figure(), tmp_path / "figure.png")
    assert victim.read_text() == "mine"
    for target in ("record.json", "net.vnz", "figure.png"):
        assert not (tmp_path / target).is_symlink()
    # A name that was guessed after all is refused.
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0")
    (tmp_path / f".x.{os.getpid()}.0.tmp").symlink_to(victim)
    with pytest.raises(files.FileError, match="cannot write"):
        files.write_text(tmp_path / "x", "text")
    with pytest.raises(OSError, match="symbolic"):
        files.unlinked(str(tmp_path / f".x.{os.getpid()}.0.tmp"), os.O_WRONLY)
    assert victim.read_text() == "mine"


def test_what_is_not_written_whole_leaves_nothing(tmp_path):
    (tmp_path / "x").write_text("before")

    def cut():
        with files.replacing(tmp_path / "x") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        cut()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "before"


def test_the_path_of_a_checkout_is_no_shell_code(tmp_path):
    line = slurm.pythonpath(tmp_path / f"$(touch {tmp_path}/ran) 'a' \"b\"; `x`")
    shown = subprocess.run(
        ["sh", "-c", f'{line}\nprintf %s "$PYTHONPATH"'],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": "/before"},
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = tmp_path / f"$(touch {tmp_path}/ran) 'a' \"b\"; `x`"
    assert shown.stdout == f"{wanted}:/before"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_log_alpha", np.nan, "be a number, but is nan"),
        ("evals.threshold", np.nan, "be a number"),
        ("optimizer.b1", 2.0, "be at least 0 and below 1, but is 2.0"),
        ("optimizer.learning_rate", ((0.0, -1.0),), "not be negative"),
        ("optimizer.learning_rate", ((0.0, np.inf),), "not be negative"),
        ("optimizer.log_alpha_rate", np.nan, "not be negative"),
        ("kl_weight", ((0.0, -1.0),), "not be negative"),
        ("kl_weight", ((0.0, np.nan),), "not be negative"),
        ("seed", -1, "be at least 0 and below 4294967296"),
    ],
)
def test_fields_of_a_config_are_numbers_that_can_be(field, value, message):
    config = load_config(CONFIG)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=rf"config\.{field} must {message}"):
        core.build(config)


@pytest.mark.parametrize("group", [None, "dataset", "evals", "optimizer", "probe"])
def test_a_field_that_a_config_lacks_is_named(group, capsys):
    whole, codes = load_config(CONFIG), set()
    for field in whole[group] if group else whole:
        config = load_config(CONFIG)
        del (config[group] if group else config)[field]
        code = built(config)
        assert code in (0, 2), field  # it is optional, or
        assert code == 0 or field in capsys.readouterr().err
        codes.add(code)
    assert 2 in codes


def built(config):
    """The exit code that a script ends with where this config is built."""
    try:
        core.build(config)
    except Exception as error:
        return cli._told(error)
    return 0


def test_ranges_say_what_they_hold():
    told = {
        ranges.FINITE: "be a number that is finite",
        ranges.ANY: "be a number",
        ranges.NOT_NEGATIVE: "not be negative",
        ranges.POSITIVE: "be above 0",
        ranges.SHARE: "be at least 0 and at most 1",
        ranges.COUNT: "be at least 1",
    }
    assert {one: str(one) for one in told} == told
    for allowed, good, bad in (
        (ranges.FINITE, (-1e300, 0), (np.nan, np.inf, -np.inf, "1", None)),
        (ranges.ANY, (np.inf, -np.inf, 0), (np.nan,)),
        (ranges.POSITIVE, (1e-300,), (0.0, -1.0, np.inf)),
        (ranges.BELOW_ONE, (0.0, 0.999), (1.0, -1e-9)),
        (ranges.COUNT, (1, 10**6), (0, 1.5, np.nan, np.inf)),
    ):
        for value in good:
            allowed.check("it", value)
        for value in bad:
            with pytest.raises(ConfigError, match="it must"):
                allowed.check("it", value)


def test_a_file_without_variants_cannot_be_launched(tmp_path):
    bare = tmp_path / "bare.py"
    bare.write_text("def get_config(which):\n    return {}\n")
    with pytest.raises(ConfigError, match="no VARIANTS"):
        plan.sweep(str(bare), "quick", [0])
    bare.write_text("def (")
    with pytest.raises(ConfigError, match=r"bare\.py: SyntaxError"):
        plan.sweep(str(bare), "quick", [0])


def test_number_flags_are_held_to_their_range():
    parser = cli._Number(ranges.COUNT)
    assert parser.parse("3") == 3
    assert isinstance(parser.parse("3"), int)
    for bad in ("nan", "0", "1.5", "x", "", "inf"):
        with pytest.raises(ValueError):
            parser.parse(bad)
