"""Which equations stand on a kink, at how many elements, and which slope is taken there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.comparing.equations.kinks import find_kinks
from fnbackprop.comparing.program import make_program, trace_program
from fnbackprop.comparing.results import Verdict

X = jnp.float32([0.0, 0.0, 1.0, 2.0])


def found(fun, x=X):
    return find_kinks(trace_program(make_program(fun, (x,), 0, None)))


@pytest.mark.parametrize(
    "fun, said",
    [
        (lambda x: jnp.sum(jnp.abs(x)), "2 of 4 elements are at 0; the gradient takes the slope 1 there"),
        (lambda x: jnp.sum(jax.nn.relu(x)), "2 of 4 elements are at a tie; the gradient takes the slope 0 there"),
        (lambda x: jnp.max(-x), "2 of 4 elements are at a tie; the gradient takes the slope 0.5 there"),
        (lambda x: jnp.sum(jnp.sort(x)), "1 of 3 elements are at a tie"),
        (lambda x: jnp.sum(jnp.clip(x, 1.0, 3.0)), "1 of 4 elements are at a"),
        (lambda x: jnp.sum(jnp.where(x > 1, x, 0)), "1 of 4 elements are at equality"),
        (lambda x: jnp.sum(jnp.sqrt(x)), "2 of 4 elements are at 0 (infinite slope)"),
        (lambda x: lax.scan(lambda c, t: (c + jnp.abs(t), None), 0.0, x)[0], "1 of 1 elements are at 0"),
        (lambda x: lax.cond(x[2] > 0, jnp.abs, jnp.sin, x)[0], "2 of 4 elements are at 0"),
    ],
    ids="abs relu max sort clip where sqrt scan cond".split(),
)
def test_a_kink_is_found(fun, said):
    lines = found(fun)
    assert any(said in line and "test_kinks.py" in line for line in lines)


def test_a_smooth_place_has_none():
    assert found(lambda x: jnp.sum(jnp.abs(x) + jax.nn.relu(x)) + jnp.max(x), jnp.float32([1.0, 2.0, 3.0])) == []


def test_the_kinks_of_i0e_and_abs_cancel():
    """I₀ is smooth at 0: i0e has there the slope -1 by our rule, and 0 by JAX, for which the rule is not accused."""
    product = fb.compare(lambda x: jnp.exp(jnp.abs(x)) * lax.bessel_i0e(x), 0.0, progress=False)
    assert product.ok and not product.equations
    (line,) = found(lambda x: jnp.sum(lax.bessel_i0e(x)))
    assert "2 of 4 elements are at 0; the gradient takes the slope -1 there" in line


def test_many_are_counted():
    lines = found(lambda x: sum(jnp.sum(jnp.abs(x * i)) for i in range(1, 12)))
    assert len(lines) <= 9


def told(values):
    result = fb.compare(lambda x: jnp.max(x), np.array(values, np.float32))
    assert result.verdict is Verdict.KINK, str(result)
    return [note for note in result.notes if "nearer than the steps" in note], str(result)


def test_a_tie_is_told_from_two_values_that_are_nearly_equal():
    assert told([1.0, 1 + 2.0**-23, 0.5])[0]
    near, text = told([1.0, 1.0, 0.5])
    assert not near and "at a tie" in text
