"""The statistics of many arrays as reductions within one compiled program, and what they say once it has run.

Each array becomes `COLUMNS` integers, bit patterns of floats among them: so they leave a loop in one stack, and no
processor flushes a small one to zero. They come of two passes, each of one reduction of several results: a compiler
makes of that a loop that computes what it reads as it goes, on as many numbers at once as the processor has room for,
which minima of floats, of which one may be NaN, prevent. A sum of floats alone a CPU's library takes, from memory.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .statistics import Statistics

COLUMNS = 9  # whether it was computed; the smallest, the largest, a scale, the sum of squares at it; four counts


def as_real(x: Any) -> Any:
    """An array, of a complex one its magnitudes."""
    return lax.abs(x) if jnp.iscomplexobj(x) else x


def reduced(rows: Any) -> Any:
    """The columns of each of the arrays along the first axis: (arrays, COLUMNS) of int32, of float64 of int64."""
    wide = rows if rows.dtype.itemsize >= 4 else lax.convert_element_type(rows, jnp.float32)
    integer = jnp.int64 if wide.dtype == jnp.float64 else jnp.int32
    count = rows.shape[0]
    if not rows.size:
        return jnp.zeros((count, COLUMNS), integer).at[:, 0].set(1)
    ordered, magnitude = _as_integers(wide)
    infinity, normal = (_bits(value, wide.dtype) for value in (np.inf, jnp.finfo(rows.dtype).tiny))
    finite, ends = magnitude < infinity, (jnp.iinfo(integer).max, jnp.iinfo(integer).min)
    kinds = magnitude > infinity, magnitude == infinity, magnitude == 0, (magnitude < normal) & (magnitude > 0)
    sides = [jnp.where(finite, ordered, end) for end in ends]
    low, high, *counts = _reduced([*sides, *(kind.astype(integer) for kind in kinds)], ends)
    low, high = (lax.bitcast_convert_type(_reordered(x), wide.dtype) for x in (low, high))
    scale = _inverse_scale(jnp.where(low <= high, jnp.maximum(jnp.abs(low), jnp.abs(high)), 0))
    unit = jnp.where(finite, wide, 0) * jnp.expand_dims(scale, range(1, rows.ndim))
    _, squares = _reduced([finite.astype(integer), unit * unit], ())
    floats = lax.bitcast_convert_type(jnp.stack([low, high, scale, squares], 1), integer)
    return jnp.concatenate([jnp.ones((count, 1), integer), floats, jnp.stack(counts, 1)], 1)


def _reduced(operands: Sequence[Any], ends: tuple[Any, ...]) -> list[Any]:
    """In one pass over all axes but the first: with `ends`, a minimum and a maximum that begin there; and sums."""
    starts = [np.asarray(value, x.dtype) for value, x in zip([*ends, *[0] * len(operands)], operands, strict=False)]

    def combined(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
        combine = [lax.min, lax.max][: len(ends)] + [lax.add] * (len(operands) - len(ends))
        return [f(x, y) for f, x, y in zip(combine, one, other, strict=True)]

    return list(lax.reduce(list(operands), starts, combined, tuple(range(1, operands[0].ndim))))


def _bits(value: Any, dtype: Any) -> Any:
    return np.asarray(value, dtype).view(f"int{jnp.finfo(dtype).bits}")[()]


def _as_integers(x: Any) -> tuple[Any, Any]:
    """Integers in the order of the floats, and the bits of their magnitudes, which are in the order of these."""
    integer = jnp.dtype(f"int{jnp.finfo(x.dtype).bits}")
    bits = lax.bitcast_convert_type(x, integer)
    return _reordered(bits), bits & np.iinfo(integer).max


def _reordered(bits: Any) -> Any:
    """From the bits of floats to integers in their order, and back."""
    info = np.iinfo(bits.dtype)
    return bits ^ ((bits >> (info.bits - 1)) & info.max)


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
    """The positions of arrays that can be the rows of one matrix."""
    groups: dict[tuple[int, str], list[int]] = {}
    for i, x in enumerate(arrays):
        groups.setdefault((x.size, x.dtype.name), []).append(i)
    return groups
