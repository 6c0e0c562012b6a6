"""Products of sparse and dense arrays in every format, against those of the arrays written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import sparse
from jax.experimental.sparse import _lowerings as kernels
from jax.interpreters import mlir

import fnbackprop as fb
from fnbackprop.backprop import registry

from ..checking import assert_close, check_equal, random_like
from .dense import LAYOUTS, Layout, rows_of, written_out


def normal(*shape, dtype="float64", seed=3):
    return random_like(np.zeros(shape, dtype), seed)


def dimension_numbers(layout):
    """Products of an array of this layout: some batch axes in common, some batch axes and some sparse ones contracted,
    the latter in reverse order in the dense factor, whose free axis lies between."""
    for common in range(layout.n_batch + 1):
        for batch_contracted in range(layout.n_batch - common + 1):
            for contracted in range(len(layout.sparse) + 1):
                batch = tuple(range(common))
                over = (
                    *range(common, common + batch_contracted),
                    *range(layout.n_batch, layout.n_batch + contracted),
                )
                count = len(over)
                numbers = ((over, tuple(range(count))[::-1]), (batch, tuple(range(count + 1, count + 1 + common))))
                shape = (*(layout.shape[a] for a in over[::-1]), 2, *(layout.shape[a] for a in batch))
                yield numbers, shape


# A batch axis along which the positions or values are shared is refused by JAX in some products.
PRODUCTS = [
    (layout, numbers, shape)
    for layout in LAYOUTS
    if layout.nse
    for numbers, shape in dimension_numbers(layout)
    if not ((layout.shared or layout.data_shared) and (numbers[1][0] or numbers[0][0][:1] == (0,)))
]


@pytest.mark.parametrize(("layout", "numbers", "shape"), PRODUCTS, ids=str)
def test_bcoo_dot_general_vjp(layout, numbers, shape):
    indices = layout.indices()

    def product(data, x):
        a = sparse.BCOO((data, indices), shape=layout.shape)
        return sparse.bcoo_dot_general(a, x, dimension_numbers=numbers)

    def plain(data, x):
        return lax.dot_general(written_out(data, indices, layout.shape), x, numbers)

    check_equal(product, plain, layout.data(), normal(*shape), batched=not (layout.shared or layout.data_shared))


def test_bcoo_dot_general_of_no_entries():
    a = sparse.BCOO((jnp.zeros(0), jnp.zeros((0, 2), int)), shape=(3, 4))
    got = fb.vjp(lambda data, x: sparse.BCOO((data, a.indices), shape=a.shape) @ x, a.data, normal(4))[1](normal(3))
    assert_close(got, (jnp.zeros(0), jnp.zeros(4)), 0.0)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128", "bfloat16"])
def test_dtypes(dtype):
    """Other dtypes, the two factors' own; a product of bfloat16 is rounded once."""
    layout = Layout((4, 5))
    indices, wide = layout.indices(), "complex128" if "complex" in dtype else "float64"
    data, x, dz = layout.data(dtype=dtype), normal(5, 3, dtype=dtype), normal(4, 3, dtype=dtype, seed=4)
    got = fb.vjp(lambda data, x: sparse.BCOO((data, indices), shape=(4, 5)) @ x, data, x)[1](dz)
    assert [ct.dtype for ct in got] == [dtype, dtype]
    want = jax.vjp(lambda data, x: written_out(data, indices, (4, 5)) @ x, *(jnp.asarray(a, wide) for a in (data, x)))[
        1
    ](jnp.asarray(dz, wide))
    bound = {"float32": 3e-6, "complex64": 3e-6, "complex128": 1e-14, "bfloat16": 0.02}[dtype]
    assert_close([jnp.asarray(ct, wide) for ct in got], list(want), bound)


def test_factors_of_two_dtypes():
    """A real matrix times a complex array: the cotangent of the values is real."""
    layout = Layout((4, 5))
    indices, data, x, dz = layout.indices(), layout.data(), normal(5, dtype="complex128"), normal(4, dtype="complex128")
    numbers = (((1,), (0,)), ((), ()))

    def product(data, x):
        a = sparse.BCOO((data, indices), shape=(4, 5))
        return sparse.bcoo_dot_general(a, x, dimension_numbers=numbers)

    got = fb.vjp(product, data, x)[1](dz)
    want = jax.vjp(lambda data, x: written_out(data, indices, (4, 5)).astype(complex) @ x, data, x)[1](dz)
    assert_close(got, want, 1e-14)


@pytest.mark.parametrize("layout", [Layout((4, 5)), Layout((2, 4, 5), 1), Layout((4, 5, 3), 0, 1)], ids=str)
@pytest.mark.parametrize("free", [(), (2,)], ids=str)
def test_bcsr_dot_general_vjp(layout, free):
    column, indptr, row = rows_of(layout)
    indices, n = jnp.stack([row, column], -1), layout.n_batch
    batch = tuple(range(n))
    numbers = (((n + 1,), (n,)), (batch, batch))

    def product(data, x):
        a = sparse.BCSR((data, column, indptr), shape=layout.shape)
        return sparse.bcsr_dot_general(a, x, dimension_numbers=numbers)

    def plain(data, x):
        return lax.dot_general(written_out(data, indices, layout.shape), x, numbers)

    check_equal(product, plain, layout.data(), normal(*layout.shape[:n], layout.shape[n + 1], *free))


