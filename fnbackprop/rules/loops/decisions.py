"""Loops whose result depends on what is differentiated through decisions alone: a bisection is one.

Its steps compare something with a parameter and keep one half of a bracket or the other. What a step computes from what
it keeps does not change with the parameter, so the chain rule gives no slope, though the result has one. The gradient
of such a loop is zero, or that of its first bracket alone, and both are wrong: a warning names the loop.
"""

from functools import lru_cache
from typing import Any

from ...backprop.discharge import without_references
from ...backprop.plan import active_variables
from ...jaxprs.avals import is_inexact
from ...jaxprs.evaluate import source_line, warn_at_user
from ...jaxprs.graph import descendants, fixpoint, reads_any
from ...jaxprs.types import is_var
from ...jaxprs.views import Scan, While
from .steps import active_flags


class DecidedLoopWarning(UserWarning):
    """A loop depends on what is differentiated through comparisons alone, so that its gradient is not its slope.

    A bisection is one; `fb.implicit` gives the gradient of the root that it finds.

    Example:
        >>> import fnbackprop as fb, jax, jax.numpy as jnp, warnings
        >>> def halvings(a):  # how often 1 is halved until it is below a
        ...     return jax.lax.while_loop(lambda x: x > a, lambda x: x / 2, 1.0)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     gradient = fb.grad(halvings)(0.3)
        >>> print(gradient, caught[0].category.__name__)
        0.0 DecidedLoopWarning
    """


@lru_cache(maxsize=4096)
def decided_carries(engine: Any, loop: While, active: tuple[bool, ...]) -> tuple[bool, ...]:
    """The carries that active operands reach by decisions alone.

    A carry is one if a constant of the steps reaches it and no constant does so differentiably; or if a constant
    decides how many steps there are and nothing active reaches it differentiably at all. (A carry that starts active
    and ends by a tolerance is an iteration that converges, whose slope is right.) What each step hands on unchanged
    counts as a constant; what passes `stop_gradient` is taken as meant.
    """
    loop = loop._replace(body=without_references(loop.body))
    condition_consts, consts, carry = loop.split(active)
    body, condition = loop.body.jaxpr, loop.condition.jaxpr
    _, carried = loop.split_body(body.invars)
    fixed = [new is old for new, old in zip(body.outvars, carried, strict=True)]
    constants = (*consts, *(on and same for on, same in zip(carry, fixed, strict=True)))
    smooth = active_flags(engine, loop.body, len(consts), len(carry), constants)[1]
    anyhow = active_flags(engine, loop.body, len(consts), len(carry), (*consts, *carry))[1]
    reached = fixpoint(lambda flags: _reached(body, (*consts, *flags)), constants[len(consts) :])
    (ends,) = _reached(condition, (*condition_consts, *reached))
    rows = zip(body.outvars, fixed, smooth, anyhow, reached, strict=True)
    return tuple(
        is_inexact(v.aval) and not same and ((by_decision and not slope) or (ends and not any_slope))
        for v, same, slope, any_slope, by_decision in rows
    )


@lru_cache(maxsize=4096)
def decided_carries_of_scan(engine: Any, loop: Scan, active: tuple[bool, ...]) -> tuple[bool, ...]:
    """As `decided_carries`, where the number of steps is fixed: of these, the carries that are compared themselves, as
    the bracket of a bisection is. A running count of what exceeds a threshold is none."""
    loop = loop._replace(body=without_references(loop.body))
    consts, carry, xs = loop.split(active)
    body = loop.body.jaxpr
    carried, results = loop.split(body.invars).carry, loop.split_results(body.outvars)[0]
    fixed = [new is old for new, old in zip(results, carried, strict=True)]
    start = tuple(on and same for on, same in zip(carry, fixed, strict=True))
    flags, slopes = active_flags(engine, loop.body, len(consts), len(carry), (*consts, *start, *xs))
    if not any(flags) or all(slopes[: len(carry)]):
        return (False,) * len(carry)
    smooth = active_variables(engine, body, flags)
    rows = zip(carried, results, fixed, slopes, strict=False)
    return tuple(
        is_inexact(old.aval) and not same and not slope and _is_compared(body.eqns, smooth, old, new)
        for old, new, same, slope in rows
    )


def _is_compared(equations: Any, smooth: set[Any], old: Any, new: Any) -> bool:
    """Whether a carry's next value follows from a decision in which the carry meets what has a slope."""
    kept = [equation for equation in equations if equation.primitive.name != "stop_gradient"]
    with_carry = descendants(kept, [old])
    deciding = [e for e in kept if reads_any(e, smooth) and not any(v in smooth for v in e.outvars)]
    return is_var(new) and new in descendants(kept, [v for e in deciding for v in e.outvars if v in with_carry])


def _reached(jaxpr: Any, flags: tuple[bool, ...]) -> tuple[bool, ...]:
    """The outputs that an input with a flag reaches, differentiably or not."""
    equations = [equation for equation in jaxpr.eqns if equation.primitive.name != "stop_gradient"]
    found = descendants(equations, [v for v, on in zip(jaxpr.invars, flags, strict=True) if on])
    return tuple(is_var(v) and v in found for v in jaxpr.outvars)


_warned: set[str] = set()


def warn_of_decisions(equation: Any) -> None:
    """Once for each line that a loop stands at; of a loop in a function of JAX's own, each time that it is used."""
    line = source_line(equation)
    where = f"at {line}" if line else "in a function of JAX's own"
    name = "while_loop" if equation.primitive.name == "while" else "scan or fori_loop"
    if not line or line not in _warned:
        _warned.add(line)
        warn_at_user(
            f"the {name} {where} depends on what is differentiated through decisions (comparisons, rounding) "
            "alone, as a bisection does: each of its steps is flat, so the gradient through it is not the slope of its "
            "result. If the result is the root of an equation, `root = fb.implicit(fun, params, root)` gives it the "
            "slope of `fun(params, root) = 0`; if it is a constant to the gradient, say so: "
            "`jax.lax.stop_gradient(result)`.",
            DecidedLoopWarning,
        )
