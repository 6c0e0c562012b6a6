"""The user's own rules (`custom_jvp`, `custom_vjp`) in a run on pairs: applied to pairs too.

Each function takes the run, a `float64.Float64Run`, the equation and its operands as pairs, and returns its outputs as
pairs.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnbackprop.jaxprs.avals import aval_of, is_inexact, operand_avals, output_avals, zero_tangent
from fnbackprop.jaxprs.custom import DifferentiatedClosure, Static, custom_jvp_jaxpr, custom_vjp_of_equation
from fnbackprop.jaxprs.evaluate import Traced, trace_flat
from fnbackprop.jaxprs.lists import merge

from .pairs import Pair, float64_dtype


def custom_jvp(run: Any, equation: Any, operands: list[Pair]) -> list[Pair]:
    lows, highs = zip(*operands, strict=True)
    active = [high is not None for high in highs]
    outputs = output_avals(equation)
    jvp = run.in_users_mode(lambda: custom_jvp_jaxpr(equation, active))

    @jax.custom_jvp
    def function(lows, highs):
        return run.call(equation, list(zip(lows, highs, strict=True)))

    @function.defjvp
    def _(primals, tangents):
        pairs = list(zip(*primals, strict=True))
        moved = [(jnp.zeros_like(lows[i]), tangents[1][i]) for i in jvp.tangents]
        out = run.evaluate(jvp.closed.jaxpr, jvp.closed.consts, [*pairs[jvp.consts :], *moved])
        count = len(outputs)
        slopes = [None if i is None else out[i][1] for i in jvp.tangents_out]
        found = [
            (zero_tangent(aval_of(low)), None if high is None else jnp.zeros_like(high) if slope is None else slope)
            for (low, high), slope in zip(out[:count], slopes, strict=True)
        ]
        return out[:count], found

    return function(lows, highs)


def custom_vjp(run: Any, equation: Any, operands: list[Pair]) -> list[Pair]:
    lows, highs = zip(*operands, strict=True)
    active = [high is not None for high in highs]
    custom, avals = custom_vjp_of_equation(equation), operand_avals(equation)
    traced, active = run.in_users_mode(lambda: _traced_forward(custom, active, avals))

    @jax.custom_vjp
    def function(lows, highs):
        return run.call(equation, list(zip(lows, highs, strict=True)))

    def forward(lows, highs):
        out = run.closed(traced.closed, list(zip(lows, highs, strict=True)))
        values, residuals = traced.out_tree.unflatten(range(len(out)))
        return [out[i] for i in values], [i if isinstance(i, Static) else out[i] for i in residuals]

    def backward(residuals, cts):
        found = _pull(run, equation, custom.backward, residuals, [high for _, high in cts])
        zeros = (
            lax.full(aval.shape, 0, float64_dtype(aval.dtype)) if on else None
            for aval, on in zip(avals, active, strict=True)
        )
        return None, tuple(z if ct is None else ct for z, ct in zip(zeros, found, strict=True))

    function.defvjp(forward, backward)
    return function(lows, highs)


def _traced_forward(custom: Any, active: list[bool], avals: list[Any]) -> tuple[Traced, list[bool]]:
    """A user's forward, and which operands it takes as differentiated: what a rule closes over comes first among the
    operands, and JAX refuses it there."""
    for closed_over in range(len(active) + 1):
        flags = [on and i >= closed_over for i, on in enumerate(active)]
        with contextlib.suppress(DifferentiatedClosure):
            return trace_flat(partial(_forward, custom, flags), avals), flags
    raise AssertionError("a rule without differentiated operands closes over one")


def _forward(custom: Any, active: list[bool], *operands: Any) -> Any:
    return custom.forward(operands, active)


def _pull(run: Any, equation: Any, backward: Callable, residuals: list[Any], cts: list[Any]) -> list[Any]:
    """A user's backward on pairs: its jaxpr is traced at the low types. None stands for zero."""
    outputs = output_avals(equation)
    floating = [
        (lax.convert_element_type(ct, a.dtype), ct) for ct, a in zip(cts, outputs, strict=True) if is_inexact(a)
    ]
    given_back: list[bool] = []

    def pull(*flat):
        given = iter(flat)
        saved = [r if isinstance(r, Static) else next(given) for r in residuals]
        full = [next(given) if is_inexact(a) else None for a in outputs]
        found = backward(saved, full, outputs)
        given_back[:] = [ct is not None for ct in found]
        return [ct for ct in found if ct is not None]

    flat = [*(r for r in residuals if not isinstance(r, Static)), *floating]
    pulled = run.in_users_mode(lambda: trace_flat(pull, [aval_of(low) for low, _ in flat]))
    found = run.closed(pulled.closed, flat)
    return merge(given_back, [high for _, high in found])
