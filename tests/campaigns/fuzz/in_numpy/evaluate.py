"""A jaxpr as a function of numpy arrays: loops and branches in Python, each primitive as a numpy function of its name.

A primitive that has none here is given to JAX, which compiles it for each shape once. Each value is checked against its
variable's shape and dtype, so that an equation that JAX would refuse to compile does not pass.

    run = prepared(jax.make_jaxpr(f)(x, y))
    (z,) = run([x, y])
    with rounded_anew(seed):
        (other,) = run([x, y])
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from fnbackprop.comparing.reference.inner_rounding import EXACT
from fnbackprop.jaxprs.evaluate import bind, bind_flat
from fnbackprop.jaxprs.primitives import Trait, has
from fnbackprop.jaxprs.types import ClosedJaxpr, Equation, Literal, Primitive
from fnbackprop.jaxprs.views import Call, Cond, Scan, ShardMap, While

from .arrays import ARRAYS
from .indexing import INDEXING
from .pointwise import POINTWISE
from .references import REFERENCES

Run = Callable[[Sequence[Any]], list[Any]]  # values of the operands -> values of the results

FUNCTIONS: dict[str, Callable[..., Any]] = POINTWISE | ARRAYS | INDEXING
KEYS = jax.dtypes.extended  # random keys, which numpy has not


class IllTyped(Exception):
    """An equation gave a value of another shape or dtype than its variable has."""


_signs: np.random.Generator | None = None  # of the last bits of results, within `rounded_anew`


@contextmanager
def rounded_anew(seed: int) -> Iterator[None]:
    """The last bit of each result that is rounded is another one, up or down at random, as in another order of the
    same operations. Where large numbers nearly cancel, the last bits of a program's inputs do not show it."""
    global _signs
    _signs = np.random.default_rng(seed)
    try:
        yield
    finally:
        _signs = None


def _rounded(equation: Equation, value: Any) -> Any:
    """A result with another last bit."""
    if _signs is None or not jnp.issubdtype(value.dtype, np.inexact) or equation.primitive.name in EXACT:
        return value
    signs = _signs.choice([-1, 1], size=value.shape)
    return (value * (1 + np.finfo(value.dtype).eps * signs)).astype(value.dtype)


def prepared(closed: ClosedJaxpr) -> Run:
    """A closed jaxpr as a function of a list of operands."""
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, map(_as_numpy, closed.consts), strict=True))

    def key(atom: Any) -> Any:
        if not isinstance(atom, Literal):
            return atom
        known[id(atom)] = np.asarray(atom.val, atom.aval.dtype)
        return id(atom)

    steps = [(equation, _function(equation), [key(atom) for atom in equation.invars]) for equation in jaxpr.eqns]
    results = [key(atom) for atom in jaxpr.outvars]

    def run(operands: Sequence[Any]) -> list[Any]:
        env = known.copy()
        env.update(zip(jaxpr.invars, operands, strict=True))
        for equation, function, reads in steps:
            outputs = function([env[i] for i in reads])
            for var, value in zip(equation.outvars, outputs, strict=True):
                if not _fits(var.aval, value):
                    raise IllTyped(f"{equation.primitive.name}: {value.dtype}{value.shape} for {var.aval}")
                env[var] = value
        return [env[i] for i in results]

    return run


def _as_numpy(x: Any) -> Any:
    keeps = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, KEYS)
    return x if keeps or isinstance(jax.typeof(x), jax.ref.AbstractRef) else np.asarray(x)


def _fits(aval: Any, value: Any) -> bool:
    if not isinstance(value, np.ndarray | np.generic):
        return True  # a key, or a reference
    return value.shape == aval.shape and value.dtype == aval.dtype


def _function(equation: Equation) -> Run:
    """What an equation does with the values of its operands."""
    name = equation.primitive.name
    if has(equation, Trait.CALL) or has(equation, Trait.CUSTOM_RULE):
        return prepared(Call.of(equation).body)
    if name in _HOLDING:
        return _HOLDING[name](equation)
    if name in REFERENCES:
        return lambda operands: REFERENCES[name](equation, operands)
    function = _leaf_function(equation)
    return lambda operands: [_rounded(equation, y) for y in function(operands)]


