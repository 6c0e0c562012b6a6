"""S as a matrix: what it reads, and its transpose, against the matrix itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnbackprop.rules.arrays.selection import Selection
from fnbackprop.rules.expressions import Expr

from ..checking import random_like

pytestmark = pytest.mark.usefixtures("x64")
SHAPE, STARTS = (4, 3), jnp.array([[0, 1], [3, 0], [0, 1]])  # a start that occurs twice
DIMENSIONS = lax.GatherDimensionNumbers((1,), (0,), (0, 1))


def selection(mode="fill", unique=False, starts=STARTS):
    mode = lax.GatherScatterMode.from_any(mode)
    flags = {"unique_indices": unique, "indices_are_sorted": False, "mode": mode}
    return Selection.of_gather(Expr(starts), dimension_numbers=DIMENSIONS, slice_sizes=(1, 2), **flags)


@pytest.mark.parametrize("mode", ["fill", "clip"])
def test_transposed(mode):
    """⟨u, S x⟩ = ⟨Sᵀ u, x⟩, a start out of range included."""
    S = selection(mode, starts=STARTS.at[1, 0].set(9))
    x, u = random_like(np.zeros(SHAPE)), random_like(np.zeros((3, 2)), 1)
    np.testing.assert_allclose(
        jnp.vdot(u, S.read(Expr(x)).array), jnp.vdot(S.transposed(Expr(u), jax.typeof(x)).array, x), rtol=1e-13
    )


def test_of_scatter_is_of_the_gather_that_reads_there():
    S = selection()
    params = {"dimension_numbers": lax.ScatterDimensionNumbers(*DIMENSIONS), **S.promised}
    found = Selection.of_scatter(np.zeros(SHAPE), Expr(STARTS), np.zeros((3, 2)), params)
    assert (found.dimensions, found.slice_sizes, found.writing) == (S.dimensions, S.slice_sizes, S.writing)


def test_distinct():
    """Overlapping windows write elements twice, however distinct their starts; one window alone does not."""
    assert not selection(unique=True).distinct
    assert selection(starts=STARTS[:1]).distinct
