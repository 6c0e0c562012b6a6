"""The reference in float64: the traced program run again with wider numbers, and with the same decisions.

Tracing again in 64-bit mode would give another program: other constants, other random numbers, other winners of a
`max`. So the traced jaxpr is run on pairs: each value as it was (low), and in float64 (high). What is an integer or
a boolean (masks, indices, random bits, trip counts) is taken from the low run; so are the winners of max, sort and
their kin, and what rounds to integers. What no differentiated value needs of the low run, XLA leaves out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnbackprop.jaxprs.avals import is_inexact, output_avals
from fnbackprop.jaxprs.compat import quick_compilation, switch_branch
from fnbackprop.jaxprs.evaluate import bind, interpret, read_array, source_line, trace_avals
from fnbackprop.jaxprs.primitives import Trait, has, having
from fnbackprop.jaxprs.types import close_jaxpr, is_var
from fnbackprop.jaxprs.views import Call, Cond, Scan, ShardMap, While

from ..gradient_sources import automatic_value_and_grad
from .custom_rules import custom_jvp, custom_vjp
from .frozen_decisions import FROZEN_DECISIONS, Pair
from .pairs import float64_dtype, high_half

UNDERFLOW = 1e4  # smallest normal numbers: so many values of a sum may each have been flushed to zero


class NotInFloat64(NotImplementedError):
    """The program holds an equation that cannot be run in float64; the message names it and its line."""


class Float64Run:
    """Runs jaxprs on pairs, in 64-bit mode.

    Args:
      users_mode: whether the program was traced in 64-bit mode itself.
      frozen: whether decisions are those of the low run. Otherwise a floating value has no low half, the high numbers
        decide, and no derivative can be asked for: this is the function itself, for differences of it.
    """

    def __init__(self, users_mode: bool, frozen: bool = True):
        self.users_mode, self.frozen, self.around = users_mode, frozen, ""

    def pair(self, low: Any) -> Pair:
        """A value that nothing differentiated reaches."""
        high = high_half(low)
        return (low if self.frozen or high is None else None), high

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], operands: Sequence[Pair]) -> list[Pair]:
        """The jaxpr's outputs as pairs."""
        return interpret(jaxpr, list(map(self.pair, consts)), operands, self.equation, self._read)

    def _read(self, env: dict, atom: Any) -> Pair:
        return env[atom] if is_var(atom) else self.pair(read_array(env, atom))

    def closed(self, closed: Any, operands: Sequence[Pair]) -> list[Pair]:
        closed = close_jaxpr(closed)
        return self.evaluate(closed.jaxpr, closed.consts, operands)

    def equation(self, equation: Any, operands: Sequence[Pair]) -> list[Pair]:
        """One equation on pairs."""
        name = equation.primitive.name
        lows = [low for low, _ in operands]
        if name in STRUCTURED:
            around, self.around = self.around, self._line(equation)
            try:
                return STRUCTURED[name](self, equation, list(operands))
            finally:
                self.around = around
        if all(high is None for _, high in operands):
            return [self.pair(low) for low in bind(equation, lows)]
        if has(equation, Trait.NOT_IN_FLOAT64):
            raise NotInFloat64(f"{name} at {self._line(equation)} cannot be run in float64")
        if not self.frozen:
            return self._moved(equation, operands)
        outputs = bind(equation, lows)
        if not any(map(is_inexact, output_avals(equation))):
            return [(low, None) for low in outputs]
        if name in FROZEN_DECISIONS:
            return FROZEN_DECISIONS[name](equation, operands, outputs)
        highs = bind_in_float64(equation, [low if high is None else high for low, high in operands])
        return [(low, None if high_half(low) is None else high) for low, high in zip(outputs, highs, strict=True)]

    def _line(self, equation: Any) -> str:
        """Where the user wrote an equation; of what a library's function holds, where that is called."""
        return source_line(equation) or self.around

    def _moved(self, equation: Any, operands: Sequence[Pair]) -> list[Pair]:
        """One equation on the high halves alone."""
        if equation.primitive.name == "reduce_precision":
            return [operands[0]]
        if equation.primitive.name == "bitcast_convert_type":
            raise NotInFloat64(f"the bits of a number at {self._line(equation)} have no float64 counterpart")
        outputs = bind_in_float64(equation, [low if high is None else high for low, high in operands])
        avals = output_avals(equation)
        return [(None, y) if is_inexact(a) else (y, None) for y, a in zip(outputs, avals, strict=True)]

    def in_users_mode(self, function: Callable) -> Any:
        """The result of tracing the user's code in the 64-bit mode in which it was written, or not."""
        with jax.enable_x64(self.users_mode):
            return function()

    # ------------------------------------------------------------ equations that hold jaxprs

    def call(self, equation: Any, operands: list[Pair]) -> list[Pair]:
        return self.closed(Call.of(equation).body, operands)

    def scan(self, equation: Any, operands: list[Pair]) -> list[Pair]:
        loop = Scan.of(equation)
        consts, carry, xs = loop.split(operands)

        def step(carry, x):
            return loop.split_results(self.closed(loop.body, [*consts, *carry, *x]))

        carry, ys = lax.scan(step, carry, xs, length=loop.length, reverse=loop.reverse)
        return [*carry, *ys]

    def while_(self, equation: Any, operands: list[Pair]) -> list[Pair]:
        loop = While.of(equation)
        condition_consts, consts, carry = loop.split(operands)

        def goes_on(carry):
            return self.closed(loop.condition, [*condition_consts, *carry])[0][0]

        def step(carry):
            after = self.closed(loop.body, [*consts, *carry])
            if not loop.batch_shape:
                return after
            flags = goes_on(carry)  # of each example: a finished one stays as it is, while others are not
            flags = flags | ~jnp.any(flags)
            return jax.tree.map(lambda new, old: jnp.where(loop.flags_like(flags, new), new, old), after, carry)

        return lax.while_loop(lambda carry: jnp.any(goes_on(carry)), step, carry)

    def cond(self, equation: Any, operands: list[Pair]) -> list[Pair]:
        cond = Cond.of(equation)
        (index, _), rest = cond.split(operands)
        branches = [lambda *ops, b=branch: self.closed(b, ops) for branch in cond.branches]
        return switch_branch(index, branches, cond.platforms, *rest)

    def shard_map(self, equation: Any, operands: list[Pair]) -> list[Pair]:
        region = ShardMap.of(equation)
        ins = [
            (None if low is None else spec, None if high is None else spec)
            for spec, (low, high) in zip(region.in_specs, operands, strict=True)
        ]
        kinds = map(is_inexact, output_avals(equation))
        outs = [
            (spec if self.frozen or not floating else None, spec if floating else None)
            for spec, floating in zip(region.out_specs, kinds, strict=True)
        ]
        return region.map(lambda *ops: self.closed(region.body, ops), tuple(ins), outs)(*operands)

    def custom_rule(self, equation: Any, operands: list[Pair]) -> list[Pair]:
        if not self.frozen:
            return self.call(equation, operands)
        rule = custom_jvp if equation.primitive.name == "custom_jvp_call" else custom_vjp
        return rule(self, equation, operands)


