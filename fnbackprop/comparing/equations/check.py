"""One equation with its operands: the hand-written rule against the automatic one, and who is right.

Equal equations (same primitive, parameters, types, active operands) share one compiled check. A difference beyond
rounding is looked at again in float64, on the same operands, where a wrong rule cannot hide behind rounding and a
right one cannot be accused because of it; and differences of the equation itself say which of the two is right.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.registry import lookup, registered
from fnbackprop.backprop.transforms import vjp
from fnbackprop.jaxprs.avals import aval_of, is_inexact, output_avals
from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.evaluate import as_function, bind, source_of
from fnbackprop.jaxprs.types import close_jaxpr

from ..arrays import array_norm, to_float64
from ..leaves import rounding_floor
from ..program import facts_of_equation
from ..reference.float64 import Float64Run, bind_in_float64, float64_dtype

MOST_CHECKS = 4096
EXACT = 1e-9  # the largest relative error of a right rule in float64
CUSTOM = ("custom_vjp_call", "custom_jvp_call")
HOLDING = ("scan", "while", "cond", "shard_map", "jit", "closed_call", "core_call", "remat2", *CUSTOM)


class EquationCheck(NamedTuple):
    """What is asked of one equation.

    Attributes:
      equation: of the program.
      active: which operands are differentiated.
      primal: whether a user's rule is held against its primal definition, and not our walk against JAX's.
      users_mode: whether the program was traced in 64-bit mode.
    """

    equation: Any
    active: tuple[bool, ...]
    primal: bool
    users_mode: bool

    @property
    def targets(self) -> tuple[int, ...]:
        """The positions of the active operands."""
        return tuple(i for i, on in enumerate(self.active) if on)


class CotangentPair(NamedTuple):
    """One operand's cotangents from both sides; `stats`: scale, |first - second|, |first|, |second|."""

    first: Any
    second: Any
    stats: np.ndarray

    @property
    def error(self) -> float:
        """Relative to the second; NaN if anything is not finite."""
        _, off, _, size = (float(x) for x in self.stats)
        return off / size if size else (np.inf if off else off)


class CompiledChecks:
    """The compiled checks of the equations seen so far, shared by equal ones while the rules are the same."""

    def __init__(self):
        self.compiled: dict[Any, Callable] = {}

    def both(self, check: EquationCheck, operands: Sequence[Any], cotangents: Sequence[Any]) -> list[CotangentPair]:
        """Both sides' cotangents of the active operands; `cotangents` has one for each floating output."""
        run = self._compiled(_key(check, operands), partial(both_sides, check))
        firsts, seconds, stats = run(list(operands), list(cotangents))
        return [CotangentPair(*parts) for parts in zip(firsts, seconds, np.asarray(stats), strict=True)]

    def values(self, equation: Any, operands: Sequence[Any]) -> list[Any]:
        """The equation's outputs.

        A layout is no part of the value, and JAX 0.10.2 on a CPU misreads an array that is not in the usual one.
        """
        if equation.primitive.name == "layout_constraint":
            return list(operands)
        return self._compiled(_equation_key(equation, operands), partial(_values, equation))(list(operands))

    def _compiled(self, key: Any, function: Callable) -> Callable:
        if key not in self.compiled:
            if len(self.compiled) >= MOST_CHECKS:
                self.compiled.clear()
            self.compiled[key] = jax.jit(function, compiler_options=quick_compilation())
        return self.compiled[key]


COMPILED = CompiledChecks()


def _values(equation: Any, operands: list[Any]) -> list[Any]:
    with source_of(equation):
        return list(bind(equation, operands))


def _key(check: EquationCheck, operands: Sequence[Any]) -> Any:
    """Of what a check depends on: the equation, and the rules that it applies."""
    equation = check.equation
    entry = lookup(equation.primitive)
    if equation.primitive.name in HOLDING or entry is None:  # the rules of all that stands in it count
        rules = tuple(f for e in registered().values() for f in (*(r.function for r in e.rules), e.structured))
    else:
        rules = (*(rule.function for rule in entry.rules), entry.structured)
    return *_equation_key(equation, operands), check.active, check.primal, rules


def _equation_key(equation: Any, operands: Sequence[Any]) -> tuple[Any, ...]:
    avals = tuple(map(str, map(aval_of, operands))), tuple(map(str, output_avals(equation)))
    params = tuple(sorted(equation.params.items(), key=lambda item: item[0]))
    modes = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
    try:
        hash(params)
    except TypeError:
        params = equation
    return equation.primitive, params, avals, modes


# ---------------------------------------------------------------- the two sides


def equation_function(check: EquationCheck, operands: Sequence[Any], primal: bool = False) -> Callable:
    """The equation as a function of its active operands, returning its floating outputs."""
    equation = check.equation

    def function(*moving):
        given = _filled(check, operands, moving)
        with source_of(equation):
            out = _primal(equation)(*given) if primal else bind(equation, given)
        return _floating(equation, out)

    return function


