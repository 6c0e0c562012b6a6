"""Products of a sparse array and dense ones, in every format. `dx` is the cotangent of `x`: same shape, same dtype.

All of them are derivatives of one form. With A the sparse array, of entries k, and x and z dense,

    T(data, x, z) = Σ A x z = Σₖ data[k] x[at k] z[at k]

summed over all axes. The product A x is ∂T/∂z; the product of x and z, sampled at A's entries, is ∂T/∂data. So the
cotangent of each operand is another partial derivative of T, with the output's cotangent in its place. No dense array
of A's shape is made.
"""

from collections.abc import Callable
from typing import Any

from jax import lax

from ...backprop.registry import vjp_rule
from ..products.dot import operand_axes
from .entries import Axes, Entries, Named, entries_of_matrix, entries_of_rows


def derivative_data(entries: Entries, aval: Any, x: Named, z: Named) -> Any:
    """∂T/∂data[k] = x[at k] z[at k], summed over the axes that `data` does not have."""
    product = entries.contract(entries.read(x), entries.read(z), entries.kept_axes(aval.shape))
    return lax.reshape(product, aval.shape)


def derivative_dense(entries: Entries, data: Any, z: Named, axes: Axes, shape: tuple[int, ...]) -> Any:
    """∂T/∂x: data[k] z[at k], added up at k, for an x of these axes and shape."""
    view = entries.view(axes, shape)
    return view.write(entries.contract(entries.named(data), entries.read(z), view.axes))


def product_axes(dimension_numbers: Any, rank: int, x_rank: int) -> tuple[Axes, Axes]:
    """The names of the axes of x and z = A x: an axis of A by its number, one of x alone by ("x", its number)."""
    a, x = operand_axes(dimension_numbers, rank, x_rank)
    names: dict[int, Any] = {axis: ("x", axis) for axis in x.free}
    names |= dict(zip((*x.batch, *x.contract), (*a.batch, *a.contract), strict=True))
    return tuple(names[axis] for axis in range(x_rank)), (*a.batch, *a.free, *(names[axis] for axis in x.free))


def product_vjp_data(dz: Any, entries: Entries, x: Any, data_aval: Any, dimension_numbers: Any) -> Any:
    """z = A x: d data[k] = Σ dz[at k] x[at k]."""
    x_axes, z_axes = product_axes(dimension_numbers, len(entries.shape), x.ndim)
    return derivative_data(entries, data_aval, Named(x, x_axes), Named(dz, z_axes))


def product_vjp_x(dz: Any, entries: Entries, data: Any, x_aval: Any, dimension_numbers: Any) -> Any:
    """z = A x: dx = Aᵀ dz."""
    x_axes, z_axes = product_axes(dimension_numbers, len(entries.shape), x_aval.ndim)
    return derivative_dense(entries, data, Named(dz, z_axes), x_axes, x_aval.shape)


# ---------------------------------------------------------------- the batched formats


@vjp_rule("bcoo_dot_general", "data, indices, x -> z", wrt="data")
def bcoo_dot_general_vjp_data(dz, indices, x, data_aval, *, dimension_numbers, lhs_spinfo):
    """z = A x: d data[k] = Σ dz[at k] x[at k]."""
    return product_vjp_data(dz, Entries(indices, lhs_spinfo.shape), x, data_aval, dimension_numbers)


@vjp_rule("bcoo_dot_general", "data, indices, x -> z", wrt="x")
def bcoo_dot_general_vjp_x(dz, data, indices, x_aval, *, dimension_numbers, lhs_spinfo):
    """z = A x: dx = Aᵀ dz."""
    return product_vjp_x(dz, Entries(indices, lhs_spinfo.shape), data, x_aval, dimension_numbers)


@vjp_rule("bcsr_dot_general", "data, indices, indptr, x -> z", wrt="data")
def bcsr_dot_general_vjp_data(dz, indices, indptr, x, data_aval, *, dimension_numbers, lhs_spinfo):
    """z = A x: d data[k] = Σ dz[at k] x[at k]."""
    return product_vjp_data(dz, entries_of_rows(indices, indptr, lhs_spinfo.shape), x, data_aval, dimension_numbers)


@vjp_rule("bcsr_dot_general", "data, indices, indptr, x -> z", wrt="x")
def bcsr_dot_general_vjp_x(dz, data, indices, indptr, x_aval, *, dimension_numbers, lhs_spinfo):
    """z = A x: dx = Aᵀ dz."""
    return product_vjp_x(dz, entries_of_rows(indices, indptr, lhs_spinfo.shape), data, x_aval, dimension_numbers)


