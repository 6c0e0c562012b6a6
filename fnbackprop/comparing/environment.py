"""The same gradient in other surroundings (L4): without jit, under vmap and remat, with loops unrolled, sharded."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnbackprop.jaxprs.evaluate import bind, read_atom
from fnbackprop.jaxprs.types import close_jaxpr

from .arrays import array_norm, over, to_float64
from .gradient_sources import is_inexact, value_and_grad_by
from .program import Program, TracedProgram
from .results import Check, Verdict
from .show.status_line import first_line

REPEATS = 3
Gradient = Callable[[str], Any]  # by the "manual" or the "automatic" backward


def check_environment(
    program: Program, traced: TracedProgram, manual: Any, bounds: Sequence[float], say: Callable[[str], None]
) -> tuple[Check, ...]:
    """The manual gradient in each of the surroundings against that of the plain compiled function.

    Args:
      manual: that gradient. bounds: for each floating leaf, the relative error that rounding explains.
    """
    surroundings: dict[str, Gradient] = {
        "without jit": lambda by: _gradient(by, program.function)(program.inputs, program.others)[1],
        "under vmap": lambda by: _batched(by, program),
        "under jax.checkpoint": lambda by: _compiled(by, program, jax.checkpoint(program.function)),
        "repeated": lambda by: _repeated(by, program),
    }
    checks = []
    if any(e.primitive.name == "scan" for e in _equations(traced.closed.jaxpr)):
        surroundings["with loops unrolled"] = lambda by: _compiled(by, program, _unrolled(program, traced))
    else:
        checks.append(Check("with loops unrolled", Verdict.SKIPPED, "there is no scan"))
    if jax.device_count() > 1:
        surroundings["with sharded data"] = lambda by: _sharded(by, program)
    else:
        checks.append(Check("with sharded data", Verdict.SKIPPED, "there is one device"))
    for name, gradient in surroundings.items():
        say(name)
        checks.append(_check(name, gradient, manual, bounds))
    return tuple(checks)


def _check(name: str, gradient: Gradient, manual: Any, bounds: Sequence[float]) -> Check:
    try:
        found = gradient("manual")
    except Exception as error:  # the user's function may not be fit for it; then neither is JAX's gradient
        said = first_line(error)
        try:
            gradient("automatic")
        except Exception:
            return Check(name, Verdict.SKIPPED, f"jax.grad cannot be run so either ({said})")
        return Check(name, Verdict.FAIL, f"jax.grad can be run so, the manual gradient cannot: {said}")
    if isinstance(found, Check):
        return found
    pairs = [(path, a, b) for path, a, b in _leaves(found, manual) if np.isfinite(b).all()]
    errors = [over(array_norm(to_float64(a) - to_float64(b)), array_norm(b)) for _, a, b in pairs]
    for (path, _, _), error, bound in zip(pairs, errors, bounds, strict=False):
        if not error <= bound:
            return Check(name, Verdict.FAIL, f"the gradient at {path or 'the input'} differs", error, bound)
    return Check(name, Verdict.PASS, "", max(errors, default=0.0), max(bounds, default=0.0))


def _leaves(found: Any, manual: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    pairs = zip(jax.tree.leaves_with_path(manual), jax.tree.leaves(found), strict=True)
    return [(jax.tree_util.keystr(p), np.asarray(a), np.asarray(b)) for (p, b), a in pairs if is_inexact(b)]


def _gradient(by: str, function: Callable) -> Callable:
    return value_and_grad_by(by)(function, allow_int=True)


def _compiled(by: str, program: Program, function: Callable) -> Any:
    return jax.jit(_gradient(by, function))(program.inputs, program.others)[1]


def _batched(by: str, program: Program) -> Any:
    """Of two equal examples; returns the second's."""
    stacked = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), (program.inputs, program.others))
    gradient = _gradient(by, program.function)

    def floating(inputs, others):
        return [g for g in jax.tree.leaves(gradient(inputs, others)[1]) if is_inexact(g)]

    found = iter(jax.jit(jax.vmap(floating))(*stacked))
    return jax.tree.map(lambda x: next(found)[1] if is_inexact(x) else x, program.inputs)


def _repeated(by: str, program: Program) -> Any:
    """Several calls of one program, which must be identical."""
    function = jax.jit(_gradient(by, program.function))
    first, *others = (function(program.inputs, program.others)[1] for _ in range(REPEATS + 1))
    for other in others:
        for path, a, b in _leaves(other, first):
            if not np.array_equal(to_float64(a), to_float64(b), equal_nan=True):
                return Check("repeated", Verdict.NONDETERMINISTIC, f"the gradient at {path} differs from call to call")
    return first


def _sharded(by: str, program: Program) -> Any:
    """With the data's first axis over all devices where it can be divided; what is differentiated is copied to all."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    parts, copies = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*s)) for s in (("data",), ()))

    def place(x):
        divisible = np.ndim(x) and np.shape(x)[0] % jax.device_count() == 0 and np.size(x)
        return jax.device_put(x, parts if divisible else copies)

    inputs = jax.tree.map(lambda x: jax.device_put(x, copies), program.inputs)
    return jax.jit(_gradient(by, program.function))(inputs, list(map(place, program.others)))[1]


def _unrolled(program: Program, traced: TracedProgram) -> Callable:
    def function(inputs, others):
        return _run_unrolled(traced.closed, jax.tree.leaves((inputs, others)))[0]

    return function


def _run_unrolled(closed: Any, operands: Sequence[Any]) -> list[Any]:
    """The jaxpr with every scan at the top, or in a call, unrolled."""
    closed = close_jaxpr(closed)
    env = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(closed.jaxpr.invars, operands, strict=True))
    for equation in closed.jaxpr.eqns:
        values, params = [read_atom(env, atom) for atom in equation.invars], equation.params
        if equation.primitive.name == "jit":
            outputs = _run_unrolled(params["jaxpr"], values)
        elif equation.primitive.name == "scan":
            outputs = equation.primitive.bind(*values, **{**params, "unroll": max(params["length"], 1)})
        else:
            outputs = bind(equation, values)
        env.update(zip(equation.outvars, outputs, strict=True))
    return [read_atom(env, atom) for atom in closed.jaxpr.outvars]


def _equations(jaxpr: Any) -> Any:
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name == "jit":
            yield from _equations(equation.params["jaxpr"].jaxpr)
