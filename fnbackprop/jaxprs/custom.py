"""The user's custom derivative rules (`custom_jvp`, `custom_vjp`, `linear_call`), as functions and jaxprs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.custom_derivatives import SymbolicZero

from .avals import aval_of, is_inexact, zero_tangent, zeros_like_aval
from .compat import with_constants
from .evaluate import as_function, source_line, trace_avals, trace_flat
from .types import ClosedJaxpr, close_jaxpr


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


def custom_jvp_jaxpr(equation: Any, active: Sequence[bool]) -> CustomJvp:
    params = equation.params
    consts, symbolic = params["num_consts"], params["symbolic_zeros"]
    # An inactive operand's tangent is a symbolic zero if the user asked for these, else zeros.
    given = [on or not symbolic for on in active[consts:]]
    jaxpr, values, zero_out = params["jvp_jaxpr_fun"].call_wrapped(*(not on for on in given))
    closed = with_constants(jaxpr, values)
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


def _jvp_function(jvp: Any, symbolic: bool) -> Callable:
    """The user's JVP from what a trace is handed; a zero tangent is None on both sides."""

    def call(primals, tangents):
        pairs = zip(primals, tangents, strict=True)
        tangents = [zero_for_rule(aval_of(p), symbolic) if t is None else t for p, t in pairs]
        out = jvp.call_wrapped(*primals, *tangents)
        half = len(out) // 2
        return out[:half], [None if isinstance(t, SymbolicZero) else t for t in out[half:]]

    return call


class CustomVjp(NamedTuple):
    """The user's forward and backward of a `custom_vjp_call` equation."""

    forward: Callable  # (operands, active) -> (residuals, outputs)
    backward: Callable  # (residuals, output cotangents) -> operand cotangents, None for zero


def custom_vjp_functions(equation: Any) -> CustomVjp:
    params = equation.params
    _, fwd, bwd = equation.primitive.get_bind_params(params)["subfuns"]
    return _vjp_functions(fwd, bwd, params["out_trees"])


def _vjp_functions(fwd: Any, bwd: Any, out_trees: Callable) -> CustomVjp:
    def forward(operands, active):
        flat = fwd.call_wrapped(*(item for pair in zip(operands, active, strict=True) for item in pair))
        _, residual_tree, forwarded = out_trees()  # a residual that is an operand is given as its position
        computed = residual_tree.num_leaves - sum(i is not None for i in forwarded)
        fresh = iter(flat[:computed])
        residuals = [next(fresh) if i is None else operands[i] for i in forwarded]
        return residuals, flat[computed:]

    return CustomVjp(forward, _vjp_backward(bwd))


def _vjp_backward(bwd: Any) -> Callable:
    def backward(residuals, cotangents):
        out = bwd.call_wrapped(*residuals, *cotangents)
        if isinstance(out, tuple):  # JAX 0.12: (cotangents, logs)
            out = out[0]
        return [None if _is_zero(ct) else ct for ct in out]

    return backward


class CustomLinear(NamedTuple):
    """A `custom_lin` equation, whose operands are the residuals of a user's forward, then tangents."""

    residuals: int  # how many
    backward: Callable  # (residuals, output cotangents) -> tangents' cotangents, None for zero
    symbolic: bool  # whether the user asked for symbolic zeros


def custom_linear_map(equation: Any) -> CustomLinear:
    params = equation.params
    pull = _vjp_backward(params["bwd"])

    def backward(residuals, cotangents):
        pairs = zip(pull(residuals, cotangents), params["in_zeros"], strict=True)
        return [ct for ct, zero in pairs if not zero]

    return CustomLinear(params["num_res"], backward, params["symbolic_zeros"])


def _is_zero(ct: Any) -> bool:
    """Whether a cotangent handed back by a user's backward stands for zero: symbolic, or of an integer operand."""
    if ct is None or isinstance(ct, SymbolicZero) or type(ct).__name__ == "Zero":
        return True
    return getattr(ct, "dtype", None) == jax.dtypes.float0


def zero_for_rule(aval: Any, symbolic: bool) -> Any:
    """The zero tangent or cotangent that a user's derivative rule is given: an array, or a symbolic zero."""
    return SymbolicZero(aval.to_tangent_aval()) if symbolic else zero_tangent(aval)


def new_custom_jvp(jvp: Any, operands: Sequence[Any], symbolic_zeros: bool) -> Callable:
    """A `custom_jvp` function from the JVP that JAX hands to a trace, which may be called only once."""
    avals = [aval_of(x) for x in operands]
    inexact = [is_inexact(aval) for aval in avals]
    count = len(avals)

    def both(*flat):
        given = iter(flat[count:])
        tangents = [next(given) if on else None for on in inexact]
        outputs, tangents_out = _jvp_function(jvp, symbolic_zeros)(flat[:count], tangents)
        pairs = zip(outputs, tangents_out, strict=True)
        return [*outputs, *(zero_tangent(aval_of(y)) if t is None else t for y, t in pairs if is_inexact(aval_of(y)))]

    closed = trace_avals(both, [*avals, *(a for a, on in zip(avals, inexact, strict=True) if on)])
    outputs = [v.aval for v in closed.jaxpr.outvars]
    half = next(n for n in range(len(outputs) + 1) if n + sum(map(is_inexact, outputs[:n])) == len(outputs))

    def run(primals, tangents):
        out = as_function(closed)(*primals, *(t for t, on in zip(tangents, inexact, strict=True) if on))
        given = iter(out[half:])
        return out[:half], [next(given) if is_inexact(aval) else zero_tangent(aval) for aval in outputs[:half]]

    fun = jax.custom_jvp(lambda *xs: run(xs, [zeros_like_aval(aval) for aval in avals])[0])
    fun.defjvp(run)
    return fun


def new_custom_vjp(
    fwd: Any, bwd: Any, operands: Sequence[Any], active: Sequence[bool], out_trees: Callable
) -> Callable:
    """A `custom_vjp` function from the forward and backward that JAX hands to a trace, each to be called only once."""
    custom = _vjp_functions(fwd, bwd, out_trees)
    traced = trace_flat(lambda *xs: custom.forward(xs, active), operands)

    def forward(*xs):
        residuals, outputs = traced.out_tree.unflatten(as_function(traced.closed)(*xs))
        return outputs, residuals

    fun = jax.custom_vjp(lambda *xs: forward(*xs)[0])
    fun.defvjp(forward, lambda residuals, cts: tuple(custom.backward(residuals, cts)))
    return fun


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
