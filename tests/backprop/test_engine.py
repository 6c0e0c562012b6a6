"""What the engine does for every rule: cotangents in their operand's shape, and errors that name the rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

import fnbackprop as fb
from fnbackprop.backprop.engine import WrongShape, fit


def primitive(name, function):
    """A primitive of one result, like its first operand but of the function's shape."""
    made = Primitive(name)
    made.def_impl(function)
    made.def_abstract_eval(lambda *avals: avals[0].update(shape=function(*(np.zeros(a.shape) for a in avals)).shape))
    return made


def aval(shape, dtype=jnp.float32):
    return jax.typeof(jnp.zeros(shape, dtype))


def test_a_cotangent_is_summed_over_the_axes_of_a_broadcast():
    ct = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(fit(ct, aval(())), 15.0)
    np.testing.assert_array_equal(fit(ct, aval(3)), [3.0, 5.0, 7.0])
    np.testing.assert_array_equal(fit(ct, aval((2, 1))), [[3.0], [12.0]])


def test_a_cotangent_takes_the_real_part_and_the_dtype_of_its_operand():
    ct = jnp.array([1 + 2j, 3 - 1j], jnp.complex64)
    assert fit(ct, aval(2, jnp.float32)).dtype == jnp.float32
    np.testing.assert_array_equal(fit(ct, aval(2, jnp.float32)), [1.0, 3.0])
    assert fit(jnp.ones(2), aval(2, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), (4, 3)])
def test_a_cotangent_of_another_shape_is_not_reshaped(shape):
    with pytest.raises(WrongShape, match="its shape is"):
        fit(jnp.zeros((2, 3)), aval(shape))


def test_a_rule_that_returns_a_wrong_shape_is_named():
    flip = primitive("flip_axes", lambda x: x.T)

    @fb.vjp_rule(flip)
    def flip_axes_vjp(dy):
        return dy  # not transposed back

    message = r"flip_axes_vjp returned a wrong cotangent for operand 0 .* \(3, 2\), the operand's is \(2, 3\)"
    with pytest.raises(WrongShape, match=message):
        fb.grad(lambda x: jnp.sum(flip.bind(x)))(jnp.ones((2, 3)))


def test_a_rule_that_returns_too_few_cotangents_is_named():
    both = primitive("sum_of_both", lambda x, y: x + y)

    @fb.vjp_rule(both, "x, y -> z")
    def sum_of_both_vjp(dz):
        return dz

    with pytest.raises(TypeError, match="sum_of_both_vjp returned 1 cotangents for 2 operands of sum_of_both"):
        fb.grad(lambda x: both.bind(x, x))(jnp.float32(2))
