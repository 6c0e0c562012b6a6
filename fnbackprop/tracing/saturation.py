"""How much of an activation lies where its derivative is almost zero."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..jaxprs.avals import aval_of
from .statistics import has_statistics

FLAT = 0.99  # of tanh; of the logistic function the same share of its range
CERTAIN = 0.999  # of a softmax, the largest of a row
ROUNDED = 1e-2  # by which the sum of a row of a softmax may miss 1, in bfloat16


def saturated_share(equation: Any, made_by: str, outputs: Sequence[Any]) -> float | None:
    """The share of an activation's elements that are saturated; None for equations that are no activation.

    tanh: |y| > 0.99. logistic: the same distance from its limits. A maximum with zero: zeros. A quotient of an `exp`
    by its sums, which is a softmax: rows whose largest element is above 0.999.

    made_by: the primitive that made its first operand.
    """
    if not has_share(equation, made_by) or not has_statistics(aval_of(outputs[0])) or not np.size(outputs[0]):
        return None
    with np.errstate(invalid="ignore"):
        share = float(_share(np, equation.primitive.name, np.asarray(outputs[0])))
    return None if share < 0 else share


def is_zero(atom: Any) -> bool:
    """Whether an operand is the number zero."""
    value = getattr(atom, "val", None)
    return value is not None and np.ndim(value) == 0 and value == 0


def has_share(equation: Any, made_by: str) -> bool:
    """Whether an equation may be an activation, as far as it can be said before it runs."""
    name = equation.primitive.name
    if name == "max":
        return any(map(is_zero, equation.invars))
    return name in ("tanh", "logistic") or (name == "div" and made_by == "exp")


def traced_share(primitive: str, y: Any) -> Any:
    """As `saturated_share`, of an equation that `has_share`, on the device; -1 in the place of None."""
    return _share(jnp, primitive, y) if y.size else jnp.float32(-1)


def _share(numpy: Any, primitive: str, y: Any) -> Any:
    y = y.astype("float32") if y.dtype.itemsize < 4 else y
    if primitive == "div":
        return numpy.where(numpy.min(y) < 0, numpy.float32(-1), _share_of_softmax(numpy, y))
    flat = {"tanh": lambda: numpy.abs(y) > FLAT, "logistic": lambda: numpy.abs(2 * y - 1) > FLAT, "max": lambda: y == 0}
    return _mean(numpy, flat[primitive]())


def _share_of_softmax(numpy: Any, y: Any) -> Any:
    """Along the last axis whose sums are one; -1 if there is none."""
    share = numpy.float32(-1)
    for axis in (axis for axis in range(y.ndim) if y.shape[axis] > 1):
        sums_to_one = numpy.all(numpy.abs(numpy.sum(y, axis) - 1) < ROUNDED)
        share = numpy.where(sums_to_one, _mean(numpy, numpy.max(y, axis) > CERTAIN), share)
    return share


def _mean(numpy: Any, flags: Any) -> Any:
    return numpy.mean(flags.astype("float32"))
