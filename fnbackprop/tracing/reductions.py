"""The statistics of many arrays as reductions within one compiled program, and what they say once it has run.

Each array becomes `COLUMNS` integers, bit patterns of floats among them: so they leave a loop in one stack, and no
processor flushes a small one to zero.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .statistics import Statistics

COLUMNS = 9  # whether it was computed; the smallest, the largest, a scale, the sum of squares at it; four counts
MOST_LANES = 128  # numbers that are counted in one integer of 32 bits


def as_real(x: Any) -> Any:
    """A flat array, of a complex one its magnitudes."""
    return jnp.reshape(lax.abs(x) if jnp.iscomplexobj(x) else x, -1)


def reduced(rows: Any) -> Any:
    """The columns of each row of a matrix: (rows, COLUMNS) of int32, of float64 of int64."""
    count, size = rows.shape
    wide = rows if rows.dtype.itemsize >= 4 else lax.convert_element_type(rows, jnp.float32)
    integer = jnp.int64 if wide.dtype == jnp.float64 else jnp.int32
    if not size:
        return jnp.zeros((count, COLUMNS), integer).at[:, 0].set(1)
    lanes = next(n for n in range(min(MOST_LANES, size), 0, -1) if size % n == 0)
    rows, wide = (jnp.reshape(x, (count, size // lanes, lanes)) for x in (rows, wide))
    kinds, finite = _kinds(rows)
    low = jnp.min(jnp.min(jnp.where(finite, wide, np.inf), 2), 1)
    high = jnp.max(jnp.max(jnp.where(finite, wide, -np.inf), 2), 1)
    scale = _inverse_scale(jnp.where(low <= high, jnp.maximum(jnp.abs(low), jnp.abs(high)), 0))
    unit = jnp.where(finite, wide, 0) * scale[:, None, None]
    squares = jnp.sum(jnp.sum(unit * unit, 2), 1)
    counted = jnp.sum(kinds, 2, dtype=jnp.uint32)
    counts = jnp.sum((counted[:, :, None] >> np.array([[SHIFTS]], np.uint32)) & np.uint32(255), 1).astype(integer)
    floats = lax.bitcast_convert_type(jnp.stack([low, high, scale, squares], 1), integer)
    return jnp.concatenate([jnp.ones((count, 1), integer), floats, counts], 1)


SHIFTS = (0, 8, 16, 24)  # of the counts of NaN, infinite, zero and tiny elements within one integer


def _kinds(x: Any) -> tuple[Any, Any]:
    """For each element, a one at the place of the count that it belongs to; and whether it is finite. By the bits: a
    processor may take small numbers for zero."""
    info = jnp.finfo(x.dtype)
    unsigned = jnp.dtype(f"uint{info.bits}")
    infinity, normal = (np.asarray(value, x.dtype).view(unsigned) for value in (np.inf, info.tiny))
    bits = lax.bitcast_convert_type(x, unsigned) & np.asarray((1 << (info.bits - 1)) - 1, unsigned)
    one = [np.uint32(1 << shift) for shift in SHIFTS]
    small = jnp.where(bits == 0, one[2], one[3])
    large = jnp.where(bits == infinity, one[1], one[0])
    finite = bits < infinity
    return jnp.where(bits < normal, small, jnp.where(finite, np.uint32(0), large)), finite


def _inverse_scale(largest: Any) -> Any:
    """A power of two that brings the largest element near to one, so that no square leaves the range."""
    info = jnp.finfo(largest.dtype)
    integer = jnp.dtype(f"int{info.bits}")
    bias = -int(info.minexp) + 1
    exponent = lax.bitcast_convert_type(largest, integer) >> info.nmant
    return lax.bitcast_convert_type(jnp.clip(2 * bias - 1 - exponent, 1, 2 * bias - 1) << info.nmant, largest.dtype)


def statistics_of(columns: np.ndarray, size: int, times: int) -> Statistics | None:
    """What the columns of one array of this size say, each of whose elements stands for so many; None if it was not
    computed: in a branch that was not taken."""
    if not columns[0]:
        return None
    floats = columns[1:5].view(np.float64 if columns.dtype == np.int64 else np.float32).astype(float)
    counts = [times * int(count) for count in columns[5:]]
    finite = size - columns[5] - columns[6]
    low, high, scale, squares = map(float, floats)
    if not finite:
        return Statistics(size * times, 0.0, 0.0, 0.0, *counts)
    return Statistics(size * times, low, high, float(np.sqrt(squares / finite)) / scale, *counts)


def rms_of(columns: Any, sizes: Any) -> Any:
    """The root mean squares, on the device, of arrays of these sizes, from (..., arrays, COLUMNS)."""
    float_dtype = jnp.float64 if columns.dtype == jnp.int64 else jnp.float32
    scale, squares = (lax.bitcast_convert_type(columns[..., i], float_dtype) for i in (3, 4))
    sizes = np.reshape(sizes.astype(columns.dtype), (1,) * (columns.ndim - 2) + (-1,))
    finite = (sizes - columns[..., 5] - columns[..., 6]).astype(float_dtype)
    bad = columns[..., 5] + columns[..., 6] > 0
    return jnp.where(
        bad, np.nan, jnp.sqrt(squares / jnp.maximum(finite, 1)) / jnp.maximum(scale, jnp.finfo(float_dtype).tiny)
    )


def grouped(arrays: Sequence[Any]) -> dict[tuple[int, str], list[int]]:
    """The positions of flat arrays that can be the rows of one matrix."""
    groups: dict[tuple[int, str], list[int]] = {}
    for i, x in enumerate(arrays):
        groups.setdefault((x.size, x.dtype.name), []).append(i)
    return groups
