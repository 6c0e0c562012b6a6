"""A random program as data: a list of instructions over a table of values, which prints as Python and runs as printed.

Values are numbered: first the inputs, then one for each instruction.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

# What the source of a program may name; the functions that it defines are added, under names made of their text.
PREAMBLE = """import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.experimental import sparse
from jax.sharding import PartitionSpec as P
import fnbackprop as fb
MESH = jax.make_mesh((1,), ("x",))
EXPLICIT = jax.make_mesh((1,), ("e",), axis_types=(jax.sharding.AxisType.Explicit,))
"""
NAMESPACE: dict[str, Any] = {}  # where programs are defined
exec(PREAMBLE, NAMESPACE)


class Type(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Instruction:
    """One expression: `{0}`, `{1}` in the template are the operands, `{F}`, `{G}`, `{N}` the functions it calls."""

    template: str
    operands: tuple[int, ...] = ()
    bodies: tuple["Program", ...] = ()
    definition: str = ""


@dataclass(frozen=True)
class Program:
    """Input types, instructions, and which values are returned."""

    types: tuple[Type, ...]
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of instructions, those of bodies included."""
        return sum(1 + sum(body.size for body in step.bodies) for step in self.instructions)


@dataclass(frozen=True)
class Case:
    """A program, the numbers to run it on, and the seed of its cotangents."""

    program: Program
    inputs: tuple[Any, ...]
    seed: int = 0


def type_of(value: Any) -> Type:
    return Type(np.dtype(value.dtype).name, tuple(value.shape))


def partitions(x: Any) -> tuple[Any, ...] | None:
    """Over which mesh axis each axis of a value is divided, by its type; None without an explicit mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    aval = x if isinstance(x, jax.core.ShapedArray) else jax.typeof(x)
    return tuple(aval.sharding.spec)


def sharding(parts: tuple[Any, ...] | None) -> NamedSharding | None:
    return None if parts is None else NamedSharding(NAMESPACE["EXPLICIT"], PartitionSpec(*parts))


def place(x: Any, parts: tuple[Any, ...] | None) -> Any:
    """A value so divided; None: as it is."""
    return x if parts is None else jax.device_put(x, sharding(parts))


def source(program: Program, name: str = "program") -> tuple[str, dict[str, str]]:
    """The program's own `def`, and the definitions that it needs before it, by name in their order."""
    return _source(program, name, returns_tuple=True)


@lru_cache(maxsize=4096)
def _source(program: Program, name: str, returns_tuple: bool) -> tuple[str, dict[str, str]]:
    defined: dict[str, str] = {}
    count = len(program.types)
    lines = [f"def {name}({', '.join(f'x{i}' for i in range(count))}):"]
    for number, step in enumerate(program.instructions):
        lines.append(f"    x{count + number} = {_expression(step, defined)}")
    returned = ", ".join(f"x{i}" for i in program.outputs)
    lines.append(f"    return {f'({returned},)' if returns_tuple else returned}")
    return "\n".join(lines), defined


def _expression(step: Instruction, defined: dict[str, str]) -> str:
    names = {}
    for letter, body in zip("FG", step.bodies, strict=False):
        text, inner = _source(body, "{name}", returns_tuple=False)
        names[letter] = _name("body", text)
        defined.update(inner)
        defined[names[letter]] = text.replace("{name}", names[letter])
    if step.definition:
        text = _fill(step.definition, names)
        names["N"] = _name("call", text)
        defined[names["N"]] = _fill(text, names)
    return _fill(step.template, names | {str(i): f"x{operand}" for i, operand in enumerate(step.operands)})


def _name(kind: str, text: str) -> str:
    return f"{kind}_{hashlib.sha1(text.encode()).hexdigest()[:6]}"


def _fill(text: str, names: dict[str, str]) -> str:
    for key, value in names.items():
        text = text.replace("{" + key + "}", value)
    return text


def function(program: Program) -> Callable:
    """The program as a Python function that returns a tuple."""
    text, defined = source(program)
    return _executed(text, defined, "program")


def _executed(text: str, defined: dict[str, str], name: str) -> Callable:
    """Define what is not yet defined, then the function itself, which is kept by the caller alone."""
    for each, definition in defined.items():
        if each not in NAMESPACE:
            exec(definition, NAMESPACE)
    local: dict[str, Any] = {}
    exec(text, NAMESPACE, local)
    return local[name]


@lru_cache(maxsize=8192)
def instruction_function(step: Instruction) -> Callable:
    """An instruction as a function of its operands."""
    defined: dict[str, str] = {}
    text = _expression(replace(step, operands=tuple(range(len(step.operands)))), defined)
    names = ", ".join(f"x{i}" for i in range(len(step.operands)))
    return _executed(f"def step({names}):\n    return {text}", defined, "step")


def evaluate(step: Instruction, values: Sequence[Any]) -> Any:
    """The value of one instruction on the values before it."""
    function = instruction_function(replace(step, operands=tuple(range(len(step.operands)))))
    operands = [values[i] for i in step.operands]
    try:
        return jnp.asarray(function(*operands))
    except ValueError as error:
        if "Please wrap" not in str(error):
            raise
        return jnp.asarray(jax.jit(function)(*operands))  # a reference within a shard_map does not run eagerly


def evaluate_all(case: Case) -> list[Any]:
    """All values of a program on its inputs."""
    values = list(case.inputs)
    for step in case.program.instructions:
        values.append(evaluate(step, values))
    return values


def script(case: Case, cotangents: Sequence[Any]) -> str:
    """Runnable Python that shows both gradients."""
    text, defined = source(case.program)
    return "\n\n".join(
        [
            PREAMBLE + 'jax.config.update("jax_enable_x64", True)' + _mesh(),
            *defined.values(),
            text,
            f"inputs = ({''.join(f'{_literal(x)}, ' for x in case.inputs)})\n"
            f"cotangents = ({''.join(f'{_literal(ct)}, ' for ct in cotangents)})\n"
            "for vjp in (fb.vjp, jax.vjp):\n    print(vjp(program, *inputs)[1](cotangents))",
        ]
    )


def _mesh() -> str:
    return "" if jax.sharding.get_abstract_mesh().empty else "\njax.set_mesh(EXPLICIT)"


def _literal(x: Any) -> str:
    values, parts = np.asarray(x).tolist(), partitions(x)
    if getattr(x, "weak_type", False):
        return f"jnp.asarray({values!r})"
    array = f"jnp.array({values!r}, {str(np.asarray(x).dtype)!r})"
    return array if parts is None else f"jax.device_put({array}, jax.NamedSharding(EXPLICIT, P{parts!r}))"
