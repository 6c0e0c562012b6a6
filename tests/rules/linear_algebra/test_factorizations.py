"""cholesky, lu and qr against JAX, or against differences where it has no answer or a wrong one."""

import dataclasses
from functools import partial

import jax
import jax.extend.core.primitives
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnbackprop as fb

from ..checking import assert_close
from .matrix_cases import (
    CASES,
    DTYPES,
    apart,
    check_deep,
    check_first,
    check_numeric_parts,
    normal,
    orthonormal,
    positive,
    stack,
)

pytestmark = pytest.mark.usefixtures("x64")
DEEP = [((3, 2), "complex128"), ((2, 3), "float64")]


def parts(fun, **kwargs):
    """The floating outputs of a factorization."""
    return lambda *xs: [y for y in fun(*xs, **kwargs) if jnp.issubdtype(y.dtype, np.inexact)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetrize", [True, False])
@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_cholesky_vjp(n, symmetrize, dtype):
    check = check_first if symmetrize else check_numeric_parts  # JAX 0.10.2 has a wrong gradient of one triangle
    check(partial(lax.linalg.cholesky, symmetrize_input=symmetrize), positive(n, dtype))


@pytest.mark.parametrize("lower", [True, False])
def test_one_triangle_is_read_and_has_the_gradient(lower):
    """What `cho_factor` and `cho_solve` are made of."""

    def solution(a, b):
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a, lower=lower), b)

    unread = (jnp.triu if lower else jnp.tril)(normal(3, 3), 1 if lower else -1)
    check_numeric_parts(solution, positive(3) + unread, normal(3, 2))
    dA = fb.grad(lambda a, b: jnp.sum(solution(a, b)))(positive(3), normal(3, 2))
    assert not jnp.any((jnp.triu if lower else jnp.tril)(dA, 1 if lower else -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cholesky_vjp_twice_and_stacked(dtype):
    check_deep(jnp.linalg.cholesky, positive(3, dtype))
    check_first(partial(jnp.linalg.cholesky, upper=True), stack(positive, 3, dtype))


def test_cholesky_update_vjp():
    def fun(r, w):
        return jnp.triu(lax.linalg.cholesky_update(jnp.triu(r), w))

    check_numeric_parts(fun, normal(3, 3), normal(3, seed=4))
    check_numeric_parts(fun, normal(1, 1), normal(1, seed=4))


def test_symmetric_product_vjp():
    def fun(a, c):
        return lax.linalg.symmetric_product(a, c, alpha=2.0, beta=0.5, symmetrize_output=True)

    check_numeric_parts(fun, normal(3, 2), normal(3, 3, seed=4))


@pytest.mark.parametrize("shape, dtype", CASES)
def test_lu_vjp(shape, dtype):
    check_first(parts(lax.linalg.lu), apart(*shape, dtype))


@pytest.mark.parametrize("shape, dtype", DEEP)
def test_lu_vjp_twice_and_stacked(shape, dtype):
    check_deep(parts(lax.linalg.lu), apart(*shape, dtype))
    check_first(parts(lax.linalg.lu), stack(apart, *shape, dtype))


@pytest.mark.parametrize("shape, dtype", CASES)
def test_qr_vjp(shape, dtype):
    check_first(parts(lax.linalg.qr, full_matrices=False), apart(*shape, dtype))


@pytest.mark.parametrize("pivoting", [False, True])
@pytest.mark.parametrize("shape, dtype", [((3, 1), "float64"), ((5, 2), "float64"), ((4, 2), "complex128")])
def test_qr_vjp_with_full_matrices(shape, pivoting, dtype):
    check_first(parts(lax.linalg.qr, full_matrices=True, pivoting=pivoting), apart(*shape, dtype))


@pytest.mark.parametrize("shape, dtype", CASES[2:])
def test_qr_vjp_with_pivoting(shape, dtype):
    fun = parts(lax.linalg.qr, full_matrices=False, pivoting=True)
    if shape[0] < shape[1]:  # JAX's answer does not agree with differences
        return check_numeric_parts(fun, apart(*shape, dtype))
    check_first(fun, apart(*shape, dtype))


@pytest.mark.parametrize("shape, dtype", DEEP)
def test_qr_vjp_twice_and_stacked(shape, dtype):
    fun = parts(lax.linalg.qr, full_matrices=True)
    check_deep(fun, apart(*shape, dtype))
    check_first(fun, stack(apart, *shape, dtype))


def test_qr_vjp_of_wide_pivoted_matrices_where_jax_is_wrong():
    """If this fails at its last line, JAX has been corrected and `test_qr_vjp` can compare with it."""
    fun, a = parts(lax.linalg.qr, full_matrices=False, pivoting=True), apart(2, 4)
    value, ours = fb.vjp(fun, a)
    theirs = jax.vjp(fun, a)[1]
    cotangents = [jnp.ones_like(y) for y in value]
    check_numeric_parts(fun, a)
    assert jnp.linalg.norm(ours(cotangents)[0] - theirs(cotangents)[0]) > 0.1


def test_qr_vjp_of_a_pivoted_stack():
    """Each matrix has its own permutation (JAX takes the first one's for all)."""
    fun, a = parts(lax.linalg.qr, full_matrices=False, pivoting=True), stack(apart, 3, 2)
    value, pullback = fb.vjp(fun, a)
    cotangents = [normal(*y.shape, seed=9) for y in value]
    rows = [jax.vjp(fun, a[i])[1]([ct[i] for ct in cotangents])[0] for i in range(2)]
    assert_close(pullback(cotangents)[0], jnp.stack(rows), 1e-12)


def test_qr_vjp_where_no_reflection_is_needed():
    """The columns that complete Q jump there, but the space that they span does not, and R and Q₁ have a derivative."""

    def complement(a):
        q, r = lax.linalg.qr(a, full_matrices=True)
        return q[:, 2:] @ q[:, 2:].T, jnp.abs(r)

    turned = orthonormal(5, 5)

    def projection(a):
        r = lax.linalg.qr(turned @ a, full_matrices=False)[1]
        return jnp.eye(5) - a @ jnp.linalg.inv(a.T @ a) @ a.T, jnp.abs(r)

    a = jnp.concatenate([jnp.triu(normal(2, 2, seed=2)) + 2 * jnp.eye(2), jnp.zeros((3, 2))])
    cotangents = normal(5, 5), jnp.pad(normal(2, 2), ((0, 3), (0, 0)))
    want = jax.vjp(projection, a)[1]((cotangents[0], cotangents[1][:2]))
    assert_close(fb.vjp(complement, a)[1](cotangents), want, 1e-12)
    moved = fb.grad(lambda a: jnp.sum(normal(5, 3) * lax.linalg.qr(a, full_matrices=True)[0][:, 2:]))(a)
    assert jnp.isnan(moved).all()


@pytest.mark.parametrize("fun", [jnp.linalg.slogdet, jnp.linalg.inv, jnp.linalg.pinv])
def test_what_is_built_of_factors(fun):
    check_first(lambda a: jax.tree.leaves(fun(a)), apart(3, 3), tolerance=30)


def test_a_planted_error_is_found(plant):
    entry = plant("cholesky")
    rule = entry.rules[0]
    wrong = dataclasses.replace(rule, call=lambda dl, l: 1.001 * rule.call(dl, l))
    plant("cholesky", dataclasses.replace(entry, rules=[wrong]))
    with pytest.raises(AssertionError, match="relative error"):
        check_first(lambda a: 1.0 * jnp.linalg.cholesky(a), positive(2))