def both_sides(check: EquationCheck, operands: list[Any], cotangents: list[Any]) -> tuple[list, list, Any]:
    """Both sides' cotangents of the active operands, and for each the stats of `CotangentPair`."""
    moving = [operands[i] for i in check.targets]
    function = equation_function(check, operands)
    if check.primal:
        firsts = _pull(jax.vjp, function, moving, cotangents)
        seconds = _pull(jax.vjp, equation_function(check, operands, primal=True), moving, cotangents)
    else:
        firsts = _pull(vjp, function, moving, cotangents)
        seconds = _pull(jax.vjp, function, moving, cotangents)
    return firsts, seconds, jnp.stack([_stats(a, b) for a, b in zip(firsts, seconds, strict=True)])


def manual_cotangents(check: EquationCheck, operands: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """The operands' cotangents by our rule alone; None for those that are not active."""
    moving = [operands[i] for i in check.targets]
    found = iter(_pull(vjp, equation_function(check, operands), moving, cotangents))
    return [next(found) if on else None for on in check.active]


def _pull(transform: Callable, function: Callable, moving: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    return list(transform(function, *moving)[1](list(cotangents)))


def _filled(check: EquationCheck, operands: Sequence[Any], moving: Sequence[Any]) -> list[Any]:
    full = list(operands)
    for position, value in zip(check.targets, moving, strict=True):
        full[position] = value
    return full


def _floating(equation: Any, outputs: Sequence[Any]) -> list[Any]:
    return [y for y, aval in zip(outputs, output_avals(equation), strict=True) if is_inexact(aval)]


def _primal(equation: Any) -> Callable:
    """The definition that a user's rule stands for, as a function of flat operands."""
    params = equation.params
    return as_function(close_jaxpr(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]))


def _stats(first: Any, second: Any) -> Any:
    """The largest magnitude, and three norms over it: of the difference, of the first, of the second."""
    if not first.size:
        return jnp.zeros(4, np.float32)
    first, second = (x if x.dtype.itemsize >= 4 else x.astype(np.float32) for x in (first, second))
    top = jnp.maximum(jnp.max(jnp.abs(first)), jnp.max(jnp.abs(second)))
    scale = jnp.where(top > 0, top, jnp.ones_like(top))
    first, second = (x / scale.astype(x.dtype) for x in (first, second))
    norms = [jnp.sqrt(jnp.sum(jnp.square(jnp.abs(x)))) for x in (first - second, first, second)]
    return jnp.stack([top, *norms])


# ---------------------------------------------------------------- again in float64


def cotangents_in_float64(
    check: EquationCheck, operands: Sequence[Any], cotangents: Sequence[Any]
) -> tuple[list, list]:
    """Both sides' cotangents on the same operands in float64, as numpy arrays.

    The first is None for an equation that holds jaxprs (unless it is a user's rule): its rules run in its own types.
    """
    with jax.enable_x64(True):
        moving, cotangents = [to_float64(operands[i]) for i in check.targets], list(map(to_float64, cotangents))
        function = float64_function(check, operands)
        firsts = None
        if check.primal:
            firsts = _pulled_in_float64(jax.vjp, float64_function(check, operands, rule=True), moving, cotangents)
        elif check.equation.primitive.name not in HOLDING:
            firsts = _pulled_in_float64(vjp, function, moving, cotangents)
        return firsts, _pulled_in_float64(jax.vjp, function, moving, cotangents)


def _pulled_in_float64(transform: Callable, function: Callable, moving: list[Any], cotangents: list[Any]) -> list[Any]:
    run = jax.jit(lambda moving, cts: _pull(transform, function, moving, cts), compiler_options=quick_compilation())
    found = run(moving, cotangents)
    return [np.asarray(x) for x in found]


def float64_function(
    check: EquationCheck, operands: Sequence[Any], rule: bool = False, frozen: bool = True
) -> Callable:
    """The equation in float64 as a function of its active operands.

    `rule`: a user's rule is kept, instead of its primal; `frozen`: decisions stay what they are at the operands.
    """
    equation = check.equation
    name = equation.primitive.name
    run = Float64Run(check.users_mode, frozen)

    def function(*moving):
        if name not in HOLDING:
            highs = [x if not is_inexact(aval_of(x)) else float64_array(x) for x in operands]
            return _floating(equation, bind_in_float64(equation, _filled(check, highs, moving)))
        pairs = list(map(run.pair, operands))
        for position, high in zip(check.targets, moving, strict=True):
            pairs[position] = pairs[position][0], high
        primal = check.primal and not rule
        outputs = run.call(equation, pairs) if primal else run.equation(equation, pairs)
        return _floating(equation, [high for _, high in outputs])

    return function


def float64_array(x: Any) -> Any:
    return jnp.asarray(x).astype(float64_dtype(jnp.result_type(x)))


def floor_of(equation: Any) -> float:
    """The relative error that rounding explains in this equation's backward."""
    return rounding_floor(facts_of_equation(equation))


def noise_of(automatic: Any, reference: np.ndarray) -> float:
    size = array_norm(reference)
    return array_norm(to_float64(automatic) - reference) / size if size else 0.0