STRUCTURED: dict[str, Callable] = {
    **dict.fromkeys(having(Trait.CALL), Float64Run.call),
    "scan": Float64Run.scan,
    "while": Float64Run.while_,
    "cond": Float64Run.cond,
    "shard_map": Float64Run.shard_map,
    "custom_jvp_call": Float64Run.custom_rule,
    "custom_vjp_call": Float64Run.custom_rule,
}


def bind_in_float64(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """The equation with every floating dtype among its parameters high_half."""
    primitive = equation.primitive
    params = {name: _float64_parameter(name, value) for name, value in equation.params.items()}
    out = primitive.bind(*operands, **primitive.get_bind_params(params))
    return out if primitive.multiple_results else (out,)


def _float64_parameter(name: str, value: Any) -> Any:
    if name in ("precision", "accuracy"):
        return None
    if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
        return _float64_jaxpr(value)
    is_dtype = isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))
    return float64_dtype(value) if is_dtype and jax.dtypes.issubdtype(value, np.inexact) else value


def _float64_jaxpr(jaxpr: Any) -> Any:
    """The combining function of a scatter or a reduction."""
    closed = close_jaxpr(jaxpr)
    run = Float64Run(jax.config.jax_enable_x64, frozen=False)

    def combined(*highs):
        return [low if high is None else high for low, high in run.closed(closed, [(None, x) for x in highs])]

    avals = [v.aval.update(dtype=float64_dtype(v.aval.dtype)) for v in closed.jaxpr.invars]
    traced = trace_avals(combined, avals)
    return traced if hasattr(jaxpr, "jaxpr") else traced.jaxpr


