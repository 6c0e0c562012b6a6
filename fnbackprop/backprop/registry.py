"""The registry of rules: which hand-written function turns a primitive's output cotangents into its operands'.

A rule says what it reads by the names of its parameters, so what must be saved is known before anything runs:

    @vjp_rule("sort_rows", "x -> y, order")          # the default signature is "x -> y"
    def sort_rows_vjp(dy, order):
        return inverse_permutation(dy, order)

    @derivative("atan2", "x, y -> z", wrt="x")       # of an elementwise primitive only dz/dx is written
    def atan2_vjp_x(x, y):
        return y / (x**2 + y**2)

The signature names the operands and outputs. A parameter of the rule is one of
- `dy`: the cotangent of the output `y` (an array of y's shape and dtype; zeros where none reaches it);
- `x`, `y`: the value of an operand or output, which is then saved for the backward pass;
- `x_aval`: its shape and dtype alone, which saves nothing;
- `active`: a tuple of bools, which operands need a cotangent; `wanted`: which outputs have one;
- keyword-only: a parameter of the equation by its name (give a default where a JAX version lacks it).
A starred name ("*xs -> y") stands for all remaining operands or outputs, and is passed as a tuple.

With `wrt` the rule returns the cotangent of that operand alone; without, a tuple with one for each operand (or, of
a single operand, just it). None stands for zero. What the engine does for every rule is in `engine.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from ..jaxprs.types import Primitive
from .known_names import require_known
from .signatures import Adapt, Argument, Rule, of_jax_arrays, parse, positions

_NUMBERS, _NONE = (int, float, complex), frozenset()


@dataclass(frozen=True, eq=False)
class Entry:
    """All that is registered for one primitive."""

    rules: list[Rule] = field(default_factory=list)  # the first that serves an operand gives its cotangent
    structured: Callable | None = None
    activity: Callable | None = None
    no_gradient: str | None = None  # the reason why no gradient flows
    unsupported: str | None = None  # the reason why there is no rule
    foreign: bool = False  # whether the derivative is that of the primitive's author, registered with JAX

    def given(self, params: dict[str, Any]) -> frozenset[str]:
        """The parameters that rules ask for and an equation with these parameters has."""
        return frozenset([name for name in self.asks if params.get(name) is not None]) if self.asks else _NONE

    @cached_property
    def asks(self) -> frozenset[str]:
        """The parameters for which there are rules of their own."""
        return frozenset(rule.given for rule in self.rules if rule.given)

    def rule_for(self, position: int, given: frozenset[str] = frozenset()) -> Rule | None:
        """The rule that gives the cotangent of the operand at `position`, where these parameters are given."""
        for rule in self.rules:
            where = rule.target
            if rule.given and rule.given not in given:
                continue
            if where is None or where == position or (isinstance(where, slice) and position >= where.start):
                return rule
        return None


_entries: dict[str | Primitive, Entry] = {}
_generation = 0
_last_resort: Callable[[Primitive], Entry | None] = lambda primitive: None  # noqa: E731


def generation() -> int:
    """How often the registry has changed. What is cached that depends on rules has it in its key."""
    return _generation


def _put(primitive: str | Primitive, entry: Entry) -> None:
    global _generation
    _entries[primitive], _generation = entry, _generation + 1


def vjp_rule(
    primitive: str | Primitive,
    signature: str = "x -> y",
    wrt: str | None = None,
    *,
    given: str | None = None,
    adapt: Adapt | None = None,
) -> Callable:
    """Register a hand-written VJP of a primitive.

    Args:
        primitive: its name, or the `Primitive` itself (which then goes before a rule by name).
        signature: the names of its operands and outputs, `"x, y -> z"`; a starred one takes the rest.
        wrt: the operand whose cotangent the function returns; None: the function returns those of all.
        given: a parameter of the equation; the rule serves equations in which it is not None, before one without.
        adapt: internal: for functions of something else than arrays.
    Returns:
        A decorator that registers the function and returns it unchanged.
    Raises:
        TypeError: it is neither a name nor a `Primitive`; a parameter of the function is neither in the signature nor
            a reserved name.
        ValueError: no primitive has this name, but one has a name near to it.
    Example:
        >>> import fnbackprop as fb
        >>> from fnbackprop.jaxprs.types import Primitive
        >>> scaled = Primitive("scaled_product")
        >>> _ = scaled.def_impl(lambda x, y: 2 * x * y), scaled.def_abstract_eval(lambda x, y: x)
        >>> @fb.vjp_rule(scaled, "x, y -> z")
        ... def scaled_vjp(dz, x, y):
        ...     return 2 * dz * y, 2 * dz * x
        >>> dx, dy = fb.grad(scaled.bind, argnums=(0, 1))(3.0, 5.0)
        >>> print(dx, dy)
        10.0 6.0
    """
    require_known([primitive], _entries)

    def register(function: Callable) -> Callable:
        _register(primitive, parse(function, signature, wrt, adapt or of_jax_arrays, given))
        return function

    return register


def derivative(
    primitive: str | Primitive,
    signature: str = "x -> y",
    wrt: str | None = None,
    *,
    given: str | None = None,
    adapt: Adapt | None = None,
) -> Callable:
    """Register the derivative of an elementwise primitive; its product with the output's cotangent is the VJP.

        @fb.derivative("tanh")
        def tanh_vjp(y):
            return 1 - y**2

    Args:
        primitive: its name, or the `Primitive` itself (which then goes before a rule by name).
        signature: the names of its operands and its output, `"x, y -> z"`.
        wrt: the operand with respect to which it is; it may be left out of a primitive of one operand.
        given: a parameter of the equation; the rule serves equations in which it is not None, before one without.
        adapt: internal: for functions of something else than arrays.
    Returns:
        A decorator that registers the function and returns it unchanged. The function reads operands and output, but
        no cotangent, and returns dy/dx: an array like the output, a Python number, or None for a derivative of zero.
    Raises:
        TypeError: there are several outputs, or several operands and no `wrt`; the function reads a cotangent, or its
            result has another shape than the output; or as for `vjp_rule`.
        ValueError: as for `vjp_rule`.
    Example:
        >>> import fnbackprop as fb
        >>> from fnbackprop.jaxprs.types import Primitive
        >>> cube = Primitive("cube")
        >>> _ = cube.def_impl(lambda x: x * x * x), cube.def_abstract_eval(lambda x: x)
        >>> @fb.derivative(cube)
        ... def cube_vjp(x):
        ...     return 3 * x * x
        >>> float(fb.grad(cube.bind)(2.0))
        12.0
    """
    require_known([primitive], _entries)

    def register(function: Callable) -> Callable:
        _register(
            primitive, _times_cotangent(parse(function, signature, wrt, adapt or of_jax_arrays, given), signature)
        )
        return function

    return register


def _register(primitive: str | Primitive, rule: Rule) -> None:
    """Put a rule in the place of the one for the same operand; a rule for all operands goes on serving the others.
    A rule without `given` takes the place of those with it too."""
    old = _entries.get(primitive, Entry())
    replaces = lambda other: rule.given in (None, other.given) and rule.target in (None, other.target)  # noqa: E731
    others = [other for other in old.rules if not replaces(other)]
    _put(primitive, Entry(sorted([rule, *others], key=_breadth), activity=old.activity))


def _breadth(rule: Rule) -> tuple[bool, int, int]:
    """Rules in the order in which they are asked: for a parameter; for one operand, for the rest of them, for all."""
    where = rule.target
    kind, place = (2, 0) if where is None else (1, where.start) if isinstance(where, slice) else (0, where)
    return rule.given is None, kind, place


def _times_cotangent(rule: Rule, signature: str) -> Rule:
    """The VJP of a derivative: dy times dy/dx."""
    operands, outputs = (positions(side) for side in signature.split("->"))
    name, slope = rule.name, rule.call
    if len(outputs) != 1 or (rule.wrt is None and list(operands.values()) != [0]):
        raise TypeError(
            f"the derivative {name} is of one output with respect to one operand: {signature!r} needs wrt=."
        )
    if given := [read for read, place in rule.reads.items() if place.kind == "cotangent"]:
        raise TypeError(f"the derivative {name} reads {given[0]}: a rule that reads a cotangent is a `vjp_rule`.")

    def call(dy, *arguments, **params):
        found = slope(*arguments, **params)
        if isinstance(found, _NUMBERS):
            found = np.array(found, dy.dtype)
        if np.shape(found) not in ((), dy.shape):
            raise TypeError(f"the derivative {name} returned shape {np.shape(found)} for an output of {dy.shape}.")
        return None if found is None else lax.mul(dy, found)

    (output,) = outputs
    reads = {f"d{output}": Argument("cotangent", where=0), **rule.reads}
    return replace(rule, call=call, reads=reads, is_derivative=True)


def structured_rule(*primitives: str | Primitive, activity: Callable | None = None) -> Callable:
    """Register the rule of a primitive that holds jaxprs, which must walk them itself (jit, scan, cond ...).

    The function is called before anything runs, as `rule(engine, equation, active, wanted)`, and returns a
    `Structured`. `activity(engine, equation, active)` says which outputs depend on active operands (default: all).
    `rules/calls/call.py` is the worked example: how to write one, step by step, beside the simplest one.
    """

    def register(function: Callable) -> Callable:
        for primitive in primitives:
            _put(primitive, Entry(structured=function, activity=activity))
        return function

    return register


class Structured(NamedTuple):
    """What a structured rule returns for one equation.

    forward(*operands) -> (outputs, residuals), where the residuals are a pytree of arrays;
    backward(residuals, cotangents) -> a cotangent for each operand. None stands for zero in both directions;
    has_cotangent: which operands can get a cotangent that is not None;
    describe(where) -> rows for `fb.residuals`, what is saved in there and why; None: nothing to say.
    """

    forward: Callable
    backward: Callable
    has_cotangent: tuple[bool, ...]
    describe: Callable | None = None


def nondifferentiable(*primitives: str | Primitive, reason: str) -> None:
    """Declare that no gradient flows through these primitives: their outputs are constants to the chain rule.

    Args:
        *primitives: their names, or the `Primitive`s themselves.
        reason: why not, for `fb.coverage`.
    Returns:
        None.
    Raises:
        ValueError: as for `vjp_rule`.
    Example:
        >>> import fnbackprop as fb
        >>> from fnbackprop.jaxprs.types import Primitive
        >>> rank = Primitive("rank_of")
        >>> _ = rank.def_impl(lambda x: x), rank.def_abstract_eval(lambda x: x)
        >>> fb.nondifferentiable(rank, reason="it is piecewise constant")
        >>> print(fb.grad(lambda x: x * rank.bind(x))(3.0))
        3.0
    """
    require_known(primitives, _entries)
    for primitive in primitives:
        _put(primitive, Entry(no_gradient=reason))


def unsupported(*primitives: str | Primitive, reason: str) -> None:
    """Declare that these primitives have no rule here, and why; a gradient through one is a MissingRule."""
    for primitive in primitives:
        _put(primitive, Entry(unsupported=reason))


def rule_of_last_resort(find: Callable[[Primitive], Entry | None]) -> Callable:
    """Register what gives an entry to a primitive that has none."""
    global _last_resort
    _last_resort = find
    return find


def lookup(primitive: Primitive) -> Entry | None:
    """The entry of a primitive: registered by the object, else by its name, else the last resort's."""
    return _entries.get(primitive) or _entries.get(primitive.name) or _last_resort(primitive)


def is_foreign(primitive: Primitive) -> bool:
    """Whether nothing was registered here for a primitive: another package's, of which no trait is known either."""
    return primitive not in _entries and primitive.name not in _entries


def registered() -> dict[str | Primitive, Entry]:
    """All entries, by primitive or name (a copy)."""
    return dict(_entries)
