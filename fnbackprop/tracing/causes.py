"""Why one equation, at the values that it had, gave a number that is not finite."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..backprop.engine import Engine
from ..comparing.equations.check import CUSTOM, EquationCheck, both_sides, manual_cotangents
from ..jaxprs.avals import aval_of, is_inexact, operand_avals, output_avals, zero_cotangent
from ..jaxprs.custom import custom_vjp_of_equation
from ..jaxprs.evaluate import bind, interpret, literals_as_arrays, trace_flat
from ..jaxprs.lists import present, select, split
from .records import Evidence, Place, place_of
from .regions import Result
from .statistics import has_statistics

NUDGE = 1e-3  # relative: far enough to leave a pole, too near to leave what overflows


class Spot(NamedTuple):
    """Where a number is: the device's coordinates in the mesh of a `shard_map`, and the position in its piece."""

    device: tuple[tuple[str, int], ...] = ()
    element: tuple[int, ...] = ()


def spot_of_value(evidence: Evidence) -> Spot:
    """The first element of the equation's outputs that is not finite."""
    bad = _first_bad(evidence.outputs)
    return _spot(evidence, output_avals(evidence.equation)[bad], index_of_bad([evidence.outputs[bad]]))


def _spot(evidence: Evidence, aval: Any, element: tuple[int, ...]) -> Spot:
    region = evidence.record.region
    return Spot((), element) if region is None else Spot(region.device(aval, element[0]), element[1:])


def _first_bad(arrays: Sequence[Any]) -> int:
    return next(i for i, x in enumerate(arrays) if _are_bad([x]))


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
    outputs, bad = evidence.outputs, _first_bad(evidence.outputs)
    element = index_of_bad([outputs[bad]])
    if np.isnan(_wide(outputs[bad])[element]):
        return "POLE"
    moved = _wide(_again(evidence, _nudged(evidence.operands))[bad])[element]
    return "POLE" if np.isfinite(moved) else "OVERFLOW"


def _again(evidence: Evidence, operands: Sequence[Any]) -> Sequence[Any]:
    """The equation's outputs at other operands."""
    region = evidence.record.region
    if region is None:
        return bind(evidence.equation, operands)
    return region.evaluate(Engine(), evidence.step, evidence.equation, operands)


def cause_of_cotangent(evidence: Evidence) -> tuple[str, Spot]:
    """The name of the `Kind` of a cotangent that is not finite although those that came in are, and its position."""
    position, found = next((i, ct) for i, ct in evidence.found.items() if not np.isfinite(_wide(ct)).all())
    element = index_of_bad([found])
    spot = _spot(evidence, evidence.equation.invars[position].aval, element)
    if not evidence.operands:  # a line of a user's JVP, which is transposed as it stands
        return ("ZERO_TIMES_INFINITY" if _is_zero(evidence, found, element) else "INFINITE_DERIVATIVE"), spot
    equation = evidence.equation
    check = EquationCheck(equation, evidence.step.active, equation.primitive.name in CUSTOM, _users_mode())
    which = check.targets.index(position)
    ours, automatic = _both_sides(evidence, check, evidence.operands)
    if automatic and not np.isfinite(_wide(ours[which])).all() and np.isfinite(_wide(automatic[which])).all():
        return "WRONG_RULE", spot  # of ours, or of the user's
    if _is_zero(evidence, found, element):
        return "ZERO_TIMES_INFINITY", spot
    values = (_wide(x) for x in (*evidence.operands, *evidence.outputs) if has_statistics(aval_of(x)))
    if any(not np.isfinite(x[element] if x.shape == found.shape else x).all() for x in values):
        return "VALUE", spot
    moved = _both_sides(evidence, check, _nudged(evidence.operands))[0][which]
    return ("INFINITE_DERIVATIVE" if np.isfinite(_wide(moved)[element]) else "OVERFLOW"), spot


def _is_zero(evidence: Evidence, found: Any, element: tuple[int, ...]) -> bool:
    """Whether the cotangents that came in are zero at the element of the one found, or, of other shapes, all zero."""
    came = [_wide(ct) for ct in evidence.cotangents if ct is not None]
    aligned = all(ct.shape == found.shape for ct in came)
    return all(ct[element] == 0 if aligned else not ct.any() for ct in came)


