"""Random sparse arrays with all that the formats allow, and the same arrays written out in dense words."""

import jax.numpy as jnp
import numpy as np

from ..checking import random_like


class Layout:
    """A shape, how many of its axes are batch and dense ones, how many entries, and along which batch axes the
    positions and the values are shared."""

    def __init__(self, shape, n_batch=0, n_dense=0, nse=6, shared=(), data_shared=()):
        self.shape, self.n_batch, self.n_dense, self.nse = shape, n_batch, n_dense, nse
        self.shared, self.data_shared = shared, data_shared

    def __repr__(self):
        shared = f" shared {self.shared} {self.data_shared}" if self.shared or self.data_shared else ""
        return f"{self.shape} {self.n_batch} {self.n_dense} {self.nse}{shared}"

    @property
    def sparse(self):
        return self.shape[self.n_batch : len(self.shape) - self.n_dense]

    def indices(self, seed=0, padding=True):
        """Unsorted, with duplicates and, on request, with padding: a position one past the end."""
        rng = np.random.default_rng(seed)
        batch = [1 if b in self.shared else n for b, n in enumerate(self.shape[: self.n_batch])]
        columns = [rng.integers(0, n + padding, (*batch, self.nse)) for n in self.sparse]
        return jnp.asarray(np.stack(columns, -1) if columns else np.zeros((*batch, self.nse, 0)), "int32")

    def data(self, seed=1, dtype="float64"):
        batch = [1 if b in self.data_shared else n for b, n in enumerate(self.shape[: self.n_batch])]
        shape = (*batch, self.nse, *self.shape[len(self.shape) - self.n_dense :])
        return random_like(np.zeros(shape, dtype), seed)


LAYOUTS = [
    Layout((4, 5)),
    Layout((4,)),
    Layout((3, 4, 5), 1, nse=4),
    Layout((3, 4, 5), 1, nse=4, shared=(0,)),
    Layout((3, 4, 5), 1, nse=4, data_shared=(0,)),
    Layout((3, 4, 2), 0, 1),
    Layout((2, 3, 4, 2), 2, 1, nse=3),
    Layout((2, 3, 4), 2, nse=3, shared=(1,), data_shared=(0,)),
    Layout((3, 4), 2, nse=2),
    Layout((3, 4), 1, 1, nse=1),
    Layout((3, 4), nse=0),
]


def rows_of(layout, seed=0):
    """indices and indptr of the format BCSR, and the row of each entry: any number a row, padding at the end."""
    rng = np.random.default_rng(seed)
    batch, rows, columns = layout.shape[: layout.n_batch], *layout.sparse
    row = np.sort(rng.integers(0, rows + 1, (*batch, layout.nse)), -1)  # the row that is out of range is padding
    indptr = np.stack([(row < r).sum(-1) for r in range(rows + 1)], -1)
    column = rng.integers(0, columns, row.shape)
    return tuple(jnp.asarray(i, "int32") for i in (column, indptr, row))


def written_out(data, indices, shape):
    """The dense array: each value times the 0-1 array of its position, which is zero for padding; summed."""
    *batch, nse, sparse = indices.shape
    sizes = shape[len(batch) : len(batch) + sparse]
    ones = jnp.ones((*batch, nse, *(1,) * sparse))
    for axis, size in enumerate(sizes):
        hit = indices[..., axis, None] == jnp.arange(size)  # (*batch, nse, size)
        at = [1] * sparse
        at[axis] = size
        ones = ones * hit.reshape(*batch, nse, *at)
    n_dense = len(shape) - len(batch) - sparse
    values = data.reshape(*data.shape[: len(batch) + 1], *(1,) * sparse, *data.shape[len(batch) + 1 :])
    spread = values * ones.reshape(*ones.shape, *(1,) * n_dense).astype(data.dtype)
    return jnp.broadcast_to(spread.sum(len(batch)), shape)
