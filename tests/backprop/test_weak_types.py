"""Weak types: a gradient with respect to a Python number gives way to an array's dtype; any other does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.jaxprs.avals import as_weak

from .test_transforms import typed

WEAK = {
    "weak": lambda w: w**2,
    "strong factor": lambda w: w * jnp.float32(2),
    "cast": lambda w: w.astype(jnp.float32),
    "constant": lambda w: 3.0,
    "function": lambda w: jnp.sin(w) * jax.nn.relu(w),
    "jit": jax.jit(lambda w: jnp.tanh(w) + jnp.ones(2).sum()),
    "scan": lambda w: jax.lax.scan(lambda c, x: (c * w, None), 1.0, jnp.ones(2))[0],
    "branch": lambda w: w * 2 if w > 0 else w,
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_types(name):
    """A gradient with respect to a Python number gives way to the dtype of an array, as JAX's does."""
    fun = WEAK[name]
    for w in (3.0, jnp.float32(3.0), jnp.asarray(3.0)):
        assert typed(fb.value_and_grad(fun)(w)) == typed(jax.value_and_grad(fun)(w))
        # A weak value may be given a strong cotangent. Through a loop, JAX's gradient is weak then too; ours is not.
        for ct in (1.0,) if name == "scan" else (1.0, jnp.float32(1.0)):
            got, want = (lib.vjp(fun, w)[1](ct) for lib in (fb, jax))
            assert jax.typeof(got[0]) == jax.typeof(want[0]), (w, ct)
    assert (jnp.ones(2, jnp.bfloat16) * fb.grad(fun)(3.0)).dtype == jnp.bfloat16


def test_weak_types_of_jacobians():
    def f(x):
        return {"cube": jnp.sum(jnp.arange(3.0) * x**3), "same": x}

    for ours, jaxs in (
        (fb.jacrev(f), jax.jacrev(f)),
        (fb.hessian(lambda x: f(x)["cube"]), jax.hessian(lambda x: f(x)["cube"])),
    ):
        for x in (2.0, jnp.float32(2)):
            got, want = jax.tree.leaves(ours(x)), jax.tree.leaves(jaxs(x))
            assert [y.weak_type for y in got] == [y.weak_type for y in want]
            np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("y", [3.0, jnp.float32(3), jnp.ones(2), jnp.ones(2, jnp.bfloat16)], ids=str)
@pytest.mark.parametrize("x", [2.0, jnp.float32(2)], ids=["weak", "strong"])
def test_the_blocks_of_a_hessian(x, y):
    """Also those between arguments of different types."""

    def fun(x, y):
        return jnp.sum(x**3 * jnp.sin(y))

    for argnums, args in (((0, 1), (x, y)), ((1, 0), (y, x)), (1, (x, y))):
        with jax.numpy_dtype_promotion("standard"):  # of the arguments, by JAX's forward mode
            got, want = (jax.jit(lib.hessian(fun, argnums))(*args) for lib in (fb, jax))
        assert typed(got) == typed(want)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), got, want)


WITHIN_WEAK = {
    "set": lambda a, u: a.at[jnp.array([2, 2])].set(u),
    "clip": lambda a, u: a.at[jnp.array([2, 9])].set(u, mode="clip"),
    "distinct": lambda a, u: a.at[jnp.array([2, 0])].set(u, unique_indices=True),
    "add": lambda a, u: a.at[jnp.array([2, 2])].add(u),
    "subtract": lambda a, u: a.at[jnp.array([2, 2])].subtract(u),
    "multiply": lambda a, u: a.at[jnp.array([2, 0])].multiply(u, unique_indices=True),
    "maximum": lambda a, u: a.at[jnp.array([2, 2])].max(u),
    "dropped": lambda a, u: a.at[jnp.array([2, 9])].min(u, mode="drop"),
    "said to be weak": lambda a, u: a[:2] * as_weak(u),
}
FORMS = {
    "eager": lambda fun: fun,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "cond": lambda fun: lambda a, u: lax.cond(u[0] > 0, fun, lambda a, u: fun(2 * a, u), a, u),
    "vmap": lambda fun: lambda a, u: jax.vmap(fun, (None, 0))(a, jnp.stack([u, u])),
    "scan": lambda fun: lambda a, u: lax.scan(lambda c, k: (c, fun(a, k * u)), 0, jnp.ones(2))[1],
    "second order": lambda fun: lambda a, u: jax.grad(lambda a, u: jnp.sum(fun(a, u) ** 3), 0)(a, u),
}


def gradients_of(lib, fun, *args):
    """Those of two arguments, by a cotangent of the value's own type and by a strong one."""
    y, pullback = lib.vjp(fun, *args)
    return [pullback(as_weak(jnp.ones_like(y), weak)) for weak in (y.weak_type, False)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WITHIN_WEAK)
def test_the_gradient_of_a_strong_input_is_strong(name, form):
    """Also of one that was written into an array of weak type, whose cotangent is weak."""
    fun, a, u = FORMS[form](WITHIN_WEAK[name]), as_weak(jnp.array([1.0, 2.0, 3.0])), jnp.array([1.5, 2.5])
    (own, _), want = gradients_of(fb, fun, a, u), gradients_of(jax, fun, a, u)
    for _, du in (*gradients_of(fb, fun, a, u), *want):
        assert not du.weak_type
    assert own[0].weak_type and typed(own[1]) == typed(want[0][1])
    np.testing.assert_allclose(own[1], want[0][1], rtol=1e-6)


def test_a_strong_start_of_a_weak_loop():
    """Where no step is taken the number goes out as it came in."""

    def loop(x, w):
        return lax.while_loop(lambda s: s[0] < x.astype(int), lambda s: (s[0] + 1, w), (0, x))[1]

    x, w = jnp.array([0.5, 0.5, 2.5]), jnp.asarray(1.5)
    for fun in (jax.vmap(loop, (0, None)), lambda x, w: lax.map(lambda x: loop(x, w), x)):
        dx, dw = gradients_of(fb, fun, x, w)[0]
        assert not dx.weak_type
        np.testing.assert_array_equal(dx, [1, 1, 0])
        np.testing.assert_array_equal(dw, 1)