def _users_mode() -> bool:
    return jnp.asarray(0.0).dtype == jnp.float64


def _both_sides(evidence: Evidence, check: EquationCheck, operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The cotangents of the active operands by the rule, and the automatic ones (none where JAX refuses to
    differentiate); of a user's rule, those of its primal."""
    try:
        return _sides(evidence, check, operands, both_sides)
    except Exception:  # of whatever kind the refusal is
        return _sides(evidence, check, operands, _our_side)


def _our_side(check: EquationCheck, operands: list[Any], cotangents: list[Any]) -> tuple[list[Any], list[Any], Any]:
    return present(manual_cotangents(check, operands, cotangents)), [], None


def _sides(
    evidence: Evidence, check: EquationCheck, operands: Sequence[Any], compute: Callable
) -> tuple[list[Any], list[Any]]:
    avals, region = output_avals(evidence.equation), evidence.record.region
    floating = [is_inexact(aval) for aval in avals]

    def full(cotangents: Sequence[Any]) -> list[Any]:
        pairs = select(zip(cotangents, avals, strict=True), floating)
        return [zero_cotangent(aval) if ct is None else ct for ct, aval in pairs]

    if region is None:
        firsts, seconds, _ = jax.jit(partial(compute, check))(list(operands), full(evidence.cotangents))
        return firsts, seconds
    types = operand_avals(evidence.equation)

    def function(values, cotangents):
        firsts, seconds, _ = compute(check, values, full(cotangents))
        targets = [types[i] for i in check.targets] * (2 if seconds else 1)
        return [Result(aval, ct, True) for aval, ct in zip(targets, [*firsts, *seconds], strict=True)]

    stacks = list(map(region.stack, operands, types))
    found = region.run_backward(function, evidence.equation, (types, stacks), evidence.cotangents, function)
    firsts, seconds = split([r.value for r in found], len(check.targets))
    return firsts, seconds


def place_in_backward(evidence: Evidence, place: Place) -> Place:
    """The line inside the user's backward, where the equation is a `custom_vjp`; else the equation's own."""
    equation, region = evidence.equation, evidence.record.region
    if equation.primitive.name != "custom_vjp_call":
        return place
    types, equations = operand_avals(equation), []

    def flags(values: Sequence[Any], cts: Sequence[Any]) -> Any:
        equations[:], made = _flagged_backward(evidence, values, cts)
        return jnp.stack(made) if made else jnp.zeros(0, bool)

    if region is None:
        made = flags(evidence.operands, evidence.cotangents)
    else:
        stacks = list(map(region.stack, evidence.operands, types))

        def results(values: Sequence[Any], cts: Sequence[Any]) -> list[Result]:
            found = flags(values, cts)
            return [Result(aval_of(found), found)]

        given = (types, stacks), evidence.cotangents
        (found,) = region.run_backward(results, equation, *given, results, lines=nullcontext())
        made = jnp.any(found.value, 0)
    first = next((e for e, flag in zip(equations, made.tolist(), strict=True) if flag), None)
    return place if first is None else place_of(first, place, False)


def _flagged_backward(
    evidence: Evidence, operands: Sequence[Any], cotangents: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """The equations of the user's backward, and whether each makes a number that is not finite of finite ones."""
    avals, custom = output_avals(evidence.equation), custom_vjp_of_equation(evidence.equation)
    _, residuals = custom.forward(operands, evidence.step.active)
    given, made = [ct for ct in cotangents if ct is not None], []

    def backward(*given):
        cts = iter(given)
        full = [None if ct is None else next(cts) for ct in cotangents]
        return [ct for ct in custom.backward(residuals, full, avals) if ct is not None]

    def apply(equation, values):
        operands, outputs = literals_as_arrays(equation, values), bind(equation, values)
        made.append(_any_bad(outputs) & ~_any_bad(operands))
        return outputs

    closed = trace_flat(backward, given).closed
    interpret(closed.jaxpr, closed.consts, given, apply)
    return list(closed.jaxpr.eqns), made


def _any_bad(arrays: Sequence[Any]) -> Any:
    flags = [~jnp.all(jnp.isfinite(x)) for x in arrays if has_statistics(aval_of(x))]
    return reduce(jnp.logical_or, flags, jnp.asarray(False))
