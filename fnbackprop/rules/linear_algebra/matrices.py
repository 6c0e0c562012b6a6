"""The notation of linear algebra, for expressions of stacked matrices (..., rows, columns).

A @ B, A.T, A.H             of `Expr`; products take the highest precision, as JAX's own decompositions do,
                            for a rule divides by differences of what they return
column(d) * A, A * row(d)   diag(d) A and A diag(d)
inverse_lower(L) @ B        a triangular solve; likewise inverse_lower(L).H @ B and B @ inverse_upper(U)
"""

from functools import reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..expressions import Expr, is_complex, lift, where

# ---------------------------------------------------------------- triangles and diagonals


def _offsets(A: Expr) -> np.ndarray:
    """Row minus column, of each entry."""
    rows, columns = A.shape[-2:]
    return np.arange(rows)[:, None] - np.arange(columns)


def _masked(A: Expr, keep: np.ndarray) -> Expr:
    return where(Expr(np.broadcast_to(keep, A.shape)), A, 0)


def lower(A: Expr, below: int = 0) -> Expr:
    """The entries at least `below` rows under the diagonal; zero elsewhere."""
    return _masked(A, _offsets(A) >= below)


def upper(A: Expr, above: int = 0) -> Expr:
    """The entries at least `above` columns over the diagonal; zero elsewhere."""
    return _masked(A, _offsets(A) <= -above)


def unit_lower(A: Expr) -> Expr:
    """The entries under the diagonal, and ones on it."""
    return lower(A, 1) + eye_like(A)


def eye_like(A: Expr) -> Expr:
    """Ones on the diagonal, of the shape and dtype of A."""
    return Expr(np.broadcast_to(np.eye(*A.shape[-2:], dtype=A.dtype), A.shape))


def on_diagonal(A: Expr) -> Expr:
    """A mask of the diagonal of square matrices."""
    return Expr(np.broadcast_to(np.eye(A.shape[-1], dtype=bool), A.shape))


def diagonal(A: Expr) -> Expr:
    """The diagonal of square matrices: (..., n, n) -> (..., n)."""
    return row_sums(_masked(A, _offsets(A) == 0))


def diag(d: Expr) -> Expr:
    """The diagonal matrices of vectors: (..., n) -> (..., n, n)."""
    n = d.shape[-1]
    return column(d) * np.broadcast_to(np.eye(n, dtype=d.dtype), (*d.shape, n))


def three_diagonals(below: Expr, on: Expr, above: Expr) -> Expr:
    """Square matrices from their three middle diagonals."""
    return padded(diag(below), (1, 0), (0, 1)) + padded(diag(above), (0, 1), (1, 0)) + diag(on)


def hermitian_of_upper(A: Expr) -> Expr:
    """The hermitian matrix with the upper triangle of A and the real part of its diagonal."""
    H = where(Expr(np.broadcast_to(_offsets(A) <= 0, A.shape)), A, A.H)
    return where(on_diagonal(A), A.real.astype(A.dtype), H) if is_complex(A) else H


def lower_triangle_adjoint(A_bar: Expr) -> Expr:
    """The adjoint of a lower triangle L, from that of the hermitian A that it stands for: A = L + Lᴴ but for the
    diagonal, which is that of L, and real."""
    strict = lower(A_bar, 1) + upper(A_bar, 1).H
    return strict + diag(diagonal(A_bar).real.astype(A_bar.dtype))


# ---------------------------------------------------------------- vectors and blocks


def column(d: Expr) -> Expr:
    """(..., n) -> (..., n, 1)."""
    return Expr(lax.expand_dims(d.array, (d.ndim,)))


def row(d: Expr) -> Expr:
    """(..., n) -> (..., 1, n)."""
    return Expr(lax.expand_dims(d.array, (d.ndim - 1,)))


def flattened(A: Expr) -> Expr:
    """Columns or rows as vectors: (..., n, 1) or (..., 1, n) -> (..., n)."""
    return Expr(lax.squeeze(A.array, (-1 if A.shape[-1] == 1 else -2,)))


def unit_column(k: Expr, A: Expr) -> Expr:
    """The unit vector e_k, as a column, for each matrix of the stack A; k may be traced."""
    rows = lax.broadcasted_iota(np.int32, (*A.shape[:-1], 1), A.ndim - 2)
    return (Expr(rows) == lax.broadcast(k.array, rows.shape)).astype(A.dtype)


