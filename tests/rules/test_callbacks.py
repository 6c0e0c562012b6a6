"""Calls that leave JAX: debug prints run once, in the forward; a gradient through a host function is an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

import fnbackprop as fb

X = jnp.array([0.5, -1.0])


def printing(seen):
    def fun(x):
        jax.debug.callback(lambda v: seen.append(float(v)), x[0])
        return jnp.sum(jnp.sin(x) * x)

    return fun


def in_scan(fun):
    return lambda x: lax.scan(lambda c, v: (c + fun(x) * v, None), 0.0, jnp.array([1.0, 2.0]))[0]


def in_while(fun):
    return lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + fun(x)), (0, jnp.float32(0)))[1]


WRAPPERS = {
    "plain": (lambda fun: fun, 1),
    "jit": (jax.jit, 1),
    "cond": (lambda fun: lambda x: lax.cond(x[0] > 0, fun, jnp.sum, x), 1),
    "scan": (in_scan, 2),
    "scan in jit": (lambda fun: jax.jit(in_scan(fun)), 2),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("jit", [False, True])
def test_debug_callback_runs_once(name, jit):
    wrap, times = WRAPPERS[name]
    seen, unseen = [], []
    gradient = fb.grad(wrap(printing(seen)))
    got = (jax.jit(gradient) if jit else gradient)(X)
    jax.effects_barrier()
    assert seen == [0.5] * times
    want = jax.grad(wrap(printing(unseen)))(X)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("wrap", [jax.checkpoint, in_while])
def test_debug_callback_where_the_forward_runs_again(wrap):
    """Under remat and in a while loop the backward computes the forward again, prints included, as JAX's remat does."""
    seen = []
    got = fb.grad(wrap(printing(seen)))(X)
    jax.effects_barrier()
    assert seen and set(seen) == {0.5}
    assert np.isfinite(np.asarray(got)).all()


def test_debug_print(capsys):
    def fun(x):
        jax.debug.print("x is {x}", x=x[1])
        return jnp.sum(x * x)

    np.testing.assert_allclose(fb.grad(fun)(X), 2 * X)
    jax.effects_barrier()
    assert capsys.readouterr().out == "x is -1.0\n"


def host(x):
    return np.sin(x)


CALLS = {
    "pure_callback": lambda x: jax.pure_callback(host, x, x, vmap_method="sequential"),
    "io_callback": lambda x: io_callback(host, x, x),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_active_callback_is_an_error(name):
    with pytest.raises(fb.MissingRule) as error:
        fb.grad(lambda x: jnp.sum(CALLS[name](x)))(X)
    message = str(error.value)
    assert f"{name}[host](float32[2])" in message
    assert "test_callbacks.py:" in message
    assert "jax.custom_vjp" in message and "stop_gradient" in message


def test_an_active_foreign_call_is_an_error():
    with pytest.raises(fb.MissingRule, match=r"ffi_call\[my_kernel\].*test_callbacks.py:(.|\n)*custom_vjp"):
        fb.grad(lambda x: jnp.sum(jax.ffi.ffi_call("my_kernel", x)(x)))(X)


FORMS = {"plain": lambda f: f, "jit": jax.jit, "checkpoint": jax.checkpoint, "vmap": lambda f: jax.vmap(f)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_who_catches_the_refusal_of_jax_catches_ours(name, form):
    for lib in (fb, jax):
        with pytest.raises(ValueError):
            jax.jit(lib.grad(lambda x: jnp.sum(FORMS[form](CALLS[name])(x))))(X)


@pytest.mark.parametrize("name", CALLS)
def test_an_inactive_callback_runs(name):
    gradient = fb.grad(lambda x: jnp.sum(CALLS[name](lax.stop_gradient(x)) * x))
    np.testing.assert_allclose(gradient(X), np.sin(X), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(gradient)(X), np.sin(X), rtol=1e-6)


def test_a_callback_in_a_custom_vjp():
    sine = jax.custom_vjp(CALLS["pure_callback"])
    sine.defvjp(lambda x: (sine(x), x), lambda x, ct: (ct * jnp.cos(x),))
    np.testing.assert_allclose(fb.grad(lambda x: jnp.sum(sine(x)))(X), np.cos(X), rtol=1e-6)
