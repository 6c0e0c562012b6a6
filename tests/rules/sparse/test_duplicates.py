"""Sorting entries and adding up those of one position. Written out as a dense array, nothing changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import fnbackprop as fb

from ..checking import assert_close, check_equal, check_numeric
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


def test_entries_found_from_values():
    """Outside jit, JAX counts the distinct positions itself: for each format, in batches, and without the zeros."""
    x = jnp.asarray([1.0, 2.0, 3.0, 0.0])
    indices = jnp.asarray([[0, 1], [2, 0], [0, 1], [1, 1]])
    w = jnp.arange(1.0, 7.0).reshape(3, 2)

    def f(x):
        a = sparse.BCOO((x, indices), shape=(3, 2))
        whole = a.sum_duplicates(remove_zeros=False)
        assert (whole.nse, a.sum_duplicates().nse) == (3, 2)
        rows = sparse.BCSR.from_bcoo(a.sort_indices()).sum_duplicates()
        batch = sparse.BCOO((jnp.stack([x, x**2]), jnp.stack([indices, indices])), shape=(2, 3, 2)).sum_duplicates()
        parts = (whole, sparse.bcoo.bcoo_eliminate_zeros(a), rows, batch)
        return sum(jnp.sum(k * part.todense() ** 2 * w) for k, part in enumerate(parts, 1))

    def plain(x):
        a = written_out(x, indices, (3, 2))
        parts = (a, a, a, jnp.stack([a, written_out(x**2, indices, (3, 2))]))
        return sum(jnp.sum(k * part**2 * w) for k, part in enumerate(parts, 1))

    assert_close(fb.grad(f)(x), jax.jit(jax.grad(plain))(x), 1e-13)
    with pytest.raises(ValueError, match="nse must be specified"):
        jax.jit(fb.grad(f))(x)
