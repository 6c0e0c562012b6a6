"""Loops that end: at the point they take what they take, beside it no more than far more than that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from fnbackprop.jaxprs.limited_loops import LimitedFunction, TooManyIterations, limited_loops


def count_down(x):
    """As many steps as x, and x."""
    return lax.while_loop(lambda s: s[0] > 0, lambda s: (s[0] - 1, s[1] * 1), (x, x))


def inside_scan(x):
    return lax.scan(lambda carry, _: (carry, count_down(x)), 0.0, None, length=2)[1]


def inside_cond(x):
    return lax.cond(x > 1, count_down, lambda x: (x, x), x)


def inside_a_rule(x):
    custom = jax.custom_vjp(lambda x: count_down(x))
    custom.defvjp(lambda x: (count_down(x), None), lambda _, dy: (dy[0],))
    return jax.checkpoint(jax.jit(custom))(x)


def inside_while(x):
    return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, count_down(x)[1]), (0, x))


def batched(x):
    return jax.vmap(count_down)(jnp.stack([x, x / 2]))


def inside_a_solve(x):
    def solve(_, b):
        return count_down(x)[1] + b

    return lax.custom_linear_solve(lambda y: 2 * y, x, solve)


def on_devices(body, spec, check=True):
    mesh = Mesh(np.array(jax.devices()[:2]), ("i",))
    return jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check)


def inside_shard_map(x):
    return on_devices(count_down, PartitionSpec())(x)


def differing(x, check=True):
    """By as many steps on each device as its own element."""

    def body(x):
        return lax.scan(lambda carry, _: (carry, inside_while(inside_cond(x[0])[1])), 0.0, None, length=2)[1][1]

    return on_devices(body, PartitionSpec("i"), check)(jnp.stack([x, x / 2]))


def differing_unchecked(x):
    return differing(x, check=False)


def waiting_for_each_other(x):
    """A sum over the devices in the condition: their loops must end together."""

    def body(x):
        start = x, lax.pcast(jnp.float32(1), "i", to="varying")
        return lax.while_loop(lambda s: lax.pmax(s[0], "i")[0] > 0, lambda s: (s[0] - 1, count_down(x[0])[1]), start)[0]

    return on_devices(body, PartitionSpec("i"))(jnp.stack([x, x / 2]))


FORMS = (
    *(count_down, inside_scan, inside_cond, inside_a_rule, inside_while, batched, inside_a_solve),
    *(inside_shard_map, differing, differing_unchecked, waiting_for_each_other),
)


@pytest.mark.parametrize("form", FORMS)
def test_a_loop_ends_beside_the_point(form):
    function = LimitedFunction(form)
    with limited_loops() as limits:
        with limits.learning():
            found = function(jnp.float32(5))
        assert limits.most == 5
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(form)(jnp.float32(5))), strict=True):
            np.testing.assert_array_equal(a, b)
        function(jnp.float32(500))
        with pytest.raises(TooManyIterations, match=r"test_limited_loops.py.*within 1050 .* it takes 5"):
            function(jnp.float32(1e6))
        assert list(limits.exceeded)
    assert jax.tree.leaves(function(jnp.float32(2000)))  # nothing is limited outside


def root(tolerance, batch):
    def solve(a):
        return lax.while_loop(lambda x: jnp.abs(x * x - a) > tolerance, lambda x: (x + a / x) / 2, a)

    return jax.vmap(solve) if batch else solve


@pytest.mark.parametrize("batch", [False, True])
def test_a_solver_goes_on_until_nothing_changes(batch):
    a = jnp.array([2.0, 3.0]) if batch else jnp.float32(2)
    function = LimitedFunction(root(0.1, batch))
    with limited_loops() as limits:
        with limits.learning():
            early = function(a)
        with limits.running_on():
            late = function(a)
        np.testing.assert_array_equal(function(a), early)
    assert np.max(abs(early - np.sqrt(a))) > 1e-4
    np.testing.assert_allclose(late, np.sqrt(a), rtol=2e-7)


def test_a_count_of_steps_does_not_go_on():
    function = LimitedFunction(lambda n: lax.fori_loop(0, n, lambda i, s: s + 1.0, 0.0))
    with limited_loops() as limits, limits.running_on():
        assert function(7) == 7


def test_a_step_that_would_divide_by_zero_is_not_taken():
    def secant(a):
        def step(s):
            return s[0] - (s[0] ** 2 - a) * (s[0] - s[1]) / (s[0] ** 2 - s[1] ** 2), s[0]

        return lax.while_loop(lambda s: jnp.abs(s[0] ** 2 - a) > 0.1, step, (a, a + 1))[0]

    with limited_loops() as limits, limits.running_on():
        np.testing.assert_allclose(LimitedFunction(secant)(jnp.float32(3)), np.sqrt(3), rtol=1e-6)


def test_one_that_never_ends_is_ended_while_loops_go_on():
    function = LimitedFunction(lambda x: lax.while_loop(lambda s: s > 0, lambda s: s * 1.0, x))
    with limited_loops() as limits:
        with pytest.raises(TooManyIterations):
            function(jnp.float32(1))
        with limits.running_on():
            assert function(jnp.float32(1)) == 1
