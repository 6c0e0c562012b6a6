"""Primitives of other packages that have no rule here, but a derivative that their author registered with JAX.

This is the one exception to "the engine never asks JAX for a gradient", and the one file that reads JAX's tables of
derivatives. Of a foreign primitive our engine walks the author's JVP as it walks a user's `custom_jvp`: by our rules.
A foreign primitive that this JVP applies to tangents is linear in them, and pulled back by the author's transpose.

A rule of `fb.vjp_rule` goes before this; `foreign=False` refuses it; `fb.coverage` lists it as "foreign".
"""

from collections.abc import Sequence
from typing import Any

from jax.interpreters import ad

from ...backprop.missing_rule import MissingRule
from ...backprop.registry import Entry, Structured, rule_of_last_resort
from ...jaxprs.avals import cotangent_aval, is_inexact, operand_avals, output_avals, zeros_like_aval
from ...jaxprs.custom import CustomJvp
from ...jaxprs.evaluate import source_line, trace_avals, warn_at_user
from ...jaxprs.lists import merge
from ...jaxprs.types import Equation
from .custom import walk_jvp


class ForeignDerivativeWarning(UserWarning):
    """A gradient flows through a primitive by the derivative of its author, not by a hand-written rule.

    Example:
        >>> import fnbackprop as fb, warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", fb.ForeignDerivativeWarning)  # or fb.grad(..., foreign=False)
        ...     print(fb.grad(lambda x: x * x)(3.0))
        6.0
    """


@rule_of_last_resort
def foreign_entry(primitive: Any) -> Entry | None:
    """The entry of a primitive that nothing was registered for here: None if its author gave no derivative either."""
    known = primitive in ad.primitive_jvps or primitive in ad.primitive_transposes
    return Entry(structured=foreign_vjp, foreign=True) if known else None


def foreign_vjp(engine, equation, active, wanted):
    """Walk the author's JVP; on tangents, the author's transpose."""
    primitive = equation.primitive
    if not engine.foreign:
        raise MissingRule([(equation, source_line(equation))])
    _warn_once(equation)
    if engine.in_jvp and primitive in ad.primitive_transposes:
        return _transposed(equation, active)
    if engine.in_jvp or primitive not in ad.primitive_jvps:
        raise MissingRule([(equation, source_line(equation))])
    return walk_jvp(engine, equation, _author_jvp(equation, active), active, wanted)


def _author_jvp(equation: Equation, active: Sequence[bool]) -> CustomJvp:
    """The registered JVP as a jaxpr of (operands, tangents of the active ones)."""
    primitive, avals, count = equation.primitive, operand_avals(equation), len(equation.outvars)
    tangent_avals = [aval.to_tangent_aval() for aval in avals]
    nonzero: list[bool] = []

    def both(*flat):
        operands, tangents = flat[: len(avals)], merge(active, flat[len(avals) :])
        tangents = tuple(ad.Zero(a) if t is None else t for t, a in zip(tangents, tangent_avals, strict=True))
        outputs, found = ad.primitive_jvps[primitive](operands, tangents, **equation.params)
        if not primitive.multiple_results:
            outputs, found = [outputs], [found]
        pairs = zip(found, output_avals(equation), strict=True)
        nonzero[:] = [t is not None and type(t) is not ad.Zero and is_inexact(aval) for t, aval in pairs]
        return [*outputs, *(t for t, on in zip(found, nonzero, strict=True) if on)]

    closed = trace_avals(both, [*avals, *(a for a, on in zip(tangent_avals, active, strict=True) if on)])
    positions = merge(nonzero, range(count, count + sum(nonzero)))
    return CustomJvp(closed, 0, tuple(i for i, on in enumerate(active) if on), tuple(positions))


def _transposed(equation: Equation, active: Sequence[bool]) -> Structured:
    """A linear primitive at tangents of zero; its cotangents by the registered transpose."""
    primitive, avals, outputs = equation.primitive, operand_avals(equation), output_avals(equation)
    transpose = ad.primitive_transposes[primitive]

    def forward(*operands):
        known = [x for x, on in zip(operands, active, strict=True) if not on]
        return [zeros_like_aval(aval) for aval in outputs], known

    def backward(known, cotangents):
        values = merge([not on for on in active], known)
        arguments = [ad.UndefinedPrimal(a) if on else x for x, a, on in zip(values, avals, active, strict=True)]
        pairs = zip(cotangents, outputs, strict=True)
        cts = [ad.Zero(cotangent_aval(aval)) if ct is None else ct for ct, aval in pairs]
        found = transpose(cts if primitive.multiple_results else cts[0], *arguments, **equation.params)
        return [ct if on and type(ct) is not ad.Zero else None for ct, on in zip(found, active, strict=True)]

    return Structured(forward, backward, tuple(active))


_warned: set[Any] = set()


def _warn_once(equation: Equation) -> None:
    primitive = equation.primitive
    if primitive not in _warned:
        _warned.add(primitive)
        warn_at_user(
            f"{primitive.name} has no hand-written rule: its gradient is the one that its author registered with JAX "
            f"(first at {source_line(equation)}). fb.vjp_rule gives it one; foreign=False refuses it.",
            ForeignDerivativeWarning,
        )
