"""Properties that a right gradient has whatever its values are.

Those of the contract of a backward pass (level L0), and that it is the same in other environments (L4): without jit,
under vmap and remat, with loops unrolled, sharded.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.evaluate import bind, interpret
from fnbackprop.jaxprs.limited_loops import TooManyIterations
from fnbackprop.jaxprs.types import close_jaxpr

from .arrays import distance, is_floating, to_float64
from .gradient_sources import value_and_grad_by
from .program import Program, TracedProgram, first_line
from .results import Check, Property, Verdict

SCALE = -2.0  # a power of two: scaling by it rounds nothing
REPEATS = 3


class LeafPair(NamedTuple):
    """A floating leaf of a gradient beside the same leaf of the usual gradient; path: for people, or empty."""

    path: str
    found: np.ndarray
    usual: np.ndarray


def leaf_pairs(found: Any, usual: Any) -> list[LeafPair]:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves_with_path(usual), strict=True)
    return [
        LeafPair(jax.tree_util.keystr(path), np.asarray(leaf), np.asarray(own))
        for leaf, (path, own) in pairs
        if is_floating(own)
    ]


# ---------------------------------------------------------------- the contract


def check_contract(
    program: Program,
    function: Callable,
    first: tuple[Any, Any],
    plain: Any,
    floors: tuple[float, Sequence[float]],
    forwards: Sequence[str] = (),
) -> tuple[Check, ...]:
    """The four promises of a backward pass.

    Args:
      function: the compiled `(inputs, others, cotangent) -> (value, gradients)`.
      first: what it gave for a cotangent of 1.
      plain: the function's value without a backward pass.
      floors: the relative error that rounding explains in the value, and in each floating leaf.
      forwards: the user's rules whose forward computes something else than their function, each with its line.
    """

    def call(cotangent: float) -> tuple[Any, Any]:
        return function(program.inputs, program.others, np.float32(cotangent))

    again = call(1.0)
    if not _identical(first, again):
        worst = max((distance(pair.found, pair.usual) for pair in leaf_pairs(again[1], first[1])), default=0.0)
        reason = f"two calls with the same arguments differ, by {worst:.1e} of the gradient"
        return (Check(Property.REPEATABLE, Verdict.NONDETERMINISTIC, reason, worst, 0.0),)
    return (
        Check(Property.REPEATABLE, Verdict.PASS),
        _same_value(first[0], plain, floors[0], forwards),
        _with_cotangent(Property.ZERO, call, 0.0, lambda found: _zero(leaf_pairs(found, first[1]))),
        _with_cotangent(Property.LINEAR, call, SCALE, lambda found: _linear(leaf_pairs(found, first[1]), floors[1])),
    )


def _with_cotangent(name: Property, call: Callable, cotangent: float, check: Callable[[Any], Check]) -> Check:
    """The check of the gradient with another cotangent, for which a loop of a backward pass may not converge."""
    try:
        return check(call(cotangent)[1])
    except TooManyIterations as error:
        return Check(name, Verdict.SKIPPED, first_line(error))


def _identical(one: Any, two: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(np.array_equal(to_float64(a), to_float64(b), equal_nan=True) for a, b in pairs if is_floating(a))


def _same_value(value: Any, plain: Any, floor: float, forwards: Sequence[str]) -> Check:
    if not (np.isfinite(value) and np.isfinite(plain)):
        return Check(Property.SAME_VALUE, Verdict.SKIPPED, "the value is not finite")
    error = distance(value, plain)
    if error <= floor:
        return Check(Property.SAME_VALUE, Verdict.PASS, "", error, floor)
    reason = f"with a backward pass the function's value is {float(value):.6g}, without {float(plain):.6g}"
    if forwards:
        reason = f"{reason}; {'; '.join(forwards)}: its forward computes something else than its function"
    return Check(Property.SAME_VALUE, Verdict.FAIL, reason, error, floor)


def _zero(pairs: Sequence[LeafPair]) -> Check:
    for path, leaf, usual in pairs:
        if np.isfinite(usual).all() and np.any(leaf):
            count = np.count_nonzero(leaf)
            reason = f"the gradient{_at(path)} of zero times the function has {count} elements that are not 0"
            return Check(Property.ZERO, Verdict.FAIL, reason)
    return Check(Property.ZERO, Verdict.PASS)


def _linear(pairs: Sequence[LeafPair], floors: Sequence[float]) -> Check:
    for (path, leaf, usual), floor in zip(pairs, floors, strict=True):
        if not np.isfinite(usual).all():
            continue
        error = distance(leaf, SCALE * to_float64(usual))
        if error > floor:
            reason = f"{SCALE:g} times the cotangent does not give {SCALE:g} times the gradient{_at(path)}"
            return Check(Property.LINEAR, Verdict.FAIL, reason, error, floor)
    return Check(Property.LINEAR, Verdict.PASS)


def _at(path: str) -> str:
    return f" at {path}" if path else ""


# ---------------------------------------------------------------- environments

Gradient = Callable[[str], Any]  # the gradient in one environment, by the "manual" or the "automatic" backward


def check_environment(
    program: Program, traced: TracedProgram, manual: Any, bounds: Sequence[float], say: Callable[[str], None]
) -> tuple[Check, ...]:
    """The manual gradient in each environment against that of the plain compiled function.

    Args:
      manual: that gradient.
      bounds: for each floating leaf, the relative error that rounding explains.
    """
    environments: dict[Property, Gradient] = {
        Property.WITHOUT_JIT: lambda by: _gradient(by, program.function)(program.inputs, program.others)[1],
        Property.VMAP: lambda by: _batched(by, program),
        Property.CHECKPOINT: lambda by: _compiled(by, program, jax.checkpoint(program.function)),
        Property.REPEATED: lambda by: _compiled(by, program, program.function),
    }
    checks = []
    if any(e.primitive.name == "scan" for e in _equations(traced.closed.jaxpr)):
        environments[Property.UNROLLED] = lambda by: _compiled(by, program, _unrolled(traced))
    else:
        checks.append(Check(Property.UNROLLED, Verdict.SKIPPED, "there is no scan"))
    if jax.device_count() > 1:
        environments[Property.SHARDED] = lambda by: _sharded(by, program)
    else:
        checks.append(Check(Property.SHARDED, Verdict.SKIPPED, "there is one device"))
    for name, gradient in environments.items():
        say(name)
        try:
            differing = _differing_calls(program) if name is Property.REPEATED else None
            check = differing or _same_gradient(name, gradient("manual"), manual, bounds)
        except Exception as error:  # the user's function may not be fit for it; then neither is JAX's gradient
            check = _refused(name, gradient, error)
        checks.append(check)
    return tuple(checks)


def _refused(name: Property, gradient: Gradient, error: Exception) -> Check:
    said = first_line(error)
    try:
        gradient("automatic")
    except Exception:
        return Check(name, Verdict.SKIPPED, f"jax.grad fails in this environment too ({said})")
    return Check(name, Verdict.FAIL, f"jax.grad works in this environment, the manual gradient fails: {said}")


def _same_gradient(name: Property, found: Any, manual: Any, bounds: Sequence[float]) -> Check:
    """Leaf by leaf, where the usual gradient is finite."""
    errors = [
        (pair.path, distance(pair.found, pair.usual), bound)
        for pair, bound in zip(leaf_pairs(found, manual), bounds, strict=True)
        if np.isfinite(pair.usual).all()
    ]
    for path, error, bound in errors:
        if not error <= bound:
            return Check(name, Verdict.FAIL, f"the gradient at {path or 'the input'} differs", error, bound)
    return Check(name, Verdict.PASS, "", max((e for _, e, _ in errors), default=0.0), max(bounds, default=0.0))


def _differing_calls(program: Program) -> Check | None:
    """The failed check if several calls of one compiled program differ in any bit."""
    function = jax.jit(_gradient("manual", program.function))
    first, *others = (function(program.inputs, program.others)[1] for _ in range(REPEATS + 1))
    for other in others:
        for path, a, b in leaf_pairs(other, first):
            if not np.array_equal(to_float64(a), to_float64(b), equal_nan=True):
                reason = f"the gradient at {path} differs from call to call"
                return Check(Property.REPEATED, Verdict.NONDETERMINISTIC, reason)
    return None


def _gradient(by: str, function: Callable) -> Callable:
    return value_and_grad_by(by)(function, allow_int=True)


def _compiled(by: str, program: Program, function: Callable) -> Any:
    return jax.jit(_gradient(by, function))(program.inputs, program.others)[1]


def _batched(by: str, program: Program) -> Any:
    """Of two equal examples; returns the second's."""
    stacked = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), (program.inputs, program.others))
    gradient = _gradient(by, program.function)

    def floating(inputs, others):
        return [g for g in jax.tree.leaves(gradient(inputs, others)[1]) if is_floating(g)]

    found = iter(jax.jit(jax.vmap(floating))(*stacked))
    return jax.tree.map(lambda x: next(found)[1] if is_floating(x) else x, program.inputs)


