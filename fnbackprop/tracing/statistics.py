"""What is kept of each value and cotangent: a few numbers that tell its size and whether it is sound."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..jaxprs.avals import is_hijax, is_inexact

SMALL = 1 << 16  # elements; the statistics of larger arrays are compiled


class Statistics(NamedTuple):
    """Of one array; of a complex one, of its magnitudes. `low`, `high`, `rms` are of its finite elements alone.

    Attributes:
      size: how many elements. low, high: the smallest and largest. rms: the root of the mean square.
      nan, infinite, zero, tiny: how many are NaN; infinite; zero; and not zero, but below the smallest normal number.
    """

    size: int
    low: float
    high: float
    rms: float
    nan: int
    infinite: int
    zero: int
    tiny: int

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def bad(self) -> str:
        """ "nan" or "inf" if not all is finite."""
        return "nan" if self.nan else "inf" if self.infinite else ""

    @property
    def share_zero(self) -> float:
        return self.zero / self.size if self.size else 0.0


def has_statistics(aval: Any) -> bool:
    """Whether a value is of a kind that statistics are kept of: floating or complex."""
    return not is_hijax(aval) and is_inexact(aval)


def statistics(x: Any) -> Statistics:
    """The statistics of a floating or complex array."""
    size, tiny = int(np.size(x)), float(jnp.finfo(x.dtype).tiny)
    if size <= SMALL:
        with np.errstate(all="ignore"):
            found = _reduced(np, _flat(np, np.asarray(x)), tiny)
    else:
        found = np.asarray(_compiled(tiny)(jnp.reshape(x, -1)))
    low, high, scale, mean, nan, infinite, zero, small = map(float, found)
    rms = scale * float(np.sqrt(mean))
    return Statistics(size, low, high, rms, int(nan), int(infinite), int(zero), int(small))


def rms(x: Any) -> float:
    """The root mean square of the finite elements; 0 of what is not floating."""
    return statistics(jnp.asarray(x)).rms if has_statistics(jax.typeof(x)) else 0.0


def all_finite(x: Any) -> bool:
    """Whether no element is NaN or infinite."""
    return bool(np.isfinite(np.asarray(x).astype(complex)).all())


@lru_cache
def _compiled(tiny: float) -> Any:
    return jax.jit(lambda x: jnp.stack([jnp.float32(y) for y in _reduced(jnp, _flat(jnp, x), tiny)]))


def _flat(numpy: Any, x: Any) -> Any:
    """The elements as real numbers of at least 32 bits."""
    if numpy.iscomplexobj(x):
        x = numpy.abs(x)
    return (x.astype("float32") if x.dtype.itemsize < 4 else x).reshape(-1)


def _reduced(numpy: Any, x: Any, tiny: float) -> tuple[Any, ...]:
    """low, high, scale, the mean square over the scale's square, and four counts. Divided by the scale, no square of a
    large or small element leaves the range."""
    if not x.size:
        return (0.0,) * 8
    finite, size = numpy.isfinite(x), numpy.abs(x)
    low = numpy.min(numpy.where(finite, x, numpy.inf))
    high = numpy.max(numpy.where(finite, x, -numpy.inf))
    some = numpy.any(finite)
    low, high = numpy.where(some, low, 0.0), numpy.where(some, high, 0.0)
    scale = numpy.maximum(numpy.abs(low), numpy.abs(high))
    unit = numpy.where(finite, x, 0.0) / numpy.where(scale > 0, scale, 1.0)
    mean = numpy.sum(unit * unit) / numpy.maximum(numpy.sum(finite), 1).astype(unit.dtype)
    nan, zero = numpy.sum(numpy.isnan(x)), numpy.sum(x == 0)
    return low, high, scale, mean, nan, numpy.sum(~finite) - nan, zero, numpy.sum((size < tiny) & (size > 0))