@vjp_rule("bcoo_dot_general_sampled", "x, y, indices -> data", wrt="x")
def bcoo_dot_general_sampled_vjp_x(ddata, y, indices, x_aval, *, dimension_numbers):
    """data[k] = (x y)[at k]: with D the sparse array of the values d data, dx = D yᵀ."""
    return _sampled_vjp(ddata, y, indices, x_aval, dimension_numbers)


@vjp_rule("bcoo_dot_general_sampled", "x, y, indices -> data", wrt="y")
def bcoo_dot_general_sampled_vjp_y(ddata, x, indices, y_aval, *, dimension_numbers):
    """data[k] = (x y)[at k]: with D the sparse array of the values d data, dy = xᵀ D, which is y's part with x."""
    return _sampled_vjp(ddata, x, indices, y_aval, dimension_numbers, swapped=True)


def _sampled_vjp(ddata, other, indices, aval, dimension_numbers, swapped=False):
    """The cotangent of one factor of a sampled product, from the other."""
    x, y = (other, aval) if swapped else (aval, other)
    left, right = operand_axes(dimension_numbers, x.ndim, y.ndim)
    # The product's axes are those of the sparse array, by number: batch, free ones of x, free ones of y.
    batch = dict(enumerate(zip(left.batch, right.batch, strict=True)))
    x_names = {a: i for i, (a, _) in batch.items()} | {a: len(batch) + i for i, a in enumerate(left.free)}
    y_names = {b: i for i, (_, b) in batch.items()} | {b: len(x_names) + i for i, b in enumerate(right.free)}
    shape = (*(x.shape[a] for a in (*left.batch, *left.free)), *(y.shape[b] for b in right.free))
    for i, (a, b) in enumerate(zip(left.contract, right.contract, strict=True)):
        x_names[a] = y_names[b] = ("sum", i)
    x_axes, y_axes = (tuple(names[i] for i in range(len(names))) for names in (x_names, y_names))
    axes, other_axes = (y_axes, x_axes) if swapped else (x_axes, y_axes)
    return derivative_dense(Entries(indices, shape), ddata, Named(other, other_axes), axes, aval.shape)


# ---------------------------------------------------------------- the formats of one matrix


def product_rule(format_name: str, signature: str, wrt: str) -> Callable:
    """Register the rule of a matrix in one format for the four primitives by which JAX multiplies by it."""

    def register(function: Callable) -> Callable:
        for kind in ("matvec", "matmat", "spmv", "spmm"):
            vjp_rule(f"{format_name}_{kind}", signature, wrt)(function)
        return function

    return register


def _numbers(transpose: bool) -> Any:
    """The dimension numbers of A x, or of Aᵀ x."""
    return (((0 if transpose else 1,), (0,)), ((), ()))


@product_rule("coo", "data, row, col, x -> z", wrt="data")
def coo_product_vjp_data(dz, row, col, x, data_aval, *, transpose, spinfo=None, shape=None):
    """z = A x, or Aᵀ x: d data[k] = Σ dz[at k] x[at k]."""
    A = entries_of_matrix(row, col, shape or spinfo.shape)
    return product_vjp_data(dz, A, x, data_aval, _numbers(transpose))


@product_rule("coo", "data, row, col, x -> z", wrt="x")
def coo_product_vjp_x(dz, data, row, col, x_aval, *, transpose, spinfo=None, shape=None):
    """z = A x: dx = Aᵀ dz."""
    A = entries_of_matrix(row, col, shape or spinfo.shape)
    return product_vjp_x(dz, A, data, x_aval, _numbers(transpose))


@product_rule("csr", "data, indices, indptr, x -> z", wrt="data")
def csr_product_vjp_data(dz, indices, indptr, x, data_aval, *, shape, transpose):
    """z = A x, or Aᵀ x: d data[k] = Σ dz[at k] x[at k]."""
    return product_vjp_data(dz, entries_of_rows(indices, indptr, shape), x, data_aval, _numbers(transpose))


@product_rule("csr", "data, indices, indptr, x -> z", wrt="x")
def csr_product_vjp_x(dz, data, indices, indptr, x_aval, *, shape, transpose):
    """z = A x: dx = Aᵀ dz."""
    return product_vjp_x(dz, entries_of_rows(indices, indptr, shape), data, x_aval, _numbers(transpose))
