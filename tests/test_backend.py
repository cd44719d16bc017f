"""What `backend.jit` tells the compiler, and who may say otherwise."""

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


@pytest.mark.parametrize("field", ["convolution", "normal", "seeds", "derivatives"])
def test_unknown_forms_are_refused(field):
    before = backend.forms()
    with (
        pytest.raises(ValueError, match=rf"unknown {field} 'tiled'; choose from"),
        backend.use(**{field: "tiled"}),
    ):
        pass
    assert backend.forms() == before


def test_the_options_are_ones_that_the_compiler_knows(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with backend.use(compiler_options=backend.CPU.compiler_options):
        assert backend.jit(jnp.sin)(0.0) == 0
