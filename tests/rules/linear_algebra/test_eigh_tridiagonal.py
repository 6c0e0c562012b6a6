"""eigh_tridiagonal against eigh of the full matrix: JAX cannot differentiate the bisection that it is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import eigh_tridiagonal

import fnbackprop as fb
from fnbackprop.rules.loops.decisions import DecidedLoopWarning

from ..checking import assert_close, random_like

D, E = jnp.array([0.3, 1.2, -0.7, 2.0, 0.9]), jnp.array([0.8, -0.5, 1.1, 0.4])
KEY = {"key": jax.random.key(1)}
pytestmark = pytest.mark.usefixtures("x64")


def values(d, e, low=0, high=None, **options):
    if high is not None:
        options |= {"select": "i", "select_range": (low, high - 1)}
    return eigh_tridiagonal(d, e, eigvals_only=True, **options)


def dense(d, e, low=0, high=None, **_):
    d = jnp.real(d).astype(e.dtype)
    return jnp.linalg.eigvalsh(jnp.diag(d) + jnp.diag(e, 1) + jnp.diag(jnp.conj(e), -1))[low:high]


def loss(fun, d, e, **options):
    found = fun(d, e, **options)
    return jnp.sum(jnp.cos(found) * jnp.arange(1, found.shape[-1] + 1, dtype=found.dtype))


def test_in_every_form():
    d, e = D.astype(float), E.astype(float)
    ds, es, ec = jnp.stack([d, 1.1 * d]), jnp.stack([e, e**2]), jax.lax.complex(e * jnp.cos(e), e * jnp.sin(e))
    tangents = random_like(d, 1), random_like(e, 2)

    def forms(lib, fun):
        f = partial(loss, fun)
        both = lib.grad(f, argnums=(0, 1))
        batched = [jax.vmap(f, in_axes=axes) for axes in (0, (1, None), (None, 0))]
        layered = jax.checkpoint(lambda d, e: jax.lax.scan(lambda c, x: (c + f(x, e), None), 0.0, ds * d[0])[0])
        second = lib.grad(lambda d: jnp.sum(lib.grad(f)(d, e) ** 2))
        return [
            both(d, e),
            lib.grad(partial(f, low=1, high=3), argnums=(0, 1))(d, e),
            lib.grad(partial(f, tol=jnp.asarray(1e-15)), argnums=(0, 1))(d, e),
            lib.grad(lambda d, e: f(d.astype(complex), e), argnums=(0, 1))(d, ec),
            jax.vmap(both)(ds, es),
            lib.grad(lambda d, e: jnp.sum(batched[0](d, e)), argnums=(0, 1))(ds, es),
            lib.grad(lambda d, e: jnp.sum(batched[1](d, e)), argnums=(0, 1))(ds.T, e),
            lib.grad(lambda d, e: jnp.sum(batched[2](d, e)), argnums=(0, 1))(d, es),
            lib.grad(layered, argnums=(0, 1))(d, e),
            second(d),
            jax.jvp(both, (d, e), tangents),
        ]

    got, want = jax.jit(lambda: (forms(fb, values), forms(jax, dense)))()
    assert_close(got, want, 1e-9)


def test_float32_and_a_matrix_of_one_number():
    def both(fun, lib):
        return lib.grad(partial(loss, fun), argnums=(0, 1))(D.astype("float32"), E.astype("float32"))

    got, want, one = jax.jit(
        lambda: (both(values, fb), both(dense, jax), fb.grad(partial(loss, values))(jnp.ones(1), jnp.ones(0)))
    )()
    assert_close(got, want, 1e-5)
    assert_close(one, -jnp.sin(jnp.ones(1)), 1e-12)


def test_vectors():
    """The sign of an eigenvector is a choice, so the loss does not see it."""
    d, e = D.astype(float), E.astype(float)

    def by_function(d, e):
        w, v = eigh_tridiagonal(d, e, **KEY)
        return jnp.sum(v**2 * jnp.arange(5.0)[:, None] * jnp.cos(w)[None])

    def by_eigh(d, e):
        w, v = jnp.linalg.eigh(jnp.diag(d) + jnp.diag(e, 1) + jnp.diag(e, -1))
        return jnp.sum(v**2 * jnp.arange(5.0)[:, None] * jnp.cos(w)[None])

    got, want = jax.jit(lambda: (fb.grad(by_function, (0, 1))(d, e), jax.grad(by_eigh, (0, 1))(d, e)))()
    assert_close(got, want, 1e-8)


def test_where_shapes_leave_a_doubt_there_is_a_warning():
    """Of a square batch it cannot be seen which axis is that of the examples."""
    square = jnp.stack([D] * 5)
    with pytest.warns(DecidedLoopWarning, match="while_loop in a function of JAX"):
        jax.eval_shape(fb.grad(lambda d: jnp.sum(jax.vmap(lambda d: values(d, E))(d))), square)


def test_a_function_of_the_user_by_that_name_is_walked():
    @jax.jit
    def eigh_tridiagonal(d, e):
        return d * 2 + jnp.sum(jnp.sin(e)) * jnp.cos(d) * d

    np.testing.assert_allclose(
        fb.grad(lambda d: jnp.sum(eigh_tridiagonal(d, E)))(D), jax.grad(lambda d: jnp.sum(eigh_tridiagonal(d, E)))(D)
    )
