"""householder_product, ormqr, geqrf, geqp3: JAX has no derivative of them, so against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb
from fnbackprop.backprop import registry
from fnbackprop.jaxprs.primitives import all_primitives

from ..checking import assert_close
from .matrix_cases import DTYPES, apart, check_numeric_parts, normal, stack

pytestmark = pytest.mark.usefixtures("x64")


def geqrf(a):
    return jnp.linalg.qr(a, mode="raw")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 3, 3), (5, 3, 2), (4, 4, 3)], ids=str)
def test_householder_product_vjp(sizes, dtype):
    """Any vectors and any τ, also those for which the product is not unitary."""
    rows, columns, count = sizes
    a, taus = normal(rows, columns, dtype=dtype), normal(count, dtype=dtype, seed=3)
    check_numeric_parts(lax.linalg.householder_product, a, taus)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_ormqr_vjp(left, transpose, dtype):
    def fun(a, taus, c):
        return lax.linalg.ormqr(a, taus, c, left=left, transpose=transpose)

    c = normal(*((4, 2) if left else (2, 4)), dtype=dtype, seed=6)
    check_numeric_parts(fun, normal(4, 3, dtype=dtype), normal(3, dtype=dtype, seed=3), c)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 2), (2, 4), (2, 1), (1, 2)], ids=str)
def test_geqrf_vjp(shape, dtype):
    check_numeric_parts(geqrf, apart(*shape, dtype))


def test_geqrf_vjp_of_a_stack():
    check_numeric_parts(geqrf, stack(apart, 3, 2, "complex128"))


@pytest.mark.parametrize("shape", [(3, 3), (4, 2)], ids=str)
def test_geqp3_vjp(shape):
    (geqp3,) = (p for p in all_primitives() if p.name == "geqp3")
    free = np.zeros(shape[1], np.int32)
    check_numeric_parts(lambda a: geqp3.bind(a, free, use_magma=False), apart(*shape))


def test_reflections_make_the_matrix_again():
    """QR of A through its reflections is A, so the gradient of f(QR) is that of f(A); and twice."""
    weights = normal(4, 3, seed=7)

    def rebuilt(a):
        h, taus = geqrf(a)
        r = jnp.triu(h.mT)
        return lax.linalg.ormqr(h.mT, taus, r)

    def loss(fun):
        return lambda a: jnp.sum(weights * jnp.sin(fun(a)))

    a = apart(4, 3)
    assert_close(fb.grad(loss(rebuilt))(a), jax.grad(loss(lambda a: a))(a), 1e-12)

    def curvature(fun, grad):
        return grad(lambda a: jnp.sum(weights * grad(loss(fun))(a)))(a)

    assert_close(curvature(rebuilt, fb.grad), curvature(lambda a: a, jax.grad), 1e-11)
    got = jax.vmap(fb.grad(loss(rebuilt)))(stack(apart, 4, 3))
    assert_close(got, jax.vmap(jax.grad(loss(lambda a: a)))(stack(apart, 4, 3)), 1e-12)


def test_a_planted_error_is_found(plant):
    plant("householder_product")

    @registry.vjp_rule("householder_product", "a, taus -> q")
    def householder_product_vjp(dq, a, taus):
        return dq, taus

    with pytest.raises(AssertionError, match="differences"):
        check_numeric_parts(lambda a, t: 2.0 * lax.linalg.householder_product(a, t), normal(3, 2), normal(2))
