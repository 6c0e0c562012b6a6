"""What rules on arrays share: the sharding of a cotangent, spreading over axes, shifts, sums in a wide accumulator."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
from jax import lax

from ...backprop.precision import wide
from ...jaxprs.avals import cotangent_sharding
from ..expressions import scalar


def zeros_of(aval: Any, dtype: Any) -> Any:
    """Zeros of the shape and sharding of an aval's cotangent, in `dtype`."""
    return lax.full(aval.shape, 0, dtype, sharding=cotangent_sharding(aval))


@lru_cache
def inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes one; of other distinct numbers, their order."""
    return tuple(sorted(range(len(permutation)), key=permutation.__getitem__))


def reshape_like(dy: Any, aval: Any) -> Any:
    """`dy` in the shape and sharding of the cotangent of `aval`, of as many elements."""
    return lax.reshape(dy, aval.shape, out_sharding=cotangent_sharding(aval))


def spread(y: Any, aval: Any, axes: Sequence[int]) -> Any:
    """Repeat `y` along the reduced `axes` of `aval`: the transpose of a sum over them."""
    kept = tuple(a for a in range(len(aval.shape)) if a not in set(axes))
    return lax.broadcast_in_dim(y, aval.shape, kept, out_sharding=cotangent_sharding(aval))


def shift(x: Any, by: int, axis: int, fill: float = 0) -> Any:
    """The elements moved up `axis` by 1, or down by -1; `fill` comes in, and what moves out is lost."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (by, -by, 0)
    return lax.pad(x, scalar(fill, x), config)


def vary_alike(xs: Sequence[Any]) -> list[Any]:
    """Make all vary over the axes of `shard_map` over which one does: a jaxpr evaluated on them expects one type."""
    varying = [jax.typeof(x).manual_axis_type.varying for x in xs]
    axes = frozenset().union(*varying)
    return [lax.pcast(x, tuple(axes - own), to="varying") for x, own in zip(xs, varying, strict=True)]


def sum_over(x: Any, axes: Sequence[int], sharding: Any = None) -> Any:
    """Sum over `axes` in a wide accumulator, rounded once, to the dtype of `x`.

    sharding: of the sum, where it is to be left in terms on the devices (unreduced)."""
    if not axes:
        return x
    total = lax.reduce_sum(wide(x), axes=tuple(axes), out_sharding=sharding)
    return total if total.dtype == x.dtype else lax.convert_element_type(total, x.dtype)
