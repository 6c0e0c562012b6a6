"""The parts of a jaxpr."""

import jax
import jax.numpy as jnp

from fnbackprop.jaxprs import types
from fnbackprop.jaxprs.evaluate import as_function

CLOSED = jax.make_jaxpr(lambda x: jnp.sin(x) * 2.0)(1.0)


def test_open_and_closed():
    assert types.is_closed(CLOSED) and types.close_jaxpr(CLOSED) is CLOSED
    opened = types.open_jaxpr(CLOSED)
    assert types.close_jaxpr(opened) is types.close_jaxpr(opened)
    assert as_function(types.close_jaxpr(opened))(jnp.float32(0)) == [0]


def test_variables_and_literals():
    product = CLOSED.jaxpr.eqns[-1]
    assert [types.is_var(atom) for atom in product.invars] == [True, False]


def test_a_traced_value_has_no_number():
    assert types.concrete_value(3) == 3
    assert jax.jit(lambda x: x + (0 if types.concrete_value(x) is None else 1))(1) == 1


def test_rebuilt_with_an_operand_more():
    jaxpr = CLOSED.jaxpr
    extra = jax.make_jaxpr(lambda z: z)(1.0).jaxpr.invars
    closed = types.rebuild(jaxpr, jaxpr.constvars, CLOSED.consts, [*extra, *jaxpr.invars], jaxpr.eqns)
    assert as_function(closed)(jnp.float32(9), jnp.float32(0)) == [0]


def test_effects():
    def write(ref, x):
        ref[...] = x

    assert types.is_effect_free(CLOSED) and not types.is_effect_free(jax.make_jaxpr(write)(jax.new_ref(1.0), 2.0))
