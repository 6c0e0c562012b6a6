"""A gradient of zero where the function moves over wide steps is no PASS; one of a flat function is."""

import jax.numpy as jnp
import pytest
from jax import lax

from fnbackprop.comparing.pipeline import compare
from fnbackprop.comparing.results import Verdict


def bisected(a):
    """√a, in which `a` is read by comparisons alone."""

    def step(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = middle * middle < a
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    return lax.fori_loop(0, 20, step, (jnp.zeros_like(a), jnp.full_like(a, 4)))[0]


@pytest.mark.filterwarnings("ignore::fnbackprop.rules.loops.decisions.DecidedLoopWarning")
def test_a_bisection_does_not_pass():
    for fun in (bisected, lambda a: bisected(a) + 0 * a):
        result = compare(fun, jnp.float32(2.3), rules=False)
        assert result.verdict is Verdict.KINK
        assert "over steps of 1 to 25 % of this leaf the function's slope is 0.3" in result.leaves[0].reason


@pytest.mark.parametrize("fun, x", [
    (lambda x: jnp.sum(x**2), [0.0, 0.0]),
    (lambda x: jnp.sum(jnp.maximum(x, 0)), [-1.0, -0.05]),  # wide steps cross the kink, narrow ones do not
    (lambda x: jnp.sum(lax.stop_gradient(x)) * 3, [1.0, 2.0]),  # on purpose
    (lambda x: jnp.sum(x * 0) + 1, [1.0, 2.0]),
])  # fmt: skip
def test_a_right_zero_passes(fun, x):
    assert compare(fun, jnp.float32(x)).leaves[0].verdict is Verdict.PASS
