"""A user's JVP that calls `jax.jvp` on what holds a custom_vjp function: the transpose is the user's backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..rules.checking import check_agreement

X = np.array([0.5, 0.7, -0.9])
pytestmark = pytest.mark.usefixtures("x64")


@jax.custom_vjp
def rule(x):
    return jnp.sin(x)


rule.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (3.0 * ct * x,))


@jax.custom_jvp
def first(x, y):
    """Its rule does not use the tangent of y."""
    return x * y


first.defjvps(lambda t, z, x, y: 2.0 * t * z, None)


def both(x):
    return rule(x), rule(2.0 * x)


def scanned(x):
    return lax.scan(lambda s, _: ((rule(s[0]), rule(s[1]) + s[0]), rule(s[0])), (x, 2.0 * x), None, length=3)


def repeated(x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, rule(s[1])), (0, x))[1]


BODIES = {
    "call": lambda x: first(x, rule(x)) + rule(x),
    "jit": lambda x: first(*jax.jit(both)(x)),
    "cond": lambda x: first(*lax.cond(x.sum() > 0, both, lambda x: (rule(x), x), x)),
    "checkpoint": lambda x: first(*jax.checkpoint(both)(x)),
    "map": lambda x: first(*lax.map(both, x)),
    "carry of a scan": lambda x: first(*scanned(x)[0]),
    "rows of a scan": lambda x: first(scanned(x)[0][1], scanned(x)[1].sum(0)),
    "while": lambda x: first(x, repeated(x)),
}


def with_jvp_of(body, **options):
    fun = jax.custom_jvp(body)
    fun.defjvp(lambda primals, tangents: jax.jvp(body, primals, tangents), **options)
    return fun


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_at_zero_tangents(body):
    fun = with_jvp_of(body)
    check_agreement(fun, X)
    check_agreement(jax.jit(fun), X)
    check_agreement(jax.checkpoint(lambda x: fun(jnp.sin(x))), X)
    check_agreement(lambda x: lax.scan(lambda c, _: (fun(c), fun(c)), x, None, length=2), X)
    for lib in (fb, jax):
        check_agreement(lambda x: lib.grad(lambda x: (fun(x) ** 2).sum())(x), X)  # noqa: B023
    loss = lambda x: jnp.sum(jnp.sin(fun(x)))  # noqa: E731
    want = jax.grad(loss)(X)
    np.testing.assert_allclose(fb.grad(loss, eager=True)(X), want, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(fb.grad(loss))(jnp.stack([X, X]))[1], want, rtol=1e-12)
    hessian = jax.grad(lambda x: (jax.grad(loss)(x) ** 2).sum())(X)
    np.testing.assert_allclose(jax.grad(lambda x: (fb.grad(loss)(x) ** 2).sum())(X), hessian, rtol=1e-12)


def test_while_loop_with_a_tangent():
    """JAX has no gradient of it."""
    fun = with_jvp_of(lambda x: 2.0 * repeated(x))
    one, two, three = X, np.sin(X), np.sin(np.sin(X))
    for eager in (False, True):
        found = fb.grad(lambda x: fun(x).sum(), eager=eager)(X)
        np.testing.assert_allclose(found, 2 * 27 * one * two * three, rtol=1e-12)


def test_symbolic_zeros():
    """The user's rules are given these as they ask for them."""
    seen = []

    @jax.custom_vjp
    def two(x, y):
        return x * y, x + y

    def backward(saved, cts):
        seen.append([isinstance(ct, jax.custom_derivatives.SymbolicZero) for ct in cts])
        return cts[0] * saved[1], 5.0 * cts[0] * saved[0]

    two.defvjp(lambda x, y: ((x.value * y.value, x.value + y.value), (x.value, y.value)), backward, symbolic_zeros=True)
    fun = with_jvp_of(lambda x: two(x, jnp.sin(x))[0])
    want = jax.grad(lambda x: fun(x).sum())(X)
    assert seen.pop() == [False, True]
    np.testing.assert_allclose(fb.grad(lambda x: fun(x).sum())(X), want, rtol=1e-12)
    assert seen.pop() == [False, True]


@pytest.mark.parametrize("eager", [False, True])
def test_other_tangents_are_refused(eager):
    """The map is not zero at a tangent of one."""

    def body(x, y):
        return x * rule(y)

    fun = jax.custom_jvp(lambda x: body(x, x))
    fun.defjvp(lambda x, t: jax.jvp(jax.jit(body), (*x, *x), (*t, jnp.ones(3))))
    for lib, options in ((jax, {}), (fb, {"eager": eager})):
        with pytest.raises(TypeError, match="can't apply forward-mode"):
            lib.grad(lambda x: fun(x).sum(), **options)(X)
