"""A trace of some steps, and where it, and a run, cannot be written."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from train_tasks import fit, make_split, make_task

from vnets.files import FileError


@pytest.fixture(scope="module")
def split():
    return make_split()


def profiled(folder) -> list[int]:
    """The first steps of the chunks that a trace in a workdir has."""
    (path,) = folder.glob("profile/plugins/profile/*/*.trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return [int(e["args"]["step_num"]) for e in events if e.get("name") == "train"]


@pytest.mark.parametrize(
    ("chunk", "steps", "traced"), [(1, (4, 8), [4, 5, 6, 7]), (5, (4, 8), [0, 5])]
)
def test_steps_are_traced_in_whole_chunks(
    split, one_device, tmp_path, chunk, steps, traced
):
    """Of three epochs of five steps; what is trained is the same."""
    run = {"chunk_steps": chunk, "checkpoint_seconds": 1e6}
    [plain] = fit(make_task(split), one_device, **run)
    [other] = fit(make_task(split), one_device, workdir=tmp_path, profile=steps, **run)
    assert profiled(tmp_path / "seed0") == traced
    jax.tree.map(np.testing.assert_array_equal, other.state.params, plain.state.params)


def test_a_trace_that_cannot_be_is_refused(split, one_device, tmp_path, caplog):
    for steps in ((-1, 3), (3, 3), (3, 16)):
        with pytest.raises(ValueError, match="within the 15 steps"):
            fit(make_task(split), one_device, workdir=tmp_path, profile=steps)
    with pytest.raises(ValueError, match="needs a workdir"):
        fit(make_task(split), one_device, profile=(1, 2))
    fit(make_task(split), one_device, workdir=tmp_path)
    fit(make_task(split), one_device, workdir=tmp_path, profile=(1, 2))
    assert "goes on from step 15" in caplog.text
    assert not list(tmp_path.rglob("profile"))


@pytest.mark.parametrize("address", ["gs://mine/run", "s3://mine/run"])
@pytest.mark.parametrize("kind", [str, Path, lambda address: lambda seed: address])
def test_a_bucket_is_no_workdir(
    split, one_device, address, kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="is no folder"):
        fit(make_task(split), one_device, workdir=kind(address))
    assert not list(tmp_path.iterdir())
