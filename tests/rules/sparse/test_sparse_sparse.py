"""The product of two sparse arrays, against that of the arrays written out."""

import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import sparse

from ..checking import check_equal, check_numeric
from .dense import Layout, written_out

PRODUCTS = [
    # the layouts of the factors, and the axes
    (Layout((3, 4), nse=5), Layout((4, 2), nse=4), (((1,), (0,)), ((), ()))),
    (Layout((3, 4), nse=5), Layout((2, 4), nse=4), (((1,), (1,)), ((), ()))),
    (Layout((3, 4), nse=5), Layout((4, 3), nse=4), (((1, 0), (0, 1)), ((), ()))),
    (Layout((3,), nse=3), Layout((2,), nse=2), (((), ()), ((), ()))),
    (Layout((3, 4), nse=5), Layout((4,), nse=3), (((1,), (0,)), ((), ()))),
    (Layout((2, 3, 4), 1, nse=4), Layout((2, 4, 3), 1, nse=3), (((2,), (1,)), ((0,), (0,)))),
    (Layout((2, 3, 4), 1, nse=4, shared=(0,)), Layout((2, 4, 3), 1, nse=3), (((2,), (1,)), ((0,), (0,)))),
    (Layout((2, 3, 4), 1, nse=4), Layout((4, 3), nse=3), (((2,), (0,)), ((), ()))),
    (Layout((4,), nse=3), Layout((2, 4, 3), 1, nse=3), (((0,), (1,)), ((), ()))),
    (Layout((3, 2, 3, 4), 2, nse=3), Layout((2, 4, 3), 1, nse=3), (((3,), (1,)), ((1,), (0,)))),
]


@pytest.mark.parametrize(("left", "right", "numbers"), PRODUCTS, ids=str)
def test_bcoo_spdot_general_vjp(left, right, numbers):
    x_indices, y_indices = left.indices(), right.indices(seed=7)

    def product(x, y):
        a, b = sparse.BCOO((x, x_indices), shape=left.shape), sparse.BCOO((y, y_indices), shape=right.shape)
        return sparse.bcoo_dot_general(a, b, dimension_numbers=numbers).todense()

    def plain(x, y):
        a, b = written_out(x, x_indices, left.shape), written_out(y, y_indices, right.shape)
        return lax.dot_general(a, b, numbers)

    check_equal(product, plain, left.data(), right.data(seed=2))


def test_values_of_the_product():
    """Its values themselves, those of padding included."""
    left, right = Layout((3, 4), nse=5), Layout((4, 2), nse=4)
    x_indices, y_indices = left.indices(), right.indices(seed=7)

    def values(x, y):
        a, b = sparse.BCOO((x, x_indices), shape=(3, 4)), sparse.BCOO((y, y_indices), shape=(4, 2))
        return jnp.sin((a @ b).data)

    check_numeric(values, left.data(), right.data(seed=2))