def _leaf_function(equation: Equation) -> Run:
    """What an equation that holds no jaxpr does."""
    name = equation.primitive.name
    if name not in FUNCTIONS or any(jnp.issubdtype(atom.aval.dtype, KEYS) for atom in equation.invars):
        return lambda operands: _by_jax(equation, operands)
    function, params = FUNCTIONS[name], equation.params
    if equation.primitive.multiple_results:
        return lambda operands: function(*operands, **params)
    return lambda operands: [function(*operands, **params)]


def _by_jax(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    operands = [_laid_out(x, atom.aval) for x, atom in zip(operands, equation.invars, strict=True)]
    try:
        function = _compiled(equation.primitive, tuple(equation.params.items()))
    except TypeError:  # parameters that are no key
        return list(map(_as_numpy, bind(equation, operands)))
    return list(map(_as_numpy, function(*operands)))


@lru_cache(maxsize=4096)
def _compiled(primitive: Primitive, params: tuple[tuple[str, Any], ...]) -> Callable:
    """A primitive as one compiled function: what JAX runs of it by itself may be compiled anew at each call."""
    return jax.jit(lambda *operands: bind_flat(primitive, dict(params), operands))


def _laid_out(x: Any, aval: Any) -> Any:
    """A value on the devices of an explicit mesh as its type says, without one as it is."""
    mesh = jax.sharding.get_mesh()
    return (
        x if mesh.empty or jnp.issubdtype(x.dtype, KEYS) else jax.device_put(x, NamedSharding(mesh, aval.sharding.spec))
    )


# ---------------------------------------------------------------- what holds jaxprs


def _scan(equation: Equation) -> Run:
    loop = Scan.of(equation)
    body = prepared(loop.body)
    ys_types = [v.aval for v in equation.outvars[loop.num_carry :]]

    def run(operands: Sequence[Any]) -> list[Any]:
        consts, carry, xs = loop.split(operands)
        rows: list[Any] = [None] * loop.length
        for step in reversed(range(loop.length)) if loop.reverse else range(loop.length):
            carry, rows[step] = loop.split_results(body([*consts, *carry, *(x[step] for x in xs)]))
        columns = zip(*rows, strict=True) if rows else (() for _ in ys_types)
        stacked = [np.stack(ys) if ys else np.empty(t.shape, t.dtype) for t, ys in zip(ys_types, columns, strict=True)]
        return [*carry, *stacked]

    return run


def _while(equation: Equation) -> Run:
    loop = While.of(equation)
    condition, body = prepared(loop.condition), prepared(loop.body)

    def run(operands: Sequence[Any]) -> list[Any]:
        condition_consts, body_consts, carry = loop.split(operands)
        while (going := condition([*condition_consts, *carry])[0]).any():
            new = body([*body_consts, *carry])
            carry = [np.where(_like(going, x), y, x) for x, y in zip(carry, new, strict=True)] if going.ndim else new
        return list(carry)

    return run


def _like(flags: Any, x: Any) -> Any:
    """The flags of a batched loop's examples, beside a carry."""
    return flags.reshape(flags.shape + (1,) * (x.ndim - flags.ndim))


def _cond(equation: Equation) -> Run:
    choice = Cond.of(equation)
    branches = list(map(prepared, choice.branches))

    def run(operands: Sequence[Any]) -> list[Any]:
        index, operands = choice.split(operands)
        return branches[choice.taken(index)](operands)

    return run


def _shard_map(equation: Equation) -> Run:
    """On a mesh of one device, whose pieces are the whole arrays."""
    return prepared(ShardMap.of(equation).body)


def _linear_solve(equation: Equation) -> Run:
    """The user's solver, on its own constants and the right-hand side."""
    lengths, solver = equation.params["const_lengths"], prepared(equation.params["jaxprs"].solve)
    before = lengths.matvec + lengths.vecmat
    end = sum(lengths)

    def run(operands: Sequence[Any]) -> list[Any]:
        return solver([*operands[before : before + lengths.solve], *operands[end:]])

    return run


_HOLDING: dict[str, Callable[[Equation], Run]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
    "custom_linear_solve": _linear_solve,
}
