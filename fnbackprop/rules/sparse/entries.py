"""The entries of a sparse array A: where each value of its `data` stands. A dense array is read, or written, there.

With P the 0-1 matrix that reads a dense array at the positions of the entries (zero at those of padding, which lie out
of range), A = Pᵀ data. The positions are integers and have no derivative, so the rules of this subpackage say one of

    A = Pᵀ data:  d data = P dA            data = P A:  dA = Pᵀ d data

Axes are named, because the batch, sparse and dense axes of A meet those of the other operands of a product in any
order: an axis of A by its number, the axis of the entries by `ENTRY`, any other by whatever is hashable.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax
from jax import numpy as jnp

from ...backprop.precision import wide
from ..arrays.layouts import inverse, sum_over
from ..expressions import scalar

ENTRY = "entry"
Axes = tuple[Any, ...]  # the names of an array's axes


class Named(NamedTuple):
    """An array whose axes have names."""

    array: Any
    axes: Axes


class Entries(NamedTuple):
    """The positions of the entries of a sparse array of some shape.

    indices: (*batch, entries, sparse), of size 1 along a batch axis whose elements share them. The array's axes are
    batch, sparse and dense ones, in this order.
    """

    indices: Any
    shape: tuple[int, ...]

    @property
    def batch(self) -> Axes:
        return tuple(range(self.indices.ndim - 2))

    @property
    def sparse(self) -> Axes:
        return tuple(range(self.indices.ndim - 2, self.indices.ndim - 2 + self.indices.shape[-1]))

    @property
    def dense(self) -> Axes:
        return tuple(range(len(self.batch) + len(self.sparse), len(self.shape)))

    @property
    def data_axes(self) -> Axes:
        return (*self.batch, ENTRY, *self.dense)

    def size(self, axis: Any) -> int:
        """How long an axis is that is one of the array's, or that of its entries."""
        return self.indices.shape[-2] if axis == ENTRY else self.shape[axis]

    def to_dense(self, data: Any) -> Any:
        """Pᵀ data: each value at its place; those of one place are added up."""
        view = self.view(tuple(range(len(self.shape))), self.shape)
        return view.write(self.arrange(self.named(data), view.axes))

    def extract(self, dense: Any) -> Any:
        """P dense: the value at each entry's place, zero for padding; as `data`, with all batch axes at full size."""
        axes = tuple(range(len(self.shape)))
        return self.arrange(self.read(Named(dense, axes)), self.data_axes)

    def named(self, data: Any) -> Named:
        """`data` with names, but for batch axes along which it is shared."""
        kept = self.kept_axes(data.shape)
        sizes = [n for n, axis in zip(data.shape, self.data_axes, strict=True) if axis in kept]
        return Named(lax.reshape(data, sizes), kept)

    def kept_axes(self, shape: Sequence[int]) -> Axes:
        """The axes of `data` of this shape along which it is not shared."""
        return tuple(a for a, n in zip(self.data_axes, shape, strict=True) if n != 1 or a not in self.batch)

    def read(self, x: Named) -> Named:
        """A dense array that has some of A's axes, at the entries' positions along those."""
        view = self.view(x.axes, x.array.shape)
        return Named(view.read(x.array), view.axes)

    def view(self, axes: Axes, shape: Sequence[int]) -> "View":
        """How dense arrays of these axes and shape are read and written at the positions of the entries."""
        sparse = [a for a in axes if a in self.sparse]
        if not sparse:
            return View(axes, tuple(shape), None, None, None)
        own = tuple(b for b in self.batch if self.indices.shape[b] != 1)  # batch axes with positions of their own
        batching = [a for a in axes if a in own]
        windows = [a for a in axes if a not in (*sparse, *own)]
        numbers = lax.GatherDimensionNumbers(
            offset_dims=tuple(range(len(own) + 1, len(own) + 1 + len(windows))),
            collapsed_slice_dims=tuple(map(axes.index, sparse)),
            start_index_map=tuple(map(axes.index, sparse)),
            operand_batching_dims=tuple(map(axes.index, batching)),
            start_indices_batching_dims=tuple(map(own.index, batching)),
        )
        sizes = tuple(n if a in windows else 1 for a, n in zip(axes, shape, strict=True))
        starts = [self._starts(axis) for axis in sparse]
        indices = starts[0] if len(starts) == 1 else lax.concatenate(starts, starts[0].ndim - 1)
        return View((*own, ENTRY, *windows), tuple(shape), indices, numbers, sizes)

    def _starts(self, axis: int) -> Any:
        """The positions along one sparse axis, without the batch axes that share them; negative ones count from the
        end, as JAX takes them."""
        column = axis - len(self.batch)
        starts = lax.slice_in_dim(self.indices, column, column + 1, axis=self.indices.ndim - 1)
        starts = lax.squeeze(starts, [b for b in self.batch if self.indices.shape[b] == 1])
        if not jnp.issubdtype(starts.dtype, jnp.signedinteger):
            return starts
        size = scalar(self.shape[axis], starts)
        return lax.select(lax.lt(starts, scalar(0, starts)), lax.add(starts, size), starts)

    def arrange(self, x: Named, axes: Axes) -> Any:
        """The array with these axes: those that it lacks are repeated, and over others of its own it is summed."""
        array = sum_over(x.array, [i for i, a in enumerate(x.axes) if a not in axes])
        names = [a for a in x.axes if a in axes]
        at = tuple(axes.index(a) for a in names)
        order = inverse(at)
        array = array if order == tuple(range(len(at))) else lax.transpose(array, order)
        if len(names) == len(axes):
            return array
        known = dict(zip(sorted(at), array.shape, strict=True))
        shape = [known[i] if i in known else self.size(a) for i, a in enumerate(axes)]
        return lax.broadcast_in_dim(array, shape, tuple(known))

    def contract(self, x: Named, y: Named, axes: Axes) -> Any:
        """The sum of x y over all axes but these; the product is taken in the wider of their dtypes."""
        dtype = jnp.promote_types(x.array.dtype, y.array.dtype)
        x, y = (self._summed(v, (*axes, *w.axes), dtype) for v, w in ((x, y), (y, x)))
        both = [a for a in x.axes if a in y.axes]
        batch, over = ([a for a in both if (a in axes) == on] for on in (True, False))
        free = [a for v in (x, y) for a in v.axes if a not in both]
        numbers = [(tuple(map(x.axes.index, names)), tuple(map(y.axes.index, names))) for names in (over, batch)]
        product = lax.dot_general(x.array, y.array, tuple(numbers), precision=lax.Precision.HIGHEST)
        return self.arrange(Named(product, (*batch, *free)), axes)

    def _summed(self, x: Named, axes: Axes, dtype: Any) -> Named:
        """x in this dtype, summed over its axes that are not among these."""
        kept = tuple(a for a in x.axes if a in axes)
        return Named(lax.convert_element_type(self.arrange(x, kept), dtype), kept)