@pytest.mark.parametrize("name", ["COO", "CSR", "CSC"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("columns", [(), (3,)], ids=str)
def test_product_of_a_matrix(name, transpose, columns):
    """Where transposed, `jax.grad` of JAX 0.10.2 is wrong in the values: it forgets to transpose."""
    layout = Layout((4, 5))
    column, indptr, row = rows_of(layout)
    # JAX's own product of padding with a dense array reads one past the end: here the padding is of value zero.
    padded = row == 4
    row, indices = jnp.where(padded, 0, row), jnp.stack([row, column], -1)
    buffers = (row, column) if name == "COO" else (column, indptr)
    shape = layout.shape[::-1] if name == "CSC" else layout.shape
    value = jnp.where(padded, 0.0, 1.0)

    def product(data, x):
        a = getattr(sparse, name)((data * value, *buffers), shape=shape)
        return (a.T if transpose else a) @ x

    def plain(data, x):
        a = written_out(data * value, indices, layout.shape)
        a = a.T if name == "CSC" else a
        return (a.T if transpose else a) @ x

    x = normal(shape[0 if transpose else 1], *columns)
    check_equal(product, plain, layout.data(), x, batched=False)


SAMPLED = [
    # the shape of the result, batch axes of its positions, the factors' shapes, and their axes
    (Layout((4, 5)), (4,), (5,), (((), ()), ((), ()))),
    (Layout((4, 5)), (4, 3), (3, 5), (((1,), (0,)), ((), ()))),
    (Layout((4, 5)), (3, 4), (5, 3), (((0,), (1,)), ((), ()))),
    (Layout((4, 5), 1, nse=3), (4, 3), (3, 5), (((1,), (0,)), ((), ()))),
    (Layout((4, 5), 2, nse=3), (4, 3), (3, 5), (((1,), (0,)), ((), ()))),
    (Layout((2, 4, 5), 1, nse=3), (4, 3, 2), (2, 5, 3), (((1,), (2,)), ((2,), (0,)))),
    (Layout((2, 4, 5), 1, 1, nse=3), (4, 3, 2), (2, 5, 3), (((1,), (2,)), ((2,), (0,)))),
    (Layout((2, 4, 5), 0, 2, nse=3), (4, 3, 2), (2, 5, 3), (((1,), (2,)), ((2,), (0,)))),
]


@pytest.mark.parametrize(("layout", "x", "y", "numbers"), SAMPLED, ids=str)
def test_bcoo_dot_general_sampled_vjp(layout, x, y, numbers):
    indices = layout.indices()

    def plain(x, y):
        dense = lax.dot_general(x, y, numbers)
        template = jnp.zeros(layout.data().shape)
        return jax.vjp(lambda data: written_out(data, indices, layout.shape), template)[1](dense)[0]

    check_equal(
        lambda x, y: sparse.bcoo_dot_general_sampled(x, y, indices, dimension_numbers=numbers),
        plain,
        normal(*x),
        normal(*y, seed=4),
        batched=layout.n_dense == 0 or layout.n_batch > 0,  # else JAX has no batching rule
    )


# ---------------------------------------------------------------- the vendor's kernels


@pytest.fixture
def kernels_on_the_cpu():
    """What stands for the kernels of a GPU, in the words of another primitive."""

    def coo(data, row, col, x, *, transpose, shape):
        a = sparse.COO((data, row, col), shape=shape)
        return (a.T if transpose else a) @ x

    def csr(data, indices, indptr, x, *, transpose, shape):
        a = sparse.CSR((data, indices, indptr), shape=shape)
        return (a.T if transpose else a) @ x

    for name, function in {"coo_spmv": coo, "coo_spmm": coo, "csr_spmv": csr, "csr_spmm": csr}.items():
        lowered = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(getattr(kernels, f"{name}_p"), lowered, platform="cpu")


@pytest.mark.parametrize("name", ["coo_spmv", "coo_spmm", "csr_spmv", "csr_spmm"])
@pytest.mark.parametrize("transpose", [False, True])
def test_kernels(name, transpose, kernels_on_the_cpu):
    row, column = jnp.array([0, 0, 2, 3], "int32"), jnp.array([1, 4, 0, 3], "int32")
    indptr = jnp.array([0, 2, 2, 3, 4], "int32")
    buffers = (row, column) if name.startswith("coo") else (column, indptr)
    primitive = getattr(kernels, f"{name}_p")

    def product(data, x):
        return primitive.bind(data, *buffers, x, transpose=transpose, shape=(4, 5))

    def plain(data, x):
        a = written_out(data, jnp.stack([row, column], -1), (4, 5))
        return (a.T if transpose else a) @ x

    x = normal(4 if transpose else 5, *(3,) * name.endswith("mm"))
    check_equal(product, plain, normal(4), x, batched=False)


def test_a_planted_error_is_found(plant):
    plant("bcoo_dot_general")

    @registry.vjp_rule("bcoo_dot_general", "data, indices, x -> z")
    def bcoo_dot_general_vjp(dz, data, indices, x, **params):
        return x[indices[:, 1]], None, jnp.zeros_like(x)

    with pytest.raises(AssertionError, match="relative error"):
        test_bcoo_dot_general_vjp(Layout((4, 5)), (((1,), (0,)), ((), ())), (5,))
