"""Loops whose bodies are walked: a batched one, whose examples stop at different steps."""

import jax
import jax.numpy as jnp
from jax import lax

from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict


def grown(x):
    return lax.while_loop(lambda c: c[0] < 30, lambda c: (c[0] * c[0] + 1, c[1] * jnp.sin(c[0]) + c[0]), (x, x))[1]


def test_a_batched_loop_is_walked_and_run_in_float64():
    result = compare(lambda x: jnp.sum(jax.vmap(grown)(x) ** 2), jnp.float32([1.0, 2.5, 40.0, 3.0]))
    assert result.ok and result.audited >= 6 and result.numeric.verdict is Verdict.PASS
    assert result.numeric.allowed < 1e-4 and not any("own precision" in note for note in result.notes)
    text = str(result)
    assert "against differences alone" in text and "automatic by" not in text and "rules PASS" in text
    assert all(map(jnp.isnan, (result.value.error, result.leaves[0].error, result.leaves[0].ratio)))


def test_a_wrong_rule_in_a_batched_loop_is_found(monkeypatch):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, dy: (3 * dy,))

    def fun(x):
        return lax.while_loop(lambda c: c < 30, lambda c: double(c) + 1, x)

    result = compare(lambda x: jnp.sum(jax.vmap(fun)(x)), jnp.float32([1.0, 2.5, 40.0]), directions=0)
    assert result.equations[0].name == "double" and "while" in result.equations[0].within


def test_a_scan_over_a_loop_that_jax_refuses_is_walked():
    def step(carry, x):
        carry = lax.while_loop(lambda c: c < 3, lambda c: 1.5 * c, carry * x)
        return 1 + jnp.sin(carry) ** 2, carry

    result = compare(lambda x: jnp.sum(lax.scan(step, x[0], x)[1]), jnp.float32([0.7, 0.9, 1.3]))
    assert result.ok and result.audited >= 4 and not any("rules in place" in check.name for check in result.contract)
    assert {leaf.reason for leaf in result.leaves} == {"compared with differences alone"}


def test_where_jax_refuses_and_differences_see_a_replaced_derivative_the_equations_alone_tell():
    def fun(x):  # a scan within JAX's derivative of the sample holds a while loop
        return jnp.sum(lax.rsqrt(jax.grad(lambda x: jnp.sum(jax.random.gamma(jax.random.key(3), x)))(x)))

    x = jnp.float32([1.2, 0.7])
    result = compare(fun, x, directions=1, leaf_directions=False)
    assert result.ok and result.audited > 50 and "random_gamma" in result.intended[0]
    assert result.leaves[0].reason == "its equations were compared one by one alone"
