"""Sorting entries and adding up those of one position. Written out as a dense array, nothing changes."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

from ..checking import check_equal, check_numeric
from .dense import LAYOUTS, Layout, written_out

LAYOUTS = [layout for layout in LAYOUTS if layout.nse]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_bcoo_sort_indices_vjp(layout):
    """The entries in their order, each with a weight, so that each cotangent is another."""
    indices = layout.indices()

    def ordered(data):
        return sparse.BCOO((data, indices), shape=layout.shape).sort_indices().data

    def plain(data):
        """The same order by NumPy's own sort: of columns, from the last to the first."""
        if not layout.sparse:
            return data
        batch = tuple(max(n, m) for n, m in zip(indices.shape, data.shape, strict=False))[: layout.n_batch]
        keys = np.broadcast_to(indices, (*batch, *indices.shape[-2:]))
        data = jnp.broadcast_to(data, (*batch, *data.shape[layout.n_batch :]))
        order = np.lexsort(np.moveaxis(keys, -1, 0)[::-1], axis=-1)
        return jnp.take_along_axis(data, order.reshape(*order.shape, *(1,) * layout.n_dense), layout.n_batch)

    check_equal(ordered, plain, layout.data())


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("padding", [False, True])
def test_bcoo_sum_duplicates_vjp(layout, padding):
    indices = layout.indices(padding=padding)

    def summed(data):
        return sparse.BCOO((data, indices), shape=layout.shape).sum_duplicates(nse=layout.nse).todense()

    check_equal(summed, lambda data: written_out(data, indices, layout.shape), layout.data())


@pytest.mark.parametrize("nse", [2, 12])
def test_places(nse):
    """Too few, so that some positions are left out; or more than there are entries. Squared, which is not linear."""
    layout = Layout((4, 5))
    indices = layout.indices()
    check_numeric(
        lambda data: sparse.BCOO((data, indices), shape=(4, 5)).sum_duplicates(nse=nse).data ** 2, layout.data()
    )


def test_bcsr_sum_duplicates():
    layout = Layout((4, 5))
    indices = layout.indices(padding=False)

    def summed(data):
        a = sparse.BCSR.from_bcoo(sparse.BCOO((data, indices), shape=(4, 5)).sort_indices())
        return a.sum_duplicates(nse=6).todense()

    check_equal(summed, lambda data: written_out(data, indices, (4, 5)), layout.data())
