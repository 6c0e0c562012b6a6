"""Why one equation, at the values that it had, gave a number that is not finite."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..comparing.equations.check import COMPILED, CUSTOM, EquationCheck
from ..jaxprs.avals import aval_of, is_inexact, output_avals, zero_cotangent
from ..jaxprs.custom import custom_vjp_of_equation
from ..jaxprs.evaluate import bind, interpret, literals_as_arrays, trace_flat
from .records import Evidence, Place, place_of
from .statistics import has_statistics

NUDGE = 1e-3  # relative: far enough to leave a pole, too near to leave what overflows


def index_of_bad(arrays: Sequence[Any]) -> tuple[int, ...]:
    """The position of the first element that is not finite, in the first array that has one."""
    for x in arrays:
        if x is not None and has_statistics(aval_of(x)):
            wrong = ~np.isfinite(_wide(x))
            if wrong.any():
                return tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    return ()


def _are_bad(arrays: Sequence[Any]) -> bool:
    return any(has_statistics(aval_of(x)) and not np.isfinite(_wide(x)).all() for x in arrays)


def _wide(x: Any) -> np.ndarray:
    """As a numpy array of a dtype that numpy itself knows."""
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


def _nudged(operands: Sequence[Any]) -> list[Any]:
    """The operands, the floating ones moved a little; what is zero, away from it."""
    return [_moved(x) if has_statistics(aval_of(x)) else x for x in operands]


def _moved(x: Any) -> Any:
    x = jnp.asarray(x)
    moved = jnp.where(x == 0, jnp.asarray(NUDGE, x.dtype), x * jnp.asarray(1 + NUDGE, x.dtype))
    return jnp.where(jnp.abs(x) == 1, x * jnp.asarray(1 - 8 * NUDGE, x.dtype), moved)  # inwards: arccos at 1


def cause_of_value(evidence: Evidence) -> str:
    """The name of the `Kind` of a value that is not finite although its operands are."""
    equation, outputs = evidence.equation, evidence.outputs
    element = index_of_bad(outputs)
    bad = next(i for i, y in enumerate(outputs) if has_statistics(aval_of(y)) and not np.isfinite(_wide(y)).all())
    if np.isnan(_wide(outputs[bad])[element]):
        return "POLE"
    moved = _wide(bind(equation, _nudged(evidence.operands))[bad])[element]
    return "POLE" if np.isfinite(moved) else "OVERFLOW"


def cause_of_cotangent(evidence: Evidence) -> tuple[str, tuple[int, ...]]:
    """The name of the `Kind` of a cotangent that is not finite although those that came in are, and its position."""
    position, found = next((i, ct) for i, ct in evidence.found.items() if not np.isfinite(_wide(ct)).all())
    element = index_of_bad([found])
    check = EquationCheck(
        evidence.equation, evidence.step.active, evidence.equation.primitive.name in CUSTOM, _users_mode()
    )
    cotangents = _floating_cotangents(evidence)
    if _is_rule_wrong(check, evidence.operands, cotangents, check.targets.index(position)):
        return "WRONG_RULE", element
    values = [x for x in (*evidence.operands, *evidence.outputs) if has_statistics(aval_of(x))]
    came = [_wide(ct) for ct in cotangents]
    aligned = all(ct.shape == found.shape for ct in came)
    zero = all(ct[element] == 0 if aligned else not ct.any() for ct in came)
    if zero:
        return "ZERO_TIMES_INFINITY", element
    wrong = (_wide(x) for x in values)
    if any(not np.isfinite(x[element] if x.shape == found.shape else x).all() for x in wrong):
        return "VALUE", element
    moved = COMPILED.both(check, _nudged(evidence.operands), cotangents)[check.targets.index(position)].first
    return ("INFINITE_DERIVATIVE" if np.isfinite(_wide(moved)[element]) else "OVERFLOW"), element


def _users_mode() -> bool:
    return jnp.asarray(0.0).dtype == jnp.float64


def _floating_cotangents(evidence: Evidence) -> list[Any]:
    pairs = zip(evidence.cotangents, output_avals(evidence.equation), strict=True)
    return [zero_cotangent(aval) if ct is None else ct for ct, aval in pairs if is_inexact(aval)]


def _is_rule_wrong(check: EquationCheck, operands: Sequence[Any], cotangents: Sequence[Any], which: int) -> bool:
    """Whether the automatic cotangent is finite where ours, or that of a user's rule, is not."""
    pair = COMPILED.both(check, operands, cotangents)[which]
    return not np.isfinite(_wide(pair.first)).all() and bool(np.isfinite(_wide(pair.second)).all())


def place_in_backward(evidence: Evidence, place: Place) -> Place:
    """The line inside the user's backward, where the equation is a `custom_vjp`; else the equation's own."""
    equation = evidence.equation
    if equation.primitive.name != "custom_vjp_call":
        return place
    custom, avals, first = custom_vjp_of_equation(equation), output_avals(equation), []
    _, residuals = custom.forward(evidence.operands, evidence.step.active)
    given = [ct for ct in evidence.cotangents if ct is not None]

    def backward(*given):
        cts = iter(given)
        full = [None if ct is None else next(cts) for ct in evidence.cotangents]
        return [ct for ct in custom.backward(residuals, full, avals) if ct is not None]

    def apply(equation, values):
        operands, outputs = literals_as_arrays(equation, values), bind(equation, values)
        if not _are_bad(operands) and _are_bad(outputs):
            first.append(equation)
        return outputs

    closed = trace_flat(backward, given).closed
    interpret(closed.jaxpr, closed.consts, given, apply)
    return place_of(first[0], place, False) if first else place