class View(NamedTuple):
    """How dense arrays are read and written at the positions of entries.

    axes: the names of what is read; shape: of the dense arrays; indices, numbers and sizes are those of the gather, or
    None where the arrays have no sparse axis, and are read and written as they are.
    """

    axes: Axes
    shape: tuple[int, ...]
    indices: Any
    numbers: Any
    sizes: Any

    def read(self, x: Any) -> Any:
        """The values at the positions; zero for those out of range."""
        if self.numbers is None:
            return x
        if not (x.size and self.indices.size):
            return lax.full(self._shape_read(), 0, x.dtype)
        return lax.gather(x, self.indices, self.numbers, self.sizes, mode="fill", fill_value=0)

    def write(self, u: Any, scatter: Any = lax.scatter_add) -> Any:
        """Values that are laid out as what is read, at their positions in zeros, where several are added up (or
        combined by another scatter); those out of range are left out."""
        if self.numbers is None:
            return u
        u = wide(u)
        zeros = lax.full(self.shape, 0, u.dtype)
        if not (u.size and zeros.size):
            return zeros
        return scatter(zeros, self.indices, u, lax.ScatterDimensionNumbers(*self.numbers), mode="drop")

    def _shape_read(self) -> tuple[int, ...]:
        absent = {*self.numbers.collapsed_slice_dims, *self.numbers.operand_batching_dims}
        return (*self.indices.shape[:-1], *(n for i, n in enumerate(self.sizes) if i not in absent))


def entries_of_matrix(row: Any, col: Any, shape: tuple[int, ...]) -> Entries:
    """Those of the format COO: a row and a column for each; of arrays with batch axes too."""
    batch = tuple(max(n, m) for n, m in zip(row.shape, col.shape, strict=True))
    columns = [lax.broadcast_in_dim(i, (*batch, 1), tuple(range(len(batch)))) for i in (row, col)]
    dtype = jnp.promote_types(row.dtype, col.dtype)
    return Entries(lax.concatenate([lax.convert_element_type(c, dtype) for c in columns], len(batch)), shape)


def entries_of_rows(indices: Any, indptr: Any, shape: tuple[int, ...]) -> Entries:
    """Those of the formats CSR and BCSR: row r has the entries from indptr[r] to indptr[r + 1].

    So the row of entry k is the number of rows, beyond the first, that begin at k or before; those past the end get
    a row that is out of range."""
    starts = Entries(lax.expand_dims(indptr, (indptr.ndim,)), (*indptr.shape[:-1], indices.shape[-1]))
    begun = starts.to_dense(lax.full_like(indptr, 1))
    row = lax.cumsum(begun, axis=begun.ndim - 1)
    return entries_of_matrix(lax.sub(row, scalar(1, row)), indices, shape)