def _sharded(by: str, program: Program) -> Any:
    """With the data's first axis over all devices where it can be divided; what is differentiated is copied to all."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    parts, copies = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*s)) for s in (("data",), ()))

    def put(x):
        divisible = np.ndim(x) and np.shape(x)[0] % jax.device_count() == 0 and np.size(x)
        return jax.device_put(x, parts if divisible else copies)

    inputs = jax.tree.map(lambda x: jax.device_put(x, copies), program.inputs)
    return jax.jit(_gradient(by, program.function))(inputs, list(map(put, program.others)))[1]


def _unrolled(traced: TracedProgram) -> Callable:
    """The program as a function, with every scan at the top, or in a call, unrolled."""

    def apply(equation: Any, operands: list[Any]) -> Sequence[Any]:
        params = equation.params
        if equation.primitive.name == "jit":
            return run(params["jaxpr"], operands)
        if equation.primitive.name == "scan":
            return equation.primitive.bind(*operands, **{**params, "unroll": max(params["length"], 1)})
        return bind(equation, operands)

    def run(closed: Any, operands: Sequence[Any]) -> list[Any]:
        closed = close_jaxpr(closed)
        return interpret(closed.jaxpr, closed.consts, operands, apply)

    return lambda inputs, others: run(traced.closed, jax.tree.leaves((inputs, others)))[0]


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name == "jit":
            yield from _equations(equation.params["jaxpr"].jaxpr)