def row_sums(A: Expr) -> Expr:
    """(..., m, n) -> (..., m)."""
    return Expr(lax.reduce_sum(A.array, (A.ndim - 1,)))


def column_sums(A: Expr) -> Expr:
    """(..., m, n) -> (..., n)."""
    return Expr(lax.reduce_sum(A.array, (A.ndim - 2,)))


def hstack(*blocks: Expr) -> Expr:
    """Blocks side by side."""
    return Expr(lax.concatenate([block.array for block in blocks], blocks[0].ndim - 1))


def vstack(*blocks: Expr) -> Expr:
    """Blocks one below the other."""
    return Expr(lax.concatenate([block.array for block in blocks], blocks[0].ndim - 2))


def padded(a: Expr, *edges: tuple[int, int]) -> Expr:
    """With zeros (before, after) along each of the last axes."""
    config = [(0, 0, 0)] * (a.ndim - len(edges)) + [(*edge, 0) for edge in edges]
    return Expr(lax.pad(a.array, np.zeros((), a.dtype), config))


def broadcast(a: Expr, shape: tuple[int, ...]) -> Expr:
    """Repeated along axes of size 1."""
    return Expr(jnp.broadcast_to(a.array, shape))


def imaginary(x: Expr) -> Expr:
    """i x, of a real x."""
    return Expr(lax.complex(lax.full_like(x.array, 0), x.array))


def largest(*matrices: Expr) -> Expr:
    """The largest absolute value in each matrix (of the stacks given, in each of them): (..., m, n) -> (..., 1, 1)."""
    return Expr(reduce(lax.max, map(_largest, matrices)))


def _largest(A: Expr) -> Any:
    axes = (A.ndim - 2, A.ndim - 1)
    if 0 in A.shape[-2:]:
        return lax.full((*A.shape[:-2], 1, 1), 0, abs(A).dtype)
    return lax.expand_dims(lax.stop_gradient(lax.reduce_max(abs(A).array, axes)), axes)


def undo_permutation(A: Expr, permutation: Expr, axis: int) -> Expr:
    """The rows (axis -2) or columns (-1) of each matrix where they were before row or column i was taken from place
    permutation[i]."""
    given = permutation.array
    positions = lax.broadcasted_iota(given.dtype, given.shape, given.ndim - 1)
    inverse = Expr(lax.sort((given, positions), num_keys=1)[1])
    indices = column(inverse) if axis == -2 else row(inverse)
    return Expr(jnp.take_along_axis(A.array, indices.array, axis, mode="promise_in_bounds"))


# ---------------------------------------------------------------- inverses


solve = lift(jnp.linalg.solve)  # solve(A, B) is A⁻¹ B, by LU


class TriangularInverse(NamedTuple):
    """The inverse of a triangular matrix, or its adjoint: it is never formed, a product with it is a solve."""

    matrix: Expr
    lower: bool
    unit: bool
    adjoint: bool = False

    @property
    def H(self) -> "TriangularInverse":
        return self._replace(adjoint=not self.adjoint)

    def __matmul__(self, B: Expr) -> Expr:
        return self._solve(B, left_side=True)

    def __rmatmul__(self, B: Expr) -> Expr:
        return self._solve(B, left_side=False)

    def _solve(self, B: Expr, left_side: bool) -> Expr:
        solved = lax.linalg.triangular_solve(
            self.matrix.array,
            B.array,
            left_side=left_side,
            lower=self.lower,
            unit_diagonal=self.unit,
            transpose_a=self.adjoint,
            conjugate_a=self.adjoint and is_complex(self.matrix),
        )
        return Expr(solved)


def inverse_lower(L: Expr, unit: bool = False) -> TriangularInverse:
    """L⁻¹ of the lower triangle, which is all that is read; `unit`: with ones for its diagonal."""
    return TriangularInverse(L, lower=True, unit=unit)


def inverse_upper(U: Expr, unit: bool = False) -> TriangularInverse:
    """U⁻¹ of the upper triangle, which is all that is read; `unit`: with ones for its diagonal."""
    return TriangularInverse(U, lower=False, unit=unit)
