"""The notation of linear algebra, against NumPy, on stacks of matrices."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.rules.expressions import Expr
from fnbackprop.rules.linear_algebra import matrices as mx

from ..checking import assert_close

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 2, 3, 3)) + 1j * RNG.normal(size=(2, 2, 3, 3))
D = RNG.normal(size=(2, 3))


def assert_same(got, want):
    assert_close(got.array if isinstance(got, Expr) else got, jnp.asarray(want), 1e-13)


def test_triangles_and_diagonals():
    a, d, eye = Expr(A), Expr(D), np.eye(3)
    assert_same(mx.lower(a, 1), np.tril(A, -1))
    assert_same(mx.upper(a, 1), np.triu(A, 1))
    assert_same(mx.upper(a, -1), np.triu(A, -1))
    assert_same(mx.unit_lower(a), np.tril(A, -1) + eye)
    assert_same(mx.diagonal(a), np.diagonal(A, axis1=1, axis2=2))
    assert_same(mx.diag(d), D[:, :, None] * eye)
    want = np.stack([np.diag(x[1:], -1) + np.diag(x) + np.diag(2 * x[1:], 1) for x in D])
    assert_same(mx.three_diagonals(d[..., 1:], d, 2 * d[..., 1:]), want)


def test_the_adjoint_of_a_lower_triangle():
    """Re tr(Āᴴ δA) of A = L + Lᴴ, less one diagonal, is that of the triangle and its adjoint."""
    a_bar, dl = A, np.tril(B, -1) + np.real(B) * np.eye(3)
    da = dl + np.conj(np.swapaxes(np.tril(dl, -1), 1, 2))
    found = np.asarray(mx.lower_triangle_adjoint(Expr(A)).array)
    np.testing.assert_allclose(np.vdot(found, dl).real, np.vdot(a_bar, da).real, rtol=1e-12)
    assert_same(Expr(jnp.asarray(np.triu(found, 1))), np.zeros_like(found))


def test_blocks():
    a, b, d = Expr(A), Expr(B), Expr(D)
    assert_same(mx.hstack(a, b), np.concatenate([A, B], 2))
    assert_same(mx.vstack(a, b), np.concatenate([A, B], 1))
    assert_same(mx.padded(d, (1, -1)), np.pad(D[:, :-1], ((0, 0), (1, 0))))
    assert_same(mx.flattened(mx.column(d)), D)
    assert_same(mx.flattened(mx.row(d)), D)
    assert_same(mx.unit_column(Expr(jnp.int32(1)), a), np.eye(3)[:, 1:2] + np.zeros((2, 3, 1), complex))


def test_largest():
    sizes = np.maximum(np.abs(A), np.abs(B)).max((1, 2), keepdims=True)
    assert_same(mx.largest(Expr(A), Expr(B)), sizes)
    assert_same(mx.largest(Expr(jnp.zeros((2, 0, 3)))), np.zeros((2, 1, 1)))


@pytest.mark.parametrize("axis", [-2, -1])
def test_undo_permutation(axis):
    order = np.array([[2, 0, 1], [1, 2, 0]], np.int32)
    index = order[..., None] if axis == -2 else order[:, None]
    taken = jnp.take_along_axis(A, index, axis)
    assert_same(mx.undo_permutation(Expr(taken), Expr(jnp.asarray(order)), axis), A)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize(("inverse", "part"), [(mx.inverse_lower, np.tril), (mx.inverse_upper, np.triu)])
def test_triangular_inverses(inverse, part, unit):
    """Only the triangle is read; with ones on the diagonal if `unit`."""
    t = part(A, -1 if part is np.tril else 1) + (np.eye(3) if unit else A * np.eye(3))
    t_inv, found, b = np.linalg.inv(t), inverse(Expr(A), unit=unit), Expr(B)
    adjoint = np.conj(np.swapaxes(t_inv, 1, 2))
    for got, want in [
        (found @ b, t_inv @ B),
        (found.H @ b, adjoint @ B),
        (b @ found, B @ t_inv),
        (b @ found.H.H, B @ t_inv),
    ]:
        assert_same(got, want)
