"""Sparse arrays in JAX's experimental formats: conversions, products, sorting, sums of duplicates."""

import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse
from jax.experimental.sparse import coo, csr
from jax.experimental.sparse.linalg import spsolve

from .operands import away, complex_normal, normal
from .table import add

# fmt: off

SHAPE = (3, 4)
ROW, COLUMN = np.int32([0, 0, 1, 2, 2]), np.int32([1, 3, 0, 2, 3])
INDPTR = np.int32([0, 2, 3, 5])
UNSORTED = np.int32([[2, 1], [0, 3], [2, 1], [3, 9], [1, 0]])  # one position twice, and one of padding
DENSE = np.zeros(SHAPE, "float32")
DENSE[ROW, COLUMN] = away(5)


def bcoo(data, indices=UNSORTED, shape=SHAPE):
    return sparse.BCOO((data, indices), shape=shape)


def bcsr(data):
    return sparse.BCSR((data, COLUMN, INDPTR), shape=SHAPE)


def coordinates(data):
    return sparse.COO((data, ROW, COLUMN), shape=SHAPE)


def rows(data):
    return sparse.CSR((data, COLUMN, INDPTR), shape=SHAPE)


NEGATIVE = np.int32([[2, -3], [0, 3], [-1, 0]])
add("bcoo_todense", lambda data: bcoo(data, NEGATIVE).todense(), normal(3))
for _make, _name in ((bcoo, "bcoo"), (bcsr, "bcsr"), (coordinates, "coo"), (rows, "csr")):
    add(f"{_name}_todense", lambda data, m=_make: m(data).todense(), normal(5))
    add(f"{_name}_todense", lambda data, m=_make: m(data).todense(), complex_normal(5))
OF_BATCH = np.stack([UNSORTED, UNSORTED[:, ::-1] % np.int32([3, 4])])
add("bcoo_todense", lambda data: bcoo(data, NEGATIVE.astype("uint32") % np.uint32([3, 4])).todense(), normal(3))
add("bcoo_todense", lambda data: bcoo(data, OF_BATCH, (2, *SHAPE)).todense(), normal(2, 5))
add("bcoo_todense", lambda data: bcoo(data, UNSORTED[None], (2, *SHAPE)).todense(), normal(2, 5))
add("bcoo_todense", lambda data: bcoo(data, UNSORTED, (*SHAPE, 2)).todense(), normal(5, 2))
add("bcoo_todense", lambda data: bcoo(data, np.zeros((2, 0), "int32")).todense(), normal(2, *SHAPE))  # all axes dense
add("bcoo_extract", lambda data, x: sparse.bcoo_extract(bcoo(data, OF_BATCH, (2, *SHAPE)), x).data, normal(2, 5),
    normal(2, *SHAPE, seed=1))
add("bcoo_dot_general", lambda data, x: sparse.bcoo_dot_general(
    bcoo(data, OF_BATCH, (2, *SHAPE)), x, dimension_numbers=(((2,), (1,)), ((0,), (0,)))),
    normal(2, 5), normal(2, 4, 2, seed=1))
add("bcoo_fromdense", lambda x: sparse.BCOO.fromdense(x, nse=5, n_batch=1).data ** 2, np.stack([DENSE, 2 * DENSE]))
add("bcoo_fromdense", lambda x: sparse.BCOO.fromdense(x, nse=5, n_dense=1).data ** 2, np.stack([DENSE, DENSE], -1))
add("todense", lambda data: sparse.todense(bcoo(data)), normal(5))
add("todense", lambda x: sparse.todense(x) * x, DENSE)
add("bcoo_fromdense", lambda x: sparse.BCOO.fromdense(x, nse=1, n_batch=2).data ** 2, DENSE)
add("bcoo_todense", lambda data: bcoo(data, UNSORTED[:0]).todense(), normal(0))
add("bcoo_dot_general", lambda data, x: bcoo(data, UNSORTED[:0]) @ x, normal(0), normal(4, 2, seed=1))
add("bcoo_fromdense", lambda x: sparse.BCOO.fromdense(x, nse=5).data ** 2, DENSE)
add("bcsr_fromdense", lambda x: sparse.BCSR.fromdense(x, nse=5).data ** 2, DENSE)
add("coo_fromdense", lambda x: coo.coo_fromdense(x, nse=5).data ** 2, DENSE)
add("csr_fromdense", lambda x: csr.csr_fromdense(x, nse=5).data ** 2, DENSE)
add("bcoo_extract", lambda data, x: bcoo(data) * x, normal(5), normal(*SHAPE, seed=1))
add("bcoo_extract", lambda x: sparse.bcoo_extract(bcoo(jnp.ones(5)), x).data, normal(*SHAPE))
add("bcsr_extract", lambda x: sparse.bcsr_extract(COLUMN, INDPTR, x), normal(*SHAPE))
add("bcoo_transpose", lambda data: bcoo(data).T.data, normal(5))
add("bcoo_transpose", lambda data: bcoo(data, UNSORTED[None].repeat(2, 0), (2, *SHAPE)).transpose((0, 2, 1)).todense(),
    normal(2, 5))
