"""Factorizations, solves, condensed forms."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax

from .operands import definite, matrix, normal, rotating, strong
from .table import add, bind

# fmt: off
# ---------------------------------------------------------------- linear algebra

L = lax.linalg


TIED = np.diag(np.float32([2, 1, 1]))  # what belongs to the value 2 alone is smooth
add("eigh", lambda a: (lambda v, values: v[:, 2:] * values[2:] @ v[:, 2:].T)(*L.eigh(a)), TIED)
add("eigh", lambda a: (lambda v: v[:, :2] @ v[:, :2].T)(L.eigh(a)[0]), TIED)  # as is what the tied ones span
add("eigh", L.eigh, jnp.stack([definite(3), definite(3, seed=2)])[:, None])  # (2, 1, 3, 3)
add("svd", lambda a: (lambda u, s, vt: u[:, :1] * s[:1] @ vt[:1])(*L.svd(a)), TIED)
add("schur", lambda a: (lambda t: (t[2, 2], jnp.sum(t[:2, 2] ** 2), (t[0, 1] - t[1, 0]) ** 2))(L.schur(a)[0]),
    np.float32([[1, 2, 0.5], [-2, 1, 0.7], [0, 0, 3]]))  # a turn of the first plane keeps these three numbers
add("schur", L.schur, np.float32([[3, 0.7, 0.5], [0.1, 1, 2], [0.2, -2, 1.5]]))  # whose second block is a pair
for _dtype in ("float32", "complex64"):
    add("cholesky", L.cholesky, definite(3, dtype=_dtype))
    for _shape in ((3, 3), (4, 2), (2, 4)):
        _a = matrix(*_shape, dtype=_dtype)
        add("lu", lambda a: L.lu(a)[0], _a)
        add("qr", partial(L.qr, full_matrices=False), _a)
        add("geqrf", lambda a: jnp.linalg.qr(a, mode="raw"), _a)
        add("svd", lambda a: phase_free_svd(*L.svd(a, full_matrices=False)), _a)
    add("qr", partial(L.qr, full_matrices=True), matrix(4, 2, dtype=_dtype))
    add("qr", lambda a: (lambda rest: rest @ rest.conj().T)(L.qr(a, full_matrices=True)[0][:, 2:]),
        np.array([[2, 1], [0, 3], [0, 1], [0, -2]], _dtype))  # the last columns jump here, what they span is smooth
    add("householder_product", L.householder_product, normal(4, 3, dtype=_dtype), normal(2, dtype=_dtype, seed=3))
    for _left in (True, False):
        for _flag in (True, False):
            add("ormqr", lambda a, t, c, l=_left, f=_flag: L.ormqr(a, t, c, left=l, transpose=f),
                normal(4, 3, dtype=_dtype), normal(3, dtype=_dtype, seed=3),
                normal(*((4, 2) if _left else (2, 4)), dtype=_dtype, seed=6))
    add("eigh", lambda a: hermitian_parts(*L.eigh(a)), definite(3, dtype=_dtype))
    add("hessenberg", L.hessenberg, matrix(4, 4, dtype=_dtype))
    for _lower in (True, False):
        add("tridiagonal", partial(L.tridiagonal, lower=_lower), matrix(4, 4, dtype=_dtype))
    add("eig", lambda a: phase_free_eig(*L.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True)),
        rotating(3, dtype=_dtype))
    _seed = 4 if _dtype == "complex64" else 0  # the order of the eigenvalues is that of float64
    add("schur", lambda a: phase_free_schur(*L.schur(a)), rotating(4, dtype=_dtype, seed=_seed))
    for _flags in ({"left_side": True, "lower": True}, {"left_side": False, "lower": False, "transpose_a": True},
                   {"left_side": True, "transpose_a": True, "conjugate_a": _dtype == "complex64", "lower": True},
                   {"left_side": False, "lower": True, "unit_diagonal": True}):
        add("triangular_solve", lambda a, b, f=_flags: L.triangular_solve(a, b, **f),
            strong(3, dtype=_dtype), normal(3, 3, seed=1, dtype=_dtype))
    add("triangular_solve", lambda b: L.triangular_solve(
        strong(3).astype(b.dtype), b, left_side=True, lower=True), normal(3, 2))
    add("tridiagonal_solve", L.tridiagonal_solve, normal(4, dtype=_dtype), normal(4, dtype=_dtype, seed=1) + 4,
        normal(4, dtype=_dtype, seed=2), normal(4, 2, dtype=_dtype, seed=3))
    add("custom_linear_solve", jnp.linalg.solve, strong(3, dtype=_dtype), normal(3, dtype=_dtype, seed=1))
add("cholesky_update", lambda r, w: jnp.triu(L.cholesky_update(r, w)), normal(3, 3), normal(3, seed=4))
add("symmetric_product", lambda a, c: L.symmetric_product(a, c, alpha=2.0, beta=0.5, symmetrize_output=True),
    normal(3, 2), normal(3, 3, seed=4))
add("qr", lambda a: L.qr(a, full_matrices=False, pivoting=True)[:2], matrix(4, 3))
add("lu", lambda a: L.lu(a)[0], jnp.stack([matrix(3, 3), matrix(3, 3, seed=5)]))
add("qr", partial(L.qr, full_matrices=False), jnp.stack([matrix(3, 2), matrix(3, 2, seed=5)]))
add("svd", lambda a: L.svd(a, full_matrices=False), jnp.stack([matrix(3, 2), matrix(3, 2, seed=5)]))
add("svd", lambda a: L.svd(a, full_matrices=False)[0], matrix(3, 3))
add("svd", lambda a: L.svd(a, full_matrices=False)[2], matrix(3, 3))
add("schur", L.schur, jnp.stack([rotating(3), rotating(3, seed=5)]))
add("geqp3", lambda a: bind("geqp3", use_magma=False)(a, np.zeros(a.shape[1], np.int32)), matrix(4, 2))
add("svd", lambda a: L.svd(a, compute_uv=False), matrix(3, 3))
add("svd", lambda a: L.svd(a, full_matrices=True)[1:], matrix(4, 2))
add("eigh", lambda a: L.eigh((a + a.T) / 2, symmetrize_input=False)[1], definite(3))  # its operand is symmetric
add("eig", lambda a: L.eig(a, compute_left_eigenvectors=False, compute_right_eigenvectors=False), rotating(3))
add("eig", lambda a: phase_free_eig(*L.eig(a, compute_left_eigenvectors=True, compute_right_eigenvectors=False,
                                           enable_eigvec_derivs=True)), rotating(3))
add("eig", lambda a: phase_free_eig(*L.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True))[1:],
    rotating(3))
add("eig", lambda a: L.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True)[0], rotating(3))
add("schur", lambda a: L.schur(a, compute_schur_vectors=False)[0], rotating(3))
add("eig", lambda a: L.eig(a, compute_left_eigenvectors=True, compute_right_eigenvectors=False,
                           enable_eigvec_derivs=True)[0], rotating(3))
add("eig", lambda a: phase_free_eig(*L.eig(a, compute_left_eigenvectors=True, compute_right_eigenvectors=False,
                                           enable_eigvec_derivs=True))[1:], rotating(3))
add("eigh", lambda a: L.eigh(a)[1], definite(3, dtype="complex64"))
add("eig", lambda a: (lambda values, left, right: (phase_free_eig(values, left), phase_free_eig(values, right)[1:]))(
    *L.eig(a, enable_eigvec_derivs=True)), rotating(3))
add("eig", lambda a: jnp.sum(jnp.abs(L.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True)[1]) ** 2, 0),
    rotating(3))  # their length is 1, whatever the matrix
TALL = jnp.stack([matrix(4, 2, seed=s) for s in range(4)]).reshape(2, 2, 4, 2)
add("svd", lambda a: (lambda u, s, vt: (u[..., :2], u[..., 2:] @ u[..., 2:].mT, vt))(*L.svd(a)), TALL)
add("svd", lambda a: (lambda u, s, vt: (s, u[:, 2:] @ u[:, 2:].conj().T))(*L.svd(a)),
    matrix(4, 2, dtype="complex64"))
for _a in (TALL, TALL[0]):
    add("qr", lambda a: (lambda rest: rest @ rest.mT)(L.qr(a, full_matrices=True)[0][..., 2:]), _a)
add("geqrf", lambda a: jnp.linalg.qr(a, mode="raw"), matrix(4, 2)[None])
add("householder_product", L.householder_product, normal(3, 1, 4, 3), normal(3, 1, 2, seed=3))
STACKS = [jnp.stack([f(3), f(3, seed=5)])[:, None] for f in (partial(matrix, 3), rotating, definite)]  # (2, 1, 3, 3)
add("hessenberg", L.hessenberg, STACKS[0])
add("hessenberg", L.hessenberg, matrix(2, 2, dtype="complex64"))  # whose entry below is turned to be real
add("schur", L.schur, STACKS[1])
add("eig", lambda a: phase_free_eig(*L.eig(a, compute_left_eigenvectors=False, enable_eigvec_derivs=True)),
    STACKS[1][:, 0])
add("eigh", lambda a: (lambda v: v[:, :2] @ v[:, :2].T)(L.eigh(a)[0]), definite(3, values=[1, 1, 3]))  # nearly tied
add("tridiagonal", L.tridiagonal, STACKS[2])
add("tridiagonal", partial(L.tridiagonal, lower=False), STACKS[2])
add("tridiagonal", L.tridiagonal, np.float32([[2]]))


def phase_free_svd(u, s, vt):
    """What does not depend on the phases that a complex decomposition leaves open."""
    return (u, s, vt) if not jnp.iscomplexobj(u) else (s, u[:, None, :] * vt.T[None])


def hermitian_parts(v, w):
    return (v, w) if not jnp.iscomplexobj(v) else (w, v[:, None, :] * v.conj()[None])


def phase_free_eig(values, v):
    return values, jnp.abs(v), v[..., :, None, :] * v.conj()[..., None, :, :]


def phase_free_schur(t, z):
    if not jnp.iscomplexobj(t):
        return t, z
    return jnp.abs(t) ** 2, jnp.diagonal(t), (z * jnp.arange(1.0, len(t) + 1).astype(z.dtype)[None]) @ z.conj().T


def own_solve(has_transpose):
    def solve(a, b):
        return lax.custom_linear_solve(
            lambda x: a @ x,
            b,
            lambda _, b: jnp.linalg.solve(lax.stop_gradient(a), b),
            (lambda _, b: jnp.linalg.solve(lax.stop_gradient(a.T), b)) if has_transpose else None,
        )

    return solve


for _flag in (True, False):
    add("custom_linear_solve", own_solve(_flag), strong(3), normal(3, seed=1))
add("custom_linear_solve", lambda a, b, c: lax.custom_linear_solve(  # of three leaves, with something beside
    lambda x: (a @ x[0], a @ x[1] + x[0], 2 * x[2]), (b, c, c[:2]),
    lambda _, r: ((lambda x: (x, jnp.linalg.solve(a, r[1] - x), r[2] / 2))(jnp.linalg.solve(a, r[0])), 2.0),
    has_aux=True), strong(3), normal(3, seed=1), normal(3, seed=2))
add("custom_linear_solve", lambda a, b: (lambda inverse: lax.custom_linear_solve(  # which holds another matrix
    lambda x: a @ x, b, lambda _, b: inverse @ b))(jnp.linalg.inv(a)), strong(3), normal(3, seed=1))
