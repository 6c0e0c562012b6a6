import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..checking import assert_close, check_vjp, random_like

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = [(4,), (), (0,), (2, 3)]
EXACT = ("float64", "float32")


def real(*shape):
    return random_like(np.zeros(shape), 1)


def complex_(*shape):
    return random_like(np.zeros(shape, complex), 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_copy_vjp(shape):
    check_vjp(lambda x: lax.sin(jnp.array(x, copy=True)), real(*shape), dtypes=(*EXACT, "bfloat16"))
    assert "copy" in str(jax.make_jaxpr(lambda x: jnp.array(x, copy=True))(1.0))


CASTS = [
    ("float64", "float32"),
    ("float32", "float64"),
    ("float32", "bfloat16"),
    ("bfloat16", "float32"),
    ("float16", "bfloat16"),
    ("float64", "complex64"),
    ("float32", "complex128"),
    ("complex128", "complex64"),
    ("complex64", "complex128"),
]


@pytest.mark.parametrize("source, target", CASTS)
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_convert_element_type_vjp(source, target, shape):
    """The cotangent comes back in the operand's dtype, its real part where the operand is real."""
    x = random_like(np.zeros(shape, jnp.dtype(source)), 2)
    dy = random_like(np.zeros(shape, jnp.dtype(target)), 3)

    def fun(x):
        return lax.convert_element_type(x, target)

    ours, theirs = (transform(fun, x)[1](dy) for transform in (fb.vjp, jax.vjp))
    assert_close(ours, theirs, 0)
    batch = jnp.stack([dy, dy])
    assert_close(jax.vmap(fb.vjp(fun, x)[1])(batch), jax.vmap(jax.vjp(fun, x)[1])(batch), 0)


@pytest.mark.parametrize("target", ["int32", "bool", "uint8"])
def test_convert_element_type_vjp_to_integers(target):
    """No gradient flows through a cast to integers, nor back from one."""

    def fun(x):
        return x * lax.convert_element_type(lax.convert_element_type(x, target), x.dtype)

    x = jnp.asarray([1.5, 2.5, 0.0])
    ones = jnp.ones(3)
    assert_close(fb.vjp(fun, x)[1](ones), jax.vjp(fun, x)[1](ones), 0)


@pytest.mark.parametrize("bits", [(8, 7), (5, 10), (11, 20)])
def test_reduce_precision_vjp(bits):
    """The cotangent is rounded to the same bits."""

    def fun(x):
        return lax.reduce_precision(x, *bits)

    x, dy = real(50), random_like(np.zeros(50), 8)
    got = fb.vjp(fun, x)[1](dy)
    assert_close(got, jax.vjp(fun, x)[1](dy), 0)
    assert_close(got[0], fun(dy), 0)
    check_vjp(lambda x: lax.sin(fun(x)), real(3))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["real", "imag", "conj", "abs"])
def test_complex_part_vjp(name, shape):
    check_vjp(lambda x: getattr(lax, name)(x), complex_(*shape), dtypes=EXACT, batched=shape == (4,))


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((), ()), ((4,), ()), ((0,), (0,))], ids=str)
def test_complex_vjp(shapes):
    x, y = real(*shapes[0]), random_like(np.zeros(shapes[1]), 9)
    check_vjp(lambda x, y: lax.square(lax.complex(x, y)), x, y, dtypes=EXACT)


def test_conj_vjp_of_a_real_operand():
    """conj of a real number is complex; the operand's cotangent is real."""
    check_vjp(lambda x: lax.square(lax.conj(x)), real(4), dtypes=EXACT)


def test_abs_vjp():
    check_vjp(lax.abs, real(5), dtypes=("float64", "float32", "bfloat16"))


@pytest.mark.parametrize("x", [0.0, -0.0, np.inf, -np.inf, np.nan, 0j, np.inf + 1j])
def test_abs_vjp_edges(x):
    """1 at ±0, as JAX; 0 at a complex 0."""
    x = jnp.asarray(x)
    one = jnp.float64(1)
    assert_close(fb.vjp(lax.abs, x)[1](one), jax.vjp(lax.abs, x)[1](one), 0)


def test_sign_vjp_of_a_real_operand():
    """Piecewise constant: zero, and nothing is saved for it."""
    x = real(5)
    _, pullback = fb.vjp(lambda x: lax.sign(x) * 3.0, x)
    assert_close(pullback(jnp.ones(5)), (jnp.zeros(5),), 0)
    assert jax.tree.leaves(pullback) == []


def test_sign_vjp_of_a_complex_operand():
    """x/|x|, to second order; JAX 0.10.2 has zero. The plain definition is differentiated by JAX."""

    def plain(x):
        return x / lax.abs(x).astype(x.dtype)

    x = complex_(4)
    dy, ddx = random_like(x, 4), random_like(x, 5)
    assert_close(fb.vjp(lax.sign, x)[1](dy), jax.vjp(plain, x)[1](dy), 1e-14)

    def second(transform, fun):
        return transform(lambda x, dy: transform(fun, x)[1](dy)[0], x, dy)[1](ddx)

    ours, theirs = second(fb.vjp, lax.sign), second(jax.vjp, plain)
    assert_close(ours, theirs, 1e-13)
    assert_close(fb.vjp(lax.sign, 0j)[1](jnp.asarray(1 + 1j)), (jnp.asarray(0j),), 0)


def test_bilinear_pairing():
    """Complex cotangents are not conjugated: for a holomorphic y(x), dx = y'(x)·dy."""
    x, dy = complex_(3), random_like(np.zeros(3, complex), 6)
    assert_close(fb.vjp(lambda x: x**3, x)[1](dy)[0], 3 * x**2 * dy, 1e-14)
