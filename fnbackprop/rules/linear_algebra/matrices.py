"""Algebra on stacks of matrices, (..., rows, columns), for the rules of linear algebra.

Products take the highest precision, as JAX's own decompositions do: a rule divides by differences of what they return.
"""

from typing import Any

import numpy as np
from jax import lax


def is_complex(a: Any) -> bool:
    return np.issubdtype(a.dtype, np.complexfloating)


def conj(a: Any) -> Any:
    return lax.conj(a) if is_complex(a) else a


def transpose(a: Any) -> Any:
    return lax.transpose(a, (*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


def adjoint(a: Any) -> Any:
    """The conjugate transpose."""
    return transpose(conj(a))


def matmul(a: Any, b: Any) -> Any:
    stack = tuple(range(a.ndim - 2))
    numbers = (((a.ndim - 1,), (b.ndim - 2,)), (stack, stack))
    return lax.dot_general(a, b, numbers, precision=lax.Precision.HIGHEST)


def _masked(a: Any, keep: np.ndarray) -> Any:
    return lax.select(np.broadcast_to(keep, a.shape), a, lax.full_like(a, 0))


def _offsets(a: Any) -> np.ndarray:
    """Row minus column, of each entry."""
    rows, columns = a.shape[-2:]
    return np.arange(rows)[:, None] - np.arange(columns)


def lower(a: Any, below: int = 0) -> Any:
    """The entries at least `below` rows under the diagonal; zero elsewhere."""
    return _masked(a, _offsets(a) >= below)


def upper(a: Any, above: int = 0) -> Any:
    """The entries at least `above` columns over the diagonal; zero elsewhere."""
    return _masked(a, _offsets(a) <= -above)


def eye_like(a: Any) -> np.ndarray:
    """Ones on the diagonal, of the shape and dtype of `a`."""
    return np.broadcast_to(np.eye(*a.shape[-2:], dtype=a.dtype), a.shape)


def unit_lower(a: Any) -> Any:
    """The entries under the diagonal, and ones on it."""
    return lax.add(lower(a, 1), eye_like(a))


def diagonal(a: Any) -> Any:
    """The diagonal of square matrices: (..., n, n) -> (..., n)."""
    return lax.reduce_sum(_masked(a, _offsets(a) == 0), (a.ndim - 1,))


def diagonal_matrix(d: Any) -> Any:
    """(..., n) -> (..., n, n)."""
    n = d.shape[-1]
    return scale_rows(d, np.broadcast_to(np.eye(n, dtype=d.dtype), (*d.shape, n)))


def three_diagonals(below: Any, on: Any, above: Any) -> Any:
    """Square matrices from their three middle diagonals."""
    stack, zero = [(0, 0, 0)] * (on.ndim - 1), np.zeros((), on.dtype)
    under = lax.pad(diagonal_matrix(below), zero, [*stack, (1, 0, 0), (0, 1, 0)])
    over = lax.pad(diagonal_matrix(above), zero, [*stack, (0, 1, 0), (1, 0, 0)])
    return lax.add(lax.add(under, over), diagonal_matrix(on))


def unit_column(k: Any, a: Any) -> Any:
    """The unit vector e_k, as a column, for each matrix of the stack `a`; k may be traced."""
    rows = lax.broadcasted_iota(np.int32, (*a.shape[:-1], 1), a.ndim - 2)
    return lax.convert_element_type(lax.eq(rows, lax.broadcast(k, rows.shape)), a.dtype)


def lower_triangle_adjoint(a_bar: Any) -> Any:
    """The adjoint of a lower triangle, from that of the hermitian matrix A that it stands for:
    A = L + Lᴴ but for the diagonal, which is that of L, and real."""
    strict = lax.add(lower(a_bar, 1), adjoint(upper(a_bar, 1)))
    on = diagonal(a_bar)
    return lax.add(strict, diagonal_matrix(like(lax.real(on) if is_complex(on) else on, a_bar)))


def column(d: Any) -> Any:
    """(..., n) -> (..., n, 1)."""
    return lax.expand_dims(d, (d.ndim,))


def row(d: Any) -> Any:
    """(..., n) -> (..., 1, n)."""
    return lax.expand_dims(d, (d.ndim - 1,))


def scale_rows(d: Any, a: Any) -> Any:
    """diag(d) · a."""
    return lax.mul(column(d), a)


def scale_columns(a: Any, d: Any) -> Any:
    """a · diag(d)."""
    return lax.mul(a, row(d))


def like(d: Any, a: Any) -> Any:
    """A real array in the dtype of `a`, which may be complex."""
    return lax.convert_element_type(d, a.dtype)


def largest(a: Any) -> Any:
    """The largest absolute value of each matrix: (..., m, n) -> (..., 1, 1), zero of an empty one."""
    axes = (a.ndim - 2, a.ndim - 1)
    if 0 in a.shape[-2:]:
        return lax.full((*a.shape[:-2], 1, 1), 0, lax.abs(a).dtype)
    return lax.expand_dims(lax.stop_gradient(lax.reduce_max(lax.abs(a), axes)), axes)


def solve_triangular(a: Any, b: Any, side: str, lower: bool, unit: bool = False, adjoint: bool = False) -> Any:
    """X with op(a) X = b (`side` "left") or X op(a) = b ("right"), where op is the adjoint or nothing."""
    return lax.linalg.triangular_solve(
        a,
        b,
        left_side=side == "left",
        lower=lower,
        unit_diagonal=unit,
        transpose_a=adjoint,
        conjugate_a=adjoint and is_complex(a),
    )