add("bcoo_sort_indices", lambda data: bcoo(data).sort_indices().data, normal(5))
add("bcoo_sort_indices", lambda data: bcoo(data, UNSORTED[None], (1, *SHAPE)).sort_indices().data, normal(1, 5))
add("bcoo_sum_duplicates", lambda data: bcoo(data).sum_duplicates(nse=4).data, normal(5))
add("bcoo_dot_general", lambda data, x: bcoo(data) @ x, normal(5), normal(4, 2, seed=1))
add("bcoo_dot_general", lambda data, x: bcoo(data) @ x, complex_normal(5), complex_normal(4, 2, seed=1))
add("bcoo_dot_general", lambda data, x: x @ bcoo(data), normal(5), normal(2, 3, seed=1))
add("bcsr_dot_general", lambda data, x: bcsr(data) @ x, normal(5), normal(4, 2, seed=1))
add("bcsr_dot_general", lambda data, x: bcsr(data) @ x, complex_normal(5), complex_normal(4, seed=1))
add("bcoo_dot_general_sampled", lambda x, y: sparse.bcoo_dot_general_sampled(
    x, y, UNSORTED, dimension_numbers=(((1,), (0,)), ((), ()))), normal(3, 2), normal(2, 4, seed=1))
add("bcoo_dot_general_sampled", lambda x, y: sparse.bcoo_dot_general_sampled(
    x, y, NEGATIVE, dimension_numbers=(((1,), (0,)), ((), ()))), normal(3, 2), normal(2, 4, seed=1))
add("bcoo_dot_general_sampled", lambda x, y: sparse.bcoo_dot_general_sampled(
    x, y, OF_BATCH, dimension_numbers=(((2,), (1,)), ((0,), (0,)))), normal(2, 3, 2), normal(2, 2, 4, seed=1))
add("bcoo_dot_general_sampled", lambda x, y: sparse.bcoo_dot_general_sampled(
    x, y, UNSORTED[:, [0, 1, 0]], dimension_numbers=(((2,), (0,)), ((), ()))), normal(3, 4, 2), normal(2, 3, seed=1))
add("bcoo_spdot_general", lambda x, y: sparse.bcoo_dot_general(
    bcoo(x, OF_BATCH, (2, *SHAPE)), bcoo(y, OF_BATCH[..., ::-1], (2, *SHAPE[::-1])),
    dimension_numbers=(((2,), (1,)), ((0,), (0,)))).todense(), normal(2, 5), normal(2, 5, seed=1))
add("bcoo_spdot_general", lambda x, y: (bcoo(x) @ bcoo(y, UNSORTED[:, ::-1], SHAPE[::-1])).todense(),
    normal(5), normal(5, seed=1))
add("bcoo_spdot_general", lambda x, y: sparse.bcoo_dot_general(
    bcoo(x, np.stack([OF_BATCH, OF_BATCH]), (2, 2, *SHAPE)), bcoo(y, OF_BATCH, (2, *SHAPE)),
    dimension_numbers=(((2,), (1,)), ((1,), (0,)))).todense(), normal(2, 2, 5), normal(2, 5, seed=1))
for _turned in (False, True):
    _v, _matrix = normal(3 if _turned else 4, seed=1), normal(3 if _turned else 4, 2, seed=1)
    add("coo_matvec", lambda data, v, t=_turned: coo.coo_matvec(coordinates(data), v, transpose=t), normal(5), _v)
    add("coo_matmat", lambda data, b, t=_turned: coo.coo_matmat(coordinates(data), b, transpose=t), normal(5), _matrix)
    add("csr_matvec", lambda data, v, t=_turned: csr.csr_matvec(rows(data), v, transpose=t), normal(5), _v)
    add("csr_matmat", lambda data, b, t=_turned: csr.csr_matmat(rows(data), b, transpose=t), normal(5), _matrix)
add("spsolve", lambda data, b: spsolve(data, np.int32([0, 1, 2, 0, 2]), np.int32([0, 1, 3, 5]), b),
    away(5), normal(3, seed=1))
