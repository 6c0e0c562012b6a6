"""Exceptions that leave our functions show the user's frames alone, as those that leave JAX's do."""

import traceback

import jax
import jax.numpy as jnp
import pytest

import fnbackprop as fb


def _fail(x):
    raise RuntimeError("the user's")


def _nested(x):
    return jax.lax.scan(lambda h, _: (_fail(h), None), x, None, length=2)[0]


def _frames(function, *args):
    """The names of the functions in the traceback of `function(*args)`, which must raise."""
    with pytest.raises((RuntimeError, TypeError, ValueError)) as raised:
        function(*args)
    frames = traceback.extract_tb(raised.value.__traceback__)
    # what filters cannot leave itself out
    return [f.name for f in frames[1:] if f.name != "reraise_with_filtered_traceback"]


@pytest.mark.parametrize("take", [fb.grad, fb.value_and_grad, fb.jacrev, fb.hessian, fb.vjp])
def test_from_the_users_call_to_the_users_line(take):
    def call(function):
        return take(function, 1.0) if take is fb.vjp else take(function)(1.0)

    assert _frames(call, _fail) == ["call", "_fail"]
    assert _frames(call, _nested) == ["call", "_nested", "<lambda>", "_fail"]
    assert _frames(call, jax.jit(jax.checkpoint(_fail))) == ["call", "_fail"]


def test_of_a_tape_and_of_a_compiled_gradient():
    assert _frames(lambda: fb.grad(lambda x: _fail(x) if x > 0 else x)(1.0)) == ["<lambda>", "<lambda>", "_fail"]
    assert _frames(jax.jit(fb.grad(_fail)), 1.0) == ["_fail"]


def test_of_a_pullback():
    _, pullback = fb.vjp(jnp.sin, 1.0)
    assert _frames(lambda: pullback(jnp.ones(3))) == ["<lambda>"]


def test_of_jax_grad_under_drop_in():
    with fb.drop_in():
        assert _frames(lambda: jax.grad(_fail)(1.0)) == ["<lambda>", "_fail"]
        assert _frames(lambda: jax.vjp(_fail, 1.0)) == ["<lambda>", "_fail"]
