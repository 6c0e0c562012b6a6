"""Between dense arrays and sparse ones in every format, and the sparse transpose. `dx` is the cotangent of `x`.

With P the matrix that reads a dense array at the positions of the entries, a sparse array as a dense one is
A = Pᵀ data, and the values of a dense one are data = P A. (Which entries are stored is a decision, like that of a
comparison: what is zero and not stored gets no cotangent.)
"""

import jax
from jax import lax

from ...backprop.registry import structured_rule, vjp_rule
from ..arrays.generic_reductions import vjp_of_equivalent
from ..arrays.layouts import inverse
from .entries import Entries, entries_of_matrix, entries_of_rows

# ---------------------------------------------------------------- sparse -> dense


@vjp_rule("bcoo_todense", "data, indices -> y", wrt="data")
def bcoo_todense_vjp(dy, indices, *, spinfo):
    """y = Pᵀ data: d data = P dy."""
    return Entries(indices, spinfo.shape).extract(dy)


@vjp_rule("bcsr_todense", "data, indices, indptr -> y", wrt="data")
def bcsr_todense_vjp(dy, indices, indptr, *, spinfo):
    """y = Pᵀ data: d data = P dy."""
    return entries_of_rows(indices, indptr, spinfo.shape).extract(dy)


@vjp_rule("coo_todense", "data, row, col -> y", wrt="data")
def coo_todense_vjp(dy, row, col, *, spinfo):
    """y = Pᵀ data: d data = P dy."""
    return entries_of_matrix(row, col, spinfo.shape).extract(dy)


@vjp_rule("csr_todense", "data, indices, indptr -> y", wrt="data")
def csr_todense_vjp(dy, indices, indptr, *, shape):
    """y = Pᵀ data: d data = P dy."""
    return entries_of_rows(indices, indptr, shape).extract(dy)


@structured_rule("todense")
def todense_vjp(engine, equation, active, wanted):
    """y = A, of whatever format: walked as the conversion of that format."""

    def convert(*buffers):
        a = jax.tree.unflatten(equation.params["tree"], buffers)
        return [a.todense() if hasattr(a, "todense") else a]

    return vjp_of_equivalent(engine, equation, active, wanted, convert)


# ---------------------------------------------------------------- dense -> sparse


@vjp_rule("bcoo_fromdense", "x -> data, indices")
def bcoo_fromdense_vjp(ddata, indices, x_aval):
    """data = P x: dx = Pᵀ d data, which leaves padding out.

    Without a sparse axis all entries have one position, and the first alone has the value there; the others are 0."""
    if indices.shape[-1] == 0:
        ddata, indices = (lax.slice_in_dim(a, 0, 1, axis=indices.ndim - 2) for a in (ddata, indices))
    return Entries(indices, x_aval.shape).to_dense(ddata)


@vjp_rule("bcsr_fromdense", "x -> data, indices, indptr")
def bcsr_fromdense_vjp(ddata, indices, indptr, x_aval):
    """data = P x: dx = Pᵀ d data."""
    return entries_of_rows(indices, indptr, x_aval.shape).to_dense(ddata)


@vjp_rule("csr_fromdense", "x -> data, indices, indptr")
def csr_fromdense_vjp(ddata, indices, indptr, x_aval):
    """data = P x: dx = Pᵀ d data."""
    return entries_of_rows(indices, indptr, x_aval.shape).to_dense(ddata)


@vjp_rule("coo_fromdense", "x -> data, row, col")
def coo_fromdense_vjp(ddata, data, row, col, x_aval):
    """data = P x: dx = Pᵀ d data; padding stands at (0, 0), with the value 0, and gets no cotangent."""
    ddata = lax.select(lax.eq(data, lax.full_like(data, 0)), lax.full_like(ddata, 0), ddata)
    return entries_of_matrix(row, col, x_aval.shape).to_dense(ddata)


# ---------------------------------------------------------------- values of a dense array at given positions


@vjp_rule("bcoo_extract", "indices, x -> data", wrt="x")
def bcoo_extract_vjp(ddata, indices, x_aval, *, assume_unique):
    """data = P x: dx = Pᵀ d data; unless the positions are taken as distinct, the first entry of each alone has it."""
    entries = Entries(indices, x_aval.shape)
    if not assume_unique:
        ddata = lax.select(_is_first(entries, ddata.shape), ddata, lax.full_like(ddata, 0))
    return entries.to_dense(ddata)


def _is_first(entries, shape):
    """Whether an entry is the first of all that have its position, in an array of the shape of `data`."""
    axis = len(entries.batch)
    number = lax.broadcasted_iota("int32", shape, axis)
    if not entries.sparse:
        return lax.eq(number, lax.full_like(number, 0))
    countdown = lax.sub(lax.full_like(number, shape[axis]), number)
    view = entries.view(tuple(range(len(entries.shape))), entries.shape)
    highest = view.write(entries.arrange(entries.named(countdown), view.axes), lax.scatter_max)
    return lax.eq(entries.extract(highest), countdown)


@vjp_rule("bcsr_extract", "indices, indptr, x -> data", wrt="x")
def bcsr_extract_vjp(ddata, indices, indptr, x_aval):
    """data = P x: dx = Pᵀ d data."""
    return entries_of_rows(indices, indptr, x_aval.shape).to_dense(ddata)


# ---------------------------------------------------------------- transpose


@vjp_rule("bcoo_transpose", "data, indices -> out, moved", wrt="data")
def bcoo_transpose_vjp(dout, indices, *, permutation):
    """The columns of the indices change places, and the batch and dense axes of `data`, which are put back."""
    n_batch, n_sparse = indices.ndim - 2, indices.shape[-1]
    dense = (axis - n_sparse + 1 for axis in permutation[n_batch + n_sparse :])
    return lax.transpose(dout, inverse((*permutation[:n_batch], n_batch, *dense)))
