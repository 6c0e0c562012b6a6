"""Functions that need values are compared as they run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.recorded import recorded
from fnbackprop.comparing.results import Verdict

X = jnp.float32([0.5, 1.5, 2.0, -1.0])


def chosen(x, y):
    """A mask, a branch and an index by value; a jitted part and a function with a rule."""
    x = jax.nn.relu(x) if jnp.sum(x) > 0 else x
    picked = x[x > 1] * jnp.sin(y)
    return jnp.sum(jax.jit(lambda z: jnp.tanh(z) * z)(picked)) + x[int(jnp.argmax(y)) % 4]


def test_a_function_that_needs_values_is_compared_as_it_runs():
    result = compare(chosen, X, jnp.float32(0.7), argnums=(0, 1))
    assert result.ok and result.audited >= 5 and result.numeric.verdict is Verdict.PASS
    assert any("chosen needs values" in note for note in result.notes)


def test_a_wrong_rule_in_it_is_found():
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, dy: (3 * dy,))
    result = compare(lambda x: jnp.sum(double(x[x > 1])), X, directions=0)
    assert result.verdict is Verdict.FAIL and result.equations[0].name == "double"


def test_the_record_runs_at_other_operands():
    record = recorded(lambda *operands: [chosen(*operands)], [X, jnp.float32(0.7)])
    for y in (0.7, 1.1):
        np.testing.assert_allclose(
            jax.jit(record)(X * 1.1, jnp.float32(y))[0], chosen(X * 1.1, jnp.float32(y)), rtol=1e-6
        )


def closing_over(factor, data, by_jvp):
    """A rule that reads an argument of the loss that is not differentiated, and a number that the loss makes."""

    def loss(w, x):
        scale = jnp.max(jnp.arange(3.0))
        rule = jax.custom_jvp if by_jvp else jax.custom_vjp

        @rule
        def scaled(y):
            return jnp.sin(y) * x / scale

        if by_jvp:
            scaled.defjvps(lambda t, out, y: factor * t * jnp.cos(y) * x / scale)
        else:
            scaled.defvjp(lambda y: (scaled(y), y), lambda y, dy: (factor * dy * jnp.cos(y) * x / scale,))
        return jnp.sum(scaled(w) ** 2)

    return lambda w: jnp.sum(jax.vmap(loss, (0, None))(jnp.stack([w, 2 * w]), data))


@pytest.mark.parametrize("by_jvp", [False, True])
@pytest.mark.parametrize("factor, verdict", [(1.0, Verdict.PASS), (1.05, Verdict.FAIL)])
def test_a_rule_that_closes_over_a_value_is_checked(factor, verdict, by_jvp):
    w, data = np.array([0.5, 1.0, 1.5], "float32"), jnp.array([1.0, 2.0, 3.0])
    result = compare(closing_over(factor, data, by_jvp), w, progress=False)
    assert result.verdict is verdict, str(result)
    assert result.audited and not any("no float64 reference" in note for note in result.notes)
    assert bool(result.equations) is (factor != 1)
