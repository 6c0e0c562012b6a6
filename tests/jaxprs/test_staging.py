"""Equations that are put into a trace as they stand are those that binding their primitives gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.jaxprs.evaluate import interpret
from fnbackprop.jaxprs.staging import is_staging, stage


def staged(jaxpr, *operands):
    """Which equations of a jaxpr are put as they stand into the trace of a function of these operands."""
    found = {}

    def apply(equation, values):
        outputs = stage(equation, values)
        found[equation.primitive.name] = outputs is not None
        primitive = equation.primitive
        if outputs is None:
            outputs = primitive.bind(*values, **primitive.get_bind_params(equation.params))
            outputs = outputs if primitive.multiple_results else [outputs]
        return outputs

    jax.make_jaxpr(lambda *xs: interpret(jaxpr.jaxpr, jaxpr.consts, xs, apply))(*operands)
    return found


def program(x, y):
    (z,) = jax.lax.cond(x[0] > 0, lambda x: [jnp.sin(x)], lambda x: [2.0 * x], x)
    return jax.jit(lambda z: z @ y)(z).astype(jnp.int32), jax.lax.sort([x, y[0]], num_keys=1)


def test_the_equations_are_those_of_binding():
    x, y = jnp.ones(3), jnp.ones((3, 3))
    expected = jax.make_jaxpr(program)(x, y)
    again = jax.make_jaxpr(lambda *xs: interpret(expected.jaxpr, expected.consts, xs))(x, y)
    assert str(again) == str(expected)
    lines = [[str(e.source_info.traceback) for e in jaxpr.eqns] for jaxpr in (again, expected)]
    assert lines[0] == lines[1]
    assert again.eqns[0].ctx is expected.eqns[0].ctx


def test_what_has_to_be_bound():
    x, y = jnp.ones(3), jnp.ones((3, 3))
    jaxpr = jax.make_jaxpr(program)(x, y)
    found = staged(jaxpr, x, y)
    assert found.pop("convert_element_type") is False  # of a constant, JAX evaluates it
    assert all(found.values()) and {"cond", "jit", "sort", "gt"} <= set(found)
    assert not any(staged(jax.make_jaxpr(lambda x: x + x)(1.0), jnp.float32(1)).values())  # not of a weak type
    printing = jax.make_jaxpr(lambda x: jax.debug.print("{}", x))(1.0)
    assert not any(staged(printing, 1.0).values())  # effects


@pytest.mark.parametrize("transform", [jax.vmap, lambda f: lambda x: jax.jvp(f, (x,), (x,))])
def test_nothing_is_staged_under_other_transformations(transform):
    equation = jax.make_jaxpr(jnp.sin)(1.0).eqns[0]

    def f(x):
        assert not is_staging() and stage(equation, [x]) is None
        return x

    transform(f)(np.ones(2, np.float32))
    assert stage(equation, [1.0]) is None


def test_a_tracer_of_an_outer_trace_is_bound():
    equation = jax.make_jaxpr(jnp.sin)(jnp.float32(1)).eqns[0]

    def outer(x):
        def inner(y):
            assert is_staging() and stage(equation, [x]) is None and stage(equation, [y]) is not None
            return y

        jax.make_jaxpr(inner)(x)
        return x

    jax.make_jaxpr(outer)(jnp.float32(1))
