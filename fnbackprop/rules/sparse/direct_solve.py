"""The sparse direct solve. `dx` is the cotangent of `x`: same shape, same dtype."""

from typing import Any

from jax import lax

from ...backprop.registry import Structured, structured_rule
from ...jaxprs.evaluate import bind
from ..expressions import scalar
from .duplicates import sorted_columns
from .entries import Entries, Named, entries_of_rows
from .sparse_dense import derivative_data


@structured_rule("spsolve")
def spsolve_vjp(engine, equation, active, wanted):
    """A x = b with A in the format CSR: db = A⁻ᵀ dx, and dA = -db xᵀ at the entries, d data[k] = -db[row k] x[col k].

    The transposed system is solved by the same primitive, which has a derivative itself."""
    data_aval = equation.invars[0].aval

    def forward(data, indices, indptr, b):
        outputs = bind(equation, (data, indices, indptr, b))
        return outputs, (data, indices, indptr, outputs[0])

    def backward(residuals, cotangents):
        data, indices, indptr, x = residuals
        (dx,) = cotangents
        entries = entries_of_rows(indices, indptr, (x.shape[0], x.shape[0]))
        transposed = _transposed_rows(entries, data, indptr.dtype)
        db = equation.primitive.bind(*transposed, dx, **equation.params)
        ddata = derivative_data(entries, data_aval, Named(lax.neg(db), (0,)), Named(x, (1,))) if active[0] else None
        return ddata, None, None, db if active[3] else None

    return Structured(forward, backward, active)


def _transposed_rows(entries: Entries, data: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """data, indices and indptr of Aᵀ in the format CSR; padding, whose row is out of range, goes to the end."""
    (size, _), count = entries.shape, data.shape[0]
    row, col = (lax.index_in_dim(entries.indices, i, 1, keepdims=False) for i in (0, 1))
    end = lax.full_like(row, size)
    is_padding = lax.ge(row, end)
    col = lax.select(is_padding, end, col)
    flipped = lax.concatenate([lax.expand_dims(i, (1,)) for i in (col, row)], 1)
    rows, indices, order = sorted_columns(flipped)
    data = Entries(lax.expand_dims(order, (1,)), (count,)).extract(data)
    ended = Entries(lax.expand_dims(rows, (1,)), (size,)).to_dense(lax.full((count,), 1, dtype))
    indptr = lax.pad(lax.cumsum(ended), scalar(0, ended), [(1, 0, 0)])
    indices = lax.select(lax.ge(rows, end), lax.full_like(indices, 0), indices)
    return data, lax.convert_element_type(indices, dtype), indptr
