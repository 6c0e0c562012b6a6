"""Recomputation that no compiler merges with the forward pass."""

import jax
import jax.numpy as jnp

from fnbackprop.backprop.memory.recompute_barrier import behind_barrier


def function(operands, cotangents):
    return [jnp.sin(x) * ct for x, ct in zip(operands, cotangents, strict=True)]


X = [jnp.arange(3.0)]
AVALS = [jax.typeof(x) for x in X]


def run(cotangents):
    return jax.jit(lambda x, cts: behind_barrier(function, AVALS, x, cts))(X, cotangents)


def test_values_also_where_the_cotangent_is_not_a_number():
    assert (run([jnp.ones(3)])[0] == jnp.sin(X[0])).all()
    assert jnp.isnan(run([jnp.full(3, jnp.nan)])[0]).all()


def test_a_cpu_cannot_merge_it():
    """The sine is computed twice: once for the value, and again in a branch that only the backward pass decides."""

    def both(x, ct):
        return jnp.sin(x[0]), behind_barrier(function, AVALS, x, [ct])

    text = jax.jit(both).lower(X, jnp.ones(3)).compile().as_text()
    assert text.count(" sine(") == 2 and "conditional" in text


def test_without_a_floating_cotangent_there_is_no_branch():
    jaxpr = jax.make_jaxpr(lambda x, ct: behind_barrier(lambda x, ct: [2 * x[0]], AVALS, x, ct))(X, [])
    assert "cond" not in {e.primitive.name for e in jaxpr.jaxpr.eqns}
