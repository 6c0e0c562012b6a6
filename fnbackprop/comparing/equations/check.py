"""The check of one equation with its operands: both sides' cotangents, the hand-written rule's and the automatic ones.

Equal equations (same primitive, parameters, types, active operands) share one compiled check. Both sides can also be
computed in float64 on the same operands, where a wrong rule cannot hide behind rounding, nor a right one be accused.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.backprop.pullback import vjp
from fnbackprop.backprop.registry import lookup, registered
from fnbackprop.jaxprs.avals import aval_of, is_inexact, output_avals
from fnbackprop.jaxprs.compat import quick_compilation
from fnbackprop.jaxprs.evaluate import as_function, bind, source_of
from fnbackprop.jaxprs.limited_loops import LimitedFunction
from fnbackprop.jaxprs.lists import merge, select
from fnbackprop.jaxprs.primitives import Trait, having
from fnbackprop.jaxprs.views import Call

from ..arrays import to_float64
from ..gradient_sources import as_array, automatic_vjp, in_primal_types
from ..reference.float64 import Float64Run, bind_in_float64
from ..reference.frozen_decisions import bessel_i0e
from ..reference.pairs import float64_dtype
from ..results import Cotangent
from .walk import Location

MOST_CHECKS = 4096
CUSTOM = having(Trait.CUSTOM_RULE)
HOLDING = CUSTOM | having(Trait.CALL) | having(Trait.CONTROL_FLOW)


class EquationCheck(NamedTuple):
    """What is checked of one equation.

    Attributes:
      equation: of the program.
      active: which operands are differentiated.
      primal: whether a user's rule is compared with the derivative of its primal, and not our rule with JAX's.
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
    """One operand's cotangents, the manual one first; `stats`: scale, |first - second|, |first|, |second|."""

    first: Any
    second: Any
    stats: np.ndarray

    @property
    def error(self) -> float:
        """Relative to the second; NaN if anything is not finite."""
        _, off, _, size = (float(x) for x in self.stats)
        return off / size if size else (np.inf if off else off)


class Evidence(NamedTuple):
    """What a check gave, and what it was made with.

    Attributes:
      operands: of the equation. cotangents: of its floating outputs; kind: which these are.
      pairs: both sides' cotangents of the active operands.
      location: of the equation.
    """

    check: EquationCheck
    operands: Sequence[Any]
    cotangents: Sequence[Any]
    pairs: Sequence[CotangentPair]
    kind: Cotangent
    location: Location

    def again(self, cotangents: Sequence[Any]) -> "Evidence":
        """The same with Gaussian cotangents."""
        pairs = COMPILED.both(self.check, self.operands, cotangents)
        return self._replace(cotangents=cotangents, pairs=pairs, kind=Cotangent.GAUSSIAN)


class CompiledChecks:
    """The compiled checks of the equations seen so far, shared by equal ones while the rules are the same."""

    def __init__(self):
        self.compiled: dict[Any, Callable] = {}

    def both(self, check: EquationCheck, operands: Sequence[Any], cotangents: Sequence[Any]) -> list[CotangentPair]:
        """Both sides' cotangents of the active operands; `cotangents` has one for each floating output."""
        run = self._compiled(_key(check, operands), partial(both_sides, check))
        firsts, seconds, stats = run(list(operands), list(cotangents))
        return [CotangentPair(*parts) for parts in zip(firsts, seconds, np.asarray(stats), strict=True)]

    def forward_error(self, check: EquationCheck, operands: Sequence[Any]) -> float:
        """The largest relative distance of an output by a user's forward from that of the primal."""
        run = self._compiled(("forward", *_key(check, operands)), partial(_forward_stats, check))
        return max(CotangentPair(None, None, stats).error for stats in np.asarray(run(list(operands))))

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
            self.compiled[key] = LimitedFunction(function, compiler_options=quick_compilation())
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


def equation_function(
    check: EquationCheck, operands: Sequence[Any], primal: bool = False, apply: Callable = bind
) -> Callable:
    """The equation as a function of its active operands, returning its floating outputs."""
    equation = check.equation

    def function(*moving):
        given = _filled(check, operands, moving)
        with source_of(equation):
            out = as_function(Call.of(equation).body)(*given) if primal else apply(equation, given)
        return _floating(equation, out)

    return function


