"""Draw a random program from (seed, number), evaluating each instruction as it is added.

The values decide whether an instruction stays: finite, of moderate size, of the few shapes that programs use (so that
XLA's compiled operations are used again), and off the kinks and poles of its operation.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax._src.core import ShardingTypeError

from .operations import FAMILIES, Operation
from .programs import Case, Instruction, Program, Type, partitions, place, type_of
from .tiers import COMPILED, Tier
from .wrappers import SIGNATURES, WRAPPERS, Wrapper

SHAPES = ((), (3,), (4,), (3, 4), (3, 3), (2, 3, 4))
DTYPES = ("float64", "complex128", "bool", "int32", "int64")
LARGEST = 30.0
NESTED_SHARE = 0.06  # of the instructions; they compile
POOL = 6  # bodies for each signature and seed
MARGIN = 1e-4  # how far from a kink

Kind = Callable[[Type, Sequence[Type]], bool]

KINDS: dict[str, Kind] = {
    "float": lambda t, before: t.dtype == "float64",
    "array": lambda t, before: t.dtype == "float64" and len(t.shape) > 0,
    "scalar": lambda t, before: t == Type("float64", ()),
    "vector": lambda t, before: t.dtype == "float64" and len(t.shape) == 1,
    "matrix": lambda t, before: t.dtype == "float64" and len(t.shape) == 2,
    "like": lambda t, before: t == Type("float64", before[0].shape),
    "broadcast": lambda t, before: t.dtype == "float64" and _broadcasts(t.shape, before[0].shape),
    "times": lambda t, before: t.dtype == "float64" and len(t.shape) > 0 and t.shape[0] == before[0].shape[-1],
    "bool": lambda t, before: t.dtype == "bool" and (not before or t.shape == before[0].shape),
    "index": lambda t, before: t == Type("int32", (3,)),
    "complex": lambda t, before: t.dtype == "complex128" and (not before or t.shape == before[0].shape),
}


def _broadcasts(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(a == b for a, b in zip(reversed(shape), reversed(other), strict=False))


def _matches(kind: str, found: Type, before: Sequence[Type]) -> bool:
    if kind.startswith("("):
        return found.dtype == "float64" and str(found.shape) == kind
    return KINDS[kind](found, before)


def _distinct(x: np.ndarray) -> bool:
    return x.size < 2 or bool(np.min(np.diff(np.sort(x, axis=None))) > MARGIN)


def _fraction(x: np.ndarray) -> np.ndarray:
    """How far each number is from a whole one."""
    return np.abs(x - np.round(x))


GUARDS: dict[str, Callable[..., bool]] = {
    "away from 0": lambda x, *_: bool(np.min(np.abs(x)) > 0.05),
    "last away from 0": lambda *xs: bool(np.min(np.abs(xs[-1])) > 0.05),
    "quotient apart": lambda x, y: bool(np.min(np.abs(y)) > 0.05) and bool(np.min(_fraction(x / y)) > MARGIN),
    "positive": lambda *xs: all(bool(np.min(x) > 0.05) for x in xs),
    "inside 1": lambda x, *_: bool(np.max(np.abs(x)) < 0.9),
    "small": lambda x, *_: bool(np.max(np.abs(x)) < 1.3),
    "apart": lambda x, y, *_: bool(np.min(np.abs(x - y)) > MARGIN),
    "distinct": lambda *xs: all(map(_distinct, xs)),
}

# What JAX raises of an operation that operands do not fit; the last four: where it has no rule within `jax.grad`,
# where it differentiates a reference, where it cannot tell how a result is laid out on an explicit mesh, and where a
# loop sums over an axis of vmap within a shard_map.
REFUSALS = (TypeError, ValueError, IndexError, NotImplementedError, AttributeError, ShardingTypeError, AssertionError)

# What an operation on operands of known types gives, or None where it fails or leaves the shapes in use.
_results: dict[tuple[Tier, Instruction, tuple[Type, ...], tuple[Any, ...]], Type | None] = {}


class Source(NamedTuple):
    """Where programs are drawn from: the seed of the pool of bodies, and how instructions are evaluated."""

    seed: int
    tier: Tier


def generate(seed: int, number: int, length: int = 10, tier: Tier = COMPILED) -> Case:
    """Program `number` of `seed`, with about `length` instructions, and its inputs."""
    pool = Source(seed, tier)
    rng = random.Random(f"{seed}/{number}")
    shapes = [(3, 4), *rng.sample(SHAPES, 3)]
    values = [_input(shape, rng) for shape in shapes]
    if rng.random() < 0.5:
        values.append(jnp.asarray([rng.randrange(3) for _ in range(3)], jnp.int32))
    inputs = tuple(values)
    steps = []
    for _ in range(rng.randint(2, length)):
        nested = rng.random() < NESTED_SHARE
        step = _nested_step(rng, values, pool, depth=1) if nested else _step(rng, values, pool)
        if step is not None:
            steps.append(step)
    program = Program(tuple(map(type_of, inputs)), tuple(steps), ())
    outputs = _sinks(program, values)
    return Case(Program(program.types, program.instructions, outputs), inputs, number)


def _input(shape: tuple[int, ...], rng: random.Random) -> Any:
    """Numbers of size 0.1 to about 2, of both signs or, now and then, positive; on an explicit mesh mostly divided.

    Without one, a single number is often of weak type.
    """
    draw = np.random.default_rng(rng.getrandbits(32))
    signs = 1 if rng.random() < 0.3 else draw.choice([-1, 1], size=shape)
    x = jnp.asarray(signs * (0.1 + np.abs(draw.normal(size=shape)) * 0.8), jnp.float64)
    if partitions(x) is None:
        return jnp.asarray(float(x)) if not shape and rng.random() < 0.5 else x  # as of a Python number: a weak type
    axis = rng.randrange(-1, len(shape))
    return place(x, tuple("e" if i == axis else None for i in range(len(shape))))


def _sinks(program: Program, values: Sequence[Any]) -> tuple[int, ...]:
    """The values that nothing uses and that may have a cotangent; the last floating one if there is none."""
    used = {i for step in program.instructions for i in step.operands}
    inexact = [i for i, v in enumerate(values) if jnp.issubdtype(v.dtype, np.inexact)]
    return tuple(i for i in inexact if i >= len(program.types) and i not in used) or (inexact[-1],)


def _step(rng: random.Random, values: list[Any], pool: Source) -> Instruction | None:
    """Draw operations until one applies; its value is appended."""
    for _ in range(20):
        (family,) = rng.choices([f for _, f in FAMILIES], [w for w, _ in FAMILIES])
        operation = rng.choice(family)
        operands = _operands(rng, operation.operands, values)
        if operands is None:
            continue
        step = Instruction(_template(rng, operation, values[operands[0]].ndim), operands)
        if _accepted(step, operation.guard, values, pool.tier):
            return step
    return None


def _operands(rng: random.Random, kinds: Sequence[str], values: Sequence[Any]) -> tuple[int, ...] | None:
    """Values of these kinds, the later ones preferred, so that programs are deep."""
    chosen: list[int] = []
    for kind in kinds:
        before = [type_of(values[i]) for i in chosen]
        fitting = [i for i, v in enumerate(values) if _matches(kind, type_of(v), before)]
        if not fitting:
            return None
        chosen.append(fitting[-1] if rng.random() < 0.3 else rng.choice(fitting))
    return tuple(chosen)


def _template(rng: random.Random, operation: Operation, rank: int) -> str:
    text = operation.template.replace("{axis}", str(rng.randrange(max(rank, 1))))
    for name, choices in operation.choices.items():
        if "{" + name + "}" in text:
            text = text.replace("{" + name + "}", str(rng.choice(choices)))
    return text


def _accepted(step: Instruction, guard: str | None, values: list[Any], tier: Tier) -> bool:
    """Whether the instruction applies to these values; if so, its value is appended."""
    operands = [values[i] for i in step.operands]
    unplaced = Instruction(step.template, (), step.bodies, step.definition)
    key = tier, unplaced, tuple(map(type_of, operands)), tuple(map(partitions, operands))
    if _results.get(key, True) is None:
        return False
    if guard and not GUARDS[guard](*(np.asarray(x) for x in operands if jnp.issubdtype(x.dtype, np.inexact))):
        return False
    try:
        value = tier.evaluate(step, values)
    except REFUSALS:
        _results[key] = None
        return False
    found = type_of(value)
    _results[key] = found if found.dtype in DTYPES and found.shape in SHAPES else None
    if _results[key] is None or not _moderate(np.asarray(value)):
        return False
    values.append(value)
    return True


def _moderate(value: np.ndarray) -> bool:
    return not np.issubdtype(value.dtype, np.inexact) or bool(np.all(np.abs(value) < LARGEST))  # false for NaN


# ---------------------------------------------------------------- nested programs


def _nested_step(rng: random.Random, values: list[Any], pool: Source, depth: int) -> Instruction | None:
    """A wrapper around bodies of the pool, on operands that fit; tried some times."""
    for _ in range(10):
        wrapper, signature = rng.choice(WRAPPERS), rng.choice(SIGNATURES)
        operands = _wrapped_operands(rng, wrapper, signature, values)
        if operands is None:
            continue
        bodies = tuple(_body(pool, signature, rng.randrange(POOL), depth) for _ in range(_body_count(wrapper)))
        step = Instruction(wrapper.template, operands, bodies, wrapper.definition)
        if _accepted(step, None, values, pool.tier):
            return step
    return None


def _body_count(wrapper: Wrapper) -> int:
    return 2 if "{G}" in wrapper.template + wrapper.definition else 1


def _wrapped_operands(
    rng: random.Random, wrapper: Wrapper, signature: Any, values: Sequence[Any]
) -> tuple[int, ...] | None:
    """Operands of the body's shapes, with one more leading axis where the wrapper maps over it."""
    sizes = range(2, 5) if any(wrapper.stacked) else (0,)
    found = []
    for size in sizes:
        wanted = [(size, *s) if on else s for s, on in zip(signature, wrapper.stacked, strict=True)]
        columns = [[i for i, v in enumerate(values) if type_of(v) == Type("float64", shape)] for shape in wanted]
        found += itertools.product(*columns)
    return rng.choice(found) if found else None


