"""What gather and scatter have in common: the 0-1 matrix S that reads windows of an array x at the starts i.

A gather is y = S x, a scatter-add y = x + Sᵀ u. JAX describes S by the same five numbers under different names, in the
same order; both treat a start that is out of range in the same way, by clamping it or by leaving its window out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax import lax
from jax.lax import GatherDimensionNumbers, GatherScatterMode, ScatterDimensionNumbers

from ...jaxprs.sizes import size_of
from ..expressions import Expr
from .layouts import zeros_of


@dataclass(frozen=True)
class Selection:
    """S, of a gather or a scatter: `read` is S x, and `write` puts updates where `read` reads."""

    i: Expr
    dimensions: GatherDimensionNumbers
    slice_sizes: tuple[int, ...]
    promised: dict[str, Any]  # what the primitive promises of its indices, which holds for reading
    writing: dict[str, Any]  # what then holds for writing

    @classmethod
    def of_gather(
        cls, i, *, dimension_numbers, slice_sizes, unique_indices, indices_are_sorted, mode, fill_value=None
    ) -> "Selection":
        """From the starts of a gather and its parameters."""
        promised = {"unique_indices": unique_indices, "indices_are_sorted": indices_are_sorted, "mode": mode}
        writing = _promised_of_writes(dimension_numbers, slice_sizes, i, **promised)
        return cls(i, dimension_numbers, slice_sizes, promised, writing)

    @classmethod
    def of_scatter(cls, x: Any, i: Expr, u: Any, params: dict[str, Any]) -> "Selection":
        """From the operand, starts and updates of a scatter (of x and u only the shapes) and its parameters."""
        scatter = params["dimension_numbers"]
        absent = {*scatter.inserted_window_dims, *scatter.operand_batching_dims}
        window = iter(scatter.update_window_dims)
        slice_sizes = tuple(1 if d in absent else u.shape[next(window)] for d in range(len(x.shape)))
        promised = {name: params[name] for name in ("unique_indices", "indices_are_sorted", "mode")}
        return cls.of_gather(i, dimension_numbers=GatherDimensionNumbers(*scatter), slice_sizes=slice_sizes, **promised)

    @property
    def distinct(self) -> bool:
        """Whether it is known that no element is read, or written, twice."""
        return self.writing["unique_indices"]

    def read(self, x: Expr) -> Expr:
        """S x: the windows of x, zero where one is left out."""
        return Expr(lax.gather(x.array, self.i.array, self.dimensions, self.slice_sizes, fill_value=0, **self.promised))

    def write(self, scatter: Callable, x: Expr, u: Expr) -> Expr:
        """`scatter` (`lax.scatter`, `lax.scatter_add` ...) of u, which is laid out as S x, into x."""
        return Expr(scatter(x.array, self.i.array, u.array, ScatterDimensionNumbers(*self.dimensions), **self.writing))

    def transposed(self, u: Expr, aval: Any) -> Expr:
        """Sᵀ u: u added up where S reads, in an array of this aval's shape."""
        return self.write(lax.scatter_add, Expr(zeros_of(aval, u.dtype)), u)


def _promised_of_writes(
    gather: GatherDimensionNumbers,
    slice_sizes: Any,
    i: Expr,
    unique_indices: bool,
    indices_are_sorted: bool,
    mode: GatherScatterMode,
) -> dict[str, Any]:
    """What holds for the writes of a scatter, given what was promised of the indices.

    Distinct starts need not be distinct after clamping, nor, with windows wider than one, write distinct elements; and
    clamping several components of a start one by one can break their lexicographic order.
    """
    clips = mode == GatherScatterMode.CLIP
    overlaps = any(slice_sizes[d] != 1 for d in gather.start_index_map)
    return {
        "unique_indices": _one_window(gather, i) or (unique_indices and not clips and not overlaps),
        "indices_are_sorted": indices_are_sorted and (not clips or len(gather.start_index_map) == 1),
        "mode": mode,
    }


def _one_window(gather: GatherDimensionNumbers, i: Expr) -> bool:
    """Whether each batch element has at most one window, which cannot overlap another."""
    batching = gather.start_indices_batching_dims
    return size_of(n for d, n in enumerate(i.shape[:-1]) if d not in batching) <= 1
