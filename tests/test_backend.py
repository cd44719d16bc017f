"""What `backend.jit` tells the compiler, and who may say otherwise."""

import importlib.metadata

import jax
import jax.numpy as jnp
import pytest

from vnets import backend


@pytest.fixture
def told(monkeypatch):
    """The compiler options that `jax.jit` is given."""
    seen = {}

    def jit(function, compiler_options, **kwargs):
        del kwargs
        seen.update(compiler_options)
        return function

    monkeypatch.setattr(jax, "jit", jit)
    return seen


def test_the_compiler_is_told_the_options_of_the_backend(told, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with backend.use(compiler_options=backend.CPU.compiler_options):
        backend.jit(jnp.sin)
    assert told == dict(backend.CPU.compiler_options)


def test_a_flag_of_the_user_wins(told, monkeypatch):
    [(name, _)] = [one for one in backend.CPU.compiler_options if "level" in one[0]]
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x --{name}=3")
    with backend.use(compiler_options=backend.CPU.compiler_options):
        backend.jit(jnp.sin)
    assert set(told) == {key for key, _ in backend.CPU.compiler_options} - {name}


@pytest.mark.parametrize(
    "field", ["convolution", "library", "normal", "seeds", "derivatives"]
)
def test_unknown_forms_are_refused(field):
    before = backend.forms()
    with (
        pytest.raises(ValueError, match=rf"unknown {field} 'tiled'; choose from"),
        backend.use(**{field: "tiled"}),
    ):
        pass
    assert backend.forms() == before


def test_a_library_is_not_called_where_a_device_has_only_a_part(monkeypatch):
    """XLA would gather the batch on every device."""
    for devices, library in ((1, backend.CPU.library), (2, "xla")):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        assert backend.forms().library == library


@pytest.mark.parametrize("there", [True, False])
def test_onednn_is_used_where_its_package_is(there, monkeypatch):
    def distribution(name):
        assert name == backend.ONEDNN
        if not there:
            raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert backend._library() == ("onednn" if there else "xla")


def test_the_options_are_ones_that_the_compiler_knows(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with backend.use(compiler_options=backend.CPU.compiler_options):
        assert backend.jit(jnp.sin)(0.0) == 0
