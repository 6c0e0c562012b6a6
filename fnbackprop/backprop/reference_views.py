"""The cell that holds a reference's value, and the part of it that a read or a write selects: the views of `ref[...]`,
`ref.at[...]`, `ref.reshape`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from ..jaxprs.avals import aval_of, vary, varying_axes
from ..jaxprs.evaluate import source_line


class Cell:
    """The present value of one reference, which in a shard_map varies along the same mesh axes all the time."""

    def __init__(self, value: Any):
        self.start = self.value = strongly_typed(value)

    def put(self, value: Any) -> None:
        self.value = strongly_typed(vary(value, varying_axes(aval_of(self.start))))


def strongly_typed(value: Any) -> Any:
    """Without a weak type, which a loop's carry and a branch's result must not have."""
    return lax.convert_element_type(value, value.dtype)


def unsupported_reference(what: str, where: str) -> NotImplementedError:
    return NotImplementedError(
        f"a gradient flows through a function that has a mutable reference {what}, at {where}. References work where "
        "they are made and used within the differentiated function, in jit, checkpoint, scan, while_loop and cond too, "
        "are read by custom_vjp functions, or handed through to the backward of one that alone uses them; but not "
        "under Python control flow on concrete values (use lax.cond or lax.while_loop) and in no other kind of call. "
        "Return the value instead, or pass it."
    )


class View(NamedTuple):
    """One selection from an array: by an index tuple, or in another shape."""

    index: tuple[Any, ...] | None
    shape: tuple[int, ...] | None
    mode: str | None = None  # for indices out of bounds

    def read(self, x: Any) -> Any:
        return lax.reshape(x, self.shape) if self.index is None else x.at[self.index].get(mode=self.mode)

    def write(self, x: Any, part: Any) -> Any:
        return lax.reshape(part, x.shape) if self.index is None else x.at[self.index].set(part, mode=self.mode)


def read_view(x: Any, views: Sequence[View]) -> Any:
    for view in views:
        x = view.read(x)
    return x


def change_view(x: Any, views: Sequence[View], change: Callable) -> Any:
    """`x` with the part that the views select changed: each view writes into the one before it."""
    if not views:
        return change(x)
    first, *rest = views
    return first.write(x, change_view(first.read(x), rest, change))


def views_of(equation: Any, indices: Sequence[Any]) -> list[View]:
    """The selections that `ref[...]`, `ref.at[...]` and `ref.reshape` of an equation make, in order."""
    views = []
    for transform in jax.tree.unflatten(equation.params["tree"], indices):
        if hasattr(transform, "indices"):
            views += _index_views(transform)
        elif type(transform).__name__ == "ReshapeTransform":
            views.append(View(None, tuple(transform.shape)))
        else:
            raise unsupported_reference(f"transformed by {type(transform).__name__}", source_line(equation))
    return views


def _index_views(indexer: Any) -> list[View]:
    """One view for each sliced axis, then one for the integer indices.

    An integer out of bounds is clamped where all are scalars, as JAX does there; in an array it reads NaN and its
    write is dropped.
    """
    views, integers, full = [], [], slice(None)
    for axis, (index, size) in enumerate(zip(indexer.indices, indexer.shape, strict=True)):
        sliced = hasattr(index, "stride")
        integers.append(full if sliced else index)
        if not sliced or (isinstance(index.start, int) and (index.start, index.size, index.stride) == (0, size, 1)):
            continue
        if isinstance(index.start, int):
            stop = index.start + (index.size - 1) * index.stride + 1
            where = slice(index.start, max(stop, index.start), index.stride)
        else:
            where = index.start + index.stride * lax.iota(index.start.dtype, index.size)
        views.append(View((full,) * axis + (where,), None))
    if any(i is not full for i in integers):
        views.append(View(tuple(integers), None, None if indexer.int_indexer_shape else "clip"))
    return views
