"""Between dense and sparse arrays, in every format, against the same written out in dense words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import fnbackprop as fb

from ..checking import assert_close, check_equal, check_numeric, random_like
from .dense import LAYOUTS, Layout, rows_of, written_out

WITH_TWO_SPARSE_AXES = [layout for layout in LAYOUTS if len(layout.sparse) == 2 and layout.nse]


def normal(*shape, dtype="float64", seed=3):
    return random_like(np.zeros(shape, dtype), seed)


def with_zeros(*shape, seed=5):
    """About half of the elements are zero."""
    return normal(*shape, seed=seed) * (normal(*shape, seed=seed + 1) > 0)


# ---------------------------------------------------------------- sparse -> dense


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_bcoo_todense_vjp(layout):
    indices = layout.indices()
    check_equal(
        lambda data: sparse.BCOO((data, indices), shape=layout.shape).todense(),
        lambda data: written_out(data, indices, layout.shape),
        layout.data(),
    )


def test_negative_positions_count_from_the_end():
    data, indices = normal(3), jnp.array([[-1, 0], [1, -2], [-9, 1]])
    check_numeric(lambda data: sparse.BCOO((data, indices), shape=(3, 4)).todense(), data)


@pytest.mark.parametrize("layout", WITH_TWO_SPARSE_AXES, ids=str)
def test_bcsr_todense_vjp(layout):
    layout = Layout(layout.shape, layout.n_batch, layout.n_dense)
    column, indptr, row = rows_of(layout)
    indices = jnp.stack([row, column], -1)
    check_equal(
        lambda data: sparse.BCSR((data, column, indptr), shape=layout.shape).todense(),
        lambda data: written_out(data, indices, layout.shape),
        layout.data(),
    )


def test_coo_todense_vjp():
    layout = Layout((4, 5))
    indices = layout.indices()
    check_equal(
        lambda data: sparse.COO((data, *indices.T), shape=layout.shape).todense(),
        lambda data: written_out(data, indices, layout.shape),
        layout.data(),
        batched=False,  # JAX has no batching rule for it
    )


@pytest.mark.parametrize("format", [sparse.CSR, sparse.CSC])
def test_csr_todense_vjp(format):
    layout = Layout((4, 5))
    column, indptr, row = rows_of(layout)
    indices, shape = jnp.stack([row, column], -1), layout.shape
    plain, shape = (
        (lambda data: written_out(data, indices, layout.shape), shape)
        if format is sparse.CSR
        else (lambda data: written_out(data, indices, layout.shape).T, shape[::-1])
    )
    check_equal(lambda data: format((data, column, indptr), shape=shape).todense(), plain, layout.data(), batched=False)


@pytest.mark.parametrize("name", ["BCOO", "BCSR", "COO", "CSR", "CSC", "dense"])
def test_todense_vjp(name):
    """The function for whatever format its argument has."""
    layout = Layout((4, 5))
    indices, (column, indptr, row) = layout.indices(), rows_of(layout)
    buffers = {"BCOO": (indices,), "COO": tuple(indices.T)}.get(name, (column, indptr))
    at = indices if "COO" in name else jnp.stack([row, column], -1)

    def convert(data):
        if name == "dense":
            return sparse.todense(data)
        shape = layout.shape[::-1] if name == "CSC" else layout.shape
        return sparse.todense(getattr(sparse, name)((data, *buffers), shape=shape))

    def plain(data):
        if name == "dense":
            return data
        a = written_out(data, at, layout.shape)
        return a.T if name == "CSC" else a

    check_equal(convert, plain, layout.data(), batched=name in ("BCOO", "BCSR", "dense"))


# ---------------------------------------------------------------- dense -> sparse


def stored(x, n_dense=0):
    """x with no cotangent where it is zero (in all of a dense part)."""
    keep = (x != 0).any(tuple(range(x.ndim - n_dense, x.ndim)), keepdims=True) if n_dense else x != 0
    return jnp.where(keep, x, 0)


@pytest.mark.parametrize(("n_batch", "n_dense"), [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1)])
@pytest.mark.parametrize("nse", ["exact", "more"])
def test_bcoo_fromdense_vjp(n_batch, n_dense, nse):
    """With the values' squares, so that a second derivative depends on them; padding's are zero."""
    x = with_zeros(3, 4, 5)
    found = (np.asarray(x) != 0).any(tuple(range(3 - n_dense, 3))).sum(tuple(range(n_batch, 3 - n_dense)))
    nse = int(found.max()) + (2 if nse == "more" else 0)

    def through(x):
        a = sparse.BCOO.fromdense(x, nse=nse, n_batch=n_batch, n_dense=n_dense)
        return sparse.BCOO((a.data**2, a.indices), shape=a.shape).todense()

    check_equal(through, lambda x: stored(x, n_dense) ** 2, x, batched=False)


def test_bcoo_fromdense_of_too_few():
    """The entries that find no place get no cotangent."""
    x = normal(3, 4)
    got = fb.grad(lambda x: (sparse.BCOO.fromdense(x, nse=5).data ** 2).sum())(x)
    assert_close(got, 2 * jnp.where(jnp.arange(12).reshape(3, 4) < 5, x, 0), 1e-15)


@pytest.mark.parametrize("nse", [1, 3])
def test_bcoo_fromdense_without_a_sparse_axis(nse):
    """Only the first entry has the value, so only its cotangent counts; by `jax.grad` those of all are added up."""
    x = normal(3, 4)

    def values(x):
        return sparse.BCOO.fromdense(x, nse=nse, n_batch=1, n_dense=1).data

    check_numeric(values, x)


def test_bcoo_fromdense_vjp_batched():
    """A batch of one pattern: what vmap makes of it."""
    x = with_zeros(3, 4)
    xs = jnp.stack([x, 2 * x])

    def loss(x):
        return (sparse.BCOO.fromdense(x, nse=12).data ** 3).sum()

    assert_close(jax.jit(jax.vmap(fb.grad(loss)))(xs), 3 * xs**2, 1e-14)
    assert_close(jax.jit(fb.grad(lambda xs: jax.vmap(loss)(xs).sum()))(xs), 3 * xs**2, 1e-14)


@pytest.mark.parametrize(("n_batch", "n_dense"), [(0, 0), (1, 0), (0, 1)])
def test_bcsr_fromdense_vjp(n_batch, n_dense):
    x = with_zeros(*(2,) * n_batch, 3, 4, *(2,) * n_dense)

    def through(x):
        a = sparse.BCSR.fromdense(x, nse=10, n_batch=n_batch, n_dense=n_dense)
        return sparse.BCSR((a.data**2, a.indices, a.indptr), shape=a.shape).todense()

    check_equal(through, lambda x: stored(x, n_dense) ** 2, x, batched=False)


@pytest.mark.parametrize("format", [sparse.COO, sparse.CSR, sparse.CSC], ids=lambda f: f.__name__)
@pytest.mark.parametrize("padding", [0, 3])
def test_fromdense_of_a_matrix(format, padding):
    """Padding in the format COO stands at (0, 0): by `jax.grad` its cotangent lands there; it has no effect."""
    x = with_zeros(4, 5).at[0, 0].set(0.7)
    nse = int((x != 0).sum())
    weights = jnp.arange(1.0, nse + padding + 1)

    def loss(x, nse):
        return (weights[:nse] * format.fromdense(x, nse=nse).data ** 2).sum()

    want = np.zeros(x.shape)
    order = np.nonzero(x.T)[::-1] if format is sparse.CSC else np.nonzero(x)
    want[order] = 2 * weights[:nse] * x[order]
    assert_close(jax.jit(fb.grad(loss), static_argnums=1)(x, nse + padding), want, 1e-15)


# ---------------------------------------------------------------- extract


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if not layout.data_shared], ids=str)
def test_bcoo_extract_vjp(layout):
    """With P in dense words, Pᵀ data = A, so data = P x is the VJP of A in data, at x."""
    indices, x = layout.indices(), normal(*layout.shape)
    template = jnp.zeros(layout.data().shape)

    def plain(x):
        return jax.vjp(lambda data: written_out(data, indices, layout.shape), template)[1](x)[0]

    a = sparse.BCOO((template, indices), shape=layout.shape)
    check_equal(lambda x: sparse.bcoo_extract(a, x, assume_unique=True).data, plain, x)


@pytest.mark.parametrize(
    "layout", [layout for layout in LAYOUTS if not (layout.data_shared or layout.shared) and layout.nse], ids=str
)
def test_bcoo_extract_vjp_of_duplicates(layout):
    """Linear in x; the first of several entries of a position has its value. `jax.grad` refuses it."""
    indices, x = layout.indices(padding=False), normal(*layout.shape)
    a = sparse.BCOO((jnp.zeros(layout.data().shape), indices), shape=layout.shape)
    check_numeric(lambda x: sparse.bcoo_extract(a, x, assume_unique=False).data, x)


def test_bcsr_extract_vjp():
    layout = Layout((2, 4, 5), 1)
    column, indptr, row = rows_of(layout)
    indices, x = jnp.stack([row, column], -1), normal(2, 4, 5)

    def plain(x):
        return jax.vjp(lambda data: written_out(data, indices, layout.shape), layout.data())[1](x)[0]

    check_equal(lambda x: sparse.bcsr_extract(column, indptr, x), plain, x)


# ---------------------------------------------------------------- transpose


@pytest.mark.parametrize(
    ("layout", "permutation"),
    [
        (Layout((4, 5)), (1, 0)),
        (Layout((2, 3, 4, 5, 2, 3), 2, 2, nse=3), (1, 0, 3, 2, 5, 4)),
        (Layout((2, 3, 4), 1), (0, 2, 1)),
    ],
    ids=str,
)
def test_bcoo_transpose_vjp(layout, permutation):
    indices = layout.indices()
    check_equal(
        lambda data: sparse.BCOO((data, indices), shape=layout.shape).transpose(permutation).todense(),
        lambda data: written_out(data, indices, layout.shape).transpose(permutation),
        layout.data(),
    )
