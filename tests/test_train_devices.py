"""The trainer on many devices: the same losses, whatever their number."""

import jax
import numpy as np
import pytest
from train_tasks import fit, make_split, make_task

from vnets import parallel, sources, train

MESHES = {  # devices, and how many of them along the seeds
    "2": (2, 1),
    "8": (8, 1),
    "2 of seeds": (2, 2),
    "8, 2 of seeds": (8, 2),
}


@pytest.fixture(scope="module")
def split():
    return make_split()


@pytest.fixture(scope="module")
def twenty_steps(split):
    """twenty_steps(devices, seeds along the mesh): four seeds, an epoch a step."""
    source = sources.Resident(split, 40)
    task = make_task(split, source=source)

    def run(count, along_seeds):
        mesh = parallel.mesh(jax.devices()[:count], seeds=along_seeds)
        options = {"seeds": range(4), "vectorize": True, "show_progress": False}
        return train.fit(task, epochs=20, mesh=mesh, **options)

    return run, run(1, 1)


@pytest.mark.parametrize("name", MESHES)
def test_same_losses_whatever_the_devices(twenty_steps, name):
    run, expected = twenty_steps
    found = run(*MESHES[name])
    final = [one.history[-1]["nll"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.seed == other.seed
        losses, wanted = (
            [row["loss"] for row in result.history] for result in (one, other)
        )
        np.testing.assert_allclose(losses, wanted, rtol=1e-5)
        gap = abs(one.history[-1]["nll"] - other.history[-1]["nll"])
        assert gap < np.std(final) / 100
        for a, b in zip(
            jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_seeds_in_turn_on_many_devices(split, one_device):
    task = make_task(split)
    [one] = fit(task, one_device)
    [other] = fit(task, parallel.mesh())
    for row, wanted in zip(other.history, one.history, strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)


@pytest.mark.parametrize(("batch_size", "seeds"), [(20, 1), (5, 1), (10, 2)])
def test_a_batch_need_not_divide_over_the_devices(split, one_device, batch_size, seeds):
    task = make_task(split, source=sources.Resident(split, batch_size))
    options = {"seeds": range(seeds), "vectorize": True, "epochs": 2}
    wanted = fit(task, one_device, **options)
    found = fit(task, parallel.mesh(seeds=seeds), **options)
    for one, other in zip(wanted, found, strict=True):
        for row, other_row in zip(one.history, other.history, strict=True):
            assert other_row["loss"] == pytest.approx(row["loss"], rel=1e-5)


def test_a_run_goes_on_on_other_devices(split, one_device, tmp_path):
    """Checkpoints do not know on how many devices they were made."""
    task = make_task(split)
    kwargs = {"seeds": [0, 1], "vectorize": True, "checkpoint_seconds": 0.0}
    whole = fit(task, one_device, epochs=4, **kwargs)
    kwargs["workdir"] = lambda seed: tmp_path / str(seed)
    fit(task, parallel.mesh(seeds=2), epochs=2, **kwargs)
    resumed = fit(task, one_device, epochs=4, **kwargs)
    for a, b in zip(whole, resumed, strict=True):
        assert len(b.history) == 4
        assert a.history[-1]["loss"] == pytest.approx(b.history[-1]["loss"], rel=1e-5)


def test_a_mesh_that_splits_seeds_needs_them_side_by_side(split):
    task, on = make_task(split), parallel.mesh(seeds=2)
    with pytest.raises(ValueError, match="vectorize=True"):
        fit(task, on, seeds=[0, 1], vectorize=False)
    with pytest.raises(ValueError, match=r"3 seeds .* over 2 devices; try 2 or 4"):
        fit(task, on, seeds=[0, 1, 2])
