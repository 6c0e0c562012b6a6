"""A jaxpr as what a pattern is matched against: who computes a value, who reads it, and where the user wrote it."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...jaxprs.evaluate import source_lines
from ...jaxprs.graph import live
from ...jaxprs.types import Literal, is_var
from .axes import CASTS, LAYOUTS, Axes, Label, axis_of, carried, keeps_values

UNKNOWN = "an unknown line"
INSTALLED = ("site-packages", "dist-packages", str(Path(__file__).parents[2]))  # and this package
FOLDED = {
    "sqrt": lambda x, _: np.sqrt(x),
    "rsqrt": lambda x, _: 1 / np.sqrt(x),
    "integer_pow": lambda x, params: x ** params["y"],
    "pow": lambda x, y, _: x**y,
    "mul": lambda x, y, _: x * y,
    "div": lambda x, y, _: x / y,
    "neg": lambda x, _: -x,
}


class Graph:
    """Of a closed jaxpr, with what is known of its operands from outside (`Positions`, by variable)."""

    def __init__(self, closed: Any, known: Mapping[Any, Any]):
        self.closed, self.jaxpr, self.known = closed, closed.jaxpr, dict(known)
        self.producer = {v: e for e in self.jaxpr.eqns for v in e.outvars}
        self.readers: dict[Any, list[Any]] = {}
        self.needed = {v for e in live(self.jaxpr.eqns, self.jaxpr.outvars) for v in e.outvars}
        for equation in live(self.jaxpr.eqns, self.jaxpr.outvars):
            for atom in filter(is_var, equation.invars):
                self.readers.setdefault(atom, []).append(equation)
        self.returned = {v for v in self.jaxpr.outvars if is_var(v)}

    def made_by(self, atom: Any) -> Any:
        """The equation that computes a value, or None."""
        return self.producer.get(atom) if is_var(atom) else None

    def named(self, atom: Any, *names: str) -> Any:
        """The equation that computes a value, if it is of one of these primitives; of casts, one that keeps values."""
        equation = self.made_by(atom)
        if equation is None or equation.primitive.name not in names:
            return None
        return equation if equation.primitive.name not in CASTS or keeps_values(equation) else None

    def number(self, atom: Any) -> float | None:
        """The number that a value holds everywhere, where the program says so literally."""
        while is_var(atom):
            equation = self.named(atom, "broadcast_in_dim", "reshape", *CASTS)
            if equation is None:
                return self._folded(self.named(atom, *FOLDED))
            (atom,) = equation.invars
        value = atom.val if isinstance(atom, Literal) else None
        return None if value is None or np.shape(value) != () or np.iscomplexobj(value) else float(value)

    def _folded(self, equation: Any) -> float | None:
        """Of `sqrt(64.0)`, as a program writes its scale."""
        if equation is None or not jnp.issubdtype(equation.outvars[0].aval.dtype, np.floating):
            return None
        numbers = [self.number(atom) for atom in equation.invars]
        if any(n is None for n in numbers):
            return None
        with np.errstate(all="ignore"):  # of 1 / 0.0
            return float(FOLDED[equation.primitive.name](*map(np.float64, numbers), equation.params))

    def scalar(self, atom: Any) -> Any:
        """The rank-0 value that a value repeats, as an atom; None if it is none."""
        while is_var(atom) and atom.aval.shape != ():
            equation = self.named(atom, "broadcast_in_dim", "reshape", *CASTS)
            if equation is None:
                return None
            atom = equation.invars[0]
        return atom if getattr(atom, "aval", None) is not None and atom.aval.shape == () else None

    def axes_from(self, atom: Any, base: Any) -> Axes | None:
        """Which axis of `base` each axis of a value is that is computed from it: by reductions, layouts and elementwise
        operations. None where that is not known."""
        if atom is base:
            return tuple(axis_of(Label("own", i, size)) for i, size in enumerate(base.aval.shape))
        equation = self.made_by(atom)
        if equation is None:
            return None
        name, operand = equation.primitive.name, equation.invars[0]
        if name in LAYOUTS | {"reduce_max", "reduce_sum"}:
            axes = self.axes_from(operand, base)
            return None if axes is None else _axes_after(equation, axes)
        rank = equation.outvars[0].aval.ndim
        found = [self.axes_from(x, base) for x in equation.invars if x.aval.ndim == rank]
        columns = zip(*(axes for axes in found if axes is not None), strict=True)
        merged = tuple(tuple(dict.fromkeys(label for axis in column for label in axis)) for column in columns)
        return merged if len(merged) == rank and all(len(axis) < 2 for axis in merged) else None

    def is_constant_along(self, atom: Any, base: Any, axes: Collection[int]) -> bool:
        """Whether a value computed from another has its axes where that has them, and none of `axes`."""
        found, own = self.axes_from(atom, base), self.axes_from(base, base)
        if found is None or own is None or len(found) != len(own):
            return False
        return all(x == () or (x == y and i not in axes) for i, (x, y) in enumerate(zip(found, own, strict=True)))

    def line(self, equation: Any) -> str:
        """Where the user wrote an equation; of what JAX traced by itself, where what reads it is."""
        while (line := users_line(equation)) == UNKNOWN and (readers := self.readers.get(equation.outvars[0])):
            equation = readers[0]
        return line

    def used_elsewhere(self, inside: Iterable[Any], ends: Iterable[Any]) -> str:
        """Who else reads a result of the equations inside, or an empty text; those of the ends are to be read."""
        own, to_be_read = {id(e) for e in inside}, {id(e) for e in ends}
        for equation in inside:
            for var in equation.outvars if id(equation) not in to_be_read else ():
                if var in self.returned:
                    return f"the result of {equation.primitive.name} at {self.line(equation)} is returned too"
                for reader in self.readers.get(var, ()):
                    if id(reader) not in own:
                        name = reader.primitive.name
                        return f"the result of {equation.primitive.name} is read by {name} at {users_line(reader)} too"
        return ""


def _axes_after(equation: Any, axes: Axes) -> Axes | None:
    if equation.primitive.name.startswith("reduce"):
        return tuple(axis for i, axis in enumerate(axes) if i not in equation.params["axes"])
    if equation.primitive.name != "broadcast_in_dim":
        return carried(equation, axes)
    places = dict(zip(equation.params["broadcast_dimensions"], axes, strict=True))
    return tuple(places.get(i, ()) for i in range(equation.outvars[0].aval.ndim))


def users_line(equation: Any) -> str:
    """Where the user wrote an equation; of what an installed library wrote, the user's line that called it."""
    lines = source_lines(equation)
    own = (line for line in lines if not any(part in line for part in INSTALLED))
    return next(own, lines[0] if lines else UNKNOWN)