def reference_gradients(
    closed: Any, operands: Sequence[Any], active: Sequence[int], users_mode: bool
) -> tuple[float, list[Any]]:
    """The value and the gradient of a traced program of scalar value, in float64, as numpy arrays.

    Args:
      closed: its jaxpr. operands: the flat operands. active: the positions of those that are differentiated.
      users_mode: whether it was traced in 64-bit mode.
    Raises:
      NotInFloat64: it holds something that cannot be run in float64.
    """
    both = automatic_value_and_grad(frozen_value(closed, active, users_mode), argnums=1)

    with jax.enable_x64(True):
        lows = list(operands)
        highs = [np.asarray(lows[i]).astype(float64_dtype(jnp.result_type(lows[i]))) for i in active]
        value, gradients = jax.jit(both, compiler_options=quick_compilation())(lows, highs)
        return float(value), list(map(np.asarray, gradients))


def is_another_branch(high_value: float, value: Any, allowed: float, noise: Callable[[], float] | None = None) -> str:
    """Why a value in float64 is not that of the program, or nothing if it is.

    What a decomposition leaves open (an order, a sign) may come out otherwise in float64: that is another function,
    with another gradient.

    Args:
      allowed: the relative error of the value that rounding explains.
      noise: measures the absolute error that rounding inside explains; asked where the values differ.
    """
    smallest = float(jnp.finfo(value.dtype).tiny) if hasattr(value, "dtype") else 0.0
    if max(abs(high_value), abs(float(value))) < UNDERFLOW * smallest:
        return ""
    off = abs(high_value - float(value))
    if not off > max(10 * allowed, 1e-3) * abs(high_value) or (noise and not off > 10 * noise()):
        return ""
    return f"the value is {high_value:.6g} in float64, and {float(value):.6g} here"


def float64_value(closed: Any, active: Sequence[int], users_mode: bool) -> Callable:
    """`(operands, highs) -> value`: a traced program as a function of its floating operands in float64.

    Its decisions are its own: this is the function whose differences differences are taken of. Call it in 64-bit mode.
    """
    run = Float64Run(users_mode, frozen=False)

    def value(operands, highs):
        pairs = list(map(run.pair, operands))
        for position, high in zip(active, highs, strict=True):
            pairs[position] = None, high
        return run.closed(closed, pairs)[0][1]

    return value


def frozen_value(closed: Any, active: Sequence[int], users_mode: bool, run: Float64Run | None = None) -> Callable:
    """As `float64_value`, but decisions, and all that a gradient is stopped at, stay what they are at the operands."""
    run = run or Float64Run(users_mode)

    def value(operands, highs):
        pairs = list(map(run.pair, operands))
        for position, high in zip(active, highs, strict=True):
            pairs[position] = operands[position], high
        return run.closed(closed, pairs)[0][1]

    return value
