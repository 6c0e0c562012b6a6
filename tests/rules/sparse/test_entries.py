"""The entries of a sparse array: dense arrays are read and written where NumPy reads and writes them."""

import numpy as np
import pytest
from jax import numpy as jnp

from fnbackprop.rules.sparse.entries import ENTRY, Entries, Named, entries_of_matrix, entries_of_rows

RANDOM = np.random.default_rng(0)


def written_out(data, indices, shape):
    """The dense array, entry by entry; batch axes of size 1 are shared, and what lies outside is left out."""
    dense, batch = np.zeros(shape), indices.ndim - 2
    for place in np.ndindex(*shape[:batch]):
        own = [tuple(i if n != 1 else 0 for i, n in zip(place, x.shape, strict=False)) for x in (indices, data)]
        for index, value in zip(indices[own[0]], data[own[1]], strict=True):
            index = index + np.where(index < 0, shape[batch : batch + len(index)], 0)
            if all(0 <= i < n for i, n in zip(index, shape[batch:], strict=False)):
                dense[(*place, *index)] += value
    return dense


CASES = {  # name: (indices, shape of data, shape of the array)
    "vector": ([[1], [3], [1], [9], [-1]], (5,), (4,)),
    "matrix": ([[0, 2], [1, 1], [1, 1]], (3,), (2, 3)),
    "dense axis": ([[0], [2]], (2, 3), (4, 3)),
    "batch": ([[[0], [1]], [[2], [2]]], (2, 2), (2, 3)),
    "shared indices": ([[[0], [2]]], (2, 2), (2, 3)),
    "shared data": ([[[0], [1]], [[2], [2]]], (1, 2), (2, 3)),
    "no entries": (np.zeros((0, 1), int), (0,), (3,)),
    "no sparse axis": (np.zeros((1, 0), int), (1, 3), (3,)),
}


@pytest.fixture(params=CASES)
def case(request):
    indices, data_shape, shape = CASES[request.param]
    indices = np.asarray(indices, np.int32)
    return Entries(jnp.asarray(indices), shape), RANDOM.normal(size=data_shape).astype(np.float32), indices


def test_to_dense(case):
    entries, data, indices = case
    np.testing.assert_allclose(entries.to_dense(data), written_out(data, indices, entries.shape), rtol=1e-6)


def test_extract_is_the_transpose(case):
    """⟨P x, d⟩ = ⟨x, Pᵀ d⟩, with all batch axes of d at full size."""
    entries, data, indices = case
    x = RANDOM.normal(size=entries.shape).astype(np.float32)
    read = entries.extract(x)
    assert read.shape == tuple(entries.size(a) for a in entries.data_axes)
    data = np.broadcast_to(data, read.shape)
    expected = np.sum(x * written_out(data, indices, entries.shape))
    np.testing.assert_allclose(np.sum(np.asarray(read) * data), expected, rtol=1e-4, atol=1e-6)


def test_the_names_of_axes():
    entries = Entries(jnp.zeros((1, 5, 2), jnp.int32), (3, 4, 6, 7))
    assert (entries.batch, entries.sparse, entries.dense) == ((0,), (1, 2), (3,))
    assert entries.data_axes == (0, ENTRY, 3)
    assert [entries.size(a) for a in entries.data_axes] == [3, 5, 7]
    assert entries.named(jnp.zeros((1, 5, 1))).axes == (ENTRY, 3)  # shared by the batch alone
    assert entries.kept_axes((3, 5, 1)) == (0, ENTRY, 3)


def test_arrange_sums_repeats_and_transposes():
    entries, x = Entries(jnp.zeros((2, 1), jnp.int32), (3, 4)), RANDOM.normal(size=(4, 3, 2)).astype(np.float32)
    found = entries.arrange(Named(jnp.asarray(x), (1, 0, "other")), (ENTRY, 0, 1))
    np.testing.assert_allclose(found, np.broadcast_to(x.sum(2).T, (2, 3, 4)), rtol=1e-6)


def test_contract():
    """Σ over what neither keeps, in the wider of the dtypes."""
    entries = Entries(jnp.zeros((2, 1), jnp.int32), (3, 4))
    x, y = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((2, 3, 5), (3, 2, 4)))
    found = entries.contract(
        Named(jnp.asarray(x, jnp.bfloat16), (ENTRY, 0, "k")), Named(jnp.asarray(y), (0, ENTRY, 1)), (1, ENTRY)
    )
    assert found.dtype == jnp.float32
    rounded = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
    np.testing.assert_allclose(found, np.einsum("eik,iej->je", rounded, y), rtol=1e-2, atol=1e-2)


def test_the_positions_of_coo_and_csr():
    row, col = np.array([0, 0, 2, 5], np.int32), np.array([1, 3, 0, 5], np.int64)
    matrix = entries_of_matrix(jnp.asarray(row), jnp.asarray(col), (3, 4))
    np.testing.assert_array_equal(matrix.indices, np.stack([row, col], 1))
    indices, indptr = np.array([1, 3, 0, 4], np.int32), np.array([0, 2, 2, 3], np.int32)  # the last is padding
    rows = entries_of_rows(jnp.asarray(indices), jnp.asarray(indptr), (3, 4))
    np.testing.assert_array_equal(rows.indices[:3], [[0, 1], [0, 3], [2, 0]])
    assert rows.indices[3, 0] >= 3
    batched = entries_of_rows(jnp.stack([indices, indices]), jnp.stack([indptr, indptr]), (2, 3, 4))
    np.testing.assert_array_equal(batched.indices[1], rows.indices)
