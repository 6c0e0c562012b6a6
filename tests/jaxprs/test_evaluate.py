"""Tracing, and evaluating a jaxpr equation by equation."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.jaxprs import evaluate


def fun(x, y):
    return {"sum": jnp.sin(x) * 2.0 + y, "y": y}


CLOSED, OUT_TREE = evaluate.trace_flat(fun, [jnp.float32(1), jnp.float32(2)])


def run(apply, read=evaluate.read_atom, operands=(0.5, 3.0)):
    return evaluate.interpret(CLOSED.jaxpr, CLOSED.consts, operands, apply, read)


def test_interpret_evaluates():
    want = fun(jnp.float32(0.5), jnp.float32(3))
    found = OUT_TREE.unflatten(run(evaluate.bind, operands=(jnp.float32(0.5), jnp.float32(3))))
    assert found == want


def test_values_may_be_anything():
    """Here: how the result was computed, as text."""

    def apply(equation, operands):
        return [f"{equation.primitive.name}({', '.join(map(str, operands))})"]

    assert run(apply, operands="xy") == ["add(mul(sin(x), 2.0), y)", "y"]


def test_literals_are_read_as_arrays_where_asked_for():
    seen = []

    def apply(equation, operands):
        seen.extend(operands)
        return evaluate.bind(equation, operands)

    run(apply, evaluate.read_array, operands=(jnp.float32(1), jnp.float32(1)))
    assert all(hasattr(x, "dtype") for x in seen) and np.float32(2) in [x for x in seen if x.shape == ()]


def test_a_call_of_a_primitive_is_traced_once_at_a_place():
    calls = [evaluate.trace_call(lax.sin_p, {"accuracy": None}, [jnp.float32(x)]) for x in (1, 2)]
    (first, kept), (second, _) = calls
    assert kept and first is second
    assert [e.primitive.name for e in first.jaxpr.eqns] == ["sin"]


def test_equations_keep_their_line_and_scope():
    def scoped(x):
        with jax.named_scope("layer"):
            return jnp.sin(x)

    equation = jax.make_jaxpr(scoped)(1.0).jaxpr.eqns[0]

    def again(x):
        with evaluate.source_of(equation):
            return lax.cos(x)

    copy = jax.make_jaxpr(again)(1.0).jaxpr.eqns[0]
    line = evaluate.source_line(copy)
    assert line == evaluate.source_line(equation) and "test_evaluate.py" in line
    assert str(copy.source_info.name_stack) == "layer"


def test_warnings_name_the_users_line():
    with pytest.warns(UserWarning, match="a message") as found:
        evaluate.warn_at_user("a message", UserWarning)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluate.warn_at_user("another", UserWarning)
