"""How much of an activation lies where its derivative is almost zero."""

from collections.abc import Callable, Sequence
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
    measure = MEASURES.get(equation.primitive.name)
    if measure is None or not has_statistics(aval_of(outputs[0])) or not np.size(outputs[0]):
        return None
    y = np.asarray(outputs[0])
    y = y.astype(np.float32) if y.dtype.itemsize < 4 else y
    with np.errstate(invalid="ignore"):
        return measure(equation, made_by, y)


def is_zero(atom: Any) -> bool:
    """Whether an operand is the number zero."""
    value = getattr(atom, "val", None)
    return value is not None and np.ndim(value) == 0 and value == 0


def _tanh(equation: Any, made_by: str, y: np.ndarray) -> float:
    return float(np.mean(np.abs(y) > FLAT))


def _logistic(equation: Any, made_by: str, y: np.ndarray) -> float:
    return float(np.mean(np.abs(2 * y - 1) > FLAT))


def _rectified(equation: Any, made_by: str, y: np.ndarray) -> float | None:
    return float(np.mean(y == 0)) if any(map(is_zero, equation.invars)) else None


def _softmax(equation: Any, made_by: str, y: np.ndarray) -> float | None:
    if made_by != "exp" or y.size and np.min(y) < 0:
        return None
    for axis in reversed(range(y.ndim)):
        if y.shape[axis] > 1 and np.all(np.abs(np.sum(y, axis) - 1) < ROUNDED):
            return float(np.mean(np.max(y, axis) > CERTAIN))
    return None


MEASURES: dict[str, Callable[[Any, str, np.ndarray], float | None]] = {
    "tanh": _tanh,
    "logistic": _logistic,
    "max": _rectified,
    "div": _softmax,
}


# ---------------------------------------------------------------- of traced arrays


def has_share(equation: Any, made_by: str) -> bool:
    """Whether an equation may be an activation, as far as it can be said before it runs."""
    name = equation.primitive.name
    if name == "max":
        return any(map(is_zero, equation.invars))
    return name in MEASURES and (name != "div" or made_by == "exp")


def traced_share(primitive: str, y: Any) -> Any:
    """As `saturated_share`, of an equation that `has_share`, on the device; -1 in the place of None."""
    y = y.astype(jnp.float32) if y.dtype.itemsize < 4 else y
    if not y.size:
        return jnp.float32(-1)
    if primitive == "div":
        return jnp.where(jnp.min(y) < 0, jnp.float32(-1), _traced_softmax(y))
    flat = {"tanh": lambda: jnp.abs(y) > FLAT, "logistic": lambda: jnp.abs(2 * y - 1) > FLAT, "max": lambda: y == 0}
    return _mean(flat[primitive]())


def _traced_softmax(y: Any) -> Any:
    share = jnp.float32(-1)
    for axis in (axis for axis in range(y.ndim) if y.shape[axis] > 1):
        sums_to_one = jnp.all(jnp.abs(jnp.sum(y, axis) - 1) < ROUNDED)
        share = jnp.where(sums_to_one, _mean(jnp.max(y, axis) > CERTAIN), share)
    return share


def _mean(flags: Any) -> Any:
    return jnp.mean(flags.astype(jnp.float32))
