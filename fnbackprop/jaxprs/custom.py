"""The user's custom derivative rules (`custom_jvp`, `custom_vjp`, `linear_call`), as functions and jaxprs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src.interpreters.ad import CustomVJPException as DifferentiatedClosure  # noqa: F401
from jax.custom_derivatives import SymbolicZero

from .avals import as_jax_array, aval_of, is_inexact, zero_tangent
from .compat import with_constants
from .evaluate import as_function, source_line
from .types import ClosedJaxpr, Equation, close_jaxpr, open_jaxpr


class CustomJvp(NamedTuple):
    """The user's JVP of a `custom_jvp_call` equation, as a jaxpr.

    closed: (operands, tangents) -> (outputs, output tangents). Closed-over constants come first among the equation's
        operands and are not among these.
    tangents: the operands that have a tangent; tangents_out: for each output the position of its tangent, or None.
    """

    closed: ClosedJaxpr
    consts: int
    tangents: tuple[int, ...]
    tangents_out: tuple[int | None, ...]


class IllTyped(Exception):
    """JAX's record of a function is not well-typed, but running the function on values may go well."""


class UnboundAxis(NameError):
    """A custom_jvp function under vmap looks an axis up, which JAX's record of it no longer knows; running it does."""


def custom_jvp_jaxpr(equation: Any, active: Sequence[bool]) -> CustomJvp:
    params = equation.params
    consts, symbolic = params["num_consts"], params["symbolic_zeros"]
    # An inactive operand's tangent is a symbolic zero if the user asked for these, else zeros.
    given = [on or not symbolic for on in active[consts:]]
    try:
        jaxpr, values, zero_out = params["jvp_jaxpr_fun"].call_wrapped(*(not on for on in given))
    except NameError as error:
        raise UnboundAxis(*error.args) if "unbound axis" in str(error) else error from error
    closed = with_constants(jaxpr, values)
    check_outputs(equation, len(zero_out), "the JVP of a custom_jvp function")
    if any(v.aval.shape != w.aval.shape for v, w in zip(equation.outvars, jaxpr.outvars, strict=False)):
        # of a function under vmap whose result does not depend on what is mapped, though its JVP does
        raise IllTyped(
            f"the JVP of a custom_jvp function has another shape than its result, at {source_line(equation)}"
        )
    positions = iter(range(len(zero_out), len(jaxpr.outvars)))
    found = [None if zero else next(positions) for zero in zero_out]
    tangents_out = (i if i is not None and is_inexact(jaxpr.outvars[i].aval) else None for i in found)
    tangents = (consts + i for i, on in enumerate(given) if on)
    return CustomJvp(closed, consts, tuple(tangents), tuple(tangents_out))


def check_outputs(equation: Any, count: int, what: str) -> None:
    """Raise IllTyped if a user's rule has another number of outputs than its function, as that of a function that was
    put through `checkify` may: its checks are further outputs of the function alone."""
    if count != len(equation.outvars):
        raise IllTyped(f"{what} has {count} outputs, the function {len(equation.outvars)}, at {source_line(equation)}")


def jvp_function(jvp: Any, symbolic: bool) -> Callable:
    """The user's JVP from what JAX hands to a trace; a zero tangent is None on both sides."""

    def call(primals, tangents):
        pairs = zip(primals, tangents, strict=True)
        tangents = [zero_for_rule(aval_of(p), symbolic) if t is None else t for p, t in pairs]
        out = jvp.call_wrapped(*primals, *tangents)
        half = len(out) // 2
        return out[:half], [None if isinstance(t, SymbolicZero) else t for t in out[half:]]

    return call


class CustomVjp(NamedTuple):
    """The user's forward and backward of a `custom_vjp` function, on flat lists."""

    forward: Callable  # (operands, active) -> (outputs, residuals, a pytree of arrays)
    backward: Callable  # (residuals, output cotangents, output avals) -> operand cotangents; None for zero


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """A Python number among a user's residuals. It stays one across jit, because the backward may branch on it."""

    value: bool | int | float | complex


def custom_vjp_of_equation(equation: Any) -> CustomVjp:
    _, fwd, bwd = equation.primitive.get_bind_params(equation.params)["subfuns"]
    return custom_vjp_functions(fwd, bwd, equation.params["out_trees"], equation.params["symbolic_zeros"])


