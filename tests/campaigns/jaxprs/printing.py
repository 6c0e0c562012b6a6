"""A canonical text of a jaxpr: equal for two jaxprs that have the same equations in the same order.

Variables are numbered in the order of their definition. Names of functions, source lines and object addresses are left
out; constants are shown by a hash of their bytes.
"""

import functools
import hashlib
import itertools
import re
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

# Parameters that hold a function, or say what a function is called or where it stands.
WITHOUT_MEANING = {("jit", "name"), ("pjit", "name"), ("closed_call", "name")}
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def canonical(closed: Any) -> str:
    """The text of a closed jaxpr, one line for each equation, inner jaxprs indented below theirs."""
    return "\n".join(_lines(closed.jaxpr, closed.consts))


def _lines(jaxpr: Any, consts: Any, indent: str = "") -> Iterator[str]:
    numbers, names = itertools.count(), {}

    def define(variables: Any) -> str:
        for v in variables:
            names[v] = f"v{next(numbers)}"
        return " ".join(f"{names[v]}:{_type(v.aval)}" for v in variables)

    values = consts if len(consts) == len(jaxpr.constvars) else [None] * len(jaxpr.constvars)
    for variable, value in zip(jaxpr.constvars, values, strict=True):
        yield f"{indent}const {define([variable])} = {_constant(value)}"
    yield f"{indent}in {define(jaxpr.invars)}"
    for equation in jaxpr.eqns:
        operands = " ".join(_atom(a, names) for a in equation.invars)
        params, inner = _params(equation)
        yield f"{indent}{define(equation.outvars)} = {equation.primitive.name}[{params}] {operands}"
        for name, (nested, nested_consts) in inner:
            yield f"{indent}  {name}:"
            yield from _lines(nested, nested_consts, f"{indent}    ")
    yield f"{indent}out {' '.join(_atom(a, names) for a in jaxpr.outvars)}"


def _atom(atom: Any, names: dict[Any, str]) -> str:
    return f"{_constant(atom.val)}:{_type(atom.aval)}" if hasattr(atom, "val") else names[atom]


def _type(aval: Any) -> str:
    text = ADDRESS.sub("", aval.str_short())
    return f"{text}*" if getattr(aval, "weak_type", False) else text


def _constant(value: Any) -> str:
    if value is None:
        return "?"
    if jax.dtypes.issubdtype(getattr(value, "dtype", np.dtype(bool)), jax.dtypes.extended):
        value = jax.random.key_data(value)
    try:
        array = np.asarray(value)
    except Exception:  # an abstract value, a tracer
        return type(value).__name__
    if array.ndim == 0:
        return repr(array.item())
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:12]


def _params(equation: Any) -> tuple[str, list[tuple[str, tuple[Any, Any]]]]:
    """The parameters as text, and the jaxprs among them."""
    texts, inner = [], []
    for name, value in sorted(equation.params.items()):
        jaxprs = list(_jaxprs(value))
        inner += [(f"{name}.{i}" if len(jaxprs) > 1 else name, found) for i, found in enumerate(jaxprs)]
        if not jaxprs and (equation.primitive.name, name) not in WITHOUT_MEANING:
            texts.append(f"{name}={_value(value)}")
    return " ".join(texts), inner


def _jaxprs(value: Any) -> Iterator[tuple[Any, Any]]:
    if hasattr(value, "eqns") and hasattr(value, "invars"):
        closed = hasattr(value, "consts") and hasattr(value, "jaxpr")
        yield (value.jaxpr, value.consts) if closed else (value, ())
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _jaxprs(item)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return f"({' '.join(map(_value, value))})"
    if isinstance(value, dict):
        return f"({' '.join(f'{k}:{_value(v)}' for k, v in sorted(value.items(), key=lambda pair: str(pair[0])))})"
    if isinstance(value, np.ndarray | jax.Array):
        return _constant(value)
    if isinstance(value, types.FunctionType | types.MethodType | functools.partial) or "Fun" in type(value).__name__:
        return "function"
    text = ADDRESS.sub("", str(value))
    return re.sub(r"fnbackprop(\.\w+)+", "fnbackprop", text)