@lru_cache(maxsize=4096)
def _body(pool: Source, signature: Any, number: int, depth: int) -> Program:
    """A body of the pool: a few instructions that end in a value of the first operand's type, some wrapped again."""
    rng = random.Random(f"{pool.seed}/{signature}/{number}/{depth}")
    values = [_input(shape, rng) for shape in signature]
    types = tuple(map(type_of, values))
    steps = []
    for _ in range(rng.randint(2, 4)):
        nested = depth > 0 and rng.random() < 0.15
        step = _nested_step(rng, values, pool, depth - 1) if nested else _step(rng, values, pool)
        steps += [] if step is None else [step]
    last = max(i for i, v in enumerate(values) if type_of(v) == types[0])
    if last < len(types):
        steps.append(Instruction("jnp.sin({0}) * (0.5 + jnp.sum({1}))", (0, 1)))
        last = len(types) + len(steps) - 1
    return prune_body(Program(types, tuple(steps), (last,)))


def prune_body(program: Program) -> Program:
    """Without the instructions that the output does not need; the inputs stay."""
    count = len(program.types)
    needed = set(program.outputs)
    for number in reversed(range(len(program.instructions))):
        if count + number in needed:
            needed.update(program.instructions[number].operands)
    kept = [n for n in range(len(program.instructions)) if count + n in needed]
    place = dict(enumerate(range(count))) | {count + n: count + new for new, n in enumerate(kept)}
    steps = []
    for n in kept:
        step = program.instructions[n]
        moved = tuple(place[i] for i in step.operands)
        steps.append(Instruction(step.template, moved, step.bodies, step.definition))
    return Program(program.types, tuple(steps), tuple(place[i] for i in program.outputs))