def custom_vjp_functions(fwd: Any, bwd: Any, out_trees: Callable, symbolic: bool) -> CustomVjp:
    """The user's forward and backward from what JAX hands to a trace."""

    def forward(operands, active):
        operands = [as_jax_array(x) for x in operands]
        flat = fwd.call_wrapped(*(item for pair in zip(operands, active, strict=True) for item in pair))
        _, residual_tree, forwarded = out_trees()  # a residual that is an operand is given as its position
        computed = residual_tree.num_leaves - sum(i is not None for i in forwarded)
        fresh = iter(flat[:computed])
        residuals = [next(fresh) if i is None else operands[i] for i in forwarded]
        return flat[computed:], tuple(Static(r) if _is_python_number(r) else r for r in residuals)

    def backward(residuals, cotangents, avals):
        residuals = [r.value if isinstance(r, Static) else r for r in residuals]
        return _pull_by_user(bwd, residuals, cotangents, avals, symbolic)

    return CustomVjp(forward, backward)


def _is_python_number(x: Any) -> bool:
    """Also one of JAX's own kinds, which know their dtype: an int of `x.shape` that was saved is one."""
    return isinstance(x, bool | int | float | complex) and not isinstance(x, np.generic)


def _pull_by_user(
    bwd: Any, residuals: Sequence[Any], cotangents: Sequence[Any], avals: Sequence[Any], symbolic: bool
) -> list[Any]:
    """The operands' cotangents, None for zero, by a user's backward. Cotangents that are None reach it as zeros, or as
    symbolic zeros if the user asked for these."""
    cts = [zero_for_rule(aval, symbolic) if ct is None else ct for ct, aval in zip(cotangents, avals, strict=True)]
    try:
        out = bwd.call_wrapped(*residuals, *cts)
    except (TypeError, ValueError) as error:
        name, _, place = _source(bwd)
        if place and str(error).startswith("Custom VJP bwd rule must"):  # JAX's words, which do not say which one
            error.args = (f"{str(error).rstrip('.')}. The bwd rule is {name} at {place}.",)
        raise
    if len(out) == 2 and isinstance(out[0], list | tuple):  # JAX 0.12: (cotangents, logs)
        out = out[0]
    return [None if _is_zero(ct) else as_jax_array(ct) for ct in out]


def function_source(equation: Equation) -> tuple[str, str]:
    """The name and the "file:line" of the function that an equation calls; empty where it calls none."""
    closed = next((equation.params[name] for name in ("jaxpr", "call_jaxpr") if name in equation.params), None)
    name, _, place = _source(open_jaxpr(closed))
    return name, place


def rule_source(equation: Equation) -> str:
    """The "file:line" of the backward of a `custom_vjp` function, or of the JVP of a `custom_jvp` one, if it tells."""
    rule = next((equation.params[name] for name in ("bwd", "jvp_jaxpr_fun") if name in equation.params), None)
    return _source(rule)[2]


def _source(function: Any) -> tuple[str, str, str]:
    said = getattr(getattr(function, "debug_info", None), "func_src_info", None) or ""
    return said.partition(" at ")


class CustomLinear(NamedTuple):
    """A `custom_lin` equation, whose operands are the residuals of a user's forward, then tangents."""

    residuals: int  # how many
    backward: Callable  # (residuals, output cotangents, output avals) -> tangents' cotangents, None for zero


def custom_linear_map(equation: Any) -> CustomLinear:
    params = equation.params

    def backward(residuals, cotangents, avals):
        found = _pull_by_user(params["bwd"], residuals, cotangents, avals, params["symbolic_zeros"])
        return [ct for ct, zero in zip(found, params["in_zeros"], strict=True) if not zero]

    return CustomLinear(params["num_res"], backward)


def _is_zero(ct: Any) -> bool:
    """Whether a cotangent handed back by a user's backward stands for zero: symbolic, or of an integer operand."""
    if ct is None or isinstance(ct, SymbolicZero) or type(ct).__name__ == "Zero":
        return True
    return getattr(ct, "dtype", None) == jax.dtypes.float0


def zero_for_rule(aval: Any, symbolic: bool) -> Any:
    """The zero tangent or cotangent that a user's derivative rule is given: an array, or a symbolic zero."""
    return SymbolicZero(aval.to_tangent_aval()) if symbolic else zero_tangent(aval)


class LinearCall(NamedTuple):
    """The function of a `linear_call` equation and the user's transpose, each of (residual arguments, linear ones).

    closed: the function on flat operands, of which the last `count` are the linear ones.
    """

    closed: Any
    count: int
    function: Callable
    transpose: Callable


def linear_call_functions(equation: Any) -> LinearCall:
    params = equation.params
    closed, consts = params["callee"], params["num_callee_consts"]
    count = len(equation.invars) - consts - params["num_res"]

    def function(known, linear):
        return as_function(closed)(*known, *linear)

    def transpose(known, cotangents):
        jaxpr, values = params["transpose_thunk"]()
        return as_function(close_jaxpr(jaxpr))(*values, *known[consts:], *cotangents)

    return LinearCall(closed, count, function, transpose)