def both_sides(check: EquationCheck, operands: list[Any], cotangents: list[Any]) -> tuple[list, list, Any]:
    """Both sides' cotangents of the active operands, and for each the stats of `CotangentPair`."""
    moving = [operands[i] for i in check.targets]
    function = equation_function(check, operands)
    if check.primal:
        firsts = _pull(automatic_vjp, function, moving, cotangents)
        seconds = _pull(automatic_vjp, equation_function(check, operands, primal=True), moving, cotangents)
    else:
        firsts = _pull(vjp, function, moving, cotangents)
        automatic = equation_function(check, operands, apply=partial(bind_automatic, bind))
        seconds = _pull(automatic_vjp, automatic, moving, cotangents)
    both = (in_primal_types(side, moving) for side in (firsts, seconds))
    return firsts, seconds, jnp.stack([_stats(a, b) for a, b in zip(*both, strict=True)])


def bind_automatic(bind: Callable, equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """The equation as the automatic side differentiates it: with the slopes of |x| for all that is made of it."""
    return [bessel_i0e(*operands, *operands)] if equation.primitive.name == "bessel_i0e" else bind(equation, operands)


def _forward_stats(check: EquationCheck, operands: list[Any]) -> Any:
    """For each floating output, the stats of `CotangentPair`: by the user's forward, and by the primal."""
    function, primal = (equation_function(check, operands, primal) for primal in (False, True))
    moving = [operands[i] for i in check.targets]
    return jnp.stack(list(map(_stats, automatic_vjp(function, *moving)[0], primal(*moving))))


def manual_cotangents(check: EquationCheck, operands: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """The operands' cotangents by our rule alone; None for those that are not active."""
    moving = [operands[i] for i in check.targets]
    return merge(check.active, _pull(vjp, equation_function(check, operands), moving, cotangents))


def _pull(transform: Callable, function: Callable, moving: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    return list(map(as_array, transform(function, *moving)[1](list(cotangents))))


def _filled(check: EquationCheck, operands: Sequence[Any], moving: Sequence[Any]) -> list[Any]:
    """All operands, the active ones being these."""
    inactive = [x for x, on in zip(operands, check.active, strict=True) if not on]
    return merge(check.active, moving, inactive)


def _floating(equation: Any, outputs: Sequence[Any]) -> list[Any]:
    return select(outputs, map(is_inexact, output_avals(equation)))


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
        automatic = float64_function(check, operands, apply=partial(bind_automatic, bind_in_float64))
        firsts = None
        if check.primal:
            firsts = _pulled_in_float64(automatic_vjp, float64_function(check, operands, rule=True), moving, cotangents)
        elif check.equation.primitive.name not in HOLDING:
            firsts = _pulled_in_float64(vjp, function, moving, cotangents)
        return firsts, _pulled_in_float64(automatic_vjp, automatic, moving, cotangents)


def _pulled_in_float64(transform: Callable, function: Callable, moving: list[Any], cotangents: list[Any]) -> list[Any]:
    def pulled(moving: list[Any], cts: list[Any]) -> list[Any]:
        return _pull(transform, function, moving, cts)

    found = LimitedFunction(pulled, compiler_options=quick_compilation())(moving, cotangents)
    return list(map(np.asarray, found))


def float64_function(
    check: EquationCheck,
    operands: Sequence[Any],
    rule: bool = False,
    frozen: bool = True,
    apply: Callable = bind_in_float64,
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
            return _floating(equation, apply(equation, _filled(check, highs, moving)))
        pairs = list(map(run.pair, operands))
        for position, high in zip(check.targets, moving, strict=True):
            pairs[position] = pairs[position][0], high
        primal = check.primal and not rule
        outputs = run.call(equation, pairs) if primal else run.equation(equation, pairs)
        return _floating(equation, [high for _, high in outputs])

    return function


def float64_array(x: Any) -> Any:
    return jnp.asarray(x).astype(float64_dtype(jnp.result_type(x)))
